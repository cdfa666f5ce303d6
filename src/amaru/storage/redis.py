"""A Redis that may go away and come back: one place for its URL, its time limits, its back-off and its errors in words.

Everything here is for the event loop. While Redis is away nobody waits for it: calls fail at once until the next try is
due, so that whoever needs it does without.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from amaru.errors import StorageError
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from redis.asyncio import Redis

TIMEOUT_S = 1.0
"""A call that takes longer has failed."""
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.1, 5.0
"""Between two tries to come back; it doubles."""
CONNECTIONS = 8
"""At once; further calls wait for one, within their time limit."""

T = TypeVar("T")
log = get_logger("storage")


class RedisLink:
    """The way to one Redis.

    Parameters
    ----------
    url
        ``redis://…`` or ``rediss://…``; what is secret in it is shown nowhere.
    purpose
        What does without it while it is away, for the log.
    clock
        Seconds of a clock that never goes back.

    Raises
    ------
    StorageError
        The URL cannot be read, or redis-py is not installed. Nothing is connected yet.
    """

    def __init__(
        self,
        url: str,
        *,
        purpose: str,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            from redis import RedisError
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ModuleNotFoundError:
            raise StorageError("Redis needs redis-py: pip install 'amaru[redis]'.") from None
        try:
            parts = urlsplit(url)
            self.name = f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}"
            """Where it is, without user, password and parameters."""
            self._redis: Redis = Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                max_connections=CONNECTIONS,
                retry=Retry(NoBackoff(), 0),  # the back-off here is the only one
            )
        except ValueError:
            raise StorageError("the redis:// URL cannot be read. Write redis://user@host:6379/0.") from None
        self.up = False
        """Whether the last call got an answer."""
        self.failure = ""
        """Why the last call did not; empty: it did, or there was none."""
        self._purpose = purpose
        self._timeout_s = timeout_s
        self._clock = clock
        self._errors = (RedisError, OSError, TimeoutError)
        self._free = asyncio.Semaphore(CONNECTIONS)  # else redis-py refuses what is beyond, as if Redis were away
        self._backoff_s = FIRST_BACKOFF_S
        self._again_at = -1.0

    @property
    def again_in_s(self) -> float:
        """Seconds until it is tried again; 0: now."""
        return max(self._again_at - self._clock(), 0.0) if self.failure else 0.0

    async def ask(self, work: Callable[[Redis], Awaitable[T]]) -> T:
        """What ``work`` gets from Redis, in at most the time limit; it asks one thing after another.

        Raises StorageError where it is away, at once while the next try is not due; whatever else ``work`` raises
        passes.
        """
        if self.again_in_s > 0.0:
            raise StorageError(f"{self.name}: {self.failure}")
        task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        try:
            async with asyncio.timeout(self._timeout_s), self._free:
                answer = await work(self._redis)
        except self._errors as error:
            if task.cancelling() > cancelled:
                raise asyncio.CancelledError from None
            raise self._failed(error) from None
        if task.cancelling() > cancelled:  # redis-py swallows it at times, and who waits for the task waits for ever
            raise asyncio.CancelledError
        if self.failure:
            log.info("redis_back", redis=self.name, purpose=self._purpose)
        self.up, self.failure, self._backoff_s = True, "", FIRST_BACKOFF_S
        return answer

    def _failed(self, error: BaseException) -> StorageError:
        words = " ".join(str(error).split())[:300] or "no answer in time"
        if not self.failure:
            log.warning("redis_gone", redis=self.name, purpose=self._purpose, reason=words, effect="goes on without it")
        self.up, self.failure = False, words
        now = self._clock()
        if now >= self._again_at:  # else the same try failed: of calls that were under way at once
            self._again_at = now + self._backoff_s * (0.5 + 0.5 * random.random())  # noqa: S311 - no secret
            self._backoff_s = min(self._backoff_s * 2.0, LAST_BACKOFF_S)
        return StorageError(f"{self.name}: {words}. Does it run, and can it be reached from here?")

    async def aclose(self) -> None:
        """Close its connections."""
        with contextlib.suppress(*self._errors):
            await self._redis.aclose()
