"""The queue over kills, losses of power, lost files and other machines: each leaf that it took is logged once."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from amaru.ledger.journal import Mark
from amaru.ledger.ring import Ring

MANY = 1 << 30
NOW_S = 1_800_000_000.0


def clock() -> float:
    return NOW_S


class Killed(BaseException):
    """Of a process, by the test."""


class Dying:
    """The fields of a queue, of a process that is killed before its store of this number."""

    def __init__(self, fields: memoryview, stores: int) -> None:
        self._fields = fields
        self._left = stores

    def __getitem__(self, at: int) -> int:
        return self._fields[at]

    def __setitem__(self, at: int, value: int) -> None:
        if not self._left:
            raise Killed
        self._left -= 1
        self._fields[at] = value

    def release(self) -> None:
        self._fields.release()


class World:
    """A log, the queue before it, and what may befall them."""

    CAPACITY = 300

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log: list[bytes] = []
        self.told_dropped = 0
        self.mark = Mark()
        self.ring: Ring | None = None
        self.reconciled = False
        self.made = 0
        self.taken: list[bytes] = []
        self.dropped = 0
        self.lost: set[bytes] = set()
        self.counts_known = True
        self.before_loss: tuple[bytes, list[bytes]] | None = None

    def queue(self) -> Ring:
        if self.ring is None:
            self.ring = Ring.open(self.path, capacity_bytes=self.CAPACITY, clock=clock)
            self.reconciled = False
        return self.ring

    def put(self, size: int) -> None:
        leaf = b"%d " % self.made + b"x" * size
        self.made += 1
        if self.queue().put(leaf):
            self.taken.append(leaf)
        else:
            self.dropped += 1

    def reconcile(self, _: int = 0) -> None:
        self.queue().reconcile(self.mark)
        self.reconciled = True
        self.before_loss = None  # it is on the disk as it is now

    def commit(self, most: int) -> None:
        ring = self.queue()
        if not self.reconciled:
            self.reconcile()
        leaves, position = ring.peek(most, MANY)
        gap = ring.gap()
        self.mark = ring.mark(position, gap)
        self.log += leaves
        self.told_dropped += gap.dropped if gap else 0
        ring.advance(position)
        if gap:
            ring.gap_logged(gap)

    def killed(self, step: tuple[str, int], stores: int) -> None:
        ring = self.queue()
        fields = ring._fields
        ring._fields = Dying(fields, stores)  # type: ignore[assignment]
        with suppress(Killed):
            self.do(step)
        ring._fields = fields
        ring.close()
        self.ring = None

    def end(self, _: int) -> None:
        self.queue().close()
        self.ring = None

    def lose_file(self, _: int) -> None:
        self.end(0)
        self.path.unlink()
        self.before_loss = None
        self.counts_known = False
        self.lost |= set(self.taken) - set(self.log)

    def written_back(self, _: int) -> None:
        """The kernel has the file on the disk as it is."""
        self.queue()
        self.before_loss = (self.path.read_bytes(), list(self.taken))

    def lose_power(self, _: int) -> None:
        if self.before_loss is None:
            return
        self.end(0)
        content, taken = self.before_loss
        self.counts_known = False
        self.path.write_bytes(content)
        self.lost |= set(self.taken) - set(taken) - set(self.log)

    def other_machine(self, position: int) -> None:
        """Another process, with a queue of its own, has committed to the log."""
        self.reconcile()
        self.mark = Mark(position, position, queue=7)

    def do(self, step: tuple[str, int]) -> None:
        getattr(self, step[0])(step[1])


STEP = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 60)),
    st.tuples(st.just("commit"), st.integers(1, 5)),
    st.tuples(st.just("other_machine"), st.integers(0, 500)),
    st.tuples(st.sampled_from(["reconcile", "end", "lose_file", "written_back", "lose_power"]), st.just(0)),
)
KILLED = st.tuples(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 60)),
        st.tuples(st.just("commit"), st.integers(1, 5)),
        st.tuples(st.just("reconcile"), st.just(0)),
    ),
    st.integers(0, 6),
)


STALE = [("put", 1), ("commit", 1), ("written_back", 0), ("put", 2), ("commit", 1), ("lose_power", 0)]


@example(steps=[*STALE, ("put", 3)])
@example(steps=[*STALE, ("put", 3), ("end", 0), ("put", 4)])
@example(steps=[*STALE, ("put", 3), ("reconcile", 0), ("end", 0), ("put", 4)])
@example(steps=[*STALE, ("put", 3), (("reconcile", 0), 3), ("put", 4)])
@example(steps=[("put", 1), ("commit", 1), ("lose_file", 0), ("put", 2), ("end", 0), ("put", 3)])
@example(steps=[("put", 1), ("put", 2), ("commit", 1), ("end", 0), ("other_machine", 30)])
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(STEP, STEP, KILLED), max_size=40))
def test_each_leaf_is_logged_once_in_order_whatever_befalls(
    steps: list[tuple[str, int] | tuple[tuple[str, int], int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = World(tmp_path_factory.mktemp("any") / "ring")
    for step in steps:
        if isinstance(step[0], tuple):
            world.killed(*step)
        else:
            world.do(step)
    world.commit(MANY)
    assert world.log == [leaf for leaf in world.taken if leaf in set(world.log)], "in order, each once"
    assert set(world.taken) - set(world.log) <= world.lost
    if world.counts_known:
        assert world.told_dropped == world.dropped
    world.end(0)


@pytest.mark.parametrize("stores", range(4))
def test_what_a_kill_left_of_a_logged_leaf_goes_at_the_next_start(tmp_path: Path, stores: int) -> None:
    world = World(tmp_path / "ring")
    world.put(20)
    world.reconcile()
    world.killed(("commit", 1), stores)
    world.reconcile()
    assert b"xxx" not in (tmp_path / "ring").read_bytes()


PUTTER = """
import sys, os
from amaru.ledger.journal import Mark
from amaru.ledger.ring import Ring
from pathlib import Path
ring = Ring.open(Path(sys.argv[1]), capacity_bytes=50_000, clock=lambda: 0.0)
ring.reconcile(Mark())
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
        ring = Ring.open(tmp_path / "ring", capacity_bytes=50_000, clock=clock)
        ring.reconcile(Mark())
        leaves, position = ring.peek(MANY, MANY)
        ring.advance(position)
        left = [int(leaf) for leaf in leaves]
        ring.close()
        assert left == list(range(left[0], left[0] + len(left))), "in order, without a hole"
        assert not told or left[-1] >= told[-1]
