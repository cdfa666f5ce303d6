"""Answers: whole and streamed, broken off, to clients that read slowly or leave."""

from __future__ import annotations

import asyncio
import json
import logging
import socket

import pytest
from http1_client import Running, Serve, eventually

from amaru.http1 import Request

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


async def stream(request: Request) -> None:
    request.start(200, [(b"content-type", b"text/event-stream")])
    for piece in (b"one", b"", b"two"):
        await request.write(piece)
    request.end(b"three")


async def test_a_stream_is_chunked(serve: Serve) -> None:
    running = await serve(stream)
    async with running.client() as client:
        client.send(GET)
        status, headers = await client.head()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert "content-length" not in headers
        assert [await client.chunk() for _ in range(4)] == [b"one", b"two", b"three", b""]
        assert (await client.ask(GET)).body == b"onetwothree"


async def test_a_stream_to_http10_ends_with_the_connection(serve: Serve) -> None:
    running = await serve(stream)
    async with running.client() as client:
        answer = await client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert answer.body == b"onetwothree"
        assert answer.headers["connection"] == "close"
        assert "transfer-encoding" not in answer.headers


@pytest.mark.parametrize("length", [None, 11])
async def test_a_stream_to_head_has_no_body(serve: Serve, length: int | None) -> None:
    async def handler(request: Request) -> None:
        request.start(200, [], content_length=length)
        await request.write(b"one")
        request.end(b"twothree")

    running = await serve(handler)
    async with running.client() as client:
        client.send(GET.replace(b"GET", b"HEAD") + GET)
        head = await client.answer(bodiless=True)
        assert head.headers.get("content-length") == (None if length is None else "11")
        assert (await client.answer()).body == b"onetwothree"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("status", [204, 304])
async def test_bodiless_statuses(serve: Serve, status: int, streamed: bool) -> None:
    async def handler(request: Request) -> None:
        if streamed:
            request.start(status, [])
            request.end(b"ignored")
        else:
            request.respond(status, [], b"ignored")

    running = await serve(handler)
    async with running.client() as client:
        for _ in range(2):
            answer = await client.ask(GET)
            assert answer.status == status
            assert not {"content-length", "transfer-encoding"} & set(answer.headers)


async def test_a_declared_length_is_kept(serve: Serve) -> None:
    async def handler(request: Request) -> None:
        request.start(200, [], content_length=6)
        await request.write(b"abc")
        if request.path == "/long":
            with pytest.raises(ValueError, match="3 were left"):
                await request.write(b"defg")
        request.end(b"" if request.path == "/short" else b"def")

    running = await serve(handler)
    async with running.client() as client:
        for path in (b"/", b"/long"):
            answer = await client.ask(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (answer.body, answer.headers["content-length"]) == (b"abcdef", "6")
        client.send(b"GET /short HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.head()
        assert await client.rest() == b"abc"


async def test_a_large_answer_arrives_whole(serve: Serve) -> None:
    body = bytes(range(256)) * 40_000

    async def handler(request: Request) -> None:
        request.respond(200, [], body)

    running = await serve(handler)
    async with running.client() as client:
        for _ in range(2):
            assert (await client.ask(GET)).body == body
        assert (await client.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))).body == body


@pytest.mark.parametrize("evil", [b"a\r\nSet-Cookie: x", b"a\nb", b"a\rb", b"a\0b"])
@pytest.mark.parametrize("place", ["name", "value"])
async def test_header_injection_is_impossible(serve: Serve, evil: bytes, place: str) -> None:
    async def handler(request: Request) -> None:
        field = (evil, b"v") if place == "name" else (b"x-model", evil)
        for answer in (request.respond, request.start):
            with pytest.raises(ValueError, match="CR, LF or NUL") as caught:
                answer(200, [(b"a", b"b"), field], *([b""] if answer == request.respond else []))
            if place == "value":
                assert "Set-Cookie" not in str(caught.value)
        assert not request.started
        request.respond(400, [], b"refused")

    running = await serve(handler)
    async with running.client() as client:
        assert (await client.ask(GET)).body == b"refused"


async def test_an_answer_is_given_once(serve: Serve) -> None:
    async def handler(request: Request) -> None:
        with pytest.raises(RuntimeError):
            await request.write(b"x")
        with pytest.raises(RuntimeError):
            request.end()
        with pytest.raises(ValueError, match="200 to 599"):
            request.respond(101, [], b"")
        request.respond(529, [], b"once")
        for again in (lambda: request.respond(200, [], b""), lambda: request.start(200, []), request.end):
            with pytest.raises(RuntimeError):
                again()
        request.abort()  # nothing left to cut
        await request.wait_ended()

    running = await serve(handler)
    async with running.client() as client:
        for _ in range(2):
            assert (await client.ask(GET)).status == 529


async def test_a_failing_handler_becomes_a_500_and_the_connection_lives(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Request) -> None:
        if request.path == "/raise":
            raise KeyError("secret detail")
        if request.path == "/cancel":
            raise asyncio.CancelledError
        if request.path == "/late":
            request.start(200, [])
            await request.write(b"x")
            raise KeyError("secret detail")

    running = await serve(handler)
    with caplog.at_level(logging.CRITICAL):  # the log is asserted below; keep the test's output clean
        async with running.client() as client:
            for path in (b"/raise", b"/forget", b"/cancel"):
                answer = await client.ask(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                assert answer.status == 500
                assert b"secret" not in answer.body
                error = json.loads(answer.body)["error"]
                assert error == {
                    "message": "The server failed while serving this request; its log says why.",
                    "type": "server_error",
                    "param": None,
                    "code": "internal_error",
                }
            client.send(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.head()
            assert await client.rest() == b"1\r\nx\r\n"


async def test_a_failure_is_logged_with_its_traceback(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> None:
        raise KeyError("why")

    running = await serve(handler)
    async with running.client() as client:
        await client.ask(GET)
    (record,) = [record for record in caplog.records if record.name.startswith("amaru")]
    assert record.getMessage() == "the handler of GET '/a' failed"
    assert record.exc_info is not None


@pytest.mark.parametrize("started", [False, True])
async def test_abort_shows_a_cut(serve: Serve, started: bool) -> None:
    async def handler(request: Request) -> None:
        if started:
            request.start(200, [])
            await request.write(b"x")
        request.abort()

    running = await serve(handler)
    async with running.client() as client:
        client.send(GET)
        if started:
            await client.head()
            assert await client.rest() == b"1\r\nx\r\n"
        else:
            assert await client.closed()


class Waiting:
    """A handler that says when it has begun, and when it was cancelled."""

    def __init__(self, *, streaming: bool) -> None:
        self.streaming = streaming
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.request: Request | None = None

    async def __call__(self, request: Request) -> None:
        self.request = request
        if self.streaming:
            request.start(200, [])
            await request.write(b"x")
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # What a handler does to clean up needs no question whether the client is there.
            if self.streaming:
                await request.write(b"late")
                request.end()
            else:
                request.respond(200, [], b"late")
            request.abort()
            await request.wait_ended()
            self.cancelled.set()
            raise


@pytest.mark.parametrize("leave", ["close", "reset", "half-close"])
@pytest.mark.parametrize("streaming", [False, True])
async def test_a_client_that_leaves_cancels_its_handler(serve: Serve, leave: str, streaming: bool) -> None:
    waiting = Waiting(streaming=streaming)
    running = await serve(waiting)
    async with running.client() as client:
        client.send(GET)
        await asyncio.wait_for(waiting.begun.wait(), 60)
        if leave == "close":
            client.close()
        elif leave == "reset":
            client.writer.transport.abort()
        else:
            client.writer.write_eof()
        await asyncio.wait_for(waiting.cancelled.wait(), 60)
    await eventually(lambda: running.server.active_count == 0)
    assert waiting.request is not None
    assert waiting.request.gone


async def test_a_client_that_leaves_at_once_leaves_no_task(serve: Serve) -> None:
    running = await serve(Waiting(streaming=False))
    for _ in range(20):
        async with running.client() as client:
            client.send(GET)
            client.close()
    await eventually(lambda: running.server.connection_count == 0 and running.server.active_count == 0)


async def test_work_after_the_answer_is_not_cancelled(serve: Serve) -> None:
    gate, done = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> None:
        request.respond(200, [], b"")
        await gate.wait()
        done.set()

    running = await serve(handler)
    async with running.client() as client:
        await client.ask(GET)
    await eventually(lambda: running.server.connection_count == 0)
    gate.set()
    await asyncio.wait_for(done.wait(), 60)


def _small_buffers() -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return sock


async def _slow_reader(running: Running) -> socket.socket:
    sock = _small_buffers()
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", running.server.port))
    await loop.sock_sendall(sock, GET)
    return sock


async def test_a_slow_reader_holds_the_writer_back(serve: Serve) -> None:
    piece, count = b"z" * 65536, 400
    written = 0
    peak = 0
    seen: list[Request] = []

    async def handler(request: Request) -> None:
        nonlocal written, peak
        seen.append(request)
        request.start(200, [])
        for _ in range(count):
            await request.write(piece)
            written += 1
            peak = max(peak, request.connection.transport.get_write_buffer_size())
        request.end()

    running = await serve(handler)
    sock = await _slow_reader(running)
    try:
        await eventually(lambda: bool(seen) and seen[0].connection.congested)
        assert written < count  # the kernel took a few megabytes; the rest waits in the handler
        loop = asyncio.get_running_loop()
        received = 0
        while received < count * len(piece):
            received += len(await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 60))
        await eventually(lambda: running.server.active_count == 0)
        assert written == count
        assert peak < 4 * len(piece)
    finally:
        sock.close()


async def test_a_client_that_reads_nothing_is_cut(serve: Serve) -> None:
    cancelled = asyncio.Event()

    async def handler(request: Request) -> None:
        request.start(200, [])
        try:
            while True:
                await request.write(b"z" * 65536)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    running = await serve(handler, write_timeout_s=0.2)
    sock = await _slow_reader(running)
    await asyncio.wait_for(cancelled.wait(), 60)
    await eventually(lambda: running.server.connection_count == 0)
    sock.close()


async def test_a_whole_answer_that_nobody_reads_is_cut(serve: Serve) -> None:
    async def handler(request: Request) -> None:
        request.respond(200, [], b"z" * 30_000_000)

    running = await serve(handler, write_timeout_s=0.2)
    sock = await _slow_reader(running)
    await eventually(lambda: running.server.connection_count == 1)
    await eventually(lambda: running.server.connection_count == 0)
    sock.close()


async def test_a_waiting_writer_beside_the_handler_is_woken_when_the_client_leaves(serve: Serve) -> None:
    done = asyncio.Event()
    aside: list[asyncio.Task[None]] = []

    async def handler(request: Request) -> None:
        request.start(200, [])

        async def pump() -> None:
            while not request.gone:
                await request.write(b"z" * 65536)
            done.set()

        aside.append(asyncio.create_task(pump()))
        await request.wait_ended()

    running = await serve(handler)
    sock = await _slow_reader(running)
    await eventually(lambda: any(task for task in aside) and running.server.active_count == 1)
    sock.close()
    await asyncio.wait_for(done.wait(), 60)
