"""Conversations of a machine, in memory of one size: a hash table of buckets, in which the latest push out the oldest.

One worker has it to itself; several have it in the file that they share (``shared.Memory``). Reading takes no lock:
each entry carries a checksum, so one that is being written reads as none. Writing locks one bucket, by a record lock
that the kernel lets go of when its holder dies.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from amaru.routing.conversation import KEY_BYTES, MOST_BYTES, Conversation, decode, encode

BUCKETS, WAYS = 8192, 8
MOST = BUCKETS * WAYS
"""Conversations that are remembered at once. Memory is taken only where there are some."""
_HEAD = struct.Struct("<IHxxd")
"""Checksum of the rest and the key, bytes of the conversation, and when it was last told of anything."""
_ENTRY_BYTES = _HEAD.size + MOST_BYTES
_KEYS_BYTES = WAYS * KEY_BYTES
_BUCKET_BYTES = _KEYS_BYTES + WAYS * _ENTRY_BYTES
SIZE = BUCKETS * _BUCKET_BYTES
"""Bytes of a table."""
_BLANK = bytes(KEY_BYTES)

Lock = Callable[[int], AbstractContextManager[None]]


class ConversationTable:
    """Conversations by their keys.

    Parameters
    ----------
    cells
        ``SIZE`` writable bytes, zeros at first; left out, the table has memory of its own.
    lock
        Keeps other processes from writing in the bucket of that number; left out, there are none.
    """

    def __init__(self, cells: memoryview | None = None, lock: Lock | None = None) -> None:
        self._cells = memoryview(mmap.mmap(-1, SIZE)) if cells is None else cells
        self._lock: Lock = lock or (lambda _: nullcontext())

    def get(self, key: bytes) -> Conversation | None:
        """What is remembered under the key, valid; else ``None``."""
        base = _base_of(key)
        way = self._way(base, key)
        return None if way is None else self._read(base, way, key)

    def change(self, key: bytes, to: Callable[[Conversation | None], Conversation]) -> Conversation:
        """Put what ``to`` makes of the conversation in its place, with no other process in between; gives that."""
        base = _base_of(key)
        with self._lock(base // _BUCKET_BYTES):
            way = self._way(base, key)
            changed = to(None if way is None else self._read(base, way, key))
            self._write(base, self._oldest(base) if way is None else way, key, changed)
        return changed

    def _way(self, base: int, key: bytes) -> int | None:
        keys = bytes(self._cells[base : base + _KEYS_BYTES])
        at = keys.find(key)
        while at >= 0 and at % KEY_BYTES:  # across two keys
            at = keys.find(key, at + 1)
        return None if at < 0 else at // KEY_BYTES

    def _oldest(self, base: int) -> int:
        """Where a new entry goes: to the first that was never used, else in the place of the oldest."""
        first = base + _KEYS_BYTES
        heads = [_HEAD.unpack_from(self._cells, first + way * _ENTRY_BYTES) for way in range(WAYS)]
        return min(range(WAYS), key=lambda way: heads[way][2])

    def _read(self, base: int, way: int, key: bytes) -> Conversation | None:
        at = base + _KEYS_BYTES + way * _ENTRY_BYTES
        entry = bytes(self._cells[at : at + _ENTRY_BYTES])
        checksum, size, _ = _HEAD.unpack_from(entry)
        if size > MOST_BYTES or zlib.crc32(key + entry[4 : _HEAD.size + size]) != checksum:
            return None
        return decode(entry[_HEAD.size : _HEAD.size + size])

    def _write(self, base: int, way: int, key: bytes, conversation: Conversation) -> None:
        data, cells = encode(conversation), self._cells
        rest = _HEAD.pack(0, len(data), conversation.touched_at)[4:] + data
        at = base + _KEYS_BYTES + way * _ENTRY_BYTES
        # Whatever is there until the last line fits no checksum.
        cells[at : at + 4] = _BLANK[:4]
        cells[base + way * KEY_BYTES : base + (way + 1) * KEY_BYTES] = key
        cells[at + 4 : at + 4 + len(rest)] = rest
        cells[at : at + 4] = zlib.crc32(key + rest).to_bytes(4, "little")


def _base_of(key: bytes) -> int:
    return int.from_bytes(key[:4], "little") % BUCKETS * _BUCKET_BYTES
