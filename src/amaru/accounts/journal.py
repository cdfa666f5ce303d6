"""A holder's journal: what it dispatched, and how that ended, until the bank has it.

The file is in memory: what a process wrote there is the kernel's, and outlives its death, so that a kill loses nothing,
and no call to the system is waited for. A loss of power may lose it; the journal says during which start of the machine
it was begun, and one of an earlier start is not believed to be whole: then what its holder leased stands until somebody
looks at it.

A journal lies in a folder ``holders/<n>``, which the lock in it makes one process's. A process takes the first folder
that is free and has no journal; a journal in a free folder is a dead process's, for anyone to recover.

A record is a head (marker, length of the payload, CRC-32 of it) and MessagePack. The first names the holder. A record
that a kill cut short was never acknowledged, and is left out; the search goes on after it. After the last one there are
zeros, for the file's blocks are taken ahead.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from amaru.accounts.bank import Counter, Ended, Key, Part
from amaru.accounts.charges import Charge
from amaru.errors import JournalError
from amaru.files.lock import lock_file
from amaru.files.whole import make_folder, remedied, take_blocks

MOST_BYTES = 64 * 1024 * 1024
"""Of a journal; a till that cannot reach its bank refuses to dispatch beyond that."""
MAX_RECORD_BYTES = 1024 * 1024
"""With its head."""
MAX_FOLDERS = 4096
STEP_BYTES = 1024 * 1024
"""By so much the file grows at a time."""
_MARKER = b"\xf5aT\x01"
_HEAD = struct.Struct(">4sII")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Begun(msgspec.Struct, frozen=True, tag=0, array_like=True):
    """Whose journal it is."""

    holder: str
    boot: str
    """Of the machine's start."""


class Dispatched(msgspec.Struct, frozen=True, tag=1, array_like=True, gc=False):
    """A request that goes out now. Its charge, as it stands if nothing more is heard."""

    charge: Charge
    parts: tuple[Part, ...]
    purse: str = ""
    """The tenant whose purse bears it; empty: leases do."""
    counters: tuple[Counter, ...] = ()
    """Where a purse bears it: the bank may never have heard of them."""


class EndedRecord(msgspec.Struct, frozen=True, tag=2, array_like=True, gc=False):
    """A request that ended."""

    ended: Ended


Record = Begun | Dispatched | EndedRecord
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    """A record's bytes."""
    payload = _encoder.encode(record)
    return _HEAD.pack(_MARKER, len(payload), zlib.crc32(payload)) + payload


def decode(content: bytes) -> Iterator[tuple[int, int, Record]]:
    """The sound records, each with the offsets of its beginning and its end; what lies between them is skipped."""
    at = content.find(_MARKER)
    while at >= 0:
        found = _record_at(content, at)
        if found is None:
            at = content.find(_MARKER, at + 1)
        else:
            end, record = found
            yield at, end, record
            at = content.find(_MARKER, end)


def _record_at(content: bytes, at: int) -> tuple[int, Record] | None:
    if len(content) - at < _HEAD.size:
        return None
    _, length, crc = _HEAD.unpack_from(content, at)
    end = at + _HEAD.size + length
    payload = content[at + _HEAD.size : end]
    if length > MAX_RECORD_BYTES or end > len(content) or zlib.crc32(payload) != crc:
        return None
    try:
        return end, _decoder.decode(payload)
    except msgspec.MsgspecError:
        return None


def boot_id() -> str:
    """Which start of the machine this is; empty where the system does not say, and no loss of power is noticed."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


class Journal:
    """A journal that is written; begun anew where it is opened, for its path must be free."""

    def __init__(self, path: Path, holder: str, *, boot: str, most_bytes: int = MOST_BYTES) -> None:
        self._path = path
        self._begun = encode(Begun(holder, boot))
        self._most_bytes = most_bytes
        self._file = -1
        self._memory: mmap.mmap
        self.size_bytes = 0
        """Of the records."""
        self._room_bytes = 0
        """Of the file, whose blocks are taken."""
        self.restart(())

    def append(self, record: bytes, *, reserve_bytes: int = 0) -> None:
        """Write a record, and leave room for ``reserve_bytes`` more.

        Raises JournalError: nothing of it is in the journal then.
        """
        at, end = self.size_bytes, self.size_bytes + len(record)
        if end + reserve_bytes > self._most_bytes or end > self._room_bytes or len(record) > MAX_RECORD_BYTES:
            self._make_room(len(record), end, reserve_bytes)
        put(self._memory, at, record)
        self.size_bytes = end

    def _make_room(self, record_bytes: int, end: int, reserve_bytes: int) -> None:
        if record_bytes > MAX_RECORD_BYTES:
            raise JournalError(
                f"{self._path}: a record of {record_bytes:,} bytes; at most {MAX_RECORD_BYTES:,} are kept"
            )
        if end + reserve_bytes > self._most_bytes:
            raise JournalError(
                f"{self._path}: the journal is full ({self._most_bytes >> 20} MiB): the accounts' store takes nothing."
                " Look why; it is emptied by itself once the store is back."
            )
        try:
            memory = _grown(self._file, end)
        except OSError as error:
            raise JournalError(
                f"{self._path}: {remedied(error)}. Nothing is dispatched that cannot be noted."
            ) from None
        self._memory.close()
        self._memory, self._room_bytes = memory, len(memory)

    def restart(self, records: Iterable[bytes]) -> None:
        """Have it hold these records alone; in one step, so that a kill leaves the old journal or the new one.

        Raises JournalError: it is as before.
        """
        content = self._begun + b"".join(records)
        draft = self._path.with_name("journal.draft")
        file = -1
        try:
            file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            memory = _grown(file, len(content))
            put(memory, 0, content)
            os.replace(draft, self._path)  # noqa: PTH105 - the call that tests of kills know
        except OSError as error:
            if file >= 0:
                os.close(file)
            raise JournalError(f"{self._path}: {remedied(error)}. The journal before it stays.") from None
        self.close()
        self._file, self._memory = file, memory
        self.size_bytes, self._room_bytes = len(content), len(memory)

    def close(self) -> None:
        """Let go of it; it stays."""
        if self._file >= 0:
            self._memory.close()
            os.close(self._file)
            self._file, self._room_bytes = -1, 0

    def remove(self) -> None:
        """Let go of it, all of it being in the bank. Raises OSError."""
        self.close()
        self._path.unlink(missing_ok=True)


def put(memory: mmap.mmap, at: int, content: bytes) -> None:
    """What a kill may cut short at any byte."""
    memory[at : at + len(content)] = content


def _grown(file: int, least_bytes: int) -> mmap.mmap:
    """The file in memory, with room for ``least_bytes``. Raises OSError."""
    size_bytes = -(-least_bytes // STEP_BYTES) * STEP_BYTES
    take_blocks(file, size_bytes)
    return mmap.mmap(file, size_bytes)


class Left(msgspec.Struct, kw_only=True):
    """What a process left that did not end well."""

    holder: str
    """Empty: not even this can be read."""
    whole: bool
    """All that it acknowledged is here: the machine has not been started anew, and nothing is damaged."""
    open: dict[str, Dispatched]
    """By id of the charge."""
    ended: list[Ended]
    counters: dict[Key, Counter] = {}


def read(path: Path, *, boot: str) -> Left:
    """What lies in a journal. Raises OSError."""
    content = path.read_bytes()
    left = Left(holder="", whole=False, open={}, ended=[])
    sound, expected = True, 0
    for at, end, record in decode(content):
        sound, expected = sound and at == expected, end  # a kill cuts short what is at the end alone
        if isinstance(record, Begun):
            left.holder, left.whole = record.holder, record.boot == boot
        elif isinstance(record, Dispatched):
            left.open[record.charge.id] = record
            left.counters.update((counter.key, counter) for counter in record.counters)
        else:
            left.open.pop(record.ended.id, None)
            left.ended.append(record.ended)
    left.whole &= sound
    left.ended.sort(key=lambda ended: ended.number)
    return left


class Folder:
    """A folder of the holders', locked by this process."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    def close(self) -> None:
        """Leave it to others."""
        os.close(self._lock)


def claim(root: Path) -> Folder:
    """The first folder that is free and has no journal, made where there is none.

    Raises JournalError where it cannot be made, or too many processes have one.
    """
    try:
        for number in range(MAX_FOLDERS):
            make_folder(root / str(number), 0o700)
            folder = _lock(root / str(number))
            if folder is None:
                continue
            if not folder.journal.exists():
                return folder
            folder.close()
    except OSError as error:
        raise JournalError(f"{root}: {remedied(error)}") from None
    raise JournalError(f"{root}: {MAX_FOLDERS} processes hold accounts here already, or left journals that wait")


def abandoned(root: Path) -> Iterator[Folder]:
    """Folders of processes that died and left a journal, locked; the caller closes each. Raises OSError."""
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if not (path / "journal").exists():
            continue
        folder = _lock(path)
        if folder is None:
            continue
        if folder.journal.exists():  # else another one was faster
            yield folder
        else:
            folder.close()


def _lock(path: Path) -> Folder | None:
    lock = lock_file(path / "lock")
    return None if lock is None else Folder(path, lock)
