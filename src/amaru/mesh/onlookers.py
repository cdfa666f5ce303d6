"""Others who are told of every attempt, beside the event loop, in nobody's way.

What amaru itself makes of attempts is known to be quick; what others do with them is not, and one that was quick
for hours may wait for a disk at any moment. So they are told on a thread of their own, from a bounded queue: sensing
goes on without them, and what they are too slow for is dropped and counted.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from amaru.health.observation import Observation

MAX_UNTOLD = 4096
"""Observations that wait for them, with those that they are being told."""

Observer = Callable[[Observation], None]


class Onlookers:
    """Tells ``observers``, one after another and never at once. Belongs to the event loop's thread.

    Parameters
    ----------
    lost
        Called, on the loop, with how many observations one of them failed to take in or the queue had no room for, and
        what was raised first.
    """

    def __init__(self, lost: Callable[[int, Exception | None], None]) -> None:
        self.observers: list[Observer] = []
        self._lost = lost
        self._untold: collections.deque[Observation] = collections.deque()
        self._batch = 0  # observations that they are being told
        self._thread: ThreadPoolExecutor | None = None
        self._telling: asyncio.Future[tuple[int, Exception | None]] | None = None

    def tell(self, observations: Sequence[Observation]) -> None:
        """Have them told of these, after what waits already; never waits."""
        if not self.observers:
            return
        room = max(MAX_UNTOLD - self._batch - len(self._untold), 0)
        self._untold += observations[:room]
        if len(observations) > room:
            self._lost(len(observations) - room, None)
        self._go_on()

    def _go_on(self) -> None:
        """Have what waits told, unless they are being told something: it comes next then."""
        if not self._untold or self._telling is not None:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="amaru-observers")
        untold, self._untold = self._untold, collections.deque()
        self._batch = len(untold)
        loop = asyncio.get_running_loop()
        self._telling = loop.run_in_executor(self._thread, _tell, tuple(self.observers), untold)
        self._telling.add_done_callback(self._told)

    def _told(self, telling: asyncio.Future[tuple[int, Exception | None]]) -> None:
        self._telling, self._batch = None, 0
        if not telling.cancelled():
            count, error = telling.result()
            if count:
                self._lost(count, error)
            self._go_on()

    async def settle(self) -> None:
        """Wait until they were told all that waits now."""
        for _ in range(2):  # what they are being told, and what comes next
            if self._telling is not None:
                await asyncio.wait((self._telling,))

    def close(self) -> None:
        """Tell nothing more; what runs is not waited for."""
        self._untold.clear()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)


def _tell(observers: tuple[Observer, ...], untold: collections.deque[Observation]) -> tuple[int, Exception | None]:
    lost, first = 0, None
    for observation in untold:
        for observer in observers:
            try:
                observer(observation)
            except Exception as error:  # one must not keep it from the others
                lost, first = lost + 1, first or error
    return lost, first
