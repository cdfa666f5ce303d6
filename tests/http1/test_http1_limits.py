"""Every limit, and what a client is told when it meets one."""

from __future__ import annotations

import asyncio
import json

import pytest
from http1_client import Answer, Client, Running, Serve, eventually

from amaru.http1 import Request, ServerSettings

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


async def refused(running: Running, data: bytes, status: int, code: str) -> Answer:
    """The server refuses ``data`` on a new connection, closes it, and lives on."""
    async with running.client() as client:
        answer = await client.ask(data)
        assert_refusal(answer, status, code)
        assert await client.closed()
    await running.lives()
    return answer


def assert_refusal(answer: Answer, status: int, code: str) -> None:
    assert answer.status == status, answer.body
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/json"


def request_with(**headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"GET /a HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()


async def test_defaults_are_sound() -> None:
    settings = ServerSettings()
    assert settings.max_body_bytes == 32 * 1024 * 1024
    assert settings.max_buffered_bytes == 512 * 1024 * 1024
    assert settings.sweep_interval_s == 1.0
    assert ServerSettings(header_timeout_s=0.1).sweep_interval_s == pytest.approx(0.025)


async def test_url_too_long(serve: Serve) -> None:
    running = await serve(max_url_bytes=100)
    async with running.client() as client:
        assert (await client.ask(b"GET /" + b"a" * 99 + b" HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200
    await refused(running, b"GET /" + b"a" * 100 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "url_too_long")
    await refused(running, b"GET /" + b"a" * 200, 414, "url_too_long")  # also while it arrives


async def test_headers_too_large(serve: Serve) -> None:
    running = await serve(max_header_bytes=1000)
    async with running.client() as client:
        assert (await client.ask(request_with(a="b" * 900))).status == 200
    await refused(running, request_with(a="b" * 1000), 431, "headers_too_large")
    await refused(running, request_with(a="b" * 1000)[:-4], 431, "headers_too_large")  # no end in sight
    await refused(running, b"GET /a HTTP/1.1\r\nHost: x\r\n" + b"a" * 1500, 431, "headers_too_large")
    await refused(
        running,
        b"GET /a HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 90 + b"c:" + b"d" * 800 + b"\r\n\r\n",
        431,
        "headers_too_large",
    )


async def test_too_many_headers(serve: Serve) -> None:
    running = await serve(max_headers=20)
    async with running.client() as client:
        assert (await client.ask(request_with(**{f"h{n}": "v" for n in range(19)}))).status == 200
        assert (await client.ask(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 19 + b"\r\n")).status == 200
    await refused(running, request_with(**{f"h{n}": "v" for n in range(20)}), 431, "too_many_headers")
    await refused(running, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 20 + b"\r\n", 431, "too_many_headers")
    mixed = request_with(**{f"h{n}": "v" for n in range(10)})[:-2] + b"h1: w\r\n" * 10 + b"\r\n"
    await refused(running, mixed, 431, "too_many_headers")


async def test_body_too_large(serve: Serve) -> None:
    running = await serve(max_body_bytes=1000)
    post = b"POST /a HTTP/1.1\r\nHost: x\r\n"
    async with running.client() as client:
        assert (await client.ask(post + b"Content-Length: 1000\r\n\r\n" + b"z" * 1000)).body == b"POST /a  1000"
    # From Content-Length alone, before any byte of the body; also in place of 100 Continue.
    await refused(running, post + b"Content-Length: 1001\r\n\r\n", 413, "body_too_large")
    await refused(running, post + b"Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n", 413, "body_too_large")
    # While chunks arrive.
    chunk = b"64\r\n" + b"z" * 100 + b"\r\n"
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
    async with running.client() as client:
        assert (await client.ask(chunked + chunk * 10 + b"0\r\n\r\n")).body == b"POST /a  1000"
    await refused(running, chunked + chunk * 11, 413, "body_too_large")


async def test_a_refused_upload_still_sees_the_answer(serve: Serve) -> None:
    """The client is in the midst of sending when the 413 comes; closing at once would reset it instead."""
    running = await serve(max_body_bytes=1000)
    async with running.client() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n")
        for _ in range(100):
            client.send(b"z" * 100_000)
        assert_refusal(await client.answer(), 413, "body_too_large")


async def test_lingering_ends(serve: Serve) -> None:
    running = await serve(max_body_bytes=1000, linger_s=0.05)
    async with running.client() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n")
        assert (await client.answer()).status == 413
        # The client never closes; the server does.
        await eventually(lambda: running.server.connection_count == 0)


@pytest.mark.parametrize(
    "part",
    [
        b"1;" + b"e" * 4000,  # one endless extension
        b"1;eeeeeeeeeeeeeeeeeeeeeeee\r\nz\r\n" * 150,  # many small ones
        b"1\r\nz\r\n0\r\n" + b"".join(b"t%d: u\r\n" % n for n in range(500)),  # trailers
        b"1\r\nz\r\n0\r\nt: " + b"u" * 4000,
    ],
)
async def test_chunked_overhead_is_bounded(serve: Serve, part: bytes) -> None:
    running = await serve(max_header_bytes=1000)
    post = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    await refused(running, post + part, 400, "chunk_overhead")
    async with running.client() as client:  # the smallest honest chunks are served
        assert (await client.ask(post + b"1\r\nz\r\n" * 5000 + b"0\r\n\r\n")).body == b"POST /a  5000"


async def test_a_head_that_does_not_arrive(serve: Serve) -> None:
    running = await serve(header_timeout_s=0.1)
    await refused(running, GET[:-2], 408, "request_timeout")
    await refused(running, b"GET /a", 408, "request_timeout")


async def test_a_head_that_drips_gets_no_extension(serve: Serve) -> None:
    running = await serve(header_timeout_s=0.1)
    async with running.client() as client:
        client.send(GET[:-2])

        async def drip() -> None:
            while True:
                client.send(b"a: b\r\n")
                await asyncio.sleep(0.01)  # the drip itself, not a wait

        dripping = asyncio.create_task(drip())
        assert_refusal(await client.answer(), 408, "request_timeout")
        dripping.cancel()


async def test_a_client_that_says_nothing_is_closed(serve: Serve) -> None:
    running = await serve(header_timeout_s=0.05)
    async with running.client() as client:
        assert await client.closed()
    assert not running.server.refused


async def test_a_body_that_does_not_arrive(serve: Serve) -> None:
    running = await serve(body_timeout_s=0.1)
    post = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
    await refused(running, post + b"abc", 408, "request_timeout")
    await refused(running, post, 408, "request_timeout")
    # Behind an answered request, too.
    async with running.client() as client:
        client.send(GET + post + b"abc")
        assert (await client.answer()).status == 200
        assert_refusal(await client.answer(), 408, "request_timeout")


async def test_a_body_that_makes_progress_has_time(serve: Serve) -> None:
    """The clock is handed in: each piece comes just before its deadline."""
    now = [100.0]
    running = await serve(body_timeout_s=60.0, min_body_bytes_per_s=1, header_timeout_s=0.02, linger_s=0.02)
    running.server.clock = lambda: now[0]
    async with running.client() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 400\r\n\r\n")
        await eventually(lambda: running.server.buffered_bytes > 0)
        for _ in range(3):
            held = running.server.buffered_bytes
            client.send(b"z" * 100)
            await eventually(lambda held=held: running.server.buffered_bytes > held)  # type: ignore[misc] # mypy: lambda default
            now[0] += 59.0
            await _sweeps(running)
        assert (await client.ask(b"z" * 100)).body == b"POST /a  400"


async def test_a_body_that_drips_too_slowly_is_cut(serve: Serve) -> None:
    now = [100.0]
    running = await serve(body_timeout_s=60.0, min_body_bytes_per_s=500, header_timeout_s=0.02, linger_s=0.02)
    running.server.clock = lambda: now[0]
    async with running.client() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 400\r\n\r\n")
        await eventually(lambda: running.server.buffered_bytes > 0)
        for _ in range(3):
            held = running.server.buffered_bytes
            if running.server.refused:
                break
            client.send(b"z")
            await eventually(lambda held=held: running.server.buffered_bytes != held)  # type: ignore[misc] # mypy: lambda default
            now[0] += 40.0
            await _sweeps(running)
        assert_refusal(await client.answer(), 408, "request_timeout")


async def _sweeps(running: Running) -> None:
    """Let the server look at its connections once."""
    seen = asyncio.Event()
    clock = running.server.clock

    def spy() -> float:
        seen.set()
        return clock()

    running.server.clock = spy
    await asyncio.wait_for(seen.wait(), 60)
    running.server.clock = clock
    await asyncio.sleep(0)


async def test_keep_alive_ends(serve: Serve) -> None:
    running = await serve(keep_alive_s=0.05)
    async with running.client() as client:
        assert (await client.ask(GET)).status == 200
        assert await client.closed()
    assert not running.server.refused


async def test_a_long_answer_meets_no_deadline_of_arrival(serve: Serve) -> None:
    now = [100.0]
    gate = asyncio.Event()

    async def handler(request: Request) -> None:
        await gate.wait()
        request.respond(200, [], b"patience")

    running = await serve(handler, header_timeout_s=0.02, body_timeout_s=0.02, keep_alive_s=0.02)
    running.server.clock = lambda: now[0]
    async with running.client() as client:
        client.send(GET)
        await eventually(lambda: running.server.active_count == 1)
        now[0] += 1000.0
        await _sweeps(running)
        gate.set()
        assert (await client.answer()).body == b"patience"


async def test_too_many_connections(serve: Serve) -> None:
    running = await serve(max_connections=2, retry_after_s=7)
    async with running.client() as one, running.client() as two:
        assert (await one.ask(GET)).status == 200
        assert (await two.ask(GET)).status == 200
        async with running.client() as three:
            answer = await three.ask(GET)
            assert_refusal(answer, 503, "too_many_connections")
            assert answer.headers["retry-after"] == "7"
            assert await three.closed()
        assert (await one.ask(GET)).status == 200
    await eventually(lambda: running.server.connection_count == 0)
    await running.lives()


async def test_a_flood_of_connections_is_cut(serve: Serve) -> None:
    running = await serve(max_connections=1)
    clients: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    while len(clients) < 60:
        clients.append(await asyncio.open_connection("127.0.0.1", running.server.port))
    await eventually(lambda: 0 < running.server.connection_count <= 17)
    for _, writer in clients:
        writer.close()
    await eventually(lambda: running.server.connection_count == 0)
    await running.lives()


async def test_buffered_bytes_are_bounded_over_all_connections(serve: Serve) -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> None:
        await gate.wait()
        request.respond(200, [], b"")

    running = await serve(handler, max_buffered_bytes=10_000)
    post = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    async with running.client() as one:
        one.send(post % 6000 + b"z" * 6000)
        await eventually(lambda: running.server.active_count == 1)
        # Told by Content-Length, by what has arrived, and by many that trickle in.
        async with running.client() as two:
            answer = await two.ask(post % 6000)
            assert_refusal(answer, 503, "server_busy")
            assert answer.headers["retry-after"] == "1"
        async with running.client() as two:
            assert_refusal(await two.ask(post % 6000 + b"z" * 6000), 503, "server_busy")
        async with running.client() as two:
            two.send(b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            two.send(b"fa0\r\n" + b"z" * 3999)
            assert_refusal(await two.answer(), 503, "server_busy")
        gate.set()
        assert (await one.answer()).status == 200
    await eventually(lambda: running.server.buffered_bytes == 0)
    await running.lives()


async def test_buffered_bytes_are_given_back(serve: Serve) -> None:
    running = await serve()

    async def upload(client: Client) -> None:
        body = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n" + b"z" * 50_000
        client.send(body * 3 + body[:20_000])
        for _ in range(3):
            assert (await client.answer()).status == 200
        assert (await client.ask(body[20_000:])).status == 200

    async with running.client() as client:
        await upload(client)
        await eventually(lambda: running.server.buffered_bytes == 0)
