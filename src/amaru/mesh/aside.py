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
from typing import TypeVar

try:
    import resource
except ImportError:  # not on this platform
    _PER_THREAD = None
else:
    _PER_THREAD = getattr(resource, "RUSAGE_THREAD", None)

T = TypeVar("T")

QUICK_S = 0.002
"""A piece of work that computes for longer than this goes beside the loop,"""
QUICK_WALL_S = 0.005
"""and so does one that waits for something and takes longer than this. A busy machine stretches what is quick, too."""
BESIDE_WALL_S = 0.05
"""Beside the loop a piece waits for the interpreter as well: one that takes longer than this is not tried on it."""
PROBATION_S = 10.0
"""What was slow once stays beside the loop for so long; for twice as long each time that it was slow again."""
MOST_PROBATION_S = 3600.0


def _waits_of_this_thread() -> int:
    """Linux tells; elsewhere whatever takes long counts as waiting."""
    if _PER_THREAD is None:
        return time.monotonic_ns()
    return resource.getrusage(_PER_THREAD).ru_nvcsw


class Aside:
    """Runs pieces of work one after another, on the loop or beside it.

    Parameters
    ----------
    name
        Of the thread, if there ever is one.
    timer, cpu_timer
        Measure a piece, in seconds: all of its time, and that in which its thread computed.
    waits
        How often this thread has given up its core of itself, to wait for something.
    """

    def __init__(
        self,
        name: str,
        *,
        timer: Callable[[], float] = time.perf_counter,
        cpu_timer: Callable[[], float] = time.thread_time,
        waits: Callable[[], int] = _waits_of_this_thread,
    ) -> None:
        self.slow_turns = 0
        """Pieces that were not quick on the loop."""
        self._name = name
        self._timer = timer
        self._cpu_timer = cpu_timer
        self._waits = waits
        self._probation_s = PROBATION_S
        self._thread: ThreadPoolExecutor | None = None
        self._proven = False
        self._quick_at = 0.0  # of the loop's clock: from then on it may run there

    @property
    def on_loop(self) -> bool:
        """Whether the next piece runs on the loop: the ones before it were quick, as pieces beside it were first."""
        return self._proven and asyncio.get_running_loop().time() >= self._quick_at

    async def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``; passes on what it raises."""
        loop = asyncio.get_running_loop()
        if self.on_loop:
            started, computed, waited = self._timer(), self._cpu_timer(), self._waits()
            try:
                return work()
            finally:
                late = self._timer() - started > QUICK_WALL_S and self._waits() > waited
                if late or self._cpu_timer() - computed > QUICK_S:
                    self.slow_turns += 1
                    self._quick_at = loop.time() + self._probation_s
                    self._probation_s = min(2.0 * self._probation_s, MOST_PROBATION_S)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        result, self._proven = await loop.run_in_executor(self._thread, self._judged, work)
        return result

    def _judged(self, work: Callable[[], T]) -> tuple[T, bool]:
        started, computed = self._timer(), self._cpu_timer()
        result = work()
        return result, self._cpu_timer() - computed <= QUICK_S and self._timer() - started <= BESIDE_WALL_S

    def close(self) -> None:
        """No more work; what runs is not waited for."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
