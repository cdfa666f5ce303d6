"""Turns: work that shares state, one piece after another, each to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Turns:
    """Gives each piece of work its turn, in the order in which they ask. Belongs to the event loop's thread.

    Parameters
    ----------
    first
        Called at the beginning of each turn.
    """

    def __init__(self, first: Callable[[], None]) -> None:
        self._first = first
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()  # Any: what each gives

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """What ``work`` gives, with nothing else at work meanwhile. It must not ask for a turn itself.

        It goes on to its end also where who waits for it leaves: what runs on a thread cannot be called back.
        """
        task = asyncio.ensure_future(self._turn(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _turn(self, work: Callable[[], Awaitable[T]]) -> T:
        async with self._lock:
            self._first()
            return await work()

    def close(self) -> None:
        """Abandon what is under way, and what waits for it."""
        for task in self._tasks:
            task.cancel()
