"""A disk that is full, or fails: what was acknowledged stays, what was not is told, and it goes on with room."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from log_samples import KEY, assert_holds, leaves, make_leaf, open_log
from small_disks import Disk as SmallDisk
from small_disks import small_file_system, small_files

from amaru.errors import LedgerError
from amaru.ledger.audit import audit
from amaru.ledger.log import Log

CALLS = ("write", "fsync", "fdatasync", "rename", "replace")


class Disk:
    """Fails every call of the kinds above from the ``first`` on, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.first, self.count = 0, 0
        for name in CALLS:
            monkeypatch.setattr(os, name, self._failing(name, getattr(os, name)))

    def fail(self, first: int, count: int) -> None:
        self.calls, self.first, self.count = 0, first, count

    def _failing(self, name: str, system: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            self.calls += 1
            if self.first <= self.calls < self.first + self.count:
                if name == "write":  # a full disk takes what fits
                    system(arguments[0], arguments[1][: len(arguments[1]) // 2])  # type: ignore[index, arg-type]
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return system(*arguments, **more)

        return call


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def commit_until_refused(log: Log, most: int, each: int, padding: int) -> tuple[int, str]:
    """How many leaves were taken, and the words of the refusal."""
    for taken in range(0, most, each):
        try:
            log.commit([make_leaf(number, padding) for number in range(taken, taken + each)])
        except LedgerError as error:
            return taken, str(error)
    return most, ""


def assert_sound(log: Log) -> None:
    report = audit(log.store, [KEY.verifier])
    assert report.ok, report.findings


@pytest.mark.parametrize("count", [1, 3, 1_000])
def test_each_call_that_can_fail(tmp_path: Path, disk: Disk, count: int) -> None:
    """At call 1, 2, … of an append, a settling and a closing; once, some times, or until there is room again."""
    for first in range(1, 60):
        root = tmp_path / str(first)
        log = open_log(root)
        expected = leaves(0, 260)
        log.append(expected)
        disk.fail(first, count)
        refusals: list[str] = []
        for number in (1_000, 1_001):
            try:
                assert log.commit([make_leaf(number)]) == len(expected)
                expected.append(make_leaf(number))
                log.publish()
                log.settle()
            except LedgerError as error:
                refusals.append(str(error))
        reached = disk.calls >= first
        assert bool(refusals) == reached
        assert all("No space left" in words for words in refusals)
        disk.fail(0, 0)
        log.commit([make_leaf(2_000)])
        expected.append(make_leaf(2_000))
        killed = tmp_path / f"{first} killed"
        shutil.copytree(root, killed)
        log.publish()
        assert_holds(log, expected)
        log.close()
        assert_sound(log)
        for after in (root, killed):
            with open_log(after) as again:
                assert_holds(again, expected)
        if not reached:
            return
    pytest.fail("an append takes more calls than this test tries")


def test_an_append_that_cannot_be_published_is_durable_and_says_so(tmp_path: Path, disk: Disk) -> None:
    log = open_log(tmp_path / "log")
    log.append(leaves(0, 5))
    disk.fail(3, 1_000)  # after the journal's write and flush
    appended = log.append([make_leaf(5)])
    assert (appended.first, appended.checkpoint) == (5, None)
    assert (log.committed, log.size) == (6, 5)
    disk.fail(0, 0)
    log.append([make_leaf(6)])
    assert_holds(log, leaves(0, 7))


def test_tiles_whose_flush_failed_are_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes what it could not write for written: flushing the same pages again would say nothing."""
    log = open_log(tmp_path / "log")
    log.append(leaves(0, 300))
    tiles = {path: path.read_bytes() for path in (tmp_path / "log/tile").rglob("*") if path.is_file()}

    def failing(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        with pytest.raises(LedgerError, match="cannot make durable: Input/output error"):
            log.settle()
        with pytest.raises(LedgerError):
            log.publish()
        assert log.inclusion(299).size == 300, "reading goes on"
    for path in tiles:
        path.write_bytes(b"what the disk has")
    log.settle()
    assert {path: path.read_bytes() for path in tiles} == tiles
    log.close()


def test_memory_and_journal_stay_bounded_while_nothing_can_be_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(tmp_path / "log", settle_bytes=5_000)
    with monkeypatch.context() as full:
        full.setattr(log.store, "write", refuse)
        taken, words = commit_until_refused(log, 2_000, 1, 0)
        assert "No space left" in words
        (journal,) = (tmp_path / "log/journal").iterdir()
        assert 2 * 5_000 < journal.stat().st_size < 2 * 5_000 + 200
        for _ in range(20):  # with no more journal than at the first refusal
            assert commit_until_refused(log, 1, 1, 0) == (0, words)
    assert log.commit([make_leaf(taken)]) == taken, "it goes on as soon as there is room"
    log.publish()
    assert_holds(log, leaves(0, taken + 1))
    log.close()


def refuse(name: str, content: bytes) -> None:
    raise LedgerError(f"{name}: No space left")


def test_closing_on_a_full_disk_leaves_what_was_committed(tmp_path: Path, disk: Disk) -> None:
    log = open_log(tmp_path / "log")
    log.commit(leaves(0, 10))
    disk.fail(1, 1_000)
    log.close()
    disk.fail(0, 0)
    with open_log(tmp_path / "log") as again:
        assert_holds(again, leaves(0, 10))


def test_opening_on_a_full_disk_is_refused_and_harmless(tmp_path: Path, disk: Disk) -> None:
    log = open_log(tmp_path / "log")
    log.append(leaves(0, 10))
    log.commit(leaves(10, 20))
    log.store.release()
    disk.fail(1, 1_000)
    with pytest.raises(LedgerError, match="No space left"):
        open_log(tmp_path / "log")
    disk.fail(0, 0)
    with open_log(tmp_path / "log") as again:
        assert_holds(again, leaves(0, 20))


@pytest.fixture(params=[small_file_system, small_files])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    with request.param(tmp_path / "disk") as disk:
        yield disk


def test_a_real_disk_that_fills_up(small_disk: SmallDisk) -> None:
    root = small_disk.root / "log"
    log = open_log(root, settle_bytes=400_000)
    small_disk.fill()
    taken, words = commit_until_refused(log, 10_000, 20, 300)
    assert "No space left" in words or "File too large" in words
    small_disk.free()
    log.append([make_leaf(taken, 300)])
    expected = [make_leaf(number, 300) for number in range(taken + 1)]
    assert_holds(log, expected)
    log.close()
    assert_sound(log)
    with open_log(root) as again:
        assert_holds(again, expected)
