"""An OpenAI-compatible server that is neither amaru nor simulated: it answers as a test says."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from amaru.http1 import HttpServer, Request

Answer = tuple[int, Any]
"""Status, and JSON."""


@dataclass
class PlainTarget:
    """What it lists, what it refuses, and what it was asked."""

    models: Sequence[str] | None = ("m",)
    """``None``: it has no list."""
    refuses: Callable[[dict[str, Any]], Answer | None] = lambda body: None
    headers: dict[str, str] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    closing: bytes = b""
    """Comes before ``[DONE]``."""
    key: str | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: Request) -> None:
        sent = request.headers.get(b"authorization", b"").decode()
        if self.key is not None and sent != f"Bearer {self.key}":
            self._respond(request, 401, {"error": {"message": f"wrong key: {sent}"}})
        elif request.path == "/v1/models" and self.models is not None:
            self._respond(request, 200, {"data": [{"id": model} for model in self.models]})
        elif request.path == "/v1/chat/completions":
            body = json.loads(request.body)
            self.asked.append(body)
            if refused := self.refuses(body):
                self._respond(request, *refused)
            elif body.get("stream"):
                await self._stream(request, body)
            else:
                choice = {"index": 0, "message": {"role": "assistant", "content": "a b"}, "finish_reason": "stop"}
                self._respond(request, 200, {"choices": [choice], "usage": self.usage})
        else:
            self._respond(request, 404, {"error": {"message": "not here"}})

    async def _stream(self, request: Request, body: dict[str, Any]) -> None:
        request.start(200, [(b"content-type", b"text/event-stream"), *self._headers()])
        for token in ("a", " b"):
            await self._event(request, {"choices": [{"index": 0, "delta": {"content": token}, "finish_reason": None}]})
        await self._event(request, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if self.usage is not None and body.get("stream_options"):
            await self._event(request, {"choices": [], "usage": self.usage})
        await request.write(self.closing + b"data: [DONE]\n\n")
        request.end()

    async def _event(self, request: Request, value: dict[str, Any]) -> None:
        await request.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _respond(self, request: Request, status: int, value: Any) -> None:
        request.respond(status, [(b"content-type", b"application/json"), *self._headers()], json.dumps(value).encode())

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in self.headers.items()]


def refuses_field(*names: str, status: int = 400) -> Callable[[dict[str, Any]], Answer | None]:
    """Refuse bodies that have one of these fields, as strict servers do."""

    def refuses(body: dict[str, Any]) -> Answer | None:
        found = [name for name in names if name in body]
        return (
            (status, {"error": {"message": f"Unrecognized request argument supplied: {found[0]}"}}) if found else None
        )

    return refuses


@contextlib.asynccontextmanager
async def plain_target(**fields: Any) -> AsyncIterator[PlainTarget]:
    """One that listens."""
    target = PlainTarget(**fields)
    server = HttpServer(target.handle)
    await server.start()
    target.port = server.port
    try:
        yield target
    finally:
        await server.drain(1.0)
