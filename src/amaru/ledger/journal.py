"""The journal: what was acknowledged and is not yet in tiles that are durable.

It begins with a base, the signed checkpoint up to which everything lies durably in tiles, and goes on with a frame for
each commit. A frame is a head (marker, length of the payload, CRC-32 of all that follows it, number of its first leaf,
the mark of the queue that handed the leaves over) and, as payload, the leaves as an entry bundle writes them. The
base is a frame of number ``size`` whose payload is the checkpoint.

A frame that a crash cut short was never acknowledged, and is dropped where it is the last. A broken frame with a sound
one after it is damage, and refused: what follows it was acknowledged.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from amaru.errors import LedgerCorrupt, LedgerError

_MARKER = b"\xf5aJ\x02"
_HEAD = struct.Struct(">4sIIQQQQ")
_CHECKED_FROM = 12
"""The CRC covers the head from here on, and the payload."""
FRAME_BYTES = 8 * 1024 * 1024
"""A commit of more is written in several frames."""
MAX_FRAME_BYTES = 32 * 1024 * 1024


class Mark(NamedTuple):
    """How far the queue before the log had been emptied when a frame was written (``ring``); kept for it."""

    position: int = 0
    dropped: int = 0
    queue: int = 0
    """Which queue; 0: none."""


class Frame(NamedTuple):
    """One commit, or the base."""

    first: int
    payload: bytes
    mark: Mark = Mark()

    def encode(self) -> bytes:
        """The frame's bytes."""
        rest = struct.pack(">QQQQ", self.first, *self.mark) + self.payload
        return struct.pack(">4sII", _MARKER, len(self.payload), zlib.crc32(rest)) + rest


class Journal(Protocol):
    """Raises LedgerError throughout where the store cannot be read or written."""

    @property
    def size_bytes(self) -> int:
        """Of the frames since the base."""

    def recover(self) -> Iterator[Frame]:
        """The base, then the frames after it; what a crash cut short is removed. None at all: a new log.

        Raises LedgerCorrupt.
        """

    def append(self, frame: Frame) -> None:
        """Write a frame; durable on return. Where it raises, the journal is as before, or is made so later."""

    def restart(self, base: Frame) -> None:
        """Begin anew from ``base``; in one step, so that a crash leaves the old journal or the new one."""

    def close(self) -> None:
        """Let go of it."""


class FileJournal:
    """A file ``journal/<size of the base>``, appended to and made durable by one ``fdatasync`` for each frame.

    ``require_held`` raises LedgerError where the folder is no longer the one that the writer holds: a file that was
    removed takes what is written all the same.
    """

    def __init__(self, folder: Path, require_held: Callable[[], None]) -> None:
        self._folder = folder
        self._require_held = require_held
        self._path: Path | None = None
        self._file = -1
        self._good_bytes = 0
        self._base_bytes = 0
        self._broken = False

    @property
    def size_bytes(self) -> int:
        return self._good_bytes - self._base_bytes

    def recover(self) -> Iterator[Frame]:
        try:
            names = sorted(p for p in self._folder.iterdir() if p.name.isdigit()) if self._folder.is_dir() else []
            if not names:
                return
            # A crash between the making of a journal and the removal of the one before leaves both; the newer holds all
            # that the older one does, in tiles.
            path = names[-1]
            content = path.read_bytes()
            frames, good = decode_frames(content, str(path))
            if not frames:
                raise LedgerCorrupt(f"{path}: no journal: its base cannot be read — restore this file from a copy")
            self._open(path, good, _HEAD.size + len(frames[0].payload))
            for older in names[:-1]:
                older.unlink()
        except OSError as error:
            raise LedgerError(f"{self._folder}: the journal cannot be read: {error.strerror}") from None
        yield from frames

    def append(self, frame: Frame) -> None:
        self._require_held()
        content = frame.encode()
        try:
            if self._broken:
                self._mend()
            self._broken = True
            write_fully(self._file, content)
            getattr(os, "fdatasync", os.fsync)(self._file)  # macOS has only the latter
            self._broken = False
        except OSError as error:
            with contextlib.suppress(OSError):  # else before the next frame
                self._mend()
            raise LedgerError(f"{self._path}: {error.strerror}; the entries were not logged") from None
        self._good_bytes += len(content)

    def restart(self, base: Frame) -> None:
        self._require_held()
        path = self._folder / f"{base.first:020d}"
        draft = self._folder / ".draft"
        content = base.encode()
        file = -1
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
            write_fully(file, content)
            os.fsync(file)
            draft.replace(path)
        except OSError as error:
            if file >= 0:
                os.close(file)
            raise LedgerError(f"{path}: {error.strerror}; the journal before it stays") from None
        # From here on a recovery takes the new one, so that it is the new one that is written, whatever fails below.
        before, old = self._path, self._file
        self._path, self._file, self._good_bytes, self._base_bytes = path, file, len(content), len(content)
        self._broken = True
        if old >= 0:
            os.close(old)
        try:
            self._mend()
            if before is not None and before != path:
                before.unlink()
        except OSError as error:
            raise LedgerError(f"{path}: {error.strerror}; the next entry waits for it to be durable") from None

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self, path: Path, good: int, base: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._path, self._good_bytes, self._base_bytes = path, good, base
        # What a killed process wrote may be in the kernel's memory only; no checkpoint may build on that.
        self._mend()

    def _mend(self) -> None:
        """Cut off what is no whole frame; after that, what is there is durable, and so is the file's name."""
        os.ftruncate(self._file, self._good_bytes)
        os.fsync(self._file)
        sync_path(self._folder)
        self._broken = False


def in_frames(leaves: Sequence[bytes]) -> Iterator[list[bytes]]:
    """The leaves in runs of at most FRAME_BYTES."""
    run: list[bytes] = []
    size = 0
    for leaf in leaves:
        if size + len(leaf) > FRAME_BYTES:
            yield run
            run, size = [], 0
        run.append(leaf)
        size += len(leaf) + 2
    if run:
        yield run


def decode_frames(content: bytes, where: str) -> tuple[list[Frame], int]:
    """The whole frames, and how many bytes they take. Raises LedgerCorrupt where a sound one follows a broken one."""
    frames: list[Frame] = []
    at = 0
    while (frame := _frame_at(content, at)) is not None:
        frames.append(frame)
        at += _HEAD.size + len(frame.payload)
    after = content.find(_MARKER, at + 1)
    while after >= 0:
        if frames and (later := _frame_at(content, after)) is not None and later.first > frames[-1].first:
            raise LedgerCorrupt(
                f"{where}: damaged at byte {at:,}, and acknowledged entries follow from {later.first:,} on — "
                "restore this file from a copy"
            )
        after = content.find(_MARKER, after + 1)
    return frames, at


def _frame_at(content: bytes, at: int) -> Frame | None:
    if len(content) - at < _HEAD.size:
        return None
    marker, length, crc, first, *mark = _HEAD.unpack_from(content, at)
    end = at + _HEAD.size + length
    if marker != _MARKER or length > MAX_FRAME_BYTES or end > len(content):
        return None
    if zlib.crc32(memoryview(content)[at + _CHECKED_FROM : end]) != crc:
        return None
    return Frame(first, content[at + _HEAD.size : end], Mark(*mark))


def write_fully(file: int, content: bytes | bytearray) -> None:
    """Write all of it; a disk that takes only a part then says why. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def sync_path(path: Path | str) -> None:
    """Make a file or a folder durable. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
