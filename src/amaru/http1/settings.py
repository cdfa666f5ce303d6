"""The limits of the HTTP/1.1 server: every resource that a stranger can hold has a bound."""

from __future__ import annotations

import msgspec

from amaru.errors import AmaruError


class ListenError(AmaruError):
    """The server cannot listen on the address; the message names the address, the cause and the remedy."""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one `HttpServer`; the defaults suit a gateway of prompts and completions.

    Attributes
    ----------
    max_url_bytes
        Longest request target; a longer one is answered 414.
    max_header_bytes, max_headers
        Largest header section, in bytes of names and values and in fields; beyond either, 431. Chunked bodies may
        spend as much again on trailers and chunk extensions.
    max_body_bytes
        Largest request body; beyond it 413, at once where Content-Length tells, else when the bytes have arrived.
    max_connections
        Open connections; a further one is answered 503 with Retry-After and closed.
    max_buffered_bytes
        Request bytes held at one time over all connections; the request that would exceed it is answered 503.
    max_pipelined_bytes
        What a client may send ahead of its answers before reading pauses.
    header_timeout_s
        From the first byte of a request (or from connecting) to the end of its head; then 408.
    body_timeout_s, min_body_bytes_per_s
        Longest silence inside a body, and the slowest average rate after a first grace of ``body_timeout_s``; then 408.
    keep_alive_s
        Longest rest between two requests; then the connection is closed.
    write_timeout_s
        Longest time in which a client may read nothing of what waits for it; then the connection is cut.
    linger_s
        After a refusal, for how long late request bytes are read and thrown away, so that the client gets to see the
        answer instead of a reset (RFC 9112, section 9.6).
    write_high_water_bytes
        Unsent answer bytes above which `Request.write` waits.
    backlog
        Connections that the kernel queues before they are accepted.
    retry_after_s
        The Retry-After of the server's own 503 answers.
    """

    max_url_bytes: int = 8 * 1024
    max_header_bytes: int = 64 * 1024
    max_headers: int = 100
    max_body_bytes: int = 32 * 1024 * 1024
    max_connections: int = 10_000
    max_buffered_bytes: int = 512 * 1024 * 1024
    max_pipelined_bytes: int = 64 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    min_body_bytes_per_s: int = 500
    keep_alive_s: float = 75.0
    write_timeout_s: float = 60.0
    linger_s: float = 2.0
    write_high_water_bytes: int = 64 * 1024
    backlog: int = 2048
    retry_after_s: int = 1

    @property
    def sweep_interval_s(self) -> float:
        """How often connections are checked against their deadlines: a quarter of the shortest, at most a second."""
        shortest = min(
            self.header_timeout_s, self.body_timeout_s, self.keep_alive_s, self.write_timeout_s, 4 * self.linger_s
        )
        return min(1.0, max(0.005, shortest / 4))
