"""One HTTP/1.1 connection to a provider: an asyncio protocol on httptools (llhttp), one exchange at a time (RFC 9112).

The connection knows the wire; the pool that owns it and the response that the caller holds are in ``h1.py``. What keeps
it fast: one write per request, one future per wait, callbacks without closures, and one timer per connection. That
timer is re-armed only when it fires or when a deadline comes before it, so a request whose deadline lies behind the
last one's costs no timer at all.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence
from math import inf

import httptools

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.providers.transport import HIGH_WATER_BYTES, MAX_HEAD_BYTES, MAX_LINGER_BYTES

_JOIN_BELOW_BYTES = 64 * 1024
"""Up to here copying the body behind its head costs less than a gathered write."""
_CLOCK_STEP_S = 0.001
"""uvloop's clock and timers count milliseconds: a timer may come this much early."""


class State(enum.IntEnum):
    """Where the exchange stands; later states compare greater."""

    IDLE = 0
    HEAD = 1
    """The request is out, no (final) response head is here."""
    BODY = 2
    LINGER = 3
    """As ``BODY``, but nobody reads: what arrives is dropped."""
    COMPLETE = 4
    FAILED = 5
    CLOSED = 6


# The hot path compares plain integers: an attribute of an enum class costs a descriptor call.
_IDLE, _HEAD, _BODY, _LINGER, _COMPLETE, _FAILED, _CLOSED = (int(state) for state in State)


class _Stop(Exception):  # noqa: N818 - control flow out of a parser callback, not an error
    """Ends parsing at once; the state says why."""


class H1Connection(asyncio.Protocol):
    """A connection for its pool and for one response at a time.

    Attributes that a response reads: ``status``, ``headers``, ``body_bytes`` (received so far), ``ended_by_eof``,
    ``state``. ``exchanges`` counts the requests sent over it, and ``idle_until`` is when it grows too old to use.
    """

    __slots__ = (
        "_authority",
        "_barren_bytes",
        "_bodiless",
        "_buffered_bytes",
        "_chunks",
        "_deadline_at",
        "_deadline_kind",
        "_deadline_what",
        "failure",
        "_interim",
        "_keep_alive",
        "_loop",
        "_on_end",
        "_parser",
        "_paused",
        "_received_bytes",
        "_timer",
        "_timer_at",
        "_transport",
        "_until_eof",
        "_waiter",
        "_whole_limit",
        "body_bytes",
        "closed",
        "ended_by_eof",
        "exchanges",
        "headers",
        "idle_until",
        "state",
        "status",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, authority: str, on_end: Callable[[H1Connection, bool], None]
    ) -> None:
        """``on_end(connection, lingered)`` is called when a connection that no response holds ends what it was in.

        An idle one (``lingered`` false) has closed; a lingering one is ready to ``rest`` if its body came whole.
        """
        self._loop = loop
        self._authority = authority
        self._on_end = on_end
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done once the socket is gone."""
        self.state: int = _IDLE
        self.exchanges = 0
        self.idle_until = inf
        self._paused = False
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body_bytes = 0
        self.ended_by_eof = False
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._received_bytes = 0
        self._barren_bytes = 0
        self._whole_limit = -1
        self._interim = False
        self._until_eof = False
        self._keep_alive = False
        self.failure: Failure | None = None
        self._deadline_at = inf

    # What the pool calls.

    def usable(self, now: float) -> bool:
        """Idle, open, and not too old."""
        assert self._transport is not None
        return self.state == _IDLE and now < self.idle_until and not self._transport.is_closing()

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
        self._reset()
        self.state = _HEAD
        self.exchanges += 1
        self._bodiless = bodiless
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
        if self.state != _COMPLETE or not self._keep_alive or transport.is_closing():
            return False
        if transport.get_write_buffer_size():
            return False
        self.state = _IDLE
        self._chunks = []
        self._deadline_at = inf
        self.idle_until = self._loop.time() + idle_timeout_s
        if self._paused:
            self._resume()
        if self._timer is None:
            self._arm(self.idle_until)
        return True

    def linger(self, linger_s: float) -> None:
        """Read the rest of a body away, for so long; ``on_end`` tells when it ended."""
        self.state = _LINGER
        self._chunks = []
        self._buffered_bytes = 0
        self._deadline_at = self._loop.time() + linger_s
        if self._paused:
            self._resume()
        if self._deadline_at < self._timer_at:
            self._arm(self._deadline_at)

    def abort(self, failure: Failure | None = None) -> None:
        """Close at once, unsent bytes and all; a caller that waits gets ``failure``."""
        if failure is not None and _HEAD <= self.state <= _COMPLETE:
            self._fail(failure)
        self.state = _CLOSED
        self._chunks = []
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
        while not self._chunks:
            if self.state >= _COMPLETE:
                if self.failure is not None:
                    raise self.failure
                return b""
            await self.wait()
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self._buffered_bytes = 0
        if self._paused:
            self._resume()
        return data

    async def wait_whole(self, max_bytes: int) -> None:
        """Until the body is complete, has failed, or more than ``max_bytes`` of it are here."""
        self._whole_limit = max_bytes
        if self._paused:
            self._resume()
        while self.state < _COMPLETE and self._buffered_bytes <= max_bytes:
            await self.wait()

    def take_whole(self, max_bytes: int) -> bytes:
        """What is left of the body, all of which is here after ``wait_whole``. Raises ``Failure``."""
        if self.failure is not None:
            raise self.failure
        if self._buffered_bytes > max_bytes:
            raise Failure(
                FailureKind.MALFORMED_BODY,
                f"{self._authority} answered with a body of more than {max_bytes} bytes",
                status=self.status,
                bytes_received=self.body_bytes,
            )
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        return data

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
        if state == _IDLE:
            at = self.idle_until
        elif state == _LINGER or (state <= _BODY and waiter is not None and not waiter.done()):
            at = self._deadline_at
        else:
            return  # nobody waits: the next wait arms it
        if self._loop.time() + _CLOCK_STEP_S < at:
            if at < inf:
                self._arm(at)
        elif state in (_IDLE, _LINGER):
            self._end_unheld()
        else:
            self._fail(self._failed(self._deadline_kind, f"{self._authority}: {self._deadline_what}"))

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # create_connection always makes a full Transport

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state == _IDLE:  # nothing was asked: a late 408, or a peer that lost count
            self._end_unheld()
            return
        if state >= _FAILED:
            return
        if state == _COMPLETE:
            self._keep_alive = False
            return
        self._received_bytes += len(data)
        body_bytes = self.body_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._parse_failed(error)
        if self.body_bytes == body_bytes and self.state <= _LINGER:
            self._barren_bytes += len(data)
            if self._barren_bytes > MAX_HEAD_BYTES:
                what = "a response head" if self.state == _HEAD else "trailers or chunk extensions"
                self._fail(
                    self._failed(
                        FailureKind.MALFORMED_BODY,
                        f"{self._authority} sent {what} of more than {MAX_HEAD_BYTES} bytes",
                    )
                )
        else:
            self._barren_bytes = 0
        was_lingering = state == _LINGER
        state = self.state
        if state == _BODY:
            if self._whole_limit >= 0:
                if self._buffered_bytes > self._whole_limit:
                    self._wake()
                return
            if self._buffered_bytes > HIGH_WATER_BYTES and not self._paused:
                assert self._transport is not None
                self._paused = True
                self._transport.pause_reading()
            if self._waiter is not None and (self._chunks or body_bytes == 0):
                self._wake()
        elif state == _COMPLETE:
            if was_lingering:
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
        if state >= _FAILED:
            return
        if state == _COMPLETE:
            self._keep_alive = False
            return
        if state in (_IDLE, _LINGER):
            self._end_unheld()
        elif state == _BODY and self._until_eof and error is None:
            self.state = _COMPLETE
            self.ended_by_eof = True
            self._wake()
        else:
            how = "closed the connection" if error is None else "reset the connection"
            if state == _BODY:
                kind, when = FailureKind.STREAM_CUT, f"inside the body, after {self.body_bytes} bytes of it"
            elif self._received_bytes:
                kind, when = FailureKind.RESET, "inside the response head"
            else:
                kind, when = FailureKind.RESET, "before any byte of the response"
            self._fail(self._failed(kind, f"{self._authority} {how} {when}"))

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.state == _COMPLETE:  # bytes behind the response: nothing that we asked for
            raise _Stop

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.state != _HEAD:
            return  # trailers say nothing that we use
        name = name.lower()
        headers = self.headers
        if name in headers:
            headers[name] = headers[name] + b", " + value
        else:
            headers[name] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                raise _Stop  # no status of HTTP's, or protocols switched, for which we never ask
            self._interim = True
            self.headers = {}
            return
        self.status = status
        self._deadline_at = inf  # it was the head's; the body has its own
        headers = self.headers
        if b"transfer-encoding" in headers:
            self._until_eof = not headers[b"transfer-encoding"].rstrip().lower().endswith(b"chunked")
        else:
            self._until_eof = b"content-length" not in headers
        self.state = _BODY
        if self._bodiless:
            self.state = _COMPLETE  # the parser waits for a body: this connection cannot be used again
            raise _Stop

    def on_body(self, data: bytes) -> None:
        self.body_bytes += len(data)
        if self.state == _BODY:
            self._chunks.append(data)
            self._buffered_bytes += len(data)
        else:
            self._buffered_bytes += len(data)
            if self._buffered_bytes > MAX_LINGER_BYTES:
                raise _Stop

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        self._keep_alive = self._parser.should_keep_alive()
        self.state = _COMPLETE

    # How it ends.

    def _parse_failed(self, error: httptools.HttpParserError) -> None:
        state = self.state
        if state == _COMPLETE:
            self._keep_alive = False
        elif state == _LINGER:
            self._end_unheld()
        elif state == _HEAD:
            self._fail(
                self._failed(FailureKind.MALFORMED_BODY, f"{self._authority} answered with no HTTP/1.1 ({error})")
            )
        else:
            self._fail(
                self._failed(FailureKind.STREAM_CUT, f"{self._authority} broke the framing of its body ({error})")
            )

    def _failed(self, kind: FailureKind, message: str) -> Failure:
        received = self.body_bytes if self.state >= _BODY else self._received_bytes
        return Failure(kind, message, status=self.status or None, bytes_received=received)

    def _fail(self, failure: Failure) -> None:
        """The exchange failed: its caller learns it at the next read, and the connection is gone."""
        if self.state >= _FAILED:
            return
        lingering = self.state == _LINGER
        self.failure = failure
        self.state = _FAILED
        self._wake()
        if self._transport is not None:
            self._transport.abort()
        if lingering:
            self._on_end(self, True)

    def _end_unheld(self) -> None:
        """Nobody holds this connection and it is done with what it did: its pool decides what becomes of it."""
        lingered = self.state != _IDLE
        if self.state != _COMPLETE:
            self.abort()
        self._on_end(self, lingered)

    def _resume(self) -> None:
        assert self._transport is not None
        self._paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
