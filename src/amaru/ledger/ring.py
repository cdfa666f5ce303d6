"""A bounded queue in a file that is mapped into memory: it outlives the process, and putting into it does no I/O.

The file is a head of fixed fields and, after it, ``capacity`` bytes used round and round. Positions count bytes since
ever, so that the queue holds what lies between ``tail`` and ``head``. A record is its length, a CRC-32 of its position
and content, and its content. ``head`` is moved after the record is written, in one store of eight bytes: a process
killed within ``put`` leaves the queue as it was before. The kernel keeps mapped pages of a process that is killed; what
a loss of power does to them is not warranted: what must not be lost is committed (``writer``), not offered.

Where the queue is full, what is put is dropped and counted, with the time of the first and the last: the count is in
the file too, and becomes a gap in the log (``Gap``).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from amaru.errors import LedgerBusy, LedgerError
from amaru.ledger.journal import Mark, write_fully
from amaru.ledger.tiles import MAX_ENTRY_BYTES

CAPACITY_BYTES = 16 * 1024 * 1024
_MAGIC = int.from_bytes(b"amaruR1\n", "little")
_HEAD_BYTES = 4096
_MAGIC_AT, _CAPACITY_AT, _HEAD_AT, _TAIL_AT, _DROPPED_AT, _LOGGED_AT = range(6)
_SINCE_AT, _UNTIL_AT = 6, 7
_RECORD_HEAD_BYTES = 8


class Gap(NamedTuple):
    """Leaves that were dropped and are not logged as such yet; times in seconds since 1970."""

    dropped: int
    since_s: float
    until_s: float


class Ring:
    """The queue. ``put`` is for any thread, the rest for one that empties it."""

    def __init__(self, path: Path, memory: mmap.mmap, file: int, clock: Callable[[], float]) -> None:
        self._path = path
        self._memory = memory
        self._file = file
        self._clock = clock
        self._view = memoryview(memory)
        # Native integers: an aligned one is stored at once, where ``struct`` would store byte by byte.
        self._fields = self._view[:64].cast("Q")
        self._times = self._view[:64].cast("d")
        self._data = self._view[_HEAD_BYTES:]
        self._capacity = self._fields[_CAPACITY_AT]
        self._putting = threading.Lock()
        self._closed = False
        self._dropped = 0

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        capacity_bytes: int = CAPACITY_BYTES,
        mark: Mark = Mark(),  # noqa: B008 - immutable
        clock: Callable[[], float],
    ) -> Ring:
        """The queue in this file, made where it is absent, all its blocks taken from the disk at once.

        ``mark`` is the log's: what lies before it was logged already. Records that a crash of the machine damaged are
        counted as dropped. Raises LedgerBusy where another process has it, LedgerError where it cannot be used.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise LedgerError(f"{path}: the queue cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ring = cls(path, _mapped(file, capacity_bytes, mark), file, clock)
        except BlockingIOError:
            os.close(file)
            raise LedgerBusy(f"{path}: another process has this queue open") from None
        except OSError as error:
            os.close(file)
            raise LedgerError(f"{path}: the queue cannot be opened: {error.strerror}") from None
        ring.skip_to(mark)
        return ring

    # ---- the side that fills it -------------------------------------------------------------------------------------

    def put(self, leaf: bytes) -> bool:
        """Queue a leaf; False where there was no room and it was dropped and counted. Some microseconds, no I/O."""
        length = len(leaf)
        with self._putting:
            if self._closed:
                return False
            fields = self._fields
            head = fields[_HEAD_AT]
            if length > MAX_ENTRY_BYTES or head + _RECORD_HEAD_BYTES + length - fields[_TAIL_AT] > self._capacity:
                self._drop(1)
                return False
            content = length.to_bytes(4, "little") + _crc(head, leaf) + leaf
            at = head % self._capacity
            first = min(len(content), self._capacity - at)
            self._data[at : at + first] = content[:first]
            if first < len(content):
                self._data[: len(content) - first] = content[first:]
            fields[_HEAD_AT] = head + len(content)
        return True

    def count_dropped(self, gap: Gap) -> None:
        """Take over what was dropped before the queue was open."""
        with self._putting:
            if self._fields[_DROPPED_AT] == self._fields[_LOGGED_AT]:
                self._times[_SINCE_AT] = gap.since_s
            self._times[_UNTIL_AT] = gap.until_s
            self._fields[_DROPPED_AT] += gap.dropped

    # ---- the side that empties it -----------------------------------------------------------------------------------

    def peek(self, most: int, most_bytes: int) -> tuple[list[bytes], int]:
        """The oldest leaves, at most so many, and the position after them; they stay until ``advance``."""
        leaves: list[bytes] = []
        at, head = self._fields[_TAIL_AT], self._fields[_HEAD_AT]
        while at < head and len(leaves) < most and most_bytes > 0:
            record = self._record(at, head)
            if record is None:  # damaged by a crash of the machine: what follows cannot be told apart any more
                if leaves:
                    break
                with self._putting:
                    self._drop(1)
                    at = head
                    self._fields[_TAIL_AT] = head
                break
            leaves.append(record)
            most_bytes -= len(record)
            at += _RECORD_HEAD_BYTES + len(record)
        return leaves, at

    def advance(self, position: int) -> None:
        """What lies before this position is logged."""
        self._fields[_TAIL_AT] = position

    def skip_to(self, mark: Mark) -> None:
        """Pass over what the log has: the process ended after a commit, before it came to ``advance``."""
        fields = self._fields
        if fields[_HEAD_AT] < mark.position:  # an older copy of the file: all in it is logged
            fields[_HEAD_AT] = mark.position
        fields[_TAIL_AT] = max(fields[_TAIL_AT], mark.position)
        fields[_LOGGED_AT] = max(fields[_LOGGED_AT], mark.dropped)
        fields[_DROPPED_AT] = max(fields[_DROPPED_AT], fields[_LOGGED_AT])

    def gap(self) -> Gap | None:
        """What was dropped since the last gap was logged."""
        dropped = self._fields[_DROPPED_AT] - self._fields[_LOGGED_AT]
        return Gap(dropped, self._times[_SINCE_AT], self._times[_UNTIL_AT]) if dropped > 0 else None

    def gap_logged(self, gap: Gap) -> None:
        """The gap is in the log."""
        with self._putting:
            self._fields[_LOGGED_AT] += gap.dropped
            self._times[_SINCE_AT] = self._times[_UNTIL_AT]

    def mark(self, position: int | None = None, gap: Gap | None = None) -> Mark:
        """For the log, to keep with what it commits: up to where the queue is emptied then."""
        logged = self._fields[_LOGGED_AT] + (gap.dropped if gap else 0)
        return Mark(self._fields[_TAIL_AT] if position is None else position, logged)

    @property
    def waiting_bytes(self) -> int:
        """Of what is queued."""
        with self._putting:
            return 0 if self._closed else self._fields[_HEAD_AT] - self._fields[_TAIL_AT]

    @property
    def dropped(self) -> int:
        """Leaves dropped, ever."""
        with self._putting:
            return self._dropped if self._closed else self._fields[_DROPPED_AT]

    def close(self) -> None:
        """Let go of the file; what is in it stays."""
        with self._putting:
            if self._closed:
                return
            self._closed = True
            self._dropped = self._fields[_DROPPED_AT]
            for view in (self._fields, self._times, self._data, self._view):
                view.release()
            self._memory.close()
            os.close(self._file)

    def _record(self, at: int, head: int) -> bytes | None:
        size = int.from_bytes(self._bytes(at, 4), "little")
        if size > MAX_ENTRY_BYTES or at + _RECORD_HEAD_BYTES + size > head:
            return None
        leaf = self._bytes(at + _RECORD_HEAD_BYTES, size)
        return leaf if _crc(at, leaf) == self._bytes(at + 4, 4) else None

    def _bytes(self, at: int, size: int) -> bytes:
        at %= self._capacity
        content = bytes(self._data[at : at + size])
        return content if len(content) == size else content + bytes(self._data[: size - len(content)])

    def _drop(self, count: int) -> None:
        now = self._clock()
        if self._fields[_DROPPED_AT] == self._fields[_LOGGED_AT]:
            self._times[_SINCE_AT] = now
        self._times[_UNTIL_AT] = now
        self._fields[_DROPPED_AT] += count


def _mapped(file: int, capacity: int, mark: Mark) -> mmap.mmap:
    """The file in memory, begun where it is new or no queue. Raises OSError."""
    size = os.fstat(file).st_size
    if size >= _HEAD_BYTES:
        memory = mmap.mmap(file, size)
        fields = memoryview(memory)[:64].cast("Q")
        sound = (
            fields[_MAGIC_AT] == _MAGIC
            and fields[_CAPACITY_AT] == size - _HEAD_BYTES
            and 0 <= fields[_HEAD_AT] - fields[_TAIL_AT] <= fields[_CAPACITY_AT]
        )
        empty = fields[_HEAD_AT] == fields[_TAIL_AT] and fields[_DROPPED_AT] == fields[_LOGGED_AT]
        fields.release()
        if sound and (not empty or size == _HEAD_BYTES + capacity):
            return memory
        memory.close()
    os.ftruncate(file, 0)
    # Every block is taken now: a full disk met later, through the mapping, would end the process (SIGBUS).
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, _HEAD_BYTES + capacity)
    else:  # macOS
        write_fully(file, bytes(_HEAD_BYTES + capacity))
    memory = mmap.mmap(file, _HEAD_BYTES + capacity)
    fields = memoryview(memory)[:64].cast("Q")
    fields[_CAPACITY_AT] = capacity
    fields[_HEAD_AT] = fields[_TAIL_AT] = mark.position
    fields[_DROPPED_AT] = fields[_LOGGED_AT] = mark.dropped
    fields[_MAGIC_AT] = _MAGIC
    fields.release()
    return memory


def _crc(position: int, leaf: bytes) -> bytes:
    return zlib.crc32(leaf, zlib.crc32(position.to_bytes(8, "little"))).to_bytes(4, "little")
