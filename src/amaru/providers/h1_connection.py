"""One HTTP/1.1 connection to a provider: an asyncio protocol on httptools (llhttp), one exchange at a time (RFC 9112).

The connection knows the wire; the pool that owns it and the response that the caller holds are in ``h1.py``. What keeps
it fast: one write per request, one future per wait, callbacks without closures, and one timer per connection. That
timer is re-armed only when it fires or when a deadline comes before it, so a request whose deadline lies behind the
last one's costs no timer at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf

import httptools

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.providers.h1_message import BODY, CLOSED, COMPLETE, FAILED, HEAD, IDLE, LINGER, ResponseMessage
from amaru.providers.transport import HIGH_WATER_BYTES, MAX_HEAD_BYTES

_JOIN_BELOW_BYTES = 64 * 1024
"""Up to here copying the body behind its head costs less than a gathered write."""
_CLOCK_STEP_S = 0.001
"""uvloop's clock and timers count milliseconds: a timer may come this much early."""


class H1Connection(ResponseMessage, asyncio.Protocol):
    """A connection for its pool and for one response at a time.

    ``failure`` is what ended the exchange in state ``FAILED``; ``exchanges`` counts the requests sent; ``idle_until``
    is when an idle connection grows too old to use.
    """

    __slots__ = (
        "_authority",
        "_barren_bytes",
        "_deadline_at",
        "_deadline_kind",
        "_deadline_what",
        "_loop",
        "_on_end",
        "_paused",
        "_received_bytes",
        "_timer",
        "_timer_at",
        "_transport",
        "_waiter",
        "_whole_limit",
        "closed",
        "exchanges",
        "failure",
        "idle_until",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, authority: str, on_end: Callable[[H1Connection, bool], None]
    ) -> None:
        """``on_end(connection, lingered)`` is called when a connection that no response holds ends what it was in.

        An idle one (``lingered`` false) has closed; a lingering one is ready to ``rest`` if its body came whole.
        """
        super().__init__()
        self._loop = loop
        self._authority = authority
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done once the socket is gone."""
        self.exchanges = 0
        self.idle_until = inf
        self._paused = False
        self.failure: Failure | None = None
        self._received_bytes = 0
        self._barren_bytes = 0
        self._whole_limit = -1
        self._deadline_at = inf

    # What the pool calls.

    def usable(self, now: float) -> bool:
        """Idle, open, and not too old."""
        assert self._transport is not None
        return self.state == IDLE and now < self.idle_until and not self._transport.is_closing()

    @property
    def stale(self) -> bool:
        """The exchange failed as one does on a kept connection that the peer had closed: no byte came back."""
        failure = self.failure
        return (
            self.exchanges > 1
            and self._received_bytes == 0
            and failure is not None
            and failure.kind is FailureKind.RESET
        )

    def start(self, request: Sequence[bytes], *, bodiless: bool, deadline: float, kind: FailureKind) -> None:
        """Send a request; ``await wait()`` then lasts until the response's head is here or ``failure`` is set.

        The body is the last part of ``request``.
        """
        transport = self._transport
        assert transport is not None
        self.expect()
        self.failure = None
        self._received_bytes = 0
        self._barren_bytes = 0
        self._whole_limit = -1
        self.state = HEAD
        self.exchanges += 1
        self.bodiless = bodiless
        self._deadline_at = deadline
        self._deadline_kind = kind
        self._deadline_what = "no response head before the deadline"
        if len(request[-1]) <= _JOIN_BELOW_BYTES:
            transport.write(b"".join(request))
        else:
            transport.writelines(request)

    def rest(self, idle_timeout_s: float) -> bool:
        """Become idle after a complete response; ``False`` where the connection cannot carry another one."""
        transport = self._transport
        assert transport is not None
        # Bytes still to be written: the peer answered without reading the whole request, and may never read the rest.
        if self.state != COMPLETE or not self.keep_alive or transport.is_closing():
            return False
        if transport.get_write_buffer_size():
            return False
        self.state = IDLE
        self.chunks = []
        self._deadline_at = inf
        self.idle_until = self._loop.time() + idle_timeout_s
        if self._paused:
            self._resume()
        if self._timer is None:
            self._arm(self.idle_until)
        return True

    def linger(self, linger_s: float) -> None:
        """Read the rest of a body away, for so long; ``on_end`` tells when it ended."""
        self.state = LINGER
        self.chunks = []
        self.buffered_bytes = 0
        self._deadline_at = self._loop.time() + linger_s
        if self._paused:
            self._resume()
        if self._deadline_at < self._timer_at:
            self._arm(self._deadline_at)

    def abort(self, failure: Failure | None = None) -> None:
        """Close at once, unsent bytes and all; a caller that waits gets ``failure``."""
        if failure is not None and HEAD <= self.state <= COMPLETE:
            self._fail(failure)
        self.state = CLOSED
        self.chunks = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    # What the response calls.

    def set_deadline(self, at: float, kind: FailureKind, what: str) -> None:
        """See ``HttpResponse.set_deadline``."""
        self._deadline_at = at
        self._deadline_kind = kind
        self._deadline_what = what
        if at < self._timer_at and self._waiter is not None:
            self._arm(at)

    async def read_some(self) -> bytes:
        """All body bytes that are here, waiting for the first; ``b""`` at the end. Raises ``Failure``."""
        while not self.chunks:
            if self.state >= COMPLETE:
                if self.failure is not None:
                    raise self.failure
                return b""
            await self.wait()
        if self._paused:
            self._resume()
        return self.take()

    async def wait_whole(self, max_bytes: int) -> None:
        """Until the body is complete, has failed, or more than ``max_bytes`` of it are here."""
        self._whole_limit = max_bytes
        if self._paused:
            self._resume()
        while self.state < COMPLETE and self.buffered_bytes <= max_bytes:
            await self.wait()

    # The wait, and the one timer.

    async def wait(self) -> None:
        """Until something happened: the head is here, body bytes, the end or a failure. Cancelling it aborts."""
        if self._deadline_at < self._timer_at:
            self._arm(self._deadline_at)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = inf
        state = self.state
        waiter = self._waiter
        if state == IDLE:
            at = self.idle_until
        elif state == LINGER or (state <= BODY and waiter is not None and not waiter.done()):
            at = self._deadline_at
        else:
            return  # nobody waits: the next wait arms it
        if self._loop.time() + _CLOCK_STEP_S < at:
            if at < inf:
                self._arm(at)
        elif state in (IDLE, LINGER):
            self._end_unheld()
        else:
            self._fail(self._failed(self._deadline_kind, f"{self._authority}: {self._deadline_what}"))

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # create_connection always makes a full Transport

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state == IDLE:  # nothing was asked: a late 408, or a peer that lost count
            self._end_unheld()
            return
        if state >= FAILED:
            return
        if state == COMPLETE:
            self.keep_alive = False
            return
        self._received_bytes += len(data)
        body_bytes = self.body_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._parse_failed(error)
        if self.body_bytes == body_bytes and self.state <= LINGER:
            self._barren_bytes += len(data)
            if self._barren_bytes > MAX_HEAD_BYTES:
                what = "a response head" if self.state == HEAD else "trailers or chunk extensions"
                self._fail(
                    self._failed(
                        FailureKind.MALFORMED_BODY,
                        f"{self._authority} sent {what} of more than {MAX_HEAD_BYTES} bytes",
                    )
                )
        else:
            self._barren_bytes = 0
        before, state = state, self.state
        if state == BODY:
            if before == HEAD:
                self._deadline_at = inf  # it was the head's; the body has its own
                self._wake()
            if self._whole_limit >= 0:
                if self.buffered_bytes > self._whole_limit:
                    self._wake()
                return
            if self.buffered_bytes > HIGH_WATER_BYTES and not self._paused:
                assert self._transport is not None
                self._paused = True
                self._transport.pause_reading()
            if self._waiter is not None and self.chunks:
                self._wake()
        elif state == COMPLETE:
            if before == LINGER:
                self._end_unheld()
            else:
                self._wake()

    def eof_received(self) -> None:
        self._peer_closed(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer_closed(exc)
        if not self.closed.done():
            self.closed.set_result(None)

    def _peer_closed(self, error: Exception | None) -> None:
        state = self.state
        if state >= FAILED:
            return
        if state == COMPLETE:
            self.keep_alive = False
            return
        if state in (IDLE, LINGER):
            self._end_unheld()
        elif state == BODY and self.until_eof and error is None:
            self.state = COMPLETE
            self.ended_by_eof = True
            self._wake()
        else:
            how = "closed the connection" if error is None else "reset the connection"
            if state == BODY:
                kind, when = FailureKind.STREAM_CUT, f"inside the body, after {self.body_bytes} bytes of it"
            elif self._received_bytes:
                kind, when = FailureKind.RESET, "inside the response head"
            else:
                kind, when = FailureKind.RESET, "before any byte of the response"
            self._fail(self._failed(kind, f"{self._authority} {how} {when}"))

    # How it ends.

    def _parse_failed(self, error: httptools.HttpParserError) -> None:
        state = self.state
        if state == COMPLETE:
            self.keep_alive = False
        elif state == LINGER:
            self._end_unheld()
        elif state == HEAD:
            self._fail(
                self._failed(FailureKind.MALFORMED_BODY, f"{self._authority} answered with no HTTP/1.1 ({error})")
            )
        else:
            self._fail(
                self._failed(FailureKind.STREAM_CUT, f"{self._authority} broke the framing of its body ({error})")
            )

    def _failed(self, kind: FailureKind, message: str) -> Failure:
        received = self.body_bytes if self.state >= BODY else self._received_bytes
        return Failure(kind, message, status=self.status or None, bytes_received=received)

    def _fail(self, failure: Failure) -> None:
        """The exchange failed: its caller learns it at the next read, and the connection is gone."""
        if self.state >= FAILED:
            return
        lingering = self.state == LINGER
        self.failure = failure
        self.state = FAILED
        self._wake()
        if self._transport is not None:
            self._transport.abort()
        if lingering:
            self._on_end(self, True)

    def _end_unheld(self) -> None:
        """Nobody holds this connection and it is done with what it did: its pool decides what becomes of it."""
        lingered = self.state != IDLE
        if self.state != COMPLETE:
            self.abort()
        self._on_end(self, lingered)

    def _resume(self) -> None:
        assert self._transport is not None
        self._paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
