"""A disk that is really full, under the process's writer: offers go on, and what was acknowledged stays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from log_samples import make_leaf
from small_disks import Disk, small_file_system, small_files
from writer_room import WAIT_S, Room, gap_leaf, until

from amaru.errors import LedgerError
from amaru.ledger.ring import Gap
from amaru.ledger.writer import Writer

FULL = r"No space left|File too large"


@pytest.fixture(params=[small_file_system, small_files])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with request.param(tmp_path / "disk") as disk:
        yield disk


def append_until_refused(writer: Writer, first: int) -> list[bytes]:
    """What was acknowledged, from the entry ``first`` on."""
    acknowledged: list[bytes] = []
    for number in range(first, 2_000):
        leaf = make_leaf(number, 500)
        appended = writer.append(leaf)
        if error := appended.exception(WAIT_S):
            assert re.search(FULL, str(error))
            return acknowledged
        assert appended.result() == number
        acknowledged.append(leaf)
    pytest.fail("the disk did not become full")


def test_a_disk_that_fills_up_costs_what_the_queue_cannot_take_and_no_more(disk: Disk) -> None:
    with Room(disk.root) as room:
        writer = room.writer()
        assert writer.append(make_leaf(0, 500)).result(WAIT_S) == 0
        disk.fill()
        acknowledged = [make_leaf(0, 500), *append_until_refused(writer, 1)]
        offered = {leaf: writer.offer(leaf) for leaf in (make_leaf(number) for number in range(5_000, 6_000))}
        queued = [leaf for leaf, taken in offered.items() if taken]
        until(lambda: not writer.status().healthy)
        status = writer.status()
        assert status.committed == len(acknowledged)
        assert status.dropped == len(offered) - len(queued) > 0
        assert status.queued_bytes > sum(map(len, queued))
        with pytest.raises(LedgerError, match=FULL):
            writer.append(make_leaf(7_000, 500)).result(WAIT_S)
        disk.free()
        until(lambda: writer.status().healthy and not writer.status().queued_bytes)
        writer.publish().result(WAIT_S)
        told = gap_leaf(Gap(status.dropped, 0, 0))
        assert room.entries() == [*acknowledged, *queued, told]
        assert writer.append(make_leaf(8_000)).result(WAIT_S) == len(acknowledged) + len(queued) + 1


def test_a_ledger_begun_on_a_full_disk_begins_once_there_is_room(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk") as disk, Room(disk.root) as room:
        disk.fill()
        writer = room.writer()
        with pytest.raises(LedgerError, match="No space left"):
            writer.append(make_leaf(0)).result(WAIT_S)
        offered = [writer.offer(make_leaf(number)) for number in range(1, 4)]
        assert not any(offered)
        assert writer.status().dropped == 3
        disk.free()
        until(lambda: writer.status().healthy)
        assert writer.append(make_leaf(4)).result(WAIT_S) >= 0
        writer.publish().result(WAIT_S)
        assert sorted(room.entries()) == sorted([make_leaf(4), gap_leaf(Gap(3, 0, 0))])
