"""A bounded queue in a file that is mapped into memory: it outlives the process, and putting into it does no I/O.

The file is a head of fixed fields and, after it, ``capacity`` bytes used round and round. Positions count bytes since
ever: what waits lies between ``done`` and ``head``, and the room from ``tail`` to ``done``, logged already, is being
overwritten with zeros. A record is its length, the end of its position, the beginning of its content's hash as the log
takes it (which the request path needs anyway: it names the receipt by it), and its content.
``head`` is moved after the record is written, in one store of eight bytes: a process killed within ``put`` leaves the
queue as it was before. The kernel keeps mapped pages of a process that is killed; what a loss of power does to them is
not warranted: what must not be lost is committed (``writer``), not offered.

The queue opens without its log, which may take long or fail. The log keeps with each commit up to where the queue was
emptied then (``Mark``), and the queue's number, drawn when its file was begun: a mark of that number speaks of this
file, any other of none of its records. ``since`` notes where the queue stood when it was opened: what was put from
there on is not in the log, whatever its mark says, until ``reconcile`` has looked.

Where the queue is full, what is put is dropped and counted, with the time of the first and the last: the count is in
the file too, and becomes a gap in the log (``Gap``). So does what a loss of power damaged: the file counts the records
put and taken.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import struct
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from amaru.errors import LedgerBusy, LedgerError
from amaru.files.whole import take_blocks
from amaru.ledger.journal import Mark
from amaru.ledger.merkle import leaf_hash
from amaru.ledger.tiles import MAX_ENTRY_BYTES

CAPACITY_BYTES = 16 * 1024 * 1024
_MAGIC = int.from_bytes(b"amaruR2\n", "little")
_HEAD_BYTES = 4096
_MAGIC_AT, _CAPACITY_AT, _NUMBER_AT, _SINCE_AT, _HEAD_AT, _DONE_AT, _TAIL_AT = range(7)
_PUTS_AT, _TAKEN_AT, _DROPPED_AT, _LOGGED_AT, _AT_LEAST_AT, _FIRST_AT, _LAST_AT, _FIELDS = range(7, 15)
_NEVER = 2**64 - 1
"""``since``, while all that was put is known to the log or lies beyond its mark."""
_RECORD = struct.Struct("<II8s")
_RECORD_HEAD_BYTES = _RECORD.size
_PUTTING_BYTE, _JOINED_BYTE = 0, 1
"""Of record locks between processes: held while one puts, and by each that has joined."""
_POSITION_BITS = 2**32 - 1


class Gap(NamedTuple):
    """Leaves that were dropped and are not logged as such yet; times in seconds since 1970."""

    dropped: int
    since_s: float
    until_s: float
    at_least: bool = False
    """How many more is not known: the queue's file was damaged."""


class Ring:
    """The queue. ``put`` is for any thread, the rest for one that empties it."""

    def __init__(self, memory: mmap.mmap, file: int, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._file = file
        self._clock = clock
        self._view = memoryview(memory)
        # Native integers: an aligned one is stored at once, where ``struct`` would store byte by byte.
        self._fields = self._view[: 8 * _FIELDS].cast("Q")
        self._times = self._view[: 8 * _FIELDS].cast("d")
        self._data = self._view[_HEAD_BYTES:]
        self._capacity = self._fields[_CAPACITY_AT]
        self._putting: threading.Lock | BetweenProcesses = threading.Lock()
        self._closed = False
        self._dropped = 0
        self._peeked = (0, 0)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        capacity_bytes: int = CAPACITY_BYTES,
        clock: Callable[[], float],
        shared: bool = False,
    ) -> Ring:
        """The queue in this file, made where it is absent, all its blocks taken from the disk at once.

        It takes what is put from now on, and is emptied after ``reconcile`` only. What a crash of the machine damaged
        is counted as dropped. ``shared``: other processes may ``join`` it; while one has, it keeps its size. Raises
        LedgerBusy where another process has it, LedgerError where it cannot be used.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise LedgerError(f"{path}: the queue cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            keep = shared and _is_joined(file)
            ring = cls(_mapped(file, capacity_bytes, clock(), keep=keep), file, clock)
        except BlockingIOError:
            os.close(file)
            raise LedgerBusy(f"{path}: another process has this queue open") from None
        except OSError as error:
            os.close(file)
            raise LedgerError(f"{path}: the queue cannot be opened: {error.strerror}") from None
        if shared:
            ring._putting = BetweenProcesses(file)
        ring._free()
        ring._count()
        if ring._fields[_SINCE_AT] == _NEVER:
            ring._fields[_SINCE_AT] = ring._fields[_HEAD_AT]
        return ring

    @classmethod
    def join(cls, path: Path, *, clock: Callable[[], float]) -> Ring:
        """The queue that another process empties, to put into and for nothing else. What is put outlives this process,
        and that one. Raises LedgerError: it is not there yet."""
        file = -1
        try:
            file = os.open(path, os.O_RDWR)
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _JOINED_BYTE)
            size = os.fstat(file).st_size
            magic, capacity = struct.unpack("=2Q", os.pread(file, 16, 0).ljust(16, b"\0"))
            if magic != _MAGIC or capacity != size - _HEAD_BYTES:
                raise OSError(errno.EAGAIN, "it is being made")
            ring = cls(mmap.mmap(file, size), file, clock)
        except OSError as error:
            if file >= 0:
                os.close(file)
            raise LedgerError(f"{path}: the queue cannot be joined: {error.strerror}") from None
        ring._putting = BetweenProcesses(file)
        return ring

    # ---- the side that fills it -------------------------------------------------------------------------------------

    def put(self, leaf: bytes) -> bytes:
        """Queue a leaf; gives its hash (RFC 6962), or nothing where there was no room: it was dropped and counted.

        Some two microseconds, no I/O.
        """
        length = len(leaf)
        with self._putting:
            if self._closed:
                return b""
            fields = self._fields
            head = fields[_HEAD_AT]
            after = head + _RECORD_HEAD_BYTES + length
            if length > MAX_ENTRY_BYTES or after - fields[_TAIL_AT] > self._capacity:
                now = self._clock()
                self._drop(Gap(1, now, now))
                return b""
            digest = sha256(b"\x00" + leaf).digest()
            record = _RECORD.pack(length, head & _POSITION_BITS, digest) + leaf
            at = head % self._capacity
            end = at + len(record)
            if end <= self._capacity:
                self._data[at:end] = record
            else:
                first = self._capacity - at
                self._data[at:] = record[:first]
                self._data[: end - self._capacity] = record[first:]
            fields[_PUTS_AT] += 1
            fields[_HEAD_AT] = after
        return digest

    def count_dropped(self, gap: Gap) -> None:
        """Take over what was dropped before the queue was open."""
        with self._putting:
            self._drop(gap)

    # ---- the side that empties it -----------------------------------------------------------------------------------

    def reconcile(self, mark: Mark) -> None:
        """Pass over what the log has already; ``mark`` is the log's. To be called whenever the log was opened."""
        fields = self._fields
        if mark.queue == fields[_NUMBER_AT]:
            if mark.position > fields[_SINCE_AT]:  # a loss of power left the file as it was before that mark
                self.advance(fields[_SINCE_AT])
                fields[_NUMBER_AT] = _number()  # the mark's positions are used again: it may not speak of them
            else:
                self.advance(mark.position)
                fields[_LOGGED_AT] = min(max(fields[_LOGGED_AT], mark.dropped), fields[_DROPPED_AT])
        fields[_SINCE_AT] = _NEVER
        with contextlib.suppress(OSError):  # for the next loss of power, before the log is told of anything else
            os.fsync(self._file)

    def peek(self, most: int, most_bytes: int) -> tuple[list[bytes], int]:
        """The oldest leaves, at most so many, and the position after them; they stay until ``advance``."""
        if self._fields[_SINCE_AT] != _NEVER:
            raise ValueError("what the log has of this queue is not known yet: reconcile it first")
        leaves, after, sound = self._read(most, most_bytes, self._fields[_HEAD_AT])
        if not leaves and not sound:
            self._cut(after, 0)
        self._peeked = (after, len(leaves))
        return leaves, after

    def advance(self, position: int) -> None:
        """What lies before this position is logged: it is overwritten with zeros, and its room free again."""
        fields = self._fields
        if position <= fields[_DONE_AT]:
            return
        peeked, count = self._peeked
        if position != peeked:
            count = len(self._read(_NEVER, _NEVER, position)[0])
        fields[_DONE_AT] = position
        fields[_TAKEN_AT] += count
        self._free()

    def gap(self) -> Gap | None:
        """What was dropped since the last gap was logged."""
        fields, times = self._fields, self._times
        with self._putting:
            logged = fields[_LOGGED_AT]
            if not (dropped := fields[_DROPPED_AT] - logged):
                return None
            return Gap(dropped, times[_FIRST_AT], times[_LAST_AT], at_least=fields[_AT_LEAST_AT] > logged)

    def gap_logged(self, gap: Gap) -> None:
        """The gap is in the log."""
        with self._putting:
            self._fields[_LOGGED_AT] += gap.dropped
            self._times[_FIRST_AT] = gap.until_s  # more may have been dropped since it was asked for

    def mark(self, position: int | None = None, gap: Gap | None = None) -> Mark:
        """For the log, to keep with what it commits: up to where the queue is emptied then."""
        fields = self._fields
        logged = fields[_LOGGED_AT] + (gap.dropped if gap else 0)
        return Mark(fields[_DONE_AT] if position is None else position, logged, fields[_NUMBER_AT])

    @property
    def waiting_bytes(self) -> int:
        """Of what is queued."""
        with self._putting:
            return 0 if self._closed else self._fields[_HEAD_AT] - self._fields[_DONE_AT]

    @property
    def dropped(self) -> int:
        """Leaves dropped since the file was begun."""
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

    def _read(self, most: int, most_bytes: int, end: int) -> tuple[list[bytes], int, bool]:
        """The leaves that wait before ``end``, the position after them; False: damage follows."""
        leaves: list[bytes] = []
        done = self._fields[_DONE_AT]
        content = self._bytes(done, min(end - done, most_bytes + MAX_ENTRY_BYTES + _RECORD_HEAD_BYTES * (most + 1)))
        at = 0
        while at < len(content) and len(leaves) < most and most_bytes > 0:
            if len(content) - at < _RECORD_HEAD_BYTES:
                return leaves, done + at, False
            length, begins, digest = _RECORD.unpack_from(content, at)
            after = at + _RECORD_HEAD_BYTES + length
            leaf = content[at + _RECORD_HEAD_BYTES : after]
            if after > len(content) or begins != done + at & _POSITION_BITS or leaf_hash(leaf)[:8] != digest:
                return leaves, done + at, False
            leaves.append(leaf)
            most_bytes -= length
            at = after
        return leaves, done + at, True

    def _bytes(self, position: int, size: int) -> bytes:
        at = position % self._capacity
        content = bytes(self._data[at : at + size])
        return content if len(content) == size else content + bytes(self._data[: size - len(content)])

    def _free(self) -> None:
        fields = self._fields
        self._wipe(fields[_TAIL_AT], fields[_DONE_AT])
        fields[_TAIL_AT] = fields[_DONE_AT]

    def _wipe(self, start: int, end: int) -> None:
        """Overwrite what lies between these positions with zeros."""
        at, size = start % self._capacity, end - start
        first = min(size, self._capacity - at)
        self._data[at : at + first] = bytes(first)
        self._data[: size - first] = bytes(size - first)

    def _count(self) -> None:
        """Set the number of records put to that of those here, which a kill may have left one too high."""
        fields = self._fields
        with self._putting:
            leaves, after, sound = self._read(_NEVER, _NEVER, fields[_HEAD_AT])
            if sound:
                fields[_PUTS_AT] = fields[_TAKEN_AT] + len(leaves)
        if not sound:
            self._cut(after, len(leaves))

    def _cut(self, position: int, before: int) -> None:
        """Drop what lies from a damaged record on: where the next begins is not known; ``before`` it are so many."""
        fields = self._fields
        with self._putting:
            head = fields[_HEAD_AT]
            waiting = (fields[_PUTS_AT] - fields[_TAKEN_AT]) % 2**64
            now = self._clock()
            self._drop(Gap(max(1, waiting - before), now, now))
            fields[_PUTS_AT] = fields[_TAKEN_AT] + before
            self._wipe(position, head)
            fields[_HEAD_AT] = position

    def _drop(self, gap: Gap) -> None:
        fields = self._fields
        if fields[_DROPPED_AT] == fields[_LOGGED_AT]:
            self._times[_FIRST_AT] = gap.since_s
        self._times[_LAST_AT] = gap.until_s
        fields[_DROPPED_AT] += gap.dropped


class BetweenProcesses:
    """A lock between the threads of several processes; the kernel lets go of it for one that dies."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._threads = threading.Lock()  # a record lock does not keep the threads of one process apart

    def __enter__(self) -> None:
        self._threads.acquire()
        with contextlib.suppress(OSError):  # closed; who holds `_threads` sees that
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, _PUTTING_BYTE)

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _PUTTING_BYTE)
        self._threads.release()


def _is_joined(file: int) -> bool:
    """Whether another process has joined the queue."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _JOINED_BYTE)
    except OSError:
        return True
    fcntl.lockf(file, fcntl.LOCK_UN, 1, _JOINED_BYTE)
    return False


def _mapped(file: int, capacity: int, now_s: float, *, keep: bool = False) -> mmap.mmap:
    """The file in memory, begun where it is new, damaged, or of another size with nothing in it. Raises OSError.

    ``keep``: others have it in memory, so its size stays.
    """
    size = os.fstat(file).st_size
    was = struct.unpack(f"={_FIELDS}Q", os.pread(file, 8 * _FIELDS, 0).ljust(8 * _FIELDS, b"\0"))
    sound = (
        was[_MAGIC_AT] == _MAGIC
        and was[_CAPACITY_AT] == size - _HEAD_BYTES
        and was[_TAIL_AT] <= was[_DONE_AT] <= was[_HEAD_AT] <= was[_TAIL_AT] + was[_CAPACITY_AT]
        and was[_LOGGED_AT] <= was[_DROPPED_AT]
    )
    idle = was[_HEAD_AT] == was[_DONE_AT] and was[_DROPPED_AT] == was[_LOGGED_AT]
    if sound and (keep or not idle or was[_CAPACITY_AT] == capacity):
        return mmap.mmap(file, size)
    if sound:
        os.pwrite(file, bytes(8), 0)  # a kill on the way leaves a file that is to be begun, not a damaged one
    os.ftruncate(file, _HEAD_BYTES + capacity)
    take_blocks(file, _HEAD_BYTES + capacity)
    memory = mmap.mmap(file, _HEAD_BYTES + capacity)
    memory[8:] = bytes(len(memory) - 8)
    fields = memoryview(memory)[: 8 * _FIELDS].cast("Q")
    fields[_CAPACITY_AT], fields[_NUMBER_AT] = capacity, _number()
    if was[_MAGIC_AT] and not sound:
        times = memoryview(memory)[: 8 * _FIELDS].cast("d")
        times[_FIRST_AT] = times[_LAST_AT] = now_s
        fields[_DROPPED_AT] = fields[_AT_LEAST_AT] = 1
    fields[_MAGIC_AT] = _MAGIC
    fields.release()
    return memory


def _number() -> int:
    """A queue's own: nobody else draws the same; 0 is none's."""
    return 1 + secrets.randbelow(2**64 - 1)
