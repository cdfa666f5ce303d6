"""Signatures and time-stamps that were got, kept beside the log, where everyone may read them.

``proofs/artifacts/<xx>/<SHA-256>/`` holds those of files, ``proofs/checkpoints/<millions>/<size>/`` those of
checkpoints, with the ``checkpoint`` itself: ``<n>.asc`` with ``<n>.key``, and ``<n>.tsr``.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import msgspec

from amaru.errors import LedgerError
from amaru.ledger.checkpoint import read_checkpoint
from amaru.ledger.tile_store import TileStore

MAX_PIECE_BYTES = 256 * 1024
MAX_PIECES = 64
"""Of one subject; who signs anew every day does not fill the store."""
_SHARD = 1_000_000


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
        folder, number = self._next(subject, checkpoint, "asc")
        # The key first: a signature without one would be of no use to a stranger.
        self._store.write(f"{folder}/{number}.key", public_key)
        self._store.write(f"{folder}/{number}.asc", signature)
        self._store.sync()

    def keep_stamp(self, subject: bytes, response: bytes, *, checkpoint: bool = False) -> None:
        """Keep a time-stamp response over a file (``subject``: its SHA-256) or a signed checkpoint (itself)."""
        folder, number = self._next(subject, checkpoint, "tsr")
        self._store.write(f"{folder}/{number}.tsr", response)
        self._store.sync()

    def _next(self, subject: bytes, checkpoint: bool, suffix: str) -> tuple[str, int]:
        if checkpoint:
            folder = _checkpoint(read_checkpoint(subject).size)
            kept = self._store.read(f"{folder}/checkpoint", most=MAX_PIECE_BYTES)
            if kept is not None and sha256(kept).digest() != sha256(subject).digest():
                # The same tree under other signatures, after a rotation of keys: what was got is for the other bytes.
                raise LedgerError(
                    f"{self._store.shown}/{folder}: has proofs of another note of this size; record first"
                )
            self._store.write(f"{folder}/checkpoint", subject)
        else:
            folder = _artifact(subject)
        numbers = _numbers(
            name.removesuffix(f".{suffix}") for name in self._store.names(folder) if name.endswith(suffix)
        )
        number = max(numbers, default=0) + 1
        if number > MAX_PIECES:
            raise LedgerError(f"{self._store.shown}/{folder}: has {MAX_PIECES} proofs of this kind already")
        return folder, number

    def _pieces(self, folder: str) -> Pieces:
        names = set(self._store.names(folder))
        numbers = sorted(_numbers(name.partition(".")[0] for name in names))[:MAX_PIECES]

        def read(name: str) -> bytes:
            return self._store.read(f"{folder}/{name}", most=MAX_PIECE_BYTES) or b""

        return Pieces(
            tuple((read(f"{n}.asc"), read(f"{n}.key")) for n in numbers if {f"{n}.asc", f"{n}.key"} <= names),
            tuple(read(f"{n}.tsr") for n in numbers if f"{n}.tsr" in names),
        )


def _artifact(digest: bytes) -> str:
    return f"proofs/artifacts/{digest.hex()[:2]}/{digest.hex()}"


def _checkpoint(size: int) -> str:
    return f"proofs/checkpoints/{size // _SHARD}/{size}"


def _numbers(names: Iterable[str]) -> set[int]:
    return {int(name) for name in names if name.isdecimal() and name.isascii()}
