"""Providers that stream what a test tells them to, byte for byte, and a caller that reads what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from amaru.domain import FailureKind
from amaru.providers.h1 import H1Transport
from amaru.providers.transport import endpoint_from_url

How = Literal["end", "close", "rst"]


@dataclass
class Cut:
    """Where a stream breaks off, and how.

    ``at`` is a share of its bytes in thousandths; −1: before its head. ``on_event``: at the last end of an event before
    that. ``how``: by the rules of HTTP, by closing the connection, or by resetting it.
    """

    at: int
    on_event: bool
    how: How


@dataclass
class Stream:
    """What a provider answers: the bytes of an event stream, and how they travel.

    ``seed`` draws where they are cut into chunks, and where the connection pauses between two of them.
    """

    payload: bytes
    cut: Cut | None = None
    chunked: bool = True
    seed: int = 0
    status: int = 200

    def parts(self) -> list[bytes]:
        """The bytes that are sent, in the pieces in which they are sent."""
        payload = self.payload
        if self.cut is not None:
            end = len(payload) * max(self.cut.at, 0) // 1000
            if self.cut.on_event:
                ends = [match.end() for match in re.finditer(rb"\r?\n\r?\n", payload) if match.end() <= end]
                end = ends[-1] if ends else 0
            payload = payload[:end]
        draw = random.Random(self.seed)
        cuts = sorted(draw.randrange(len(payload) + 1) for _ in range(draw.choice((0, 1, 3, 8, 20))))
        bounds = [0, *cuts, len(payload)]
        return [payload[a:b] for a, b in itertools.pairwise(bounds) if a < b]


Script = Callable[[dict[str, Any]], Stream]
"""Takes the body of a request."""


class ScriptedProvider:
    """An HTTP server that answers each request with what ``script`` gives for it."""

    def __init__(self) -> None:
        self.script: Script = lambda body: Stream(b"", status=500)
        self.failures: list[BaseException] = []
        """What scripts raised: a mistake of the test."""
        self.url = ""
        self._open: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request by request."""
        self._open.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    pass
        except Exception as error:
            self.failures.append(error)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        stream = self.script(json.loads(await reader.readexactly(int(length[1]))))
        if stream.status != 200:
            body = json.dumps({"error": {"message": "not so", "type": "invalid_request_error"}}).encode()
            writer.write(b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n" % stream.status)
            writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
            return True
        cut, chunked = stream.cut, stream.chunked
        if cut is None or cut.at >= 0:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
            writer.write(b"transfer-encoding: chunked\r\n\r\n" if chunked else b"connection: close\r\n\r\n")
            draw = random.Random(stream.seed + 1)
            for part in stream.parts():
                writer.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                if draw.random() < 0.5:
                    await asyncio.sleep(draw.choice((0.0, 0.0, 0.001)))
        if cut is not None and cut.how == "rst":
            await asyncio.sleep(0.001)  # what was sent would be lost with the connection
            reset(writer)
            return False
        if chunked and (cut is None or (cut.how == "end" and cut.at >= 0)):
            writer.write(b"0\r\n\r\n")
            return True
        return False

    def close(self) -> None:
        for writer in self._open:
            writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST, if the other side has not ended it yet."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def scripted_providers(count: int) -> AsyncIterator[list[ScriptedProvider]]:
    """So many of them, each on a port of its own."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            provider = ScriptedProvider()
            server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
            stack.callback(server.close)
            stack.callback(provider.close)
            provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            made.append(provider)
        yield made
        for provider in made:
            assert not provider.failures, provider.failures


@dataclass
class Received:
    """What a caller was left with."""

    status: int
    body: bytes
    provider: str = ""
    """Whose head it is."""
    lines: list[str] = field(default_factory=list)
    joined: str = ""
    """What the closing comment says about a break."""

    def __post_init__(self) -> None:
        if self.is_stream:
            text = self.body.decode().replace("\r\n", "\n").replace("\r", "\n")
            assert text.endswith("\n\n"), "half an event"
            # Not splitlines(), which takes characters of the answer's text for ends of lines.
            lines = text.split("\n")
            self.lines = [line for line in lines if line and not line.startswith(":")]
            receipt = next(line for line in lines if line.startswith(": amaru {"))
            self.joined = json.loads(receipt.removeprefix(": amaru ")).get("joined", "")

    @property
    def is_stream(self) -> bool:
        return self.status == 200

    @property
    def done(self) -> bool:
        """The stream ended as whole ones do."""
        return self.lines[-1:] == ["data: [DONE]"]

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = [line for line in self.lines if line != "data: [DONE]"]
        assert all(line.startswith("data:") for line in lines), lines
        return [json.loads(line[5:]) for line in lines]

    @property
    def failed(self) -> bool:
        """The stream ended in an error event, or there was none, but an error status."""
        if not self.is_stream:
            return self.status >= 400 and "error" in json.loads(self.body)
        return bool(self.events) and "error" in self.events[-1] and not self.done

    def choices(self) -> list[dict[str, Any]]:
        return [choice for event in self.events for choice in event.get("choices") or ()]

    def text(self, name: str = "content", index: int = 0) -> str:
        return "".join(c["delta"].get(name) or "" for c in self.choices() if c["index"] == index)

    def arguments(self, index: int = 0) -> str:
        """Of the calls of tools, put together."""
        calls = [call for c in self.choices() if c["index"] == index for call in c["delta"].get("tool_calls") or ()]
        return "".join(call["function"].get("arguments") or "" for call in calls)

    def reasons(self) -> dict[int, str]:
        return {choice["index"]: choice["finish_reason"] for choice in self.choices() if choice["finish_reason"]}


class Caller:
    """Asks a gateway over connections that it keeps; ``close`` it."""

    def __init__(self, port: int, key: str) -> None:
        self.transport = H1Transport(endpoint_from_url(f"http://127.0.0.1:{port}"))
        self._headers = [(b"authorization", b"Bearer " + key.encode()), (b"content-type", b"application/json")]

    async def ask(
        self, headers: tuple[tuple[bytes, bytes], ...] = (), *, limit_s: float = 60.0, **body: Any
    ) -> Received:
        """The answer to one chat. A stream that does not end by the rules of HTTP fails the test."""
        response = await self.transport.send(
            "POST",
            b"/v1/chat/completions",
            [*self._headers, *headers],
            json.dumps({"messages": [{"role": "user", "content": "Tell."}], **body}).encode(),
            head_deadline=asyncio.get_running_loop().time() + limit_s,
            head_kind=FailureKind.NO_ANSWER,
        )
        response.set_deadline(asyncio.get_running_loop().time() + limit_s, FailureKind.NO_ANSWER, "no answer in time")
        provider = response.headers.get(b"x-amaru-provider", b"").decode()
        return Received(response.status, await response.read(2**24), provider)

    async def close(self) -> None:
        await self.transport.aclose()
