"""Starlette on this server, and the corners of ASGI that Starlette does not show."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from http1_client import Running, Serve, eventually
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from amaru.http1 import Lifespan, asgi_handler


def get(path: bytes, method: bytes = b"GET", extra: bytes = b"") -> bytes:
    return method + b" " + path + b" HTTP/1.1\r\nHost: h:1\r\n" + extra + b"\r\n"


async def test_starlette(serve: Serve, tmp_path: Path) -> None:
    background = asyncio.Event()
    (tmp_path / "f.txt").write_bytes(b"file" * 50_000)

    async def describe(request: Request) -> JSONResponse:
        body = await request.body()
        return JSONResponse(
            {
                "x": request.path_params["x"],
                "raw_path": request.scope["raw_path"].decode(),
                "query": dict(request.query_params),
                "client": request.client.host if request.client else None,
                "header": request.headers.get("x-a"),
                "body": body.decode(),
                "state": request.state.name,
            },
            status_code=202,
        )

    async def stream(request: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for piece in (b"a", b"", b"b"):
                yield piece

        return StreamingResponse(pieces(), background=BackgroundTask(background.set))

    def file(request: Request) -> FileResponse:
        return FileResponse(tmp_path / "f.txt")

    async def fail(request: Request) -> Response:
        raise KeyError("secret")

    async def bye(request: Request) -> Response:
        return Response(status_code=204, headers={"connection": "close"})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        events.append("up")
        yield {"name": "amaru"}
        events.append("down")

    events: list[str] = []
    app = Starlette(
        routes=[
            Route("/describe/{x}", describe, methods=["POST"]),
            Route("/stream", stream),
            Route("/file", file),
            Route("/fail", fail),
            Route("/bye", bye),
        ],
        lifespan=lifespan,
    )
    async with Lifespan(app) as life:
        running = await serve(asgi_handler(app, state=life.state))
        async with running.client() as client:
            answer = await client.ask(
                get(b"/describe/%C3%A9?q=1", b"POST", b"X-A: b\r\nContent-Length: 3\r\n") + b"abc"
            )
            assert answer.status == 202
            assert answer.headers["content-length"] == str(len(answer.body))
            assert json.loads(answer.body) == {
                "x": "é",
                "raw_path": "/describe/%C3%A9",
                "query": {"q": "1"},
                "client": "127.0.0.1",
                "header": "b",
                "body": "abc",
                "state": "amaru",
            }
            answer = await client.ask(get(b"/stream"))
            assert (answer.body, answer.headers["transfer-encoding"]) == (b"ab", "chunked")
            await asyncio.wait_for(background.wait(), 60)
            answer = await client.ask(get(b"/file"))
            assert (answer.headers["content-length"], len(answer.body)) == ("200000", 200_000)
            client.send(get(b"/file", b"HEAD"))
            assert (await client.answer(bodiless=True)).headers["content-length"] == "200000"
            assert (await client.ask(get(b"/nowhere"))).status == 404
            assert (await client.ask(get(b"/describe/x"))).status == 405
            failed = await client.ask(get(b"/fail"))
            assert failed.status == 500
            assert b"secret" not in failed.body
            assert (await client.ask(get(b"/bye"))).headers["connection"] == "close"
            assert await client.closed()
        assert events == ["up"]
    assert events == ["up", "down"]


async def run(serve: Serve, app: Any) -> Running:
    return await serve(asgi_handler(app, root_path="/mount"))


async def test_a_client_that_leaves_ends_the_application_and_its_tasks(serve: Serve) -> None:
    begun, disconnected, cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"

        async def listen() -> None:
            assert await receive() == {"type": "http.disconnect"}
            disconnected.set()

        listening = asyncio.create_task(listen())
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await listening
            await send({"type": "http.response.body", "body": b"late"})  # goes nowhere
            cancelled.set()
            raise

    running = await run(serve, app)
    async with running.client() as client:
        client.send(get(b"/"))
        await asyncio.wait_for(begun.wait(), 60)
    await asyncio.wait_for(cancelled.wait(), 60)
    assert disconnected.is_set()
    await eventually(lambda: running.server.active_count == 0)


async def test_a_slow_reader_holds_the_application_back(serve: Serve) -> None:
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"z" * 65536, "more_body": True})
            sent += 1
        await send({"type": "http.response.body"})

    running = await run(serve, app)
    async with running.client(limit=1024) as client:
        client.send(get(b"/"))
        await client.head()
        (connection,) = running.server._connections
        await eventually(lambda: connection.congested)
        assert sent < 1000
    await eventually(lambda: running.server.active_count == 0)


@pytest.mark.parametrize(
    "events",
    [
        [{"type": "http.response.body", "body": b""}],
        [{"type": "http.response.start", "status": 200}, {"type": "http.response.start", "status": 200}],
        [{"type": "websocket.accept"}],
        [{"type": "http.response.start", "status": 200}],
        [
            {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nc: d")]},
            {"type": "http.response.body"},
        ],
    ],
)
async def test_an_application_that_breaks_the_rules_becomes_a_500(serve: Serve, events: list[Any]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for event in events:
            await send(event)

    running = await run(serve, app)
    async with running.client() as client:
        assert (await client.ask(get(b"/"))).status == 500
    await running.lives()


async def test_a_length_that_lies_is_seen_as_a_cut(serve: Serve) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"Content-Length", b"9")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"short"})

    running = await run(serve, app)
    async with running.client() as client:
        client.send(get(b"/"))
        assert (await client.head())[1]["content-length"] == "9"
        assert await client.rest() == b"short"


async def test_an_application_without_lifespan_is_served() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"

    async with Lifespan(app) as life:
        assert life.state == {}


async def test_a_failing_startup_is_told() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no disk"})

    with pytest.raises(RuntimeError, match="startup failed: no disk"):
        async with Lifespan(app):
            pass
