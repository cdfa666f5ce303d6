"""One request, and the answer to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from amaru.http1.wire import Block, Fields, encode_fields, error_body

if TYPE_CHECKING:
    from amaru.http1.connection import Connection

FRESH, STREAMING, ENDED, GONE = range(4)
"""Phases of an answer: nothing sent; head sent; complete (or given up); the client left before it was complete."""

_LAST_CHUNK = b"0\r\n\r\n"
_JOIN_UP_TO_BYTES = 64 * 1024
_JSON: Fields = ((b"content-type", b"application/json"),)


class Request:
    """One request, whole: its body has arrived. The handler answers it once, in one of two ways.

    Either `respond` with a whole answer, or `start`, any number of `write`, and `end`. When the client goes away the
    handler's task is cancelled, and from then on every method here does nothing: clean-up code need not ask.

    The server adds ``date``, ``content-length`` or ``transfer-encoding``, and ``connection``; do not hand these in.

    Attributes
    ----------
    method
        As sent: ``"POST"``.
    path
        Percent-decoded, without the query; holds no control characters.
    target
        The request target as sent.
    query
        The raw query string, without the ``?``.
    headers
        Lower-case names; repeated fields joined by ``b", "`` (``cookie`` by ``b"; "``).
    body
        The whole body, at most ``ServerSettings.max_body_bytes``.
    http10
        The client speaks HTTP/1.0: a streamed answer is ended by closing the connection.
    keep_alive
        The connection will serve further requests.
    arrived_at
        The server's clock (monotonic seconds) when the request was complete.
    connection
        Its ``transport`` serves those who must misbehave (the simulated providers).
    """

    __slots__ = (
        "_chunked",
        "_ended",
        "_left_bytes",
        "_phase",
        "_silent",
        "arrived_at",
        "body",
        "connection",
        "headers",
        "http10",
        "keep_alive",
        "method",
        "path",
        "query",
        "target",
    )

    arrived_at: float

    def __init__(
        self,
        connection: Connection,
        method: str,
        target: bytes,
        path: str,
        query: bytes,
        headers: dict[bytes, bytes],
        http10: bool,
        keep_alive: bool,
    ) -> None:
        self.connection = connection
        self.method = method
        self.target = target
        self.path = path
        self.query = query
        self.headers = headers
        self.body = b""
        self.http10 = http10
        self.keep_alive = keep_alive
        self._phase = FRESH
        self._ended: asyncio.Future[None] | None = None

    @property
    def peer(self) -> str:
        """The client's address, without its port; empty for a Unix socket."""
        return self.connection.peer

    @property
    def started(self) -> bool:
        """Whether any part of the answer was sent, so that its status can no longer change."""
        return self._phase != FRESH

    @property
    def settled(self) -> bool:
        """Whether nothing more can be sent: the answer is complete, was cut, or the client has gone."""
        return self._phase >= ENDED

    @property
    def gone(self) -> bool:
        """Whether the client left before its answer was complete."""
        return self._phase == GONE

    def respond(self, status: int, headers: Fields | Block, body: bytes) -> None:
        """Send a whole answer. The body of an answer to HEAD, or with status 204 or 304, is left out.

        Raises
        ------
        ValueError
            A header holds CR, LF or NUL, or the status is not in 200..599; nothing was sent.
        RuntimeError
            The answer was begun before.
        """
        if self._phase != FRESH:
            self._refuse_second("respond")
            return
        head = self._head(status, headers, b"content-length: %d\r\n" % len(body) if status not in (204, 304) else b"")
        transport = self.connection.transport
        if self.method == "HEAD" or status in (204, 304):
            transport.write(head)
        elif len(body) <= _JOIN_UP_TO_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        self._finish()

    def start(self, status: int, headers: Fields, *, content_length: int | None = None) -> None:
        """Begin a streamed answer: chunked, or of exactly ``content_length`` bytes where given.

        Raises
        ------
        ValueError, RuntimeError
            As `respond`.
        """
        if self._phase != FRESH:
            self._refuse_second("start")
            return
        self._silent = self.method == "HEAD" or status in (204, 304)
        self._chunked = False
        self._left_bytes = -1
        framing = b""
        if status in (204, 304):
            pass
        elif content_length is not None:
            self._left_bytes = content_length
            framing = b"content-length: %d\r\n" % content_length
        elif self.http10:
            self.keep_alive = False
        else:
            framing = b"transfer-encoding: chunked\r\n"
            self._chunked = not self._silent
        self.connection.transport.write(self._head(status, headers, framing))
        self._phase = STREAMING

    async def write(self, data: bytes) -> None:
        """Send one piece of the body, and wait while the client is slow to read what was sent before.

        An empty piece sends nothing.

        Raises
        ------
        RuntimeError
            `start` was not called, or the answer has ended.
        ValueError
            More bytes than the ``content_length`` handed to `start`.
        """
        self.write_nowait(data)
        connection = self.connection
        if connection.congested:
            await connection.wait_writable()
        elif connection.transport.is_closing():
            # What is written now is dropped without becoming congested: a writer that never waits elsewhere would keep
            # the loop from ever telling it that the client has gone.
            await asyncio.sleep(0)

    def write_nowait(self, data: bytes) -> None:
        """Send one piece of the body without waiting; for a few small pieces only, since it buffers without bound."""
        if self._phase != STREAMING:
            if self._phase == GONE:
                return
            raise RuntimeError("write() needs start() before it, and must not follow end()")
        if not data:
            return  # an empty chunk would end the body
        if self._chunked:
            self.connection.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._write_plain(data)

    def _write_plain(self, data: bytes) -> None:
        if self._silent:
            return
        if self._left_bytes >= 0:
            if len(data) > self._left_bytes:
                raise ValueError(f"{len(data)} bytes written where {self._left_bytes} were left of content_length")
            self._left_bytes -= len(data)
        self.connection.transport.write(data)

    def end(self, data: bytes = b"") -> None:
        """Complete a streamed answer after a last piece ``data``; cut it where bytes of ``content_length`` are missing.

        Raises
        ------
        RuntimeError, ValueError
            As `write`.
        """
        if self._phase == STREAMING and self._chunked:
            transport = self.connection.transport
            transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else _LAST_CHUNK)
            self._finish()
            return
        self.write_nowait(data)
        if self._phase == STREAMING:
            if self._left_bytes > 0 and not self._silent:
                self.abort()
            else:
                self._finish()

    def abort(self) -> None:
        """Close the connection behind what was already written, so that the client sees the answer end too early."""
        if self._phase in (FRESH, STREAMING):
            self.keep_alive = False
            self._finish()

    async def wait_ended(self) -> None:
        """Wait until the answer is complete or the client has gone."""
        if self._phase in (FRESH, STREAMING):
            if self._ended is None:
                self._ended = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._ended)

    def give_up(self) -> None:
        """End an answer that its handler left unfinished: 500 where nothing was sent, else a visible cut."""
        if self._phase == FRESH:
            message = "The server failed while serving this request; its log says why."
            self.respond(500, _JSON, error_body(500, "internal_error", message))
        else:
            self.abort()

    def client_left(self) -> None:
        """Turn every later call into nothing; the connection calls this when it is lost."""
        self._phase = GONE
        self._wake()

    def _head(self, status: int, headers: Fields | Block, framing: bytes) -> bytes:
        fields = encode_fields(headers)
        server = self.connection.server
        if not self.keep_alive or server.draining:
            self.keep_alive = False
            framing += b"connection: close\r\n"
        elif self.http10:
            framing += b"connection: keep-alive\r\n"
        return server.heads[status] + fields + framing + b"\r\n"

    def _refuse_second(self, name: str) -> None:
        if self._phase != GONE:
            raise RuntimeError(f"{name}() after the answer was begun: a request is answered once")

    def _finish(self) -> None:
        self._phase = ENDED
        if self._ended is not None:
            self._wake()
        self.connection.answered(self.keep_alive)

    def _wake(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
