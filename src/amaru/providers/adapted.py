"""A response whose events are rewritten before anybody reads them."""

from __future__ import annotations

from amaru.domain import FailureKind
from amaru.protocols.adapting import Adapter, EventAdapter
from amaru.providers.transport import HttpResponse


class AdaptedResponse:
    """See ``transport.HttpResponse``. ``chunk`` gives events as ``adapter`` has them, whole ones only."""

    __slots__ = ("_events", "_over", "_response", "ended_by_eof", "headers", "status")

    def __init__(self, response: HttpResponse, adapter: Adapter) -> None:
        self._response = response
        self._events = EventAdapter(adapter)
        self._over = False
        self.status = response.status
        self.headers = response.headers
        self.ended_by_eof = response.ended_by_eof

    @property
    def bytes_received(self) -> int:
        """Body bytes as they stood on the wire."""
        return self._response.bytes_received

    async def read(self, max_bytes: int) -> bytes:
        """The whole body, as it came."""
        return await self._response.read(max_bytes)

    async def chunk(self) -> bytes:
        """The events that are there now, at least one; ``b""`` at the clean end, and after it."""
        while not self._over:
            data = await self._response.chunk()
            if data:
                events = self._events.feed(data)
            else:
                self._over, self.ended_by_eof = True, self._response.ended_by_eof
                events = self._events.end()
            if events:
                return events
        return b""

    def set_deadline(self, at: float, kind: FailureKind, what: str) -> None:
        """As the response's own."""
        self._response.set_deadline(at, kind, what)

    def close(self, linger_s: float = 0.0) -> None:
        """As the response's own."""
        self._response.close(linger_s)
