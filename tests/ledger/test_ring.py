"""The queue in a file: first in, first out, bounded, and as it was after a kill."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amaru.errors import LedgerBusy, LedgerError
from amaru.ledger.journal import Mark
from amaru.ledger.merkle import leaf_hash
from amaru.ledger.ring import Gap, Ring

MANY = 1 << 30
NOW_S = 1_800_000_000.0


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def open_ring(tmp_path: Path) -> Iterator[Callable[..., Ring]]:
    opened: list[Ring] = []

    def open_one(capacity_bytes: int = 1_000, mark: Mark = Mark(), clock: Hand | None = None) -> Ring:  # noqa: B008
        for ring in opened:
            ring.close()
        opened.append(Ring.open(tmp_path / "ring", capacity_bytes=capacity_bytes, clock=clock or Hand()))
        opened[-1].reconcile(mark)
        return opened[-1]

    yield open_one
    for ring in opened:
        ring.close()


def take(ring: Ring, most: int = MANY) -> list[bytes]:
    leaves, position = ring.peek(most, MANY)
    ring.advance(position)
    return leaves


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(st.binary(max_size=120), st.integers(1, 5), st.just("open again")),
        max_size=60,
    )
)
def test_any_use_is_that_of_a_bounded_queue(
    steps: list[bytes | int | str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "ring"
    capacity = 400
    ring = Ring.open(path, capacity_bytes=capacity, clock=Hand())
    ring.reconcile(Mark())
    model: deque[bytes] = deque()
    dropped = 0
    for step in steps:
        if isinstance(step, bytes):
            fits = sum(16 + len(leaf) for leaf in (*model, step)) <= capacity
            assert ring.put(step) == (leaf_hash(step) if fits else b"")
            if fits:
                model.append(step)
            else:
                dropped += 1
        elif isinstance(step, int):
            assert take(ring, step) == [model.popleft() for _ in range(min(step, len(model)))]
        else:
            ring.close()
            ring = Ring.open(path, capacity_bytes=capacity, clock=Hand())
            ring.reconcile(Mark())
        assert ring.dropped == dropped
        assert ring.waiting_bytes == sum(16 + len(leaf) for leaf in model)
    assert take(ring) == list(model)
    ring.close()


def test_what_was_read_and_not_passed_is_read_again(open_ring: Callable[..., Ring]) -> None:
    ring = open_ring()
    for leaf in (b"a", b"b", b"c"):
        assert ring.put(leaf)
    assert ring.peek(2, MANY)[0] == [b"a", b"b"]
    ring = open_ring()
    leaves, position = ring.peek(MANY, MANY)
    assert leaves == [b"a", b"b", b"c"]
    # The log committed all three, and the process ended before it came to say so here.
    assert open_ring(mark=ring.mark(position)).peek(MANY, MANY) == ([], position)


def test_what_is_dropped_is_counted_with_its_times(open_ring: Callable[..., Ring]) -> None:
    clock = Hand()
    ring = open_ring(100, clock=clock)
    assert ring.gap() is None
    assert ring.put(b"x" * 84)
    for seconds in (1, 2, 5):
        clock.now_s = NOW_S + seconds
        assert not ring.put(b"y")
    gap = ring.gap()
    assert gap == Gap(3, NOW_S + 1, NOW_S + 5)
    ring = open_ring(100, clock=clock)
    assert ring.gap() == gap, "the count outlives the process"
    assert ring.mark(None, gap)[:2] == (0, 3)
    ring.gap_logged(gap)
    assert ring.gap() is None
    clock.now_s = NOW_S + 9
    assert not ring.put(b"z")
    assert ring.gap() == Gap(1, NOW_S + 9, NOW_S + 9)
    assert open_ring(100, mark=ring.mark(None, ring.gap())).gap() is None, (
        "logged, and the process ended before it came to say so"
    )


def test_a_leaf_that_no_entry_can_hold_is_dropped(open_ring: Callable[..., Ring]) -> None:
    ring = open_ring(200_000)
    assert not ring.put(b"x" * 65_536)
    assert ring.put(b"x" * 65_535)


@pytest.mark.parametrize("content", [b"", b"x", b"not a queue" * 1_000])
def test_a_file_that_is_no_queue_is_begun_anew(open_ring: Callable[..., Ring], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ring").write_bytes(content)
    ring = open_ring()
    assert ring.put(b"leaf")
    assert take(ring) == [b"leaf"]


def test_a_system_without_preallocation_writes_the_file_whole(
    open_ring: Callable[..., Ring], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    ring = open_ring()
    assert (tmp_path / "ring").stat().st_size == 4_096 + 1_000
    assert ring.put(b"leaf")
    assert take(ring) == [b"leaf"]


def test_a_disk_without_room_for_the_queue_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(LedgerError, match="the queue cannot be opened: No space left"):
        Ring.open(tmp_path / "ring", clock=Hand())


def damage(path: Path, text: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(text)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("damaged", "left"), [(b"first", 0), (b"second", 1), (b"third", 2)])
def test_records_lost_with_the_power_are_counted_all_of_them_and_the_queue_goes_on(
    open_ring: Callable[..., Ring], tmp_path: Path, damaged: bytes, left: int
) -> None:
    ring = open_ring()
    three = [b"first", b"second", b"third"]
    for leaf in (b"zeroth", *three):
        ring.put(leaf)
    assert take(ring, 1) == [b"zeroth"]
    ring.close()
    damage(tmp_path / "ring", damaged)
    ring = open_ring()
    assert ring.gap() == Gap(3 - left, NOW_S, NOW_S)
    assert ring.put(b"fourth")
    assert take(ring) == [*three[:left], b"fourth"]
    assert three[2] not in (tmp_path / "ring").read_bytes()


def test_records_damaged_while_the_queue_is_open_are_counted(open_ring: Callable[..., Ring], tmp_path: Path) -> None:
    ring = open_ring()
    for leaf in (b"first", b"second", b"third"):
        ring.put(leaf)
    with (tmp_path / "ring").open("r+b") as file:
        file.seek((tmp_path / "ring").read_bytes().index(b"second"))
        file.write(b"S")
    assert take(ring) == [b"first"]
    assert (take(ring), ring.dropped) == ([], 2)
    assert ring.put(b"fourth")
    assert take(ring) == [b"fourth"]


HEAD_FIELDS = {"magic": 0, "capacity": 1, "head": 4, "done": 5, "tail": 6, "logged": 10}


@pytest.mark.parametrize("field", HEAD_FIELDS)
def test_a_damaged_head_is_a_gap_of_a_number_that_is_not_known(
    open_ring: Callable[..., Ring], tmp_path: Path, field: str
) -> None:
    ring = open_ring()
    for _ in range(3):
        ring.put(b"leaf")
    take(ring, 1)
    ring.close()
    content = bytearray((tmp_path / "ring").read_bytes())
    content[8 * HEAD_FIELDS[field] + 6] ^= 1
    (tmp_path / "ring").write_bytes(content)
    ring = open_ring()
    gap = ring.gap()
    assert gap == Gap(1, NOW_S, NOW_S, at_least=True)
    assert b"leaf" not in (tmp_path / "ring").read_bytes()
    ring = open_ring(mark=ring.mark(None, gap))  # logged, and the process ended before it came to say so
    assert ring.gap() is None
    assert not ring.put(b"x" * 70_000)
    assert ring.gap() == Gap(1, NOW_S, NOW_S)


def test_nothing_of_a_leaf_stays_in_the_file_once_it_is_logged(open_ring: Callable[..., Ring], tmp_path: Path) -> None:
    ring = open_ring(100)
    for number in range(50):
        assert ring.put(b"private %d" % number)
        assert ring.put(b"private too")
        assert len(take(ring, 1)) == 1
        assert b"private %d" % number not in (tmp_path / "ring").read_bytes()
        take(ring)
        assert b"private" not in (tmp_path / "ring").read_bytes()


def test_an_idle_queue_takes_another_length_and_a_used_one_keeps_its(
    open_ring: Callable[..., Ring], tmp_path: Path
) -> None:
    open_ring(1_000).put(b"leaf")
    ring = open_ring(500)
    assert (tmp_path / "ring").stat().st_size == 4_096 + 1_000
    assert take(ring) == [b"leaf"]
    assert open_ring(500).gap() is None
    assert (tmp_path / "ring").stat().st_size == 4_096 + 500


@pytest.mark.parametrize("step", ["ftruncate", "posix_fallocate"])
def test_an_end_while_the_length_changes_is_no_damage(
    open_ring: Callable[..., Ring], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    open_ring(1_000)

    def fail(*_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(LedgerError, match="cannot be opened"):
            open_ring(500)
    assert open_ring(500).gap() is None


def test_what_is_not_reconciled_is_not_emptied(tmp_path: Path) -> None:
    ring = Ring.open(tmp_path / "ring", clock=Hand())
    assert ring.put(b"leaf")
    with pytest.raises(ValueError, match="reconcile"):
        ring.peek(1, MANY)
    ring.close()


def test_two_processes_do_not_share_a_queue(open_ring: Callable[..., Ring], tmp_path: Path) -> None:
    open_ring()
    with pytest.raises(LedgerBusy, match="another process"):
        Ring.open(tmp_path / "ring", clock=Hand())
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ring.open(tmp_path, clock=Hand())


def test_a_closed_queue_takes_nothing(open_ring: Callable[..., Ring]) -> None:
    ring = open_ring()
    ring.put(b"leaf")
    ring.close()
    ring.close()
    assert not ring.put(b"late")
    assert (ring.waiting_bytes, ring.dropped) == (0, 0)
