"""The process's writer: many callers, one flush; offers that cost no request anything; gaps that are logged."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from log_samples import KEY, leaves, make_leaf, open_log, view_of

from amaru.errors import LedgerBusy, LedgerError
from amaru.ledger.audit import audit
from amaru.ledger.canonical import canonical
from amaru.ledger.checkpoint import read_checkpoint
from amaru.ledger.journal import Mark
from amaru.ledger.log import Log
from amaru.ledger.ring import Gap, Ring
from amaru.ledger.tile_store import FolderStore
from amaru.ledger.writer import Writer

WAIT_S = 20.0


def gap_leaf(gap: Gap) -> bytes:
    return canonical({"dropped": gap.dropped, "type": "gap"})


class Room:
    """Writers of one log, and the doors through which they open it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.failing = False
        self.told: list[tuple[int, list[bytes]]] = []
        self.writers: list[Writer] = []

    def open_log(self) -> Log:
        if self.failing:
            raise LedgerError("the disk is gone")
        return open_log(self.root / "log")

    def open_ring(self, mark: Mark) -> Ring:
        return Ring.open(self.root / "ring", capacity_bytes=10_000, mark=mark, clock=time.time)

    def tell(self, first: int, committed: Sequence[bytes]) -> None:
        self.told.append((first, list(committed)))

    def writer(self, *, interval_s: float = 0.005, publish_interval_s: float = 0.01, start: bool = True) -> Writer:
        writer = Writer(
            self.open_log,
            self.open_ring,
            gap_leaf=gap_leaf,
            on_committed=self.tell,
            interval_s=interval_s,
            publish_interval_s=publish_interval_s,
        )
        self.writers.append(writer)
        if start:
            writer.start()
        return writer

    def entries(self) -> list[bytes]:
        view = view_of(self.root / "log")
        return list(view.entries(0, view.size))


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    room = Room(tmp_path)
    yield room
    for writer in room.writers:
        writer.close(WAIT_S)
    if (tmp_path / "log" / "checkpoint").exists():
        report = audit(FolderStore(tmp_path / "log"), [KEY.verifier])
        assert report.ok, report.findings


def until(what: Callable[[], bool]) -> None:
    """Wait for another thread."""
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.002)


def test_an_appended_leaf_is_durable_at_its_index(room: Room) -> None:
    writer = room.writer()
    assert [writer.append(leaf).result(WAIT_S) for leaf in leaves(0, 5)] == [0, 1, 2, 3, 4]
    assert writer.log is not None
    assert writer.log.committed == 5
    note = writer.publish().result(WAIT_S)
    assert read_checkpoint(note).size == 5
    assert room.entries() == leaves(0, 5)
    assert writer.close(WAIT_S)


def test_callers_share_a_flush(room: Room) -> None:
    writer = room.writer()
    assert writer.wait_open(WAIT_S)
    assert writer.log is not None
    flushed: list[int] = []
    commit = writer.log.commit
    held = threading.Event()

    def slow(batch: Sequence[bytes], *, mark: Mark | None = None) -> int:
        flushed.append(len(batch))
        held.wait(WAIT_S)
        return commit(batch, mark=mark)

    writer.log.commit = slow  # type: ignore[method-assign]  # a disk that takes its time
    futures = [writer.append(make_leaf(0))]
    until(lambda: flushed == [1])
    futures += [writer.append(leaf) for leaf in leaves(1, 500)]
    held.set()
    assert [future.result(WAIT_S) for future in futures] == list(range(500))
    assert flushed == [1, 499]


async def test_a_future_can_be_awaited(room: Room) -> None:
    writer = room.writer()
    assert await asyncio.wrap_future(writer.append(make_leaf(0))) == 0


def test_what_is_offered_is_logged_in_order_and_told(room: Room) -> None:
    writer = room.writer()
    assert writer.wait_open(WAIT_S)
    assert all(writer.offer(leaf) for leaf in leaves(0, 50))
    until(lambda: writer.status().published == 50)
    assert room.entries() == leaves(0, 50)
    assert [leaf for _, batch in room.told for leaf in batch] == leaves(0, 50)
    assert room.told[0][0] == 0


def test_what_is_dropped_becomes_a_gap(room: Room) -> None:
    writer = room.writer(interval_s=60.0)
    assert writer.wait_open(WAIT_S)
    taken = [writer.offer(leaf) for leaf in leaves(0, 1_000)]
    dropped = taken.count(False)
    assert dropped > 0
    assert writer.status().dropped == dropped
    writer.publish().result(WAIT_S)
    entries = room.entries()
    assert entries[0] == gap_leaf(Gap(dropped, 0, 0))
    assert entries[1:] == [leaf for leaf, fits in zip(leaves(0, 1_000), taken, strict=True) if fits]
    writer.publish().result(WAIT_S)
    assert len(room.entries()) == len(entries), "a gap is logged once"


def test_a_ledger_that_cannot_be_opened_costs_no_caller_more_than_its_receipt(room: Room) -> None:
    room.failing = True
    writer = room.writer()
    assert not writer.offer(make_leaf(0))
    with pytest.raises(LedgerError, match="the disk is gone"):
        writer.append(make_leaf(1)).result(WAIT_S)
    until(lambda: not writer.status().healthy)
    assert writer.status().last_error == "the disk is gone"
    assert not writer.offer(make_leaf(2))
    room.failing = False
    until(lambda: writer.status().healthy)
    assert writer.offer(make_leaf(3))
    until(lambda: writer.status().queued_bytes == 0)
    writer.publish().result(WAIT_S)
    assert room.entries() == [gap_leaf(Gap(2, 0, 0)), make_leaf(3)]


def test_a_disk_that_fails_keeps_offers_and_tells_who_appends(room: Room) -> None:
    writer = room.writer()
    assert writer.wait_open(WAIT_S)
    assert writer.log is not None
    commit = writer.log.commit

    def full(batch: Sequence[bytes], *, mark: Mark | None = None) -> int:
        raise LedgerError("No space left on device")

    writer.log.commit = full  # type: ignore[method-assign]
    with pytest.raises(LedgerError, match="No space left"):
        writer.append(make_leaf(0)).result(WAIT_S)
    assert all(writer.offer(leaf) for leaf in leaves(1, 5))
    until(lambda: not writer.status().healthy)
    writer.log.commit = commit  # type: ignore[method-assign]
    until(lambda: writer.status().committed == 4)
    writer.publish().result(WAIT_S)
    assert room.entries() == leaves(1, 5)
    assert writer.status().healthy


def test_a_log_taken_over_by_another_writer_is_opened_again(room: Room) -> None:
    writer = room.writer()
    writer.append(make_leaf(0)).result(WAIT_S)
    assert writer.log is not None

    def busy(batch: Sequence[bytes], *, mark: Mark | None = None) -> int:
        raise LedgerBusy("this writer's lease has ended")

    writer.log.commit = busy  # type: ignore[method-assign]
    assert writer.offer(make_leaf(1))
    until(lambda: writer.status().committed == 2)
    writer.publish().result(WAIT_S)
    assert room.entries() == leaves(0, 2)


def test_an_offer_is_logged_once_over_a_kill_between_the_commit_and_its_note(room: Room) -> None:
    log, ring = room.open_log(), room.open_ring(Mark())
    for leaf in leaves(0, 3):
        ring.put(leaf)
    committed, position = ring.peek(2, 1 << 20)
    log.commit(committed, mark=ring.mark(position))
    log.store.release()  # here the process is killed: the queue still holds all three
    ring.close()
    writer = room.writer()
    until(lambda: writer.status().committed == 3)
    writer.publish().result(WAIT_S)
    assert room.entries() == leaves(0, 3)


def test_what_was_offered_before_the_end_is_logged_by_the_next_process(room: Room) -> None:
    ring = room.open_ring(Mark())
    for leaf in leaves(0, 3):
        ring.put(leaf)
    ring.close()
    writer = room.writer()
    until(lambda: writer.status().committed == 3)
    writer.publish().result(WAIT_S)
    assert room.entries() == leaves(0, 3)


def test_closing_logs_what_waits_and_refuses_what_comes_later(room: Room) -> None:
    writer = room.writer()
    assert writer.wait_open(WAIT_S)
    futures: list[Future[int]] = [writer.append(leaf) for leaf in leaves(0, 200)]
    assert all(writer.offer(leaf) for leaf in leaves(200, 210))
    assert writer.close(WAIT_S)
    assert [future.result(0) for future in futures] == list(range(200))
    assert sorted(room.entries()) == sorted(leaves(0, 210))
    for late in (writer.append(make_leaf(0)), writer.publish()):
        with pytest.raises(LedgerError, match="closed"):
            late.result(WAIT_S)
    assert not writer.offer(make_leaf(0))
    assert not writer.status().open


def test_a_leaf_that_cannot_be_logged_is_refused_alone(room: Room) -> None:
    writer = room.writer()
    good, bad = writer.append(make_leaf(0)), writer.append(b"x" * 65_536)
    with pytest.raises(LedgerError, match="65,536 bytes"):
        bad.result(WAIT_S)
    assert good.result(WAIT_S) == 0


def test_appends_beyond_the_queue_are_refused(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amaru.ledger.writer.MOST_WAITING", 3)
    writer = room.writer(start=False)
    futures = [writer.append(leaf) for leaf in leaves(0, 4)]
    with pytest.raises(LedgerError, match="3 entries wait"):
        futures[3].result(0)
    assert futures[1].cancel()
    writer.start()
    assert [futures[0].result(WAIT_S), futures[2].result(WAIT_S)] == [0, 1]


def test_a_bug_in_a_callback_does_not_end_the_writer(room: Room) -> None:
    told: list[int] = []

    def tell(first: int, committed: Sequence[bytes]) -> None:
        told.append(first)
        raise RuntimeError("not the writer's fault")

    room.tell = tell  # type: ignore[method-assign]
    writer = room.writer()
    assert [writer.append(make_leaf(number)).result(WAIT_S) for number in range(3)] == [0, 1, 2]
    until(lambda: told == [0, 1, 2])
    assert writer.status().committed == 3


def test_what_is_offered_while_a_commit_is_flushed_gathers_for_the_next(room: Room) -> None:
    told = threading.Event()

    def offer_another(first: int, committed: Sequence[bytes]) -> None:
        room.tell(first, committed)
        if not told.is_set():
            assert writer.offer(make_leaf(3))
            told.set()

    writer = Writer(room.open_log, room.open_ring, on_committed=offer_another, interval_s=3600.0)
    room.writers.append(writer)
    writer.start()
    assert writer.wait_open(WAIT_S)
    writer.append(make_leaf(1)).result(WAIT_S)
    assert told.wait(WAIT_S)
    writer.append(make_leaf(2)).result(WAIT_S)
    assert writer.close(WAIT_S)
    assert [committed for _, committed in room.told] == [[make_leaf(1)], [make_leaf(2), make_leaf(3)]]
