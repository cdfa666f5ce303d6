"""Disks that a test can fill: a small file system of its own, or a limit that the kernel holds this process to."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

MOST_FILE_BYTES = 150_000


class Disk(NamedTuple):
    """A folder; after ``fill`` writing there fails, at once or soon, until ``free``."""

    root: Path
    fill: Callable[[], None]
    free: Callable[[], None]


@contextmanager
def small_file_system(root: Path) -> Iterator[Disk]:
    """A tmpfs of 1 MiB; skips the test where mounting one is not allowed."""
    root.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    ballast = root / "ballast"

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file:
            for piece in (4096, 1):
                try:
                    while file.write(b"x" * piece) == piece:
                        pass
                except OSError:
                    continue

    try:
        yield Disk(root, fill, ballast.unlink)
    finally:
        subprocess.run(["umount", str(root)], check=True)


@contextmanager
def small_files(root: Path) -> Iterator[Disk]:
    """A folder whose files the kernel lets grow to MOST_FILE_BYTES; needs no rights."""
    root.mkdir()
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_FILE_BYTES, hard))

    def free() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    try:
        yield Disk(root, fill, free)
    finally:
        free()
