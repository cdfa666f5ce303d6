"""One response as llhttp tells it: the callbacks of ``httptools.HttpResponseParser``, and what they add up to.

Apart from the connection, so that the framing rules of RFC 9112 section 6 stand alone and are fuzzed without a socket.
"""

from __future__ import annotations

import httptools

from amaru.providers.transport import MAX_LINGER_BYTES

# Where an exchange stands; a later state compares greater. Plain integers: they are compared for every packet.
IDLE = 0
HEAD = 1
"""The request is out, and no final response head is here."""
BODY = 2
LINGER = 3
"""As ``BODY``, but nobody reads: what arrives is dropped."""
COMPLETE = 4
FAILED = 5
CLOSED = 6


MAX_PIECES = 256
"""Body pieces kept apart; those beyond it grow together: a piece of its own costs 33 bytes and more (RFC 9112 lets a
chunk hold a single byte), while a stream is read long before it has so many."""


class StopParsing(Exception):
    """Out of a callback, it ends parsing at once (httptools raises its own error); the state says why."""


class ResponseMessage:
    """One response as it arrives, and the parser that a connection keeps for all of its responses.

    ``chunks`` holds the body bytes not taken yet, ``buffered_bytes`` their length, ``body_bytes`` the length of all
    that came. ``keep_alive`` tells after ``COMPLETE`` whether another response may follow; ``until_eof`` that the body
    ends with the connection.
    """

    __slots__ = (
        "_interim",
        "bodiless",
        "body_bytes",
        "buffered_bytes",
        "chunks",
        "ended_by_eof",
        "headers",
        "keep_alive",
        "parser",
        "state",
        "status",
        "until_eof",
    )

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.state = IDLE
        self.bodiless = False
        """The request was HEAD: no body follows, whatever the head says."""
        self.expect()

    def expect(self) -> None:
        """Make ready for the next response."""
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.chunks: list[bytes | bytearray] = []
        self.buffered_bytes = 0
        self.body_bytes = 0
        self.keep_alive = False
        self.until_eof = False
        self.ended_by_eof = False
        self._interim = False

    def on_message_begin(self) -> None:
        if self.state == COMPLETE:
            raise StopParsing  # bytes behind the response, for which nobody asked

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.state != HEAD:
            return  # trailers say nothing that we use
        name = name.lower()
        headers = self.headers
        if name in headers:
            headers[name] = headers[name] + b", " + value
        else:
            headers[name] = value

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                raise StopParsing  # no status of HTTP's, or protocols switched, for which we never ask
            self._interim = True
            self.headers = {}
            return
        self.status = status
        headers = self.headers
        if b"transfer-encoding" in headers:
            self.until_eof = not headers[b"transfer-encoding"].rstrip().lower().endswith(b"chunked")
        else:
            self.until_eof = b"content-length" not in headers
        self.state = BODY
        if self.bodiless:
            self.state = COMPLETE
            raise StopParsing  # the parser would wait for a body: this connection serves no other request

    def on_body(self, data: bytes) -> None:
        self.body_bytes += len(data)
        self.buffered_bytes += len(data)
        if self.state == BODY:
            chunks = self.chunks
            if len(chunks) < MAX_PIECES:
                chunks.append(data)
            elif len(chunks) == MAX_PIECES:
                chunks.append(bytearray(data))
            else:
                chunks[MAX_PIECES] += data
        elif self.buffered_bytes > MAX_LINGER_BYTES:
            raise StopParsing

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        self.keep_alive = self.parser.should_keep_alive()
        self.state = COMPLETE

    def take(self) -> bytes:
        """The body bytes that are here."""
        data = b"".join(self.chunks)  # of a single piece, that very piece
        self.chunks = []
        self.buffered_bytes = 0
        return data
