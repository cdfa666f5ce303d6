"""The other transport: the pyreqwest library (Rust's reqwest and hyper), for HTTP/2 and for outgoing proxies.

Chosen with ``transport: reqwest``. It negotiates HTTP/2 over TLS, and takes ``HTTP_PROXY``, ``HTTPS_PROXY``,
``ALL_PROXY`` and ``NO_PROXY`` from the environment. What it cannot do as the seam asks (the table, from the conformance
suite, is in ``docs/explanation/transports.md``):

- Cancelling ``send`` before the response's head, or its deadline passing, frees the caller at once, but the library
  leaves its own task running: the provider's call ends when the head comes, or after ``SILENCE_S``.
- It does not tell a kept connection that failed from a fresh one, so a kept connection that the provider closes after
  the request was written ends as ``RESET``; the router's own retry covers it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta
from math import inf

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    BuilderError,
    ClientClosedError,
    ConnectError,
    ConnectTimeoutError,
    DecodeError,
    PyreqwestError,
)
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from amaru.domain import FailureKind
from amaru.errors import ConfigError, Failure
from amaru.providers.content import Decoder, UndecodableError, decoder_for
from amaru.providers.dial import read_ca_file
from amaru.providers.transport import (
    MAX_LINGER_BYTES,
    Endpoint,
    Header,
    HeaderBlock,
    check_request_line,
    pool_exhausted,
)

SILENCE_S = 600.0
"""The library gives up a call on which no byte came for so long; our deadlines come before it."""


class ReqwestResponse:
    """See ``transport.HttpResponse``."""

    __slots__ = (
        "_deadline",
        "_decoder",
        "_failure",
        "_lingering",
        "_request",
        "_response",
        "_transport",
        "_waiting",
        "bytes_received",
        "ended_by_eof",
        "headers",
        "status",
    )

    def __init__(self, transport: ReqwestTransport, request: StreamRequest, response: Response) -> None:
        self._transport = transport
        self._request: StreamRequest | None = request
        self._response = response
        self._failure: Failure | None = None
        self._waiting: asyncio.Timeout | None = None
        self._lingering: asyncio.Future[None] | None = None
        self._deadline: tuple[float, FailureKind, str] = (inf, FailureKind.STREAM_STALLED, "")
        self.status = response.status
        self.bytes_received = 0
        self.ended_by_eof = False
        self.headers: dict[bytes, bytes] = {}
        for text_name, text_value in response.headers.items():
            name, value = text_name.encode("latin-1"), text_value.encode("utf-8", "surrogateescape")
            self.headers[name] = self.headers[name] + b", " + value if name in self.headers else value
        self._decoder: Decoder | None = None
        try:
            if self.status == 101:
                raise self._malformed("a switch of protocols, for which it was not asked")
            self._decoder = decoder_for(self.headers)
        except UndecodableError as error:
            raise self._malformed(str(error)) from error

    def set_deadline(self, at: float, kind: FailureKind, what: str) -> None:
        self._deadline = (at, kind, what)
        if self._waiting is not None:
            self._waiting.reschedule(at if at < inf else None)

    async def read(self, max_bytes: int) -> bytes:
        length = self.headers.get(b"content-length", b"0")
        if self._request is not None and length.isdigit() and int(length) > max_bytes:
            raise self._end(self._malformed(f"a body of more than {max_bytes} bytes"))
        parts: list[bytes] = []
        total = 0
        while part := await self.chunk():
            parts.append(part)
            total += len(part)
            if total > max_bytes:
                raise self._end(self._malformed(f"a body of more than {max_bytes} bytes"))
        return b"".join(parts)

    async def chunk(self) -> bytes:
        decoder = self._decoder
        if decoder is None:
            return await self._chunk_raw()
        try:
            while not (decoded := decoder.step()):
                encoded = await self._chunk_raw()
                if not encoded:
                    if decoder.finished:
                        return b""
                    raise self._failed(FailureKind.STREAM_CUT, "ended an encoded body before its end")
                decoder.feed(encoded)
        except UndecodableError as error:
            raise self._end(self._malformed(str(error))) from error
        return decoded

    async def _chunk_raw(self) -> bytes:
        if self._request is None:
            if self._failure is not None:
                raise self._failure
            return b""
        at = self._deadline[0]
        try:
            async with asyncio.timeout_at(at if at < inf else None) as self._waiting:
                data = await self._response.body_reader.read_chunk()
        except TimeoutError as error:
            _, kind, what = self._deadline
            if isinstance(error, PyreqwestError):
                kind, what = FailureKind.STREAM_STALLED, f"no data for {SILENCE_S:g} s"
            raise self._end(self._failed(kind, what, separator=": ")) from None
        except PyreqwestError as error:
            what = f"broke off its body after {self.bytes_received} bytes of it ({_last_cause(error)})"
            raise self._end(self._failed(FailureKind.STREAM_CUT, what)) from None
        except BaseException:
            self._end(self._failed(FailureKind.STREAM_CUT, "was cancelled"))
            raise
        finally:
            self._waiting = None
        if data is None:
            # HTTP/2 frames its ends, but hyper also takes RST_STREAM(NO_ERROR) for one: without a length, who knows.
            self.ended_by_eof = (
                self.status not in (204, 304)
                and self._response.get_header("content-length") is None
                and self._response.get_header("transfer-encoding") is None
            )
            self._leave()
            return b""
        self.bytes_received += len(data)
        return bytes(data)

    def close(self, linger_s: float = 0.0) -> None:
        if self._request is None or self._lingering is not None:
            return
        if linger_s > 0:
            self._lingering = asyncio.ensure_future(self._linger(linger_s))
        else:
            self.abandon()

    def abandon(self) -> None:
        """Hang up now, also on what still lingers."""
        if self._lingering is not None:
            self._lingering.cancel()
        self._end(self._failed(FailureKind.STREAM_CUT, "was closed by amaru"))

    async def _linger(self, linger_s: float) -> None:
        self.set_deadline(asyncio.get_running_loop().time() + linger_s, FailureKind.STREAM_STALLED, "did not end")
        limit = self.bytes_received + MAX_LINGER_BYTES
        with contextlib.suppress(Failure):
            while await self._chunk_raw() and self.bytes_received <= limit:
                pass
        self._lingering = None
        self.abandon()

    def _leave(self) -> None:
        request = self._request
        if request is None:
            return
        self._request = None
        self._transport.release(self)
        _leave(request)

    def _end(self, failure: Failure) -> Failure:
        self._failure = failure
        self._leave()
        return failure

    def _malformed(self, what: str) -> Failure:
        return self._failed(FailureKind.MALFORMED_BODY, f"answered with {what}")

    def _failed(self, kind: FailureKind, what: str, *, separator: str = " ") -> Failure:
        where = self._transport.endpoint.authority
        return Failure(kind, f"{where}{separator}{what}", status=self.status, bytes_received=self.bytes_received)


class ReqwestTransport:
    """See ``transport.Transport``."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises ``ConfigError`` where the endpoint's ``ca_file`` cannot be used."""
        self.endpoint = endpoint
        self._client = _build_client(endpoint)
        self._slots = asyncio.Semaphore(endpoint.max_connections)
        self._open: set[ReqwestResponse] = set()
        self._is_closed = False

    async def send(
        self,
        method: str,
        target: bytes,
        headers: Sequence[Header],
        body: bytes,
        *,
        head_deadline: float,
        head_kind: FailureKind,
    ) -> ReqwestResponse:
        endpoint = self.endpoint
        block = headers if isinstance(headers, HeaderBlock) else HeaderBlock(headers)
        path = check_request_line(method, endpoint, target).decode("ascii")
        if self._is_closed:
            raise self._closed_failure()
        await self._acquire(head_deadline)
        try:
            builder = self._client.request(method, f"{endpoint.scheme}://{endpoint.host_header}{path}")
            builder = builder.header("accept-encoding", "identity")
            for name, value in block:
                builder = builder.header(name.decode("ascii"), value.decode("latin-1"))
            if body or method not in ("GET", "HEAD"):
                builder = builder.body_bytes(body)
            # With a read buffer the library holds the head back until the buffer is full or the body ends.
            request = builder.streamed_read_buffer_limit(0).build_streamed()
            try:
                async with asyncio.timeout_at(head_deadline):
                    response = await request.__aenter__()
            except BuilderError as error:
                raise ValueError(f"the request cannot be built ({_last_cause(error)})") from None
            except (PyreqwestError, TimeoutError) as error:
                raise self._failure(error, head_kind) from None
            try:
                taken = ReqwestResponse(self, request, response)
            except Failure:
                _leave(request)
                raise
        except BaseException:
            self._slots.release()
            raise
        self._open.add(taken)
        return taken

    async def aclose(self) -> None:
        self._is_closed = True
        for response in list(self._open):
            response.abandon()  # the library itself would let it read on
        await self._client.close()

    def release(self, response: ReqwestResponse) -> None:
        """A response was read to its end, or given up."""
        self._open.discard(response)
        self._slots.release()

    async def _acquire(self, deadline: float) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # at once
            return
        try:
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
        except TimeoutError:
            raise pool_exhausted(self.endpoint) from None

    def _failure(self, error: Exception, head_kind: FailureKind) -> Failure:
        where = self.endpoint.authority
        if not isinstance(error, PyreqwestError):
            return Failure(head_kind, f"{where}: no response head before the deadline")
        if isinstance(error, ClientClosedError) or self._is_closed:
            return self._closed_failure()
        cause = _last_cause(error)
        connecting = "client error (Connect)" in _causes(error)
        if connecting and "certificate" in cause:
            remedy = f"set {self.endpoint.setting}.ca_file to the PEM file of its authority"
            return Failure(FailureKind.CONNECT, f"{where}: its certificate is not trusted ({cause}); {remedy}")
        late = isinstance(error, ConnectTimeoutError)
        if connecting:
            kind = FailureKind.NO_ANSWER if late else FailureKind.CONNECT
            return Failure(kind, f"{where} could not be connected ({cause})", unsent=True)
        if late:
            return Failure(head_kind, f"{where}: no response head within {SILENCE_S:g} s")
        if isinstance(error, DecodeError):
            return Failure(FailureKind.MALFORMED_BODY, f"{where} answered with no HTTP ({cause})")
        if isinstance(error, ConnectError):
            return Failure(FailureKind.RESET, f"{where} closed the connection before the response ({cause})")
        return Failure(FailureKind.RESET, f"{where} broke off before the response ({cause})")

    def _closed_failure(self) -> Failure:
        return Failure(FailureKind.CONNECT, f"{self.endpoint.authority}: the transport was closed by amaru")


def _build_client(endpoint: Endpoint) -> Client:
    builder = (
        ClientBuilder()
        .follow_redirects(False)  # an API that redirects a POST is misconfigured; its 3xx says so
        .referer(False)
        .gzip(False)  # bodies are decoded by content.py, within its bounds
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .user_agent("amaru")
        .connect_timeout(timedelta(seconds=endpoint.connect_timeout_s))
        .read_timeout(timedelta(seconds=SILENCE_S))
        .pool_idle_timeout(timedelta(seconds=endpoint.idle_timeout_s))
        .pool_max_idle_per_host(endpoint.max_connections)
        .http2(True)
        .danger_accept_invalid_certs(not endpoint.verify)
    )
    authority = read_ca_file(endpoint)
    if authority is not None:
        builder = builder.add_root_certificate_pem(authority)
    try:
        return builder.build()
    except PyreqwestError as error:
        raise ConfigError([f"{endpoint.setting}: the reqwest transport cannot start: {_last_cause(error)}"]) from error


def _leave(request: StreamRequest) -> None:
    # Leaving only drops Rust values: the coroutine ends at its first step, and dropping it would end it too.
    leaving = request.__aexit__(None, None, None)
    try:
        leaving.send(None)
    except StopIteration:
        return
    leaving.close()


def _causes(error: PyreqwestError) -> list[str]:
    details = getattr(error, "details", None) or {}
    return [cause["message"] for cause in details.get("causes") or ()]


def _last_cause(error: PyreqwestError) -> str:
    """The innermost reason; the outer ones repeat the URL."""
    causes = _causes(error)
    return causes[-1] if causes else type(error).__name__
