"""The seam between providers and the network: one request out, one response back, one ``Failure`` if not.

A ``Transport`` belongs to one ``Endpoint`` and holds its connections. Two stand behind this seam, and one conformance
suite holds both to it: ``h1`` (our own HTTP/1.1 client, the default) and ``reqwest`` (HTTP/2 and outgoing proxies).

Instants are ``loop.time()`` seconds. Every network error leaves as ``errors.Failure`` of these kinds:

==================  ==================================================================================================
``CONNECT``         nothing was sent: refused, name not known, TLS, pool exhausted, transport closed
``RESET``           the connection ended before a whole response head (``bytes_received``: whether any of it came)
``NO_ANSWER``       the connect time-out passed in name lookup, TCP or TLS: to ask again would cost as much again;
                    or the head deadline (then the kind that the caller named for it)
``MALFORMED_BODY``  not HTTP, a head or a body over its limit, or a content-encoding that cannot be undone
``STREAM_CUT``      the body ended before its end, or broke its own framing
``STREAM_STALLED``  the body's deadline passed (or the kind given to ``set_deadline``)
==================  ==================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol
from urllib.parse import urlsplit

import msgspec

from amaru.domain import FailureKind
from amaru.errors import Failure

Header = tuple[bytes, bytes]

MAX_HEAD_BYTES = 64 * 1024
"""A response head (and, apart, a run of anything else that is not body) may not be larger."""
HIGH_WATER_BYTES = 64 * 1024
"""Body bytes waiting for the caller above which a connection is no longer read."""
MAX_LINGER_BYTES = 64 * 1024
"""Body bytes that ``HttpResponse.close`` reads away, at most, to keep a connection."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2, token
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 section 5.5, field-content
_OWNED = frozenset(
    (b"host", b"content-length", b"connection", b"transfer-encoding", b"accept-encoding", b"expect", b"upgrade")
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a provider listens, and how to reach it.

    ``base_path`` (``"/v1"``, without a slash at its end) goes before every target. ``ca_file`` holds PEM certificates
    to trust instead of the system's (``reqwest``: besides them). ``provider`` is its name in the configuration, which
    remedies in messages repeat.
    """

    scheme: Literal["http", "https"]
    host: str
    port: int
    base_path: str = ""
    connect_timeout_s: float = 5.0
    """Bounds name lookup, TCP and TLS together."""
    max_connections: int = 1024
    idle_timeout_s: float = 30.0
    """How long an unused connection is kept; below the keep-alive limits of most servers (nginx 75 s, ALB 60 s)."""
    verify: bool = True
    ca_file: str | None = None
    transport: Literal["h1", "reqwest"] = "h1"
    provider: str = ""

    @property
    def authority(self) -> str:
        """``host:port`` as messages name it; an IPv6 address stands in brackets."""
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def host_header(self) -> str:
        """The Host header's value: the port only where it is not the scheme's own (RFC 9110 section 7.2)."""
        return _bracketed(self.host) if self.port == _DEFAULT_PORTS[self.scheme] else self.authority

    @property
    def setting(self) -> str:
        """Where the provider's settings stand in the configuration, for remedies."""
        return f"providers.{self.provider or '<name>'}"


def endpoint_from_url(base_url: str, *, template: Endpoint | None = None) -> Endpoint:
    """The endpoint of a base URL such as ``https://api.example.com/v1``; other settings come from ``template``.

    Raises
    ------
    ValueError
        The URL is not ``http(s)://host[:port][/path]``; the message never repeats credentials.
    """
    parts = urlsplit(base_url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("a base URL holds no user or password; set the key by `key_env` or `key_file`")
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"{base_url!r} is not http(s)://host[:port][/path]")
    if parts.query or parts.fragment:
        raise ValueError(f"{base_url!r}: a base URL has no query and no fragment")
    path = parts.path.rstrip("/")
    if not re.fullmatch(r"[\x21-\x7e]*", path):
        raise ValueError(f"{base_url!r}: percent-encode the characters of the path")
    try:
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        host = parts.hostname.encode("idna").decode("ascii") if not parts.hostname.isascii() else parts.hostname
    except ValueError as error:  # UnicodeError is one
        raise ValueError(f"{base_url!r}: {error}") from error
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    start = template or Endpoint(scheme=scheme, host=host, port=port)
    return msgspec.structs.replace(start, scheme=scheme, host=host, port=port, base_path=path)


class HeaderBlock(tuple[Header, ...]):
    """Request headers, checked and rendered once: build it per provider, send it with every request.

    It is a sequence of ``(name, value)`` pairs; any other sequence of pairs may be sent too, and is checked each time.

    Raises
    ------
    ValueError
        A name is not a token, a value holds a control character (header injection), or the header is one that the
        transport adds itself. The message names the header and never shows its value.
    """

    rendered: bytes
    """``name: value\\r\\n`` of each."""

    def __new__(cls, headers: Iterable[Header] = ()) -> HeaderBlock:
        block = super().__new__(cls, headers)
        for name, value in block:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a header name")
            if name.lower() in _OWNED:
                raise ValueError(f"the header {name.decode()!r} is set by the transport")
            if not _VALUE.fullmatch(value):
                raise ValueError(f"the value of the header {name.decode()!r} holds a control character")
        block.rendered = b"".join([b"%b: %b\r\n" % header for header in block])
        return block


class HttpResponse(Protocol):
    """A response whose head has arrived. Call ``close`` when done with it; reading it to its end closes it too.

    ``read`` and ``chunk`` are for one task at a time. Cancelling the task inside them aborts the provider's call.
    """

    status: int
    headers: dict[bytes, bytes]
    """Lower-case names; repeated ones joined with ``b", "``. Without content-encoding, as bodies come decoded."""
    ended_by_eof: bool
    """The body had no length and ended with its connection (``reqwest``: or with its HTTP/2 stream): whether it was
    whole, only its content can tell."""

    @property
    def bytes_received(self) -> int:
        """Body bytes that arrived so far, as they stood on the wire."""

    async def read(self, max_bytes: int) -> bytes:
        """The whole body (what is left of it); ``MALFORMED_BODY`` where it is larger than ``max_bytes``."""

    async def chunk(self) -> bytes:
        """All body bytes that are there now, at least one; ``b""`` at the clean end, and after it."""

    def set_deadline(self, at: float, kind: FailureKind, what: str) -> None:
        """From now on, waiting for the body fails at ``at`` with ``kind`` and ``what`` ("no data for 20 s").

        Replaces the deadline before it; after the head there is none until this is called. It is an attribute store,
        cheap enough to call for each chunk. Bytes that are already here are given out even when it has passed.
        """

    def close(self, linger_s: float = 0.0) -> None:
        """Give the response up. At once: a body that has not arrived whole is aborted, which cancels the call.

        With ``linger_s`` the rest of the body gets that long (and 64 KiB) to arrive, unseen, so that its connection can
        be kept: for a stream that said its last word (``[DONE]``) and owes only the end of its framing.
        """


class Transport(Protocol):
    """The connections to one endpoint."""

    async def send(
        self,
        method: str,
        target: bytes,
        headers: Sequence[Header],
        body: bytes,
        *,
        head_deadline: float,
        head_kind: FailureKind,
    ) -> HttpResponse:
        """Send one request; returns once the response's head has arrived (1xx are skipped).

        ``target`` follows the endpoint's ``base_path``: ``b"/chat/completions"``. Host, Content-Length and
        ``Accept-Encoding: identity`` are added. A request that met a kept connection which the provider had closed
        meanwhile, before any byte of the answer, is sent once more on a fresh one; nothing else is repeated.

        Raises
        ------
        Failure
            As the module says; ``head_kind`` when ``head_deadline`` passes before the head is there.
        ValueError
            A header, the method or the target cannot be sent.
        """

    async def aclose(self) -> None:
        """Close every connection; calls in flight fail, and so does every later ``send``."""


def open_transport(endpoint: Endpoint) -> Transport:
    """The transport that the endpoint names; no connection is made yet.

    Raises
    ------
    ConfigError
        ``ca_file`` cannot be read.
    """
    if endpoint.transport == "reqwest":
        from amaru.providers.reqwest import ReqwestTransport  # loads a Rust runtime: only where it is asked for

        return ReqwestTransport(endpoint)
    from amaru.providers.h1 import H1Transport

    return H1Transport(endpoint)


def check_request_line(method: str, endpoint: Endpoint, target: bytes) -> bytes:
    """The path to ask for: the endpoint's base path, then ``target``. Raises ``ValueError`` where it cannot be sent."""
    path = endpoint.base_path.encode("ascii") + target
    if not re.fullmatch(r"[A-Z]+", method):
        raise ValueError(f"{method!r} is not an HTTP method")
    if not re.fullmatch(rb"/[\x21-\x7e]*", path):
        raise ValueError(f"{path!r} is not a request target")
    return path


def pool_exhausted(endpoint: Endpoint) -> Failure:
    """No connection came free in time."""
    return Failure(
        FailureKind.CONNECT,
        f"{endpoint.authority}: connection pool exhausted: all {endpoint.max_connections} connections were busy until "
        f"the deadline; raise {endpoint.setting}.max_connections",
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
