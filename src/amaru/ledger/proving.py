"""From a receipt to the bundle that proves it: with it all that was got beyond the log's own key."""

from __future__ import annotations

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from amaru.errors import EntryPruned
from amaru.ledger.bundle import prove
from amaru.ledger.bundle_contents import MAX_PIECES, Contents, Signature, Stamp, Subject
from amaru.ledger.proofs import Pieces, Proofs
from amaru.ledger.remembrancer import Entry
from amaru.ledger.trust import Trust
from amaru.ledger.view import LogView

MOST = MAX_PIECES // 2
"""Signatures, and time-stamps, of a checkpoint, and as many of an artifact: the newest."""


def contents_of(view: LogView, entry: Entry, trust: Trust) -> Contents:
    """All that proves a receipt, under the oldest checkpoint over it that was signed or time-stamped, or the newest.

    Raises
    ------
    EntryPruned
        Its text was erased.
    LedgerError
        The log cannot be read.
    """
    if entry.data is None:
        raise EntryPruned(
            f"#{entry.leaf:,} was pruned: what it said is gone, and a bundle without it would prove nothing. Who has "
            "its text can still prove it"
        )
    proofs = Proofs(view.store)
    note = proofs.first_over(entry.leaf + 1) or view.checkpoint()
    bare = Contents(entry=entry.data, proof=prove(view, entry.leaf, note), verifiers=trust.verifiers)
    got: list[tuple[Subject, Pieces]] = [("checkpoint", proofs.of_checkpoint(note))]
    if bare.digest is not None:
        got.append(("artifact", proofs.of_artifact(bare.digest)))
    stamps = tuple(Stamp(on, stamp) for on, pieces in got for stamp in pieces.stamps[-MOST:])
    roots = b"".join(root.public_bytes(Encoding.PEM) for root in trust.roots)
    return msgspec.structs.replace(
        bare,
        signatures=tuple(Signature(on, *one) for on, pieces in got for one in pieces.signatures[-MOST:]),
        timestamps=stamps,
        certificates=roots if stamps else b"",
    )
