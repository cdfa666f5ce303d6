"""What bounds a simulated provider: requests at once, requests a minute, tokens a minute.

Rates are token buckets that start full and refill continuously, as OpenAI documents its own; the headers are OpenAI's
(https://platform.openai.com/docs/guides/rate-limits).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

Headers = list[tuple[bytes, bytes]]


class Bucket:
    """A token bucket of ``per_min`` a minute; it holds a minute's worth and starts full."""

    __slots__ = ("_at", "_level", "_per_s", "size")

    def __init__(self, per_min: float, now: float) -> None:
        self.size = per_min
        self._per_s = per_min / 60
        self._level = per_min
        self._at = now

    def level(self, now: float) -> float:
        """What is left in it."""
        self._level = min(self.size, self._level + (now - self._at) * self._per_s)
        self._at = now
        return self._level

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until ``amount`` can be taken; 0 where it can now. More than the bucket holds counts as all of it."""
        return max(0.0, (min(amount, self.size) - self.level(now)) / self._per_s)

    def take(self, amount: float, now: float) -> None:
        """Take ``amount``."""
        self._level = self.level(now) - amount

    def full_in_s(self, now: float) -> float:
        """Seconds until it is full again."""
        return (self.size - self.level(now)) / self._per_s


class RateLimits:
    """Both limits of one key. ``None``: that limit does not exist."""

    def __init__(self, requests_per_min: float | None, tokens_per_min: float | None, now: float) -> None:
        self.requests = Bucket(requests_per_min, now) if requests_per_min else None
        self.tokens = Bucket(tokens_per_min, now) if tokens_per_min else None

    def admit(self, tokens: int, now: float) -> tuple[str, float] | None:
        """Take one request of ``tokens``; or, taking nothing, say which limit refuses it and for how many seconds."""
        for name, bucket, amount in (("requests", self.requests, 1), ("tokens", self.tokens, tokens)):
            if bucket is not None:
                wait_s = bucket.wait_s(amount, now)
                if wait_s > 0:
                    return name, wait_s
        if self.requests is not None:
            self.requests.take(1, now)
        if self.tokens is not None:
            self.tokens.take(tokens, now)
        return None

    def headers(self, now: float) -> Headers:
        """OpenAI's ``x-ratelimit-*`` headers."""
        fields: Headers = []
        for name, bucket in ((b"requests", self.requests), (b"tokens", self.tokens)):
            if bucket is not None:
                fields.append((b"x-ratelimit-limit-" + name, b"%d" % bucket.size))
                fields.append((b"x-ratelimit-remaining-" + name, b"%d" % max(0, math.floor(bucket.level(now)))))
                fields.append((b"x-ratelimit-reset-" + name, reset_time(bucket.full_in_s(now)).encode()))
        return fields


def reset_time(seconds: float) -> str:
    """A span the way OpenAI writes it: ``120ms``, ``1.5s``, ``6m0s``."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{round(seconds, 3):g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"


class Slots:
    """A bounded number of requests at once, with a bounded queue, first come first served.

    ``capacity`` is asked each time, since a fault may change it while requests wait.
    """

    def __init__(self, capacity: Callable[[], int], queue: int) -> None:
        self._capacity = capacity
        self._queue = queue
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def load(self) -> float:
        """Share of the capacity in use; above 1 where the capacity shrank."""
        return self.in_flight / self._capacity()

    async def acquire(self) -> bool:
        """Take a slot, after waiting in the queue where need be. False: the queue is full, nothing was taken."""
        if self.in_flight < self._capacity() and not self._waiting:
            self.in_flight += 1
            return True
        if len(self._waiting) >= self._queue:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # the slot came in the instant of the cancellation
            else:
                self._waiting.remove(turn)
            raise
        return True

    def release(self) -> None:
        """Give a slot back; it goes to whoever waits longest."""
        self.in_flight -= 1
        self.wake()

    def wake(self) -> None:
        """Let waiting requests in where there is room (after the capacity grew)."""
        while self._waiting and self.in_flight < self._capacity():
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
