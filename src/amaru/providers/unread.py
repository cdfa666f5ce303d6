"""Answers that could not be read, or lack what every answer has, kept for whoever looks for their meaning.

Of each offer the latest such answer of each kind, whole and streamed, is kept for ``KEPT_S``, in memory alone: it may
hold text (law 4). A stream of another shape fails at its first event, long before its content: where nobody did so
lately, the rest of it is read on for a moment, beside the request, which goes on elsewhere at once.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct

from amaru.domain import FailureKind, Kind
from amaru.errors import Failure
from amaru.providers.transport import HttpResponse

MAX_UNREAD_BYTES = 64 * 1024
KEPT_S = 600.0
"""What a provider sent longer ago says little about what it sends now."""
LISTEN_S = 1.0
"""How long the rest of a stream is read on."""
LISTEN_EVERY_S = 30.0
"""How often, at most, for one offer: the provider bills what it generates."""


class Unread(Struct, frozen=True, gc=False):
    """An answer that could not be read, or not all of it. Its repr holds none of it."""

    kind: Kind
    stream: bool
    at: float
    """``loop.time()`` when it was kept."""
    body: bytes
    """A whole answer, or the events of a stream; never to be logged or stored."""

    def __repr__(self) -> str:
        return f"Unread({self.kind.value}, stream={self.stream}, {len(self.body)} bytes)"


class UnreadAnswers:
    """The latest unread answers of the offers of one provider."""

    __slots__ = ("_forgetting", "_kept", "_listened_at", "_listening")

    def __init__(self) -> None:
        self._kept: dict[str, dict[tuple[Kind, bool], Unread]] = {}
        self._listened_at: dict[str, float] = {}
        self._listening: set[asyncio.Task[None]] = set()
        self._forgetting: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Answers of all offers that are kept at this moment."""
        return sum(map(len, self._kept.values()))

    def of(self, offer: str) -> tuple[Unread, ...]:
        """The latest of that offer, one of each kind, whole and streamed; without what is too old."""
        kept = self._kept.get(offer)
        if kept is None:
            return ()
        since = asyncio.get_running_loop().time() - KEPT_S
        return tuple([answer for answer in kept.values() if answer.at >= since])

    def keep(self, offer: str, kind: Kind, body: bytes, *, stream: bool = False) -> None:
        """Keep a whole answer, or all the events of a stream, where they are few enough."""
        if 0 < len(body) <= MAX_UNREAD_BYTES:
            loop = asyncio.get_running_loop()
            self._kept.setdefault(offer, {})[kind, stream] = Unread(kind, stream, loop.time(), body)
            if self._forgetting is None:
                self._forgetting = loop.call_later(KEPT_S, self._forget)

    def _forget(self) -> None:
        """Let go of what is too old, whether anybody asks for it or not; come again for the oldest of the rest."""
        loop = asyncio.get_running_loop()
        since = loop.time() - KEPT_S
        for offer, kept in list(self._kept.items()):
            left = {key: answer for key, answer in kept.items() if answer.at > since}
            if left:
                self._kept[offer] = left
            else:
                del self._kept[offer]
        oldest = min((answer.at for kept in self._kept.values() for answer in kept.values()), default=None)
        self._forgetting = None if oldest is None else loop.call_at(oldest + KEPT_S, self._forget)

    def listen(self, offer: str, kind: Kind, response: HttpResponse, begun: bytes) -> bool:
        """Read on in a stream that began with ``begun``, and close it; False: not now, and it is still to be closed."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._listened_at.get(offer, -LISTEN_EVERY_S) < LISTEN_EVERY_S:
            return False
        recent = {other: at for other, at in self._listened_at.items() if now - at < LISTEN_EVERY_S}
        self._listened_at = {**recent, offer: now}
        response.set_deadline(now + LISTEN_S, FailureKind.STREAM_STALLED, "listened long enough")
        task = loop.create_task(self._listen(offer, kind, response, begun))
        self._listening.add(task)
        task.add_done_callback(self._listening.discard)
        return True

    async def _listen(self, offer: str, kind: Kind, response: HttpResponse, begun: bytes) -> None:
        body = bytearray(begun)
        try:
            while len(body) < MAX_UNREAD_BYTES and (data := await response.chunk()):
                body += data
        except Failure:
            pass
        finally:
            response.close()
            self.keep(offer, kind, bytes(body[:MAX_UNREAD_BYTES]), stream=True)

    async def aclose(self) -> None:
        """Stop listening."""
        tasks = list(self._listening)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
