"""The default transport: HTTP/1.1 of our own, for plain forwarding at the speed of the event loop.

A bounded pool of ``H1Connection``s to one endpoint. Every connection, from the moment it is dialled, occupies one slot;
the slot belongs to whoever holds the connection: the idle stack, a call, or a caller in the queue to whom it was
handed. The stack is last in, first out, so that the connections in use stay few and fresh; the queue is first in, first
out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.providers.content import Decoder, UndecodableError, decoder_for
from amaru.providers.dial import dial, tls_context
from amaru.providers.h1_connection import H1Connection
from amaru.providers.h1_message import BODY, COMPLETE
from amaru.providers.transport import Endpoint, Header, HeaderBlock, check_request_line, pool_exhausted

_MAX_REQUEST_LINES = 256
"""Request lines remembered; a provider has a handful of targets."""


class H1Response:
    """See ``transport.HttpResponse``."""

    __slots__ = ("_connection", "_decoder", "_failure", "_received", "_transport", "ended_by_eof", "headers", "status")

    def __init__(self, transport: H1Transport, connection: H1Connection) -> None:
        self._transport = transport
        self._connection: H1Connection | None = connection
        self._failure: Failure | None = None
        self._received = 0
        self.status = connection.status
        self.headers = connection.headers
        self.ended_by_eof = False
        self._decoder: Decoder | None = None
        if b"content-encoding" in self.headers:
            try:
                self._decoder = decoder_for(self.headers)
            except UndecodableError as error:
                raise self._undecodable(error) from error

    @property
    def bytes_received(self) -> int:
        connection = self._connection
        return self._received if connection is None else connection.body_bytes

    def set_deadline(self, at: float, kind: FailureKind, what: str) -> None:
        if self._connection is not None:
            self._connection.set_deadline(at, kind, what)

    async def read(self, max_bytes: int) -> bytes:
        if self._decoder is not None:
            return await self._read_decoded(self._decoder, max_bytes)
        connection = self._open_connection()
        if connection is None:
            return b""
        try:
            length = self.headers.get(b"content-length")
            if length is not None and int(length) > max_bytes:
                raise self._too_large(max_bytes)  # before a byte of it is kept
            if connection.state < COMPLETE:
                await connection.wait_whole(max_bytes)
            if connection.failure is not None:
                raise connection.failure
            if connection.buffered_bytes > max_bytes:
                raise self._too_large(max_bytes)
            data = connection.take()
        except BaseException as error:
            self._broke(error)
            raise
        self._finish()
        return data

    async def chunk(self) -> bytes:
        if self._decoder is not None:
            return await self._chunk_decoded(self._decoder)
        return await self._chunk_raw()

    async def _chunk_raw(self) -> bytes:
        connection = self._open_connection()
        if connection is None:
            return b""
        try:
            data = await connection.read_some()
        except BaseException as error:
            self._broke(error)
            raise
        if not data:
            self._finish()
        return data

    async def _chunk_decoded(self, decoder: Decoder) -> bytes:
        try:
            while not (decoded := decoder.step()):
                encoded = await self._chunk_raw()
                if not encoded:
                    if decoder.finished:
                        return b""
                    raise Failure(
                        FailureKind.STREAM_CUT,
                        f"{self._transport.endpoint.authority} ended an encoded body before its end",
                        status=self.status,
                        bytes_received=self.bytes_received,
                    )
                decoder.feed(encoded)
        except UndecodableError as error:
            failure = self._undecodable(error)
            self._broke(failure)
            raise failure from error
        return decoded

    async def _read_decoded(self, decoder: Decoder, max_bytes: int) -> bytes:
        parts: list[bytes] = []
        total = 0
        while part := await self._chunk_decoded(decoder):
            parts.append(part)
            total += len(part)
            if total > max_bytes:
                failure = self._too_large(max_bytes)
                self._broke(failure)
                raise failure
        return b"".join(parts)

    def close(self, linger_s: float = 0.0) -> None:
        connection = self._connection
        if connection is None:
            return
        if linger_s > 0 and connection.state == BODY:
            self._received = connection.body_bytes
            self._connection = None
            connection.linger(linger_s)  # the transport takes it back when the linger ends
        else:
            self._finish()

    def _open_connection(self) -> H1Connection | None:
        """``None`` after the end; raises what ended it where that was a failure."""
        if self._connection is None and self._failure is not None:
            raise self._failure
        return self._connection

    def _broke(self, error: BaseException) -> None:
        # Whatever interrupts a read, a later one must not look like a clean end.
        self._failure = (
            error
            if isinstance(error, Failure)
            else Failure(FailureKind.STREAM_CUT, "the call was cancelled", status=self.status)
        )
        self._finish(keep=False)

    def _finish(self, *, keep: bool = True) -> None:
        connection = self._connection
        if connection is None:
            return
        if self._failure is None and connection.state != COMPLETE:
            closed = Failure(FailureKind.STREAM_CUT, "the response was closed by amaru", status=self.status)
            self._failure = connection.failure or closed
        self._received = connection.body_bytes
        self.ended_by_eof = connection.ended_by_eof
        self._connection = None
        self._transport.give_back(connection, keep=keep)

    def _undecodable(self, error: UndecodableError) -> Failure:
        return self._malformed(str(error))

    def _too_large(self, max_bytes: int) -> Failure:
        return self._malformed(f"a body of more than {max_bytes} bytes")

    def _malformed(self, what: str) -> Failure:
        return Failure(
            FailureKind.MALFORMED_BODY,
            f"{self._transport.endpoint.authority} answered with {what}",
            status=self.status,
            bytes_received=self.bytes_received,
        )


class H1Transport:
    """See ``transport.Transport``. Make it anywhere; use it on one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises ``ConfigError`` where the endpoint's ``ca_file`` cannot be used."""
        self.endpoint = endpoint
        self._tls = tls_context(endpoint)
        self._request_lines: dict[tuple[str, bytes], bytes] = {}
        self._slots_taken = 0
        self._idle: list[H1Connection] = []
        self._queue: deque[asyncio.Future[H1Connection | None]] = deque()
        self._all: set[H1Connection] = set()
        self._is_closed = False

    @property
    def connections(self) -> int:
        """Connections open or being made."""
        return self._slots_taken

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    async def send(
        self,
        method: str,
        target: bytes,
        headers: Sequence[Header],
        body: bytes,
        *,
        head_deadline: float,
        head_kind: FailureKind,
    ) -> H1Response:
        block = headers if isinstance(headers, HeaderBlock) else HeaderBlock(headers)
        request_line = self._request_lines.get((method, target)) or self._request_line(method, target)
        if body or method not in ("GET", "HEAD"):
            request = (request_line, block.rendered, b"content-length: %d\r\n\r\n" % len(body), body)
        else:
            request = (request_line, block.rendered, b"\r\n", body)
        bodiless = method == "HEAD"
        connection = self._take_idle() or await self._acquire(head_deadline)
        try:
            connection.start(request, bodiless=bodiless, deadline=head_deadline, kind=head_kind)
            await connection.wait()
            if connection.failure is not None and not connection.status:
                if not connection.stale or asyncio.get_running_loop().time() >= head_deadline:
                    raise connection.failure
                # Our slot dials anew: the connections below on the stack are older than this one was.
                connection = await self._dial(head_deadline)
                connection.start(request, bodiless=bodiless, deadline=head_deadline, kind=head_kind)
                await connection.wait()
                if connection.failure is not None and not connection.status:
                    raise connection.failure
            return H1Response(self, connection)
        except BaseException:
            self.give_back(connection, keep=False)
            raise

    async def aclose(self) -> None:
        self._is_closed = True
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_exception(self._closed_failure())
        while self._idle:
            self._idle.pop().abort()
            self._free_slot()
        connections = list(self._all)
        for connection in connections:
            in_body = connection.state >= BODY
            kind = FailureKind.STREAM_CUT if in_body else FailureKind.RESET
            connection.abort(Failure(kind, f"{self.endpoint.authority}: the transport was closed by amaru"))
        if connections:
            await asyncio.wait([connection.closed for connection in connections])

    # The request's head.

    def _request_line(self, method: str, target: bytes) -> bytes:
        """The request line and the headers that every request to it carries, checked once and remembered."""
        path = check_request_line(method, self.endpoint, target)
        line = b"%b %b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\n" % (
            method.encode(),
            path,
            self.endpoint.host_header.encode(),
        )
        if len(self._request_lines) >= _MAX_REQUEST_LINES:
            self._request_lines.clear()
        self._request_lines[method, target] = line
        return line

    # The pool.

    def _take_idle(self) -> H1Connection | None:
        if not self._idle:
            return None
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable(now):
                return connection
            connection.abort()
            self._free_slot()
        return None

    async def _acquire(self, deadline: float) -> H1Connection:
        """A connection, and its slot: dialled, or handed over by a call that ends."""
        self._refuse_when_closed()
        if self._slots_taken < self.endpoint.max_connections:
            self._slots_taken += 1
        else:
            connection = await self._wait_in_queue(deadline)
            if connection is not None:
                return connection
        try:
            return await self._dial(deadline)
        except BaseException:
            self._free_slot()
            raise

    async def _dial(self, deadline: float) -> H1Connection:
        self._refuse_when_closed()
        loop = asyncio.get_running_loop()
        authority = self.endpoint.authority
        connection = await dial(
            self.endpoint, self._tls, lambda: H1Connection(loop, authority, self._on_end), deadline=deadline
        )
        self._all.add(connection)
        connection.closed.add_done_callback(lambda _: self._all.discard(connection))
        try:
            self._refuse_when_closed()
        except Failure:
            connection.abort()
            raise
        return connection

    async def _wait_in_queue(self, deadline: float) -> H1Connection | None:
        """Wait for a slot: with a usable connection, or ``None`` to dial one in it."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[H1Connection | None] = loop.create_future()
        self._queue.append(waiter)
        timer = loop.call_at(deadline, self._queue_timed_out, waiter)
        try:
            connection = await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                granted = waiter.result()  # cancelled just after the slot was handed to us
                if granted is None:
                    self._free_slot()
                else:
                    self.give_back(granted, keep=False)
            elif waiter in self._queue:
                self._queue.remove(waiter)
            raise
        finally:
            timer.cancel()
        if connection is not None and not connection.usable(loop.time()):
            connection.abort()
            return None
        return connection

    def _queue_timed_out(self, waiter: asyncio.Future[H1Connection | None]) -> None:
        if waiter.done():
            return
        self._queue.remove(waiter)
        waiter.set_exception(pool_exhausted(self.endpoint))

    def give_back(self, connection: H1Connection, *, keep: bool = True) -> None:
        """A call is over: keep its connection where it can serve again, and pass the slot on."""
        if keep and not self._is_closed and connection.rest(self.endpoint.idle_timeout_s):
            waiter = self._next_waiter() if self._queue else None
            if waiter is None:
                self._idle.append(connection)
            else:
                waiter.set_result(connection)
        else:
            connection.abort()
            self._free_slot()

    def _free_slot(self) -> None:
        waiter = self._next_waiter()
        if waiter is None:
            self._slots_taken -= 1
        else:
            waiter.set_result(None)

    def _next_waiter(self) -> asyncio.Future[H1Connection | None] | None:
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                return waiter
        return None

    def _on_end(self, connection: H1Connection, lingered: bool) -> None:
        """A connection that no response holds ended by itself (see ``H1Connection``)."""
        if lingered:
            self.give_back(connection)
        elif connection in self._idle:  # else it is on its way to a waiter, who owns its slot
            self._idle.remove(connection)
            self._free_slot()

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise self._closed_failure()

    def _closed_failure(self) -> Failure:
        return Failure(FailureKind.CONNECT, f"{self.endpoint.authority}: the transport was closed by amaru")
