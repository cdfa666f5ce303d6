"""Requests about the whole machine, handed on to the worker that owns its figures.

A connection lands on any worker. What is about traffic is served where it lands; status, metrics, decisions, health's
pages and orders are the owner's to answer, so they go to it over a Unix socket, as HTTP/1.0: the answer ends with the
connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from amaru.errors import RequestError
from amaru.gateway.answers import respond_error
from amaru.http1 import Request
from amaru.telemetry.logs import get_logger

LIMIT_S = 15.0
"""The owner may take so long to begin its answer: it may be starting anew."""
MOST_HEAD_BYTES = 64 * 1024
_PIECE_BYTES = 64 * 1024
_OWN = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"expect", b"date"))
"""Header fields that belong to one connection (RFC 9110, section 7.6.1), and what the server adds itself."""

log = get_logger("gateway")


class Relay:
    """Hands requests on to the owner, at this socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def handle(self, request: Request) -> None:
        """Answer as the owner does; 503 where it is away."""
        try:
            async with asyncio.timeout(LIMIT_S):
                reader, writer = await asyncio.open_unix_connection(str(self._path), limit=MOST_HEAD_BYTES)
        except (OSError, TimeoutError) as error:
            _away(request, error)
            return
        try:
            writer.write(_head_of(request) + request.body)
            async with asyncio.timeout(LIMIT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            await _answer(request, head, reader)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            if request.started:
                request.abort()
            else:
                _away(request, error)
        finally:
            writer.close()


def _head_of(request: Request) -> bytes:
    fields = b"".join(b"%b: %b\r\n" % (name, value) for name, value in request.headers.items() if name not in _OWN)
    line = b"%b %b HTTP/1.0\r\n" % (request.method.encode(), request.target)
    return line + fields + b"content-length: %d\r\n\r\n" % len(request.body)


async def _answer(request: Request, head: bytes, reader: asyncio.StreamReader) -> None:
    first, *lines = head[:-4].split(b"\r\n")
    fields, length = [], None
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.strip().lower(), value.strip()
        if name == b"content-length":
            length = int(value)
        elif name not in _OWN:
            fields.append((name, value))
    request.start(int(first.split(b" ", 2)[1]), fields, content_length=length)
    while not request.settled and (piece := await reader.read(_PIECE_BYTES)):
        await request.write(piece)
    if not request.settled:
        request.end()


def _away(request: Request, error: Exception) -> None:
    log.warning("owner_away", path=request.path, reason=str(error) or type(error).__name__)
    with contextlib.suppress(RuntimeError):  # the caller has left
        respond_error(
            request,
            RequestError(
                503,
                "The worker that answers this is starting anew; try again shortly. Others serve meanwhile.",
                type="service_unavailable_error",
                code="owner_away",
                retry_after_s=1.0,
            ),
        )
