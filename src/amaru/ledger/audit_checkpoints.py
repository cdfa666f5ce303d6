"""The checkpoints that an audit holds a log's entries against: its last, those that it keeps, and those handed in.

The log keeps every checkpoint that it published, from the first, of no leaves. So it can be told that some are gone: a
file before others, those at the beginning, or those before the last. Whoever holds the log's key could sign a history
without gaps anew; only checkpoints that were kept elsewhere catch that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from amaru.errors import LedgerCorrupt, ProofError
from amaru.ledger.audit_report import Fault, History
from amaru.ledger.checkpoint import Checkpoint, verify_checkpoint
from amaru.ledger.kept import kept_file, kept_files, kept_path
from amaru.ledger.notes import MAX_NOTE_BYTES, NoteVerifier
from amaru.ledger.tile_store import TileStore
from amaru.ledger.view import CHECKPOINT

KEPT = "checkpoints"
MOST_MISSING = 20
"""Gaps that are named one by one."""


class Tells(Protocol):
    """Takes a finding."""

    def __call__(self, fault: Fault, where: str, message: str, leaf: int | None = None) -> None: ...


class Checkpoints:
    """Those of one log. ``history`` and ``missing`` are known once ``in_order`` has ended."""

    def __init__(self, store: TileStore, verifiers: tuple[NoteVerifier, ...], origin: str | None, found: Tells) -> None:
        self._store = store
        self._verifiers = verifiers
        self._origin = origin
        self._found = found
        self._head_note = b""
        self.verified = 0
        self.history = History.COMPLETE
        self.missing: list[str] = []

    def head(self) -> Checkpoint | None:
        """The log's last; ``None``, and a finding: there is none that holds."""
        try:
            note = self._store.read(CHECKPOINT, most=MAX_NOTE_BYTES)
        except LedgerCorrupt as error:
            self._found(Fault.CHECKPOINT, CHECKPOINT, str(error))
            return None
        if note is None:
            self._found(Fault.CHECKPOINT, CHECKPOINT, "there is none")
            return None
        self._head_note = note
        return self._verified(note, CHECKPOINT)

    def has_grown_to(self, size: int) -> bool:
        """Whether the log has published so many leaves meanwhile."""
        note = self._store.read(CHECKPOINT, most=MAX_NOTE_BYTES)
        try:
            return note is not None and verify_checkpoint(note, self._verifiers, origin=self._origin).size >= size
        except ProofError:
            return False

    def in_order(self, head: Checkpoint, witnessed: Iterable[bytes]) -> Iterator[tuple[Checkpoint, str]]:
        """Every one, by size, and where it is from."""
        others = [
            (found, "a checkpoint kept elsewhere") for note in witnessed if (found := self._verified(note, "given"))
        ]
        others.append((head, CHECKPOINT))
        others.sort(key=lambda item: item[0].size, reverse=True)
        latest: Checkpoint | None = None
        for kept in self._kept(head):
            if latest is not None and kept.size < latest.size:
                self._found(Fault.TRUNCATED, KEPT, f"of size {kept.size:,} after one of {latest.size:,}")
                continue
            while others and others[-1][0].size <= kept.size:
                yield others.pop()
            yield kept, KEPT
            latest = kept
        yield from reversed(others)

    def _kept(self, head: Checkpoint) -> Iterator[Checkpoint]:
        number = expected = 0
        newest: Checkpoint | None = None
        has_head = not head.size
        for file in kept_files(self._store):
            if file.number > expected:
                last = file.number - 1
                to = f" to {kept_path(last)}" if last > expected else ""
                self._miss(f"the files {kept_path(expected)}{to}" if to else f"the file {kept_path(expected)}")
            expected = file.number + 1
            if file.damage:
                self._found(Fault.CHECKPOINT, KEPT, file.damage)
            for place, note in enumerate(file.notes):
                found = self._verified(note, f"{KEPT}, number {number:,}")
                number += 1
                if found is None:
                    continue
                if found.size and not (file.number or place):
                    self._miss(f"those before the one of {found.size:,} leaves")
                has_head = has_head or (found.size, found.root) == (head.size, head.root)
                newest = found
                yield found
        if not expected:
            self.history = History.COMPLETE if has_head else History.NONE
        elif not (has_head or self._kept_by_now(expected - 1)) and newest is not None:
            # Also where a writer was killed between publishing the last one and keeping it; it does once it is back.
            self._miss(f"those after the one of {newest.size:,} leaves, up to the log's own of {head.size:,}")

    def _kept_by_now(self, number: int) -> bool:
        """Whether the last one stands in that file or the next: a writer publishes it first, and then keeps it."""
        files = (kept_file(self._store, number), kept_file(self._store, number + 1))
        return any(file is not None and self._head_note in file.notes for file in files)

    def _miss(self, which: str) -> None:
        self.history = History.INCOMPLETE
        if len(self.missing) < MOST_MISSING:
            self.missing.append(which)

    def _verified(self, note: bytes, where: str) -> Checkpoint | None:
        try:
            found = verify_checkpoint(note, self._verifiers, origin=self._origin)
        except ProofError as error:
            self._found(Fault.CHECKPOINT, where, str(error))
            return None
        self._origin = found.origin
        self.verified += 1
        return found
