"""Proofs as files (https://c2sp.org/tlog-proof): the index, the hashes of an inclusion proof, and the checkpoint."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass

from amaru.errors import ProofError
from amaru.ledger.checkpoint import Checkpoint, verify_checkpoint
from amaru.ledger.merkle import HASH_BYTES, verify_inclusion
from amaru.ledger.notes import MAX_NOTE_BYTES, NoteVerifier, strict_base64

SUFFIX = ".tlog-proof"
_FIRST_LINE = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")
_MAX_HASHES = 63
_MAX_EXTRA_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class TlogProof:
    """That a leaf stands at ``index`` of the tree of ``checkpoint``, a signed note."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None
    """Opaque, and proven by nothing."""

    def encode(self) -> bytes:
        """The file's bytes."""
        lines = [_FIRST_LINE]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(value).decode() for value in self.path]
        return ("\n".join(lines) + "\n\n").encode() + self.checkpoint

    def verify(self, leaf: bytes, verifiers: Iterable[NoteVerifier], *, origin: str | None = None) -> Checkpoint:
        """Check all of it for the leaf hash ``leaf``; returns the checkpoint. Raises ProofError."""
        checkpoint = verify_checkpoint(self.checkpoint, verifiers, origin=origin)
        verify_inclusion(leaf, self.index, checkpoint.size, self.path, checkpoint.root)
        return checkpoint


def parse_tlog_proof(content: bytes) -> TlogProof:
    """Read a file's bytes; verifies nothing. Raises ProofError."""
    if len(content) > MAX_NOTE_BYTES + _MAX_EXTRA_BYTES:
        raise ProofError(f"tlog-proof: {len(content):,} bytes are too many")
    head, blank, checkpoint = content.partition(b"\n\n")
    try:
        lines = head.decode().split("\n")
    except UnicodeDecodeError as error:
        raise ProofError(f"tlog-proof: not UTF-8 at byte {error.start}") from None
    if lines.pop(0) != _FIRST_LINE:
        raise ProofError(f"tlog-proof: does not begin with {_FIRST_LINE}")
    if not blank or not checkpoint:
        raise ProofError("tlog-proof: holds no checkpoint")
    extra = _base64(lines.pop(0)[6:], "the extra data") if lines and lines[0].startswith("extra ") else None
    index = _INDEX.fullmatch(lines.pop(0)) if lines else None
    if index is None:
        raise ProofError("tlog-proof: no line `index N` where it is due")
    if len(lines) > _MAX_HASHES:
        raise ProofError(f"tlog-proof: {len(lines)} hashes; no tree is that high")
    path = tuple(_base64(line, f"hash {number}") for number, line in enumerate(lines))
    if any(len(value) != HASH_BYTES for value in path):
        raise ProofError(f"tlog-proof: each hash has {HASH_BYTES} bytes; one here has not")
    return TlogProof(int(index[1]), path, checkpoint, extra)


def _base64(text: str, what: str) -> bytes:
    value = strict_base64(text)
    if not value and text:
        raise ProofError(f"tlog-proof: {what} is not base64: {text[:60]!r}")
    return value
