"""The process's writer: many callers, one flush; offers that cost no request anything; gaps that are logged."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from log_samples import leaves, make_leaf
from writer_room import WAIT_S, Room, gap_leaf, until

from amaru.errors import LedgerBusy, LedgerError
from amaru.ledger.checkpoint import read_checkpoint
from amaru.ledger.journal import Mark
from amaru.ledger.ring import Gap
from amaru.ledger.writer import Writer


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    with Room(tmp_path) as room:
        yield room


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


def test_what_is_dropped_becomes_a_gap_after_all_that_was_queued_by_then(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amaru.ledger.writer.MOST_LEAVES", 8)
    writer = room.writer(interval_s=60.0)
    assert writer.wait_open(WAIT_S)
    offered = {leaf: writer.offer(leaf) for leaf in leaves(0, 1_000)}
    queued = [leaf for leaf, taken in offered.items() if taken]
    dropped = len(offered) - len(queued)
    assert min(dropped, len(queued)) > 100
    assert writer.status().dropped == dropped
    writer.publish().result(WAIT_S)
    assert room.entries() == [*queued, gap_leaf(Gap(dropped, 0, 0))]
    assert writer.offer(make_leaf(1_000))
    writer.publish().result(WAIT_S)
    assert room.entries()[len(queued) + 1 :] == [make_leaf(1_000)], "a gap is logged once"


def test_what_is_dropped_while_the_queue_is_emptied_is_the_next_gap(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first gap stands where it was noticed, however much is offered and dropped meanwhile."""
    monkeypatch.setattr("amaru.ledger.writer.MOST_LEAVES", 8)
    writer = room.writer(interval_s=60.0)
    assert writer.wait_open(WAIT_S)
    queued = [leaf for leaf in leaves(0, 1_000) if writer.offer(leaf)]
    later: list[bytes] = []

    def offer_more(first: int, committed: Sequence[bytes]) -> None:
        if first == 0:
            later.extend(leaf for leaf in leaves(1_000, 1_100) if writer.offer(leaf))

    room.tell = offer_more  # type: ignore[method-assign]
    writer.publish().result(WAIT_S)
    writer.publish().result(WAIT_S)
    entries = room.entries()
    first, second = (gap_leaf(Gap(count, 0, 0)) for count in (1_000 - len(queued), 100 - len(later)))
    assert 0 < len(later) < 100
    assert [leaf for leaf in entries if leaf not in (first, second)] == [*queued, *later]
    assert len(queued) <= entries.index(first) < entries.index(second) == len(entries) - 1


def test_while_the_ledger_cannot_be_opened_offers_wait_and_callers_are_told(room: Room) -> None:
    room.failing = True
    writer = room.writer()
    for asked in (writer.append(make_leaf(1)), writer.publish()):
        with pytest.raises(LedgerError, match="the disk is gone"):
            asked.result(WAIT_S)
    assert all(writer.offer(leaf) for leaf in leaves(2, 5))
    status = writer.status()
    assert (status.healthy, status.open, status.last_error) == (False, False, "the disk is gone")
    assert status.queued_bytes > 3 * len(make_leaf(2))
    assert status.dropped == 0
    room.failing = False
    until(lambda: writer.status().committed == 3 and writer.status().healthy)
    writer.publish().result(WAIT_S)
    assert room.entries() == leaves(2, 5)


def test_what_a_process_could_not_log_and_what_it_dropped_the_next_one_logs(room: Room) -> None:
    room.failing = True
    writer = room.writer()
    until(lambda: not writer.status().healthy)
    offered = [bool(writer.offer(leaf)) for leaf in leaves(0, 1_000)]
    assert not writer.close(WAIT_S)
    assert writer.status().dropped == offered.count(False) > 0
    room.failing = False
    room.writer().publish().result(WAIT_S)
    queued = leaves(0, offered.count(True))
    assert room.entries() == [*queued, gap_leaf(Gap(offered.count(False), 0, 0))]


def test_without_a_queue_the_log_goes_on_and_what_is_dropped_is_a_gap(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amaru.ledger.writer.QUEUE_RETRY_S", 0.0)
    room.ring_failing = True
    writer = room.writer()
    assert writer.append(make_leaf(0)).result(WAIT_S) == 0
    assert not any(writer.offer(leaf) for leaf in leaves(1, 4))
    until(lambda: writer.status().committed > 1)
    writer.publish().result(WAIT_S)
    status = writer.status()
    assert (status.open, status.dropped, status.last_error) == (True, 3, "no queue here")
    room.ring_failing = False
    until(lambda: writer.offer(make_leaf(4)))
    missed = writer.status().dropped - 3
    assert writer.append(make_leaf(5)).result(WAIT_S)
    writer.publish().result(WAIT_S)
    assert writer.status().healthy
    entries = room.entries()
    told = [json.loads(leaf)["dropped"] for leaf in entries if b'"gap"' in leaf]
    assert sum(told) == 3 + missed == writer.status().dropped
    assert sorted(leaf for leaf in entries if b'"gap"' not in leaf) == [make_leaf(0), make_leaf(4), make_leaf(5)]


def test_a_publication_is_made_while_appends_never_end(room: Room) -> None:
    answered = threading.Event()

    def append_again(first: int, committed: Sequence[bytes]) -> None:
        if not answered.is_set():
            writer.append(make_leaf(first))

    room.tell = append_again  # type: ignore[method-assign]
    writer = room.writer(interval_s=60.0, publish_interval_s=3_600.0, start=False)
    for leaf in leaves(0, 5):
        writer.append(leaf)
    asked = writer.publish()
    writer.start()
    try:
        assert read_checkpoint(asked.result(WAIT_S)).size >= 5
    finally:
        answered.set()


def test_a_publication_that_its_caller_cancelled_is_no_others_trouble(room: Room) -> None:
    writer = room.writer(start=False)
    writer.append(make_leaf(0))
    asked = [writer.publish() for _ in range(3)]
    assert asked[0].cancel()
    writer.start()
    assert [read_checkpoint(one.result(WAIT_S)).size for one in asked[1:]] == [1, 1]
    assert writer.append(make_leaf(1)).result(WAIT_S) == 1


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
    log, ring = room.open_log(), room.open_ring()
    for leaf in leaves(0, 3):
        ring.put(leaf)
    ring.reconcile(log.mark)
    committed, position = ring.peek(2, 1 << 20)
    log.commit(committed, mark=ring.mark(position))
    log.store.release()  # here the process is killed: the queue still holds all three
    ring.close()
    writer = room.writer()
    until(lambda: writer.status().committed == 3)
    writer.publish().result(WAIT_S)
    assert room.entries() == leaves(0, 3)


def test_what_was_offered_before_the_end_is_logged_by_the_next_process(room: Room) -> None:
    ring = room.open_ring()
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
