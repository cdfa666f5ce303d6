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

T = TypeVar("T")

QUICK_S = 0.002
"""One piece of work that takes longer than this goes beside the loop."""
PROBATION_S = 60.0
"""What was slow once stays beside the loop for so long."""


class Aside:
    """Runs pieces of work one after another, on the loop or beside it.

    Parameters
    ----------
    name
        Of the thread, if there ever is one.
    timer
        Measures a piece, in seconds.
    """

    def __init__(self, name: str, *, timer: Callable[[], float] = time.perf_counter) -> None:
        self.slow_turns = 0
        """Pieces that took longer than ``QUICK_S`` on the loop."""
        self._name = name
        self._timer = timer
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
            started = self._timer()
            try:
                return work()
            finally:
                if self._timer() - started > QUICK_S:
                    self.slow_turns += 1
                    self._quick_at = loop.time() + PROBATION_S
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        result, took_s = await loop.run_in_executor(self._thread, self._timed, work)
        self._proven = took_s <= QUICK_S
        return result

    def _timed(self, work: Callable[[], T]) -> tuple[T, float]:
        started = self._timer()
        return work(), self._timer() - started

    def close(self) -> None:
        """No more work; what runs is not waited for."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
