"""One client's connection: its requests served in order, its answers flushed, its time and memory bounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from amaru.http1.reader import RequestReader
from amaru.http1.request import Request
from amaru.http1.wire import Refusal, encode_fields

if TYPE_CHECKING:
    from amaru.http1.server import HttpServer

OPEN, LINGERING, CLOSING, CLOSED = range(4)
"""States: serving; refused, throwing away input until the client closes; flushing the last answer; gone."""


class Connection(asyncio.Protocol):
    """The server's side of one connection; runs one handler at a time.

    The reader is fed only while no request is being served; what arrives meanwhile is held back raw, and reading
    pauses when that exceeds a bound. So answers keep the order of requests, and a client that sends ahead costs a
    bounded amount.

    Attributes
    ----------
    transport, peer
        The transport, and the client's address.
    request
        The request being served, or ``None``.
    congested
        The write buffer is above its high-water mark.
    """

    __slots__ = (
        "_began_at",
        "_busy",
        "_deadline",
        "_drain_waiters",
        "_early",
        "_held_bytes",
        "_reader",
        "_reading_paused",
        "_state",
        "_unsent_bytes",
        "congested",
        "peer",
        "request",
        "server",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.peer = ""
        self.request: Request | None = None
        self.congested = False
        self._reader = RequestReader(self, server.settings)
        self._state = OPEN
        self._busy = False  # a request is being served or waits to be: do not feed the reader
        self._early = b""  # raw bytes that arrived while busy
        self._reading_paused = False
        self._held_bytes = 0  # counted in server.buffered_bytes
        self._deadline = 0.0  # on the server's clock; 0: none yet
        self._began_at = 0.0  # when the request now arriving began; 0: none, or it arrived in one read
        self._unsent_bytes = 0
        self._drain_waiters: list[asyncio.Future[None]] = []

    # --- called by asyncio ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self.server
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self.transport.set_write_buffer_limits(high=server.settings.write_high_water_bytes)
        self._deadline = server.clock() + server.settings.header_timeout_s
        if not server.admit(self):
            self._refuse(503, "too_many_connections", "The server has too many open connections; try again shortly.")

    def connection_lost(self, _error: Exception | None) -> None:
        self._state = CLOSED
        self._drop_input()
        self._wake_writers()
        self.server.forget(self)
        request, self.request = self.request, None
        if request is not None:
            request.client_left()
            self.server.cancel(request)

    def eof_received(self) -> bool:
        """Treat a half-closed connection as gone: a client that still wants its answer keeps its side open."""
        if self.request is not None:
            self.transport.abort()
        return False

    def pause_writing(self) -> None:
        self.congested = True
        self._unsent_bytes = self.transport.get_write_buffer_size()
        if self._state == OPEN:
            self._deadline = self.server.clock() + self.server.settings.write_timeout_s

    def resume_writing(self) -> None:
        self.congested = False
        if self._state == OPEN:
            self._deadline = 0.0
        self._wake_writers()

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader.ended:
            return
        server = self.server
        self._held_bytes += len(data)
        server.buffered_bytes += len(data)
        if server.buffered_bytes > server.settings.max_buffered_bytes:
            self._refuse_busy()
        elif self._busy:
            self._keep(data)
        else:
            rest = reader.feed(data)
            if rest and not reader.ended:
                self._keep(rest)
            if reader.requests:
                self._serve(reader.requests.popleft())
            elif reader.refusal is not None:
                self._send_refusal(reader.refusal)
            elif not reader.ended:
                self._await_more()

    def _keep(self, data: bytes) -> None:
        """Hold back what the reader may not have yet, and stop reading when that grows large."""
        self._early += data
        if len(self._early) > self.server.settings.max_pipelined_bytes and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    # --- requests and their answers ---------------------------------------------------------------------------------

    def _serve(self, request: Request) -> None:
        self._busy = True
        self._began_at = 0.0
        request.arrived_at = self.server.clock()
        self.request = request
        self.server.serve(request)

    def answered(self, keep_alive: bool) -> None:
        """Go on: the answer to the current request is complete, or was given up."""
        self.request = None
        reader = self._reader
        if not keep_alive or self.server.draining:
            self._close()
        elif reader.requests or reader.refusal is not None or self._early:
            self.server.loop.call_soon(self._advance)  # not at once: this runs inside the handler
        else:
            self._release_held()
            self._busy = False
            self._deadline = 0.0
            if reader.in_head or reader.in_body:
                self._await_more()

    def _advance(self) -> None:
        """Go on with what arrived while a request was being served."""
        reader = self._reader
        if self._state != OPEN:
            return
        if reader.requests:
            self._serve(reader.requests.popleft())
        elif reader.refusal is not None:
            self._send_refusal(reader.refusal)
        else:
            self._release_held()
            self._busy = False
            self._deadline = 0.0
            early, self._early = self._early, b""
            if self._reading_paused:
                self._reading_paused = False
                self.transport.resume_reading()
            self.data_received(early)

    def _await_more(self) -> None:
        """Set the deadline of a request whose next part is awaited, and ask for that part where the client waits."""
        server = self.server
        settings = server.settings
        reader = self._reader
        now = server.clock()
        if self._began_at == 0.0:
            self._began_at = now
        if not reader.in_body:
            self._deadline = self._began_at + settings.header_timeout_s
            return
        if server.buffered_bytes + reader.awaited_bytes - reader.body_bytes > settings.max_buffered_bytes:
            self._refuse_busy()
            return
        slowest = self._began_at + settings.header_timeout_s + reader.body_bytes / settings.min_body_bytes_per_s
        self._deadline = min(now, slowest) + settings.body_timeout_s
        if reader.continue_due:
            reader.continue_due = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Take no more input, and refuse once the requests before are answered."""
        reader = self._reader
        reader.refuse(status, code, message)
        self._early = b""
        if not self._busy and reader.refusal is not None:
            self._send_refusal(reader.refusal)

    def _refuse_busy(self) -> None:
        self._refuse(503, "server_busy", "The server holds too many request bytes at the moment; try again shortly.")

    def _send_refusal(self, refusal: Refusal) -> None:
        server = self.server
        server.refused[refusal.status] += 1
        body = refusal.body()
        fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if refusal.status == 503:
            fields.append((b"retry-after", b"%d" % server.settings.retry_after_s))
        fields.append((b"connection", b"close"))
        self._state = LINGERING
        self._release_held()
        self._deadline = server.clock() + server.settings.linger_s
        if self.transport.is_closing():
            return
        self.transport.write(server.heads[refusal.status] + encode_fields(fields) + b"\r\n" + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self._reading_paused:  # or the client's close would go unseen
            self.transport.resume_reading()

    def _close(self) -> None:
        """Close once what was written has been sent."""
        self._state = CLOSING
        self._drop_input()
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._deadline = self.server.clock() + self.server.settings.write_timeout_s
        self.transport.close()

    def _drop_input(self) -> None:
        self._reader.drop()
        self._reader.requests.clear()
        self._early = b""
        self._release_held()

    def _release_held(self) -> None:
        self.server.buffered_bytes -= self._held_bytes
        self._held_bytes = 0
        self._reader.fed_bytes = 0

    # --- time, back-pressure, draining ------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Act on a deadline that has passed; the server calls this for every connection, now and then."""
        if self.congested or self._state == CLOSING:
            unsent = self.transport.get_write_buffer_size()
            if unsent < self._unsent_bytes:  # the client has read some
                self._deadline = now + self.server.settings.write_timeout_s
            elif now >= self._deadline:
                self.transport.abort()
            self._unsent_bytes = unsent
        elif self._state == LINGERING:
            if now >= self._deadline:
                self.transport.abort()
        elif self._busy:
            pass
        elif self._deadline == 0.0:
            self._deadline = now + self.server.settings.keep_alive_s
        elif now >= self._deadline:
            if self._began_at:
                part = "body" if self._reader.in_body else "head"
                self._refuse(408, "request_timeout", f"The request's {part} did not arrive in time.")
            else:
                self._close()

    async def wait_writable(self) -> None:
        """Wait until the client has read enough of what was written, or is gone."""
        if self.congested and self._state != CLOSED:
            waiter = self.server.loop.create_future()
            self._drain_waiters.append(waiter)
            await waiter

    def close_if_idle(self) -> None:
        """Close a connection on which no request is being served or arriving."""
        if self._state == OPEN and not self._busy and not self._began_at:
            self._close()

    def abort(self) -> bool:
        """Cut the connection at once; return whether an answer was still incomplete or unsent."""
        unfinished = self._busy or self.transport.get_write_buffer_size() > 0
        self.transport.abort()
        return unfinished

    def _wake_writers(self) -> None:
        waiters, self._drain_waiters = self._drain_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
