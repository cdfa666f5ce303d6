"""A server on a free port, and a client that sends exactly the bytes it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from amaru.http1 import HttpServer, Request

PATIENCE_S = 90.0
"""How long a test waits for what must happen, before it fails."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(PATIENCE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:-2])
        return int(lines[0].split()[1]), headers

    async def chunk(self) -> bytes:
        """One chunk of a chunked body; b"" for the last."""
        async with asyncio.timeout(PATIENCE_S):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def answer(self, *, bodiless: bool = False) -> Answer:
        status, headers = await self.head()
        body = b""
        if bodiless or status in (204, 304):
            pass
        elif "content-length" in headers:
            async with asyncio.timeout(PATIENCE_S):
                body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while piece := await self.chunk():
                body += piece
        else:
            body = await self.rest()
        return Answer(status, headers, body)

    async def ask(self, data: bytes) -> Answer:
        self.send(data)
        return await self.answer()

    async def rest(self) -> bytes:
        """Everything until the server closes; a reset counts as a close."""
        data = b""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while piece := await self.reader.read(65536):
                    data += piece
        except ConnectionError:
            pass
        return data

    async def closed(self) -> bool:
        return await self.rest() == b""

    def close(self) -> None:
        self.writer.close()


@dataclass
class Running:
    server: HttpServer

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, **options)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()

    async def lives(self) -> None:
        """The server still answers, on a new connection."""
        async with self.client() as client:
            client.send(b"GET /lives HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            status, _ = await client.head()
            assert 200 <= status < 600


Serve = Callable[..., Awaitable[Running]]


async def echo(request: Request) -> None:
    """Answers with what it understood of the request."""
    text = f"{request.method} {request.path} {request.query.decode()} {len(request.body)}"
    request.respond(200, [(b"content-type", b"text/plain")], text.encode())


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait, turn by turn of the loop, for something that the loop's own work will bring about."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the server's inner state raises no event
            await asyncio.sleep(0.001)
