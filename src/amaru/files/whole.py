"""Files that are there whole or not at all: written beside, made durable, then put in place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Have ``path`` hold ``content``, or what it held before. Raises OSError."""

    def write(draft: Path) -> None:
        draft.write_bytes(content)

    put_whole(path, write)


def put_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Have ``path`` hold what ``write`` writes to the path that it is given, or what it held before.

    Whatever ``write`` raises is passed on, and so is OSError.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        write(draft)
        with draft.open("rb") as handle:
            os.fsync(handle.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
