"""The queue in a file: first in, first out, bounded, and as it was after a kill."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amaru.errors import LedgerBusy, LedgerError
from amaru.ledger.journal import Mark
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
        opened.append(Ring.open(tmp_path / "ring", capacity_bytes=capacity_bytes, mark=mark, clock=clock or Hand()))
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
    model: deque[bytes] = deque()
    dropped = 0
    for step in steps:
        if isinstance(step, bytes):
            fits = sum(8 + len(leaf) for leaf in (*model, step)) <= capacity
            assert ring.put(step) == fits
            if fits:
                model.append(step)
            else:
                dropped += 1
        elif isinstance(step, int):
            assert take(ring, step) == [model.popleft() for _ in range(min(step, len(model)))]
        else:
            ring.close()
            ring = Ring.open(path, capacity_bytes=capacity, clock=Hand())
        assert ring.dropped == dropped
        assert ring.waiting_bytes == sum(8 + len(leaf) for leaf in model)
    assert take(ring) == list(model)
    ring.close()


def test_what_was_read_and_not_passed_is_read_again(open_ring: Callable[..., Ring]) -> None:
    ring = open_ring()
    for leaf in (b"a", b"b", b"c"):
        assert ring.put(leaf)
    assert ring.peek(2, MANY)[0] == [b"a", b"b"]
    leaves, position = open_ring().peek(MANY, MANY)
    assert leaves == [b"a", b"b", b"c"]
    # The log committed all three, and the process ended before it came to say so here.
    assert open_ring(mark=Mark(position, 0)).peek(MANY, MANY) == ([], position)


def test_what_is_dropped_is_counted_with_its_times(open_ring: Callable[..., Ring]) -> None:
    clock = Hand()
    ring = open_ring(100, clock=clock)
    assert ring.gap() is None
    assert ring.put(b"x" * 92)
    for seconds in (1, 2, 5):
        clock.now_s = NOW_S + seconds
        assert not ring.put(b"y")
    gap = ring.gap()
    assert gap == Gap(3, NOW_S + 1, NOW_S + 5)
    ring = open_ring(100, clock=clock)
    assert ring.gap() == gap, "the count outlives the process"
    assert ring.mark(None, gap) == Mark(0, 3)
    ring.gap_logged(gap)
    assert ring.gap() is None
    clock.now_s = NOW_S + 9
    assert not ring.put(b"z")
    assert ring.gap() == Gap(1, NOW_S + 9, NOW_S + 9)
    assert open_ring(100, mark=Mark(0, 4)).gap() is None, "logged, and the process ended before it came to say so"


def test_a_leaf_that_no_entry_can_hold_is_dropped(open_ring: Callable[..., Ring]) -> None:
    ring = open_ring(200_000)
    assert not ring.put(b"x" * 65_536)
    assert ring.put(b"x" * 65_535)


def test_a_new_file_goes_on_from_where_the_log_stands(open_ring: Callable[..., Ring], tmp_path: Path) -> None:
    open_ring().close()
    (tmp_path / "ring").unlink()
    ring = open_ring(mark=Mark(5_000, 7))
    assert ring.mark() == Mark(5_000, 7)
    assert (ring.waiting_bytes, ring.gap()) == (0, None)
    ring.put(b"leaf")
    assert take(open_ring(mark=Mark(5_000, 7))) == [b"leaf"]


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


def test_a_record_damaged_by_a_loss_of_power_is_counted_and_the_queue_goes_on(
    open_ring: Callable[..., Ring], tmp_path: Path
) -> None:
    ring = open_ring()
    for leaf in (b"first", b"second", b"third"):
        ring.put(leaf)
    ring.close()
    content = bytearray((tmp_path / "ring").read_bytes())
    content[content.index(b"second")] ^= 1
    (tmp_path / "ring").write_bytes(content)
    ring = open_ring()
    assert take(ring) == [b"first"]
    assert take(ring) == []
    assert ring.dropped == 1
    assert ring.put(b"fourth")
    assert take(ring) == [b"fourth"]


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


PUTTER = """
import sys, os
from amaru.ledger.ring import Ring
from pathlib import Path
ring = Ring.open(Path(sys.argv[1]), capacity_bytes=50_000, clock=lambda: 0.0)
number = 0
while True:
    if ring.put(b"%d" % number):
        os.write(1, b"%d\\n" % number)
        number += 1
    else:
        ring.advance(ring.peek(100, 1 << 30)[1])
"""


def test_a_process_killed_while_it_puts_leaves_a_whole_queue(tmp_path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", PUTTER, str(tmp_path / "ring")],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout is not None
        for _ in range(20_000):
            process.stdout.readline()
        process.kill()
        told = [int(line) for line in process.stdout.read().split()]
        process.wait()
        process.stdout.close()
        ring = Ring.open(tmp_path / "ring", capacity_bytes=50_000, clock=Hand())
        left = [int(leaf) for leaf in take(ring)]
        ring.close()
        assert left == list(range(left[0], left[0] + len(left))), "in order, without a hole"
        assert not told or left[-1] >= told[-1]
