"""Files that are there whole or not at all: written beside, made durable, then put in place."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

_REMEDIES = {
    errno.ENOENT: "make the folder first",
    errno.ENOSPC: "make room there, and try again",
    errno.EDQUOT: "make room there, and try again",
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
    errno.EROFS: "mount it writable, or choose another place",
}


def write_whole(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Have ``path`` hold ``content``, or what it held before; ``mode`` as of ``os.open``. Raises OSError."""
    put_whole(path, lambda draft: _create(draft, content, mode))


def make_whole(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Have a new file hold ``content``, or none be there; what is there already is never written over.

    Raises FileExistsError where there is one, and OSError; where the folder could not be made durable, it is there.
    """
    _put(path, lambda draft: _create(draft, content, mode), path.hardlink_to)


def put_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Have ``path`` hold what ``write`` writes to the path that it is given, or what it held before.

    Whatever ``write`` raises is passed on, and so is OSError.
    """
    _put(path, write, lambda draft: draft.replace(path))


def take_blocks(file: int, size_bytes: int) -> None:
    """Have an open file be so long, with zeros after what it holds, and all its blocks taken. Raises OSError.

    For files in memory: a full disk met later, through the memory, would end the process (SIGBUS).
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size_bytes)
        return
    at, zeros = os.fstat(file).st_size, bytes(1 << 16)  # macOS
    while at < size_bytes:
        at += os.pwrite(file, zeros[: size_bytes - at], at)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Have a folder there, with those above it, durably; ``mode`` is that of a new one. Raises OSError."""
    try:
        path.mkdir(mode)
    except FileNotFoundError:
        make_folder(path.parent)
        _make(path, mode)  # fails once more where the file system makes none, like /proc
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    _sync_folder(path.parent)


def _make(path: Path, mode: int) -> None:
    try:
        path.mkdir(mode)
    except FileExistsError:  # another process was faster
        if not path.is_dir():
            raise


def remedied(error: OSError) -> str:
    """Why a file could not be written, and what to do about it."""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{error.strerror}; {remedy}" if remedy else error.strerror or str(error)


def _put(path: Path, write: Callable[[Path], None], place: Callable[[Path], object]) -> None:
    draft = path.with_name(f".{path.name}.{threading.get_native_id()}.draft")
    draft.unlink(missing_ok=True)  # of one that had this number, and was killed
    try:
        write(draft)
        with draft.open("rb") as handle:
            os.fsync(handle.fileno())
        place(draft)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _create(path: Path, content: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(handle, left) :]
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
