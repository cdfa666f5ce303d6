"""Checkpoints (https://c2sp.org/tlog-checkpoint): the signed size and root of a log at one time."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from amaru.errors import ProofError
from amaru.ledger.merkle import HASH_BYTES, MAX_SIZE, verify_consistency
from amaru.ledger.notes import NoteSigner, NoteVerifier, parse_note, sign_note, strict_base64, verify_note

CONTENT_TYPE = "text/plain; charset=utf-8"
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


class Checkpoint(NamedTuple):
    """What a log says of itself: whose it is, how many leaves it has, and their root."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()
    """Further lines, which others may write; amaru's have none."""

    @property
    def text(self) -> str:
        """The note's text."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    def sign(self, signers: Sequence[NoteSigner]) -> bytes:
        """The signed note. Raises LedgerError where there is no key."""
        return sign_note(self.text, signers)


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a note's text. Raises ProofError."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() or not all(lines):
        raise ProofError("checkpoint: takes three or more lines, none of them empty: origin, size, root")
    origin, size, encoded, *extensions = lines
    if not _SIZE.fullmatch(size) or int(size) > MAX_SIZE:
        raise ProofError(f"checkpoint of {origin[:80]}: {size[:40]!r} is not a tree's size")
    root = strict_base64(encoded)
    if len(root) != HASH_BYTES:
        raise ProofError(f"checkpoint of {origin[:80]}: {encoded[:60]!r} is not a root hash in base64")
    return Checkpoint(origin, int(size), root, tuple(extensions))


def read_checkpoint(note: bytes) -> Checkpoint:
    """The checkpoint of a signed note whose signatures are not looked at. Raises ProofError."""
    return parse_checkpoint(parse_note(note).text)


def verify_checkpoint(note: bytes, verifiers: Iterable[NoteVerifier], *, origin: str | None = None) -> Checkpoint:
    """The checkpoint of a signed note that a known key signed, of the log ``origin`` where that is given.

    Raises ProofError.
    """
    text, _ = verify_note(note, verifiers)
    checkpoint = parse_checkpoint(text)
    if origin is not None and checkpoint.origin != origin:
        raise ProofError(f"checkpoint of {checkpoint.origin[:80]}, not of {origin}: it speaks of another log")
    return checkpoint


def verify_succession(old: Checkpoint, new: Checkpoint, path: Sequence[bytes]) -> None:
    """Check that ``new`` extends ``old``, a checkpoint that the caller has held until now.

    Raises ProofError, which names the case: another log, an older checkpoint replayed, a split view (two trees of one
    size), or a history rewritten.
    """
    if new.origin != old.origin:
        raise ProofError(f"checkpoint of {new.origin[:80]}, not of {old.origin[:80]}: it speaks of another log")
    if new.size < old.size:
        raise ProofError(
            f"older checkpoint replayed, or log truncated: {new.origin} shows {new.size} leaves, and had {old.size}"
        )
    if new.size == old.size and new.root != old.root:
        raise ProofError(
            f"split view: {new.origin} has signed two trees of {new.size} leaves, "
            f"with the roots {old.root.hex()} and {new.root.hex()}"
        )
    verify_consistency(old.size, new.size, old.root, new.root, path)
