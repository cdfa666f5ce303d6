"""Work that must never keep an answer waiting: on the event loop while it is quick, on a thread once it was not.

Handing work to a thread and back costs more than most turns of it take, and a thread that computes holds the
interpreter as well. So what has proven quick runs in short turns on the loop; what has not, or has ceased to be (it
waits for something, or there is more of it than was thought), runs beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

try:
    import resource
except ImportError:  # not on this platform
    _PER_THREAD = None
else:
    _PER_THREAD = getattr(resource, "RUSAGE_THREAD", None)

T = TypeVar("T")

QUICK_S = 0.002
"""A piece of work that computes for longer than this, or takes longer because it waits, is slow. A busy machine, which
stretches whatever runs on it, makes none slow."""
STALLED_S = 0.02
"""One that does so for longer than this goes beside the loop at once;"""
STRIKES = 8.0
"""a slow one once there have been so many of late: a collection of garbage, or a wait for the interpreter, may fall
into any."""
FORGIVEN = 0.98
"""What each quick piece leaves of the strikes."""
BESIDE_S = 0.05
"""Beside the loop a piece waits for the interpreter as well: one that takes longer than this is not tried on it."""
PROBATION_S = 10.0
"""What was slow stays beside the loop for so long; for twice as long each time that it was slow again."""
MOST_PROBATION_S = 3600.0


class Spent(NamedTuple):
    """What this thread has spent so far."""

    wall_s: float
    cpu_s: float
    waits: int
    """How often it gave up its core of itself, to wait for something."""


def meter() -> Spent:
    """Of this thread; where the platform does not tell (it is not Linux), whatever takes long counts as waiting."""
    now = time.perf_counter()
    if _PER_THREAD is None:
        return Spent(now, 0.0, time.perf_counter_ns())
    used = resource.getrusage(_PER_THREAD)
    return Spent(now, used.ru_utime + used.ru_stime, used.ru_nvcsw)


class Aside:
    """Runs pieces of work one after another, on the loop or beside it.

    Parameters
    ----------
    name
        Of the thread, if there ever is one.
    meter
        Tells what the thread that calls it has spent.
    """

    def __init__(self, name: str, *, meter: Callable[[], Spent] = meter) -> None:
        self.slow_turns = 0
        """Pieces that were not quick on the loop."""
        self._name = name
        self._meter = meter
        self._thread: ThreadPoolExecutor | None = None
        self._proven = False
        self._strikes = 0.0
        self._probation_s = PROBATION_S
        self._loop_at = 0.0  # of the loop's clock: from then on it may run there

    @property
    def on_loop(self) -> bool:
        """Whether the next piece runs on the loop: the ones before it were quick, as pieces beside it were first."""
        return self._proven and asyncio.get_running_loop().time() >= self._loop_at

    async def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``; passes on what it raises."""
        if self.on_loop:
            begun = self._meter()
            try:
                return work()
            finally:
                self._judge(_slowness(begun, self._meter()))
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        result, self._proven = await asyncio.get_running_loop().run_in_executor(self._thread, self._tried, work)
        return result

    def _judge(self, slow_s: float) -> None:
        self._strikes = self._strikes * FORGIVEN + (slow_s > QUICK_S)
        self.slow_turns += slow_s > QUICK_S
        if slow_s > STALLED_S or self._strikes >= STRIKES:
            self._strikes = 0.0
            self._loop_at = asyncio.get_running_loop().time() + self._probation_s
            self._probation_s = min(2.0 * self._probation_s, MOST_PROBATION_S)

    def _tried(self, work: Callable[[], T]) -> tuple[T, bool]:
        begun = self._meter()
        result = work()
        ended = self._meter()
        return result, ended.cpu_s - begun.cpu_s <= QUICK_S and ended.wall_s - begun.wall_s <= BESIDE_S

    def close(self) -> None:
        """No more work; what runs is not waited for."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)


def _slowness(begun: Spent, ended: Spent) -> float:
    """How long it kept the loop of its own making: all of its time where it waited, else what it computed."""
    waited = ended.waits > begun.waits
    return ended.wall_s - begun.wall_s if waited else ended.cpu_s - begun.cpu_s
