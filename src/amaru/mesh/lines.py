"""Lines of requests that wait for an offer to come back: one for each resource."""

from __future__ import annotations

import asyncio
import collections
import contextlib

from amaru.errors import RequestError

MAX_WAITING = 1000
"""Requests that may wait at one time for an offer to come back; one more is told when to come again."""


class Lines:
    """Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._waiting = 0
        self._of: dict[str, collections.deque[asyncio.Future[None]]] = {}

    async def wait_for_change(self, resource: str, timeout_s: float, *, again: bool) -> None:
        """Until it is this request's turn to try for a place that became free, or ``timeout_s`` passes.

        Requests for one resource wait in line, and each place that becomes free wakes one of them; ``again`` puts one
        that tried in vain back to the front.

        Raises
        ------
        RequestError
            503: too many requests wait already.
        """
        if self._waiting >= MAX_WAITING:
            raise RequestError(
                503,
                f"{MAX_WAITING} requests already wait for an offer to come back; come again later.",
                type="service_unavailable_error",
                code="too_many_waiting",
                retry_after_s=timeout_s,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._of.setdefault(resource, collections.deque())
        (line.appendleft if again else line.append)(turn)
        self._waiting += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await turn
        finally:
            self._waiting -= 1
            if turn in line:
                line.remove(turn)
            if not line:
                self._of.pop(resource, None)

    def wake_next(self) -> None:
        """A place became free, or a breaker changed: the first in each line may try."""
        for line in self._of.values():
            while line:
                turn = line.popleft()
                if not turn.done():
                    turn.set_result(None)
                    break
