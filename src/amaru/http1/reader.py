"""Bytes in, requests out: the parsing of one connection's input and the limits on it, without any I/O."""

from __future__ import annotations

import logging
import re
from collections import deque
from typing import TYPE_CHECKING, NoReturn

import httptools

from amaru.http1.request import Request
from amaru.http1.settings import ServerSettings
from amaru.http1.wire import Refusal, parse_target

if TYPE_CHECKING:
    from amaru.http1.connection import Connection

_log = logging.getLogger(__name__)

_OVERHEAD_PER_BODY_BYTE = 8
"""Framing bytes that a chunked body may spend per byte; the smallest honest chunk (``1\\r\\nX\\r\\n``) spends five."""

_SLICE_BYTES = 8192
"""How much is parsed at once beyond a request that is complete: room for some 300 of the smallest requests."""

_UNKNOWN_METHOD = re.compile(rb"[A-Za-z][A-Za-z_-]{0,31} ")


class _RefusedError(Exception):
    """Stops the parser from inside a callback; the refusal is already noted."""


class RequestReader:
    """Parses one connection's input with httptools (llhttp).

    `feed` adds complete requests to ``requests``, in order. What breaks the rules or a limit ends the input:
    ``refusal`` is then the answer due after those of ``requests``.

    Attributes
    ----------
    requests
        Complete requests, not yet taken: as many as fit into ``_SLICE_BYTES``.
    refusal
        The server's own last answer, or ``None``.
    ended
        No more input is read: after a refusal, or a request that closes the connection.
    fed_bytes
        Bytes fed since whoever takes the requests last set it to 0, when all of them were answered.
    body_bytes
        Bytes so far of the body now arriving.
    awaited_bytes
        Bytes that the body now arriving will have in all, as far as its head tells; else 0.
    continue_due
        The client waits for ``100 Continue`` before it sends the body.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_field_count",
        "_headers",
        "_incoming",
        "_parser",
        "_replaying",
        "_settings",
        "_url",
        "awaited_bytes",
        "body_bytes",
        "continue_due",
        "ended",
        "fed_bytes",
        "refusal",
        "requests",
    )

    def __init__(self, connection: Connection, settings: ServerSettings) -> None:
        self.requests: deque[Request] = deque()
        self.refusal: Refusal | None = None
        self.ended = False
        self.fed_bytes = 0
        self.body_bytes = 0
        self.awaited_bytes = 0
        self.continue_due = False
        self._connection = connection
        self._settings = settings
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._field_count = 0  # of repeated fields; the others are counted by the dict
        self._incoming: Request | None = None  # its head is complete, its body not yet
        self._body: bytes | bytearray = b""
        self._replaying = False  # see _ignore_upgrade

    @property
    def in_head(self) -> bool:
        """Whether the beginning of a request has arrived, and its head is not complete."""
        return bool(self._url)

    @property
    def in_body(self) -> bool:
        """Whether a head is complete, and its body is not."""
        return self._incoming is not None

    def feed(self, data: bytes) -> bytes:
        """Parse what arrived until a request is complete; return what is left for the next time.

        The parser cannot stop by itself, and tiny requests grow a hundredfold as objects: so it is fed in slices.
        """
        if len(data) <= _SLICE_BYTES:
            self._feed(data)
            return b""
        at = 0
        while at < len(data) and not self.requests and not self.ended:
            end = at + max(_SLICE_BYTES, self.awaited_bytes - self.body_bytes)
            self._feed(data[at:end])
            at = end
        return data[at:]

    def _feed(self, data: bytes) -> None:
        self.fed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if not self.ended:
                self._misread(error, data)
        if not self.requests and not self.ended:
            self._check_unfinished()

    def refuse(self, status: int, code: str, message: str) -> None:
        """End the input with an answer of the server's own."""
        if self.refusal is None:
            self.refusal = Refusal(status, code, message)
            self.drop()

    def drop(self) -> None:
        """End the input, and forget what was read of an incomplete request."""
        self.ended = True
        self._incoming = None
        self._url, self._headers, self._body = b"", {}, b""

    # --- callbacks of httptools -------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self._headers
        if name in headers:
            self._add_repeated(name, value)
        else:
            headers[name] = value.rstrip(b" \t")

    def _add_repeated(self, name: bytes, value: bytes) -> None:
        self._field_count += 1
        if self._field_count >= self._settings.max_headers:
            self._stop(431, "too_many_headers", f"More than {self._settings.max_headers} header fields.")
        if name in (b"host", b"content-length"):
            self._stop(400, "duplicate_header", f"The header {name.decode()} is given twice.")
        separator = b"; " if name == b"cookie" else b", "
        self._headers[name] += separator + value.rstrip(b" \t")

    def on_headers_complete(self) -> None:
        if self._replaying:
            self._replaying, self._url, self._headers = False, b"", {}
            return
        headers, self._headers = self._headers, {}  # trailers will go into the new one, and be dropped
        url, self._url = self._url, b""
        parser = self._parser
        settings = self._settings
        keep_alive = parser.should_keep_alive()
        http10 = False
        if not keep_alive or b"connection" in headers:  # only there can the version be another than 1.1
            version = parser.get_http_version()
            http10 = version == "1.0"
            if not http10 and version != "1.1":
                self._stop(505, "http_version", "Only HTTP/1.1 and HTTP/1.0 are served here.")
        if b"host" not in headers and not http10:
            self._stop(400, "missing_host", "HTTP/1.1 requires the header Host.")
        if len(url) > settings.max_url_bytes:
            self._stop(414, "url_too_long", f"The URL is longer than {settings.max_url_bytes} bytes.")
        if len(headers) > settings.max_headers or self._field_count or self.fed_bytes > settings.max_header_bytes:
            self._check_head_size(headers)
        method = parser.get_method().decode("ascii")
        if method == "CONNECT":
            self._stop(501, "method_not_implemented", "CONNECT is not implemented: this is no forward proxy.")
        try:
            path, query = parse_target(url)
        except ValueError:
            self._stop(400, "invalid_url", "The URL's path is not UTF-8, or holds a control character.")
        self._incoming = Request(self._connection, method, url, path, query, headers, http10, keep_alive)
        if b"content-length" in headers or b"transfer-encoding" in headers:
            self._check_body_to_come(headers, http10)
        if b"upgrade" in headers and parser.should_upgrade():
            self._replaying = True

    def _check_head_size(self, headers: dict[bytes, bytes]) -> None:
        settings = self._settings
        if len(headers) + self._field_count > settings.max_headers:
            self._stop(431, "too_many_headers", f"More than {settings.max_headers} header fields.")
        if sum(map(len, headers)) + sum(map(len, headers.values())) > settings.max_header_bytes:
            self._stop_head_too_large()
        self._field_count = 0

    def _check_body_to_come(self, headers: dict[bytes, bytes], http10: bool) -> None:
        """Refuse what two parsers could frame in two ways (RFC 9112, section 11.2), and bodies that are too large."""
        length = headers.get(b"content-length")
        coding = headers.get(b"transfer-encoding")
        if coding is not None:
            if length is not None:
                self._stop(400, "ambiguous_length", "Both Content-Length and Transfer-Encoding are given.")
            if http10 or coding.lower() != b"chunked":
                self._stop(400, "transfer_encoding", "The only Transfer-Encoding served is chunked, in HTTP/1.1.")
        elif length is not None:
            self.awaited_bytes = int(length)
            if self.awaited_bytes > self._settings.max_body_bytes:
                self._stop_body_too_large()
        expect = headers.get(b"expect")
        if expect is not None and not http10:
            if expect.lower() != b"100-continue":
                self._stop(417, "expectation_failed", "The only expectation served is 100-continue.")
            self.continue_due = True

    def on_body(self, data: bytes) -> None:
        self.continue_due = False
        self.body_bytes += len(data)
        if self.body_bytes > self._settings.max_body_bytes:
            self._stop_body_too_large()
        if not self._body:
            self._body = data
        else:
            if isinstance(self._body, bytes):  # many pieces: grow in place rather than copy each time
                self._body = bytearray(self._body)
            self._body += data

    def on_message_complete(self) -> None:
        if self._replaying:
            return
        request = self._incoming
        assert request is not None
        self._incoming = None
        if self.body_bytes:
            request.body = bytes(self._body)  # of bytes, no copy
            self._body = b""
            self.body_bytes = 0
        if self._headers:
            self._headers = {}
            self._field_count = 0
        self.awaited_bytes = 0
        self.continue_due = False
        if not request.keep_alive:
            self.ended = True
        self.requests.append(request)

    # --- trouble ----------------------------------------------------------------------------------------------------

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Go on in HTTP/1.1 after a request that asked for another protocol (RFC 9110, section 7.8, allows it).

        The parser takes all that follows such a head for the other protocol, also the request's own body. So a new
        parser is brought to the same place by a head with the same framing, whose callbacks are ignored.
        """
        request = self._incoming
        assert request is not None
        head = b"POST / HTTP/1.1\r\nhost: -\r\n" + (b"" if request.keep_alive else b"connection: close\r\n")
        for name in (b"content-length", b"transfer-encoding"):
            if name in request.headers:
                head += name + b": " + request.headers[name] + b"\r\n"
        self._parser = httptools.HttpRequestParser(self)
        self.fed_bytes -= len(rest)
        self._feed(head + b"\r\n" + rest)

    def _check_unfinished(self) -> None:
        """Bound what an incomplete request may hold; the parser itself gathers a field or an extension of any size."""
        settings = self._settings
        if self._incoming is not None:
            overhead = self.fed_bytes - self.body_bytes
            if overhead > 2 * settings.max_header_bytes + _OVERHEAD_PER_BODY_BYTE * self.body_bytes:
                self.refuse(400, "chunk_overhead", "The chunked body's extensions or trailers are out of proportion.")
        elif len(self._url) > settings.max_url_bytes:
            self.refuse(414, "url_too_long", f"The URL is longer than {settings.max_url_bytes} bytes.")
        elif self.fed_bytes > settings.max_header_bytes:
            self.refuse(431, "headers_too_large", f"The header section exceeds {settings.max_header_bytes} bytes.")

    def _misread(self, error: httptools.HttpParserError, data: bytes) -> None:
        reason = str(error)
        if isinstance(error, httptools.HttpParserCallbackError):
            _log.error("the HTTP server failed while reading a request", exc_info=error)
            self.refuse(500, "internal_error", "The server failed while reading this request; its log says why.")
        elif reason in ("Invalid HTTP version", "Pause on PRI/Upgrade"):
            self.refuse(505, "http_version", "Only HTTP/1.1 and HTTP/1.0 are served here.")
        elif isinstance(error, httptools.HttpParserInvalidMethodError) and self._is_unknown_method(data):
            self.refuse(501, "method_not_implemented", "This request method is not known here.")
        else:
            self.refuse(400, "bad_request", f"This is not valid HTTP/1.1: {reason}.")

    def _is_unknown_method(self, data: bytes) -> bool:
        """Whether ``data`` begins a request whose method only lacks meaning, rather than being no request at all."""
        return not self.requests and self.fed_bytes == len(data) and _UNKNOWN_METHOD.match(data) is not None

    def _stop(self, status: int, code: str, message: str) -> NoReturn:
        self.refuse(status, code, message)
        raise _RefusedError

    def _stop_head_too_large(self) -> NoReturn:
        limit = self._settings.max_header_bytes
        self._stop(431, "headers_too_large", f"The header section exceeds {limit} bytes.")

    def _stop_body_too_large(self) -> NoReturn:
        self._stop(413, "body_too_large", f"The request body exceeds {self._settings.max_body_bytes} bytes.")
