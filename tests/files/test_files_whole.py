"""Folders that are made while others make them."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from amaru.files.whole import make_folder


def test_many_make_the_same_folders_at_once(tmp_path: Path) -> None:
    together = Barrier(8)

    def make(root: Path) -> None:
        together.wait()
        make_folder(root / "a" / "b" / "c")

    with ThreadPoolExecutor(8) as threads:
        for round in range(200):
            root = tmp_path / str(round)
            for done in [threads.submit(make, root) for _ in range(8)]:
                done.result()
            assert (root / "a" / "b" / "c").is_dir()


def test_where_a_file_stands_no_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"exists|Not a directory") as failed:
            make_folder(path)
        assert failed.value.errno in (errno.EEXIST, errno.ENOTDIR)


def test_a_file_system_that_makes_none_says_so() -> None:
    with pytest.raises(FileNotFoundError):
        make_folder(Path("/proc/none/below"))
