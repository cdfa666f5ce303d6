"""A provider made for tests: a real server that does, byte for byte, what a test tells it to."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pydantic import SecretStr

from amaru.domain import Kind, Offer
from amaru.protocols.openai import OpenAIRequest, parse_request
from amaru.providers.base import StreamReply, Timing, WholeReply
from amaru.providers.openai import OpenAIProvider, ProviderSpec
from amaru.providers.transport import endpoint_from_url

KEY = "sk-test-0123456789"
NOW_S = 1_700_000_000.0
OFFER = Offer(id="peer/m", provider="peer", resource="m", model="their-model")
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Exchange:
    """One request that arrived, and the means to answer it."""

    def __init__(self, head: bytes, body: bytes, transport: asyncio.Transport) -> None:
        self.head = head
        self.body = body
        self.gone = asyncio.Event()
        """Set when the caller closes the connection."""
        self._transport = transport

    def send(self, *data: bytes) -> None:
        for piece in data:
            self._transport.write(piece)

    def events(self, *events: bytes) -> None:
        """Events of a stream, each in a chunk of its own."""
        self.send(*[b"%x\r\n%b\r\n" % (len(event), event) for event in events])

    def stream(self, *events: bytes) -> None:
        """A streamed answer from its head to the end of its framing."""
        self.send(STREAM_HEAD)
        self.events(*events)
        self.send(b"0\r\n\r\n")

    def answer(self, status: int, body: bytes, content_type: bytes = b"application/json", **headers: str) -> None:
        lines = [b"HTTP/1.1 %d Status" % status, b"content-type: " + content_type, b"content-length: %d" % len(body)]
        lines += [f"{name.replace('_', '-')}: {value}".encode() for name, value in headers.items()]
        self.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    def close(self) -> None:
        self._transport.close()

    def reset(self) -> None:
        """End the connection by a TCP reset; bytes that the caller has not read yet may be lost."""
        peer_socket = self._transport.get_extra_info("socket")
        peer_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


class _Connection(asyncio.Protocol):
    """Cuts requests out of the bytes, and runs the script for each."""

    def __init__(self, script: Script, peer: Peer, tasks: set[asyncio.Task[None]]) -> None:
        self._script = script
        self._peer = peer
        self._tasks = tasks
        self._received = b""
        self._exchanges: list[Exchange] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._peer.connections += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if not end or length is None or len(rest) < int(length[1]):
            return
        self._received = rest[int(length[1]) :]
        exchange = Exchange(head, rest[: int(length[1])], self._transport)
        self._exchanges.append(exchange)
        self._peer.exchanges.append(exchange)
        task = asyncio.ensure_future(self._script(exchange))
        self._tasks.add(task)

    def eof_received(self) -> None:
        for exchange in self._exchanges:
            exchange.gone.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.eof_received()


Script = Callable[[Exchange], Coroutine[None, None, None]]


@dataclass
class Peer:
    """The server and the provider that calls it."""

    provider: OpenAIProvider
    exchanges: list[Exchange] = field(default_factory=list)
    connections: int = 0

    async def call(self, request: OpenAIRequest, **limits: float) -> WholeReply | StreamReply:
        now = asyncio.get_running_loop().time()
        seconds = {"first_token": 60.0, "answer": 60.0, "idle": 60.0, "deadline": 90.0, "tail": 60.0, **limits}
        timing = Timing(
            first_token_at=now + seconds["first_token"],
            answer_at=now + seconds["answer"],
            idle_s=seconds["idle"],
            deadline_at=now + seconds["deadline"],
            tail_s=seconds["tail"],
        )
        return await self.provider.call(OFFER, request, timing)

    async def stream(self, request: OpenAIRequest | None = None, **limits: float) -> StreamReply:
        reply = await self.call(request or chat(stream=True), **limits)
        assert isinstance(reply, StreamReply)
        return reply


@asynccontextmanager
async def peer(
    script: Script, headers: tuple[tuple[str, SecretStr], ...] = (("X-Team", SecretStr("blue-team-secret")),)
) -> AsyncIterator[Peer]:
    """A provider whose server runs ``script`` for every request. What a script raises fails the test."""
    tasks: set[asyncio.Task[None]] = set()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(script, peer_, tasks), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    spec = ProviderSpec(
        id="peer",
        endpoint=endpoint_from_url(f"http://127.0.0.1:{port}/v1"),
        key=SecretStr(KEY),
        headers=headers,
    )
    peer_ = Peer(OpenAIProvider(spec, wall_clock=lambda: NOW_S))
    try:
        yield peer_
    finally:
        await peer_.provider.aclose()
        server.close()
        for task in tasks:
            if not task.done():
                task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert result is None or isinstance(result, asyncio.CancelledError), result


def chat(**fields: object) -> OpenAIRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Where is Paris?"}], **fields}
    return parse_request(Kind.CHAT, json.dumps(body).encode())


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps({"id": "c", "model": "their-model", **fields}).encode() + b"\n\n"


def chunk(delta: dict[str, object] | None = None, reason: str | None = None, index: int = 0) -> bytes:
    return event(choices=[{"index": index, "delta": delta or {}, "finish_reason": reason}])


ROLE = chunk({"role": "assistant", "content": ""})
HELLO = chunk({"content": "Hello"})
WORLD = chunk({"content": " world"})
STOP = chunk(reason="stop")
USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
DONE = b"data: [DONE]\n\n"


async def read_on(reply: StreamReply, into: list[bytes]) -> None:
    """Append what a stream hands on, to its end or its failure."""
    while data := await reply.next():
        into.append(data)


async def read_all(reply: StreamReply) -> bytes:
    """All that a stream hands on, to its whole end."""
    parts = [reply.first]
    await read_on(reply, parts)
    return b"".join(parts)
