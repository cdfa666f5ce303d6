"""A namespace's log as a scheduler sees it: with public keys alone, and held to what it was before."""

from __future__ import annotations

import os
from collections.abc import Sequence

from amaru.errors import LedgerCorrupt, LedgerError, ProofError
from amaru.ledger.anchoring_state import StateFolder, Token
from amaru.ledger.checkpoint import Checkpoint, read_checkpoint
from amaru.ledger.notes import NoteVerifier
from amaru.ledger.proofs import MAX_PIECES, Pieces, Proofs
from amaru.ledger.tile_store import open_store
from amaru.ledger.view import LogView


class Source:
    """One log. Safe from several threads: its lines take turns.

    Parameters
    ----------
    namespace
        Its name in the state folder.
    url
        Folder or URL of the log, where time-stamps and signatures are written too.
    verifiers
        The log's public keys.
    states
        Where the checkpoint that it is held to lies.
    """

    def __init__(self, namespace: str, url: str, verifiers: Sequence[NoteVerifier], states: StateFolder) -> None:
        self.namespace = namespace
        self.url = url
        self.verifiers = tuple(verifiers)
        self.alarm = ""
        """What does not hold about the log; empty: it held when it was last looked at."""
        self.size: int | None = None
        """Entries when it was last looked at, and held."""
        self._states = states
        self._turn = states.turn(namespace)

    def checked(self) -> tuple[Checkpoint, bytes]:
        """The log's newest checkpoint, signed by a known key and an extension of the last one; and the note to anchor.

        The note may be an older one over the same tree, where that has been signed or time-stamped before: a rotation
        of keys signs anew, and what was got for other bytes is of no use to these.

        Raises
        ------
        ProofError
            It is forged, replayed, a split view, or its history was rewritten; ``alarm`` says so from then on.
        LedgerError
            The log cannot be read.
        """
        with self._turn:
            try:
                head, note = self._checked()
            except (ProofError, LedgerCorrupt) as error:
                self.alarm = str(error)
                raise
            self.alarm, self.size = "", head.size
            return head, note

    def _checked(self) -> tuple[Checkpoint, bytes]:
        view = LogView(open_store(self.url), self.verifiers)  # anew each time: it must not see what it saw before
        proofs, held = Proofs(view.store), self._states.held(self.namespace)
        # A state that was lost loses nothing that was anchored: the log has its anchors beside it.
        before = held or proofs.latest()
        if before:
            try:
                view.origin = read_checkpoint(before).origin
                view.stand_at(before)
            except ProofError as error:
                where = self._states.held_path(self.namespace) if held else f"{view.store.shown}/proofs"
                raise ProofError(
                    f"{where}: the checkpoint that this log is held to is not signed by a key known here ({error}); "
                    "know that key, too, or give a new log a new namespace"
                ) from None
        head = view.refresh()
        if (
            held != view.checkpoint()
        ):  # of the same tree, too: by a rotation's end, the key that is retired is gone from it
            self._states.hold(self.namespace, view.checkpoint())
        return head, proofs.note_for(view)

    def keep(self, note: bytes, token: Token) -> None:
        """Have what was got lie beside the log, once, where ``export-proof`` finds it.

        Raises LedgerError; Superseded where it never can, as another note of the same tree has proofs there.
        """
        if token.kind == "post":
            return
        with self._turn:
            proofs = Proofs(open_store(self.url))
            pieces = proofs.of_checkpoint(note)
            if _holds(pieces, token):
                os.sync()  # whoever was killed after writing it may not have come to make it durable
                return
            if len(pieces.stamps if token.kind == "timestamp" else pieces.signatures) >= MAX_PIECES:
                return  # one more would prove nothing
            if token.kind == "timestamp":
                proofs.keep_stamp(note, token.content, checkpoint=True)
            else:
                proofs.keep_signature(note, token.content, token.public_key, checkpoint=True)
            if not _holds(proofs.of_checkpoint(note), token):
                raise LedgerError(f"{self.url}: another process wrote a proof over this one; it is written again")


def _holds(pieces: Pieces, token: Token) -> bool:
    return token.content in pieces.stamps or (token.content, token.public_key) in pieces.signatures
