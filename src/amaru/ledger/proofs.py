"""Signatures and time-stamps that were got, kept beside the log, where everyone may read them.

``proofs/artifacts/<xx>/<SHA-256>/`` holds those of files, ``proofs/checkpoints/<millions>/<size>/`` those of
checkpoints, with the ``checkpoint`` itself: ``<n>-<hash>.asc`` with ``<n>-<hash>.key``, and ``<n>-<hash>.tsr``. They
are numbered as they came, and named after what they hold: a command and a scheduler that come to the same number at the
same time write over nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256

import msgspec

from amaru.errors import LedgerError, ProofError
from amaru.ledger.checkpoint import read_checkpoint, verify_checkpoint, verify_succession
from amaru.ledger.tile_store import TileStore
from amaru.ledger.view import LogView

MAX_PIECE_BYTES = 256 * 1024
MAX_PIECES = 64
"""Of one subject; who signs anew every day does not fill the store."""
_SHARD = 1_000_000
STEM = r"([1-9][0-9]?)-[0-9a-f]{16}"
"""What such a file's name is before its suffix."""


class Superseded(LedgerError):
    """What was got is for a signed checkpoint beside which another one of the same tree has proofs by now."""


class Pieces(msgspec.Struct, frozen=True):
    """What was got for one subject: GPG signatures, each with its public key, and time-stamp responses."""

    signatures: tuple[tuple[bytes, bytes], ...] = ()
    stamps: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.signatures or self.stamps)


class Proofs:
    """Those of one log's store. Raises LedgerError throughout where it cannot be read or written."""

    def __init__(self, store: TileStore) -> None:
        self._store = store

    def of_artifact(self, digest: bytes) -> Pieces:
        """What was got for the file with this SHA-256 (32 bytes)."""
        return self._pieces(_artifact(digest))

    def of_checkpoint(self, note: bytes) -> Pieces:
        """What was got for a signed checkpoint."""
        folder = _checkpoint(read_checkpoint(note).size)
        kept = self._store.read(f"{folder}/checkpoint", most=MAX_PIECE_BYTES)
        return self._pieces(folder) if kept == note else Pieces()

    def note_of(self, size: int) -> bytes | None:
        """The signed checkpoint of this size that what was got is for; ``None``: nothing was."""
        return self._store.read(f"{_checkpoint(size)}/checkpoint", most=MAX_PIECE_BYTES)

    def note_for(self, view: LogView) -> bytes:
        """The signed checkpoint to have signed or time-stamped next: the newest, as ``view`` has it.

        Or an older one over the same tree that has proofs already: a rotation of keys signs anew, and what was got for
        other bytes is of no use to these. Raises ProofError where that one is of another tree, or by no known key.
        """
        head = view.head
        kept = self.note_of(head.size)
        if kept is None or kept == view.checkpoint():
            return view.checkpoint()
        try:
            older = verify_checkpoint(kept, view.verifiers)
        except ProofError as error:
            raise ProofError(
                f"{self._store.shown}/{_checkpoint(head.size)}: has proofs of a checkpoint by a key that is not known "
                f"here ({error}); know that key, too, or go on once the log has grown"
            ) from None
        verify_succession(older, head, ())
        return kept

    def first_over(self, size: int) -> bytes | None:
        """The smallest checkpoint of at least ``size`` entries that has any; it shows best how old an entry is."""
        for shard in sorted(_numbers(self._store.names("proofs/checkpoints"))):
            if (shard + 1) * _SHARD <= size:
                continue
            for found in sorted(_numbers(self._store.names(f"proofs/checkpoints/{shard}"))):
                if found >= size and self._pieces(_checkpoint(found)):
                    return self._store.read(f"{_checkpoint(found)}/checkpoint", most=MAX_PIECE_BYTES)
        return None

    def latest(self) -> bytes | None:
        """The largest checkpoint that has any."""
        for shard in sorted(_numbers(self._store.names("proofs/checkpoints")), reverse=True):
            for found in sorted(_numbers(self._store.names(f"proofs/checkpoints/{shard}")), reverse=True):
                if self._pieces(_checkpoint(found)):
                    return self._store.read(f"{_checkpoint(found)}/checkpoint", most=MAX_PIECE_BYTES)
        return None

    def keep_signature(self, subject: bytes, signature: bytes, public_key: bytes, *, checkpoint: bool = False) -> None:
        """Keep a GPG signature over a file (``subject``: its SHA-256) or a signed checkpoint (itself)."""
        stem = self._stem(subject, signature, "asc", checkpoint=checkpoint)
        # The key first: a signature without one would be of no use to a stranger.
        self._store.write(f"{stem}.key", public_key)
        self._store.write(f"{stem}.asc", signature)
        self._store.sync()

    def keep_stamp(self, subject: bytes, response: bytes, *, checkpoint: bool = False) -> None:
        """Keep a time-stamp response over a file (``subject``: its SHA-256) or a signed checkpoint (itself)."""
        self._store.write(f"{self._stem(subject, response, 'tsr', checkpoint=checkpoint)}.tsr", response)
        self._store.sync()

    def _stem(self, subject: bytes, piece: bytes, suffix: str, *, checkpoint: bool) -> str:
        """Where a piece goes, without its suffix."""
        if checkpoint:
            folder = _checkpoint(read_checkpoint(subject).size)
            kept = self._store.read(f"{folder}/checkpoint", most=MAX_PIECE_BYTES)
            if kept is not None and sha256(kept).digest() != sha256(subject).digest():
                raise Superseded(
                    f"{self._store.shown}/{folder}: has proofs of a checkpoint of this size that is signed otherwise, "
                    "as by other keys; what is for this one cannot lie beside them"
                )
            self._store.write(f"{folder}/checkpoint", subject)
        else:
            folder = _artifact(subject)
        taken = _pieces_of(self._store.names(folder), suffix)
        if len(taken) >= MAX_PIECES:
            raise LedgerError(f"{self._store.shown}/{folder}: has {MAX_PIECES} proofs of this kind already")
        number = taken[-1][0] + 1 if taken else 1
        return f"{folder}/{number}-{sha256(piece).hexdigest()[:16]}"

    def _pieces(self, folder: str) -> Pieces:
        names = self._store.names(folder)

        def read(stem: str, suffix: str) -> bytes:
            return self._store.read(f"{folder}/{stem}.{suffix}", most=MAX_PIECE_BYTES) or b""

        signed = [stem for _, stem in _pieces_of(names, "asc") if f"{stem}.key" in names]
        return Pieces(
            tuple((read(stem, "asc"), read(stem, "key")) for stem in signed[:MAX_PIECES]),
            tuple(read(stem, "tsr") for _, stem in _pieces_of(names, "tsr")[:MAX_PIECES]),
        )


def _pieces_of(names: Iterable[str], suffix: str) -> list[tuple[int, str]]:
    """Number and stem of each, as they came."""
    stems = [name.removesuffix(f".{suffix}") for name in names if name.endswith(f".{suffix}")]
    return sorted((int(found[1]), stem) for stem in stems if (found := re.fullmatch(STEM, stem)))


def _artifact(digest: bytes) -> str:
    return f"proofs/artifacts/{digest.hex()[:2]}/{digest.hex()}"


def _checkpoint(size: int) -> str:
    return f"proofs/checkpoints/{size // _SHARD}/{size}"


def _numbers(names: Iterable[str]) -> set[int]:
    return {int(name) for name in names if name.isdecimal() and name.isascii()}
