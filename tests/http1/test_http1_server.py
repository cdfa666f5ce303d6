"""Listening and draining."""

from __future__ import annotations

import asyncio
import email.utils
import socket

import pytest
from http1_client import Serve, echo, eventually

from amaru.http1 import HttpServer, ListenError, Request, ServerSettings

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_it_listens_on_loopback_and_says_where(serve: Serve) -> None:
    server = (await serve()).server
    assert [listening.getsockname() for listening in server.sockets] == [("127.0.0.1", server.port)]
    assert server.port > 0


async def test_a_taken_port_is_named(serve: Serve) -> None:
    port = (await serve()).server.port
    with pytest.raises(ListenError, match=rf"127.0.0.1:{port}: the port is taken; stop the program"):
        await HttpServer(echo).start("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "why"),
    [
        ("192.0.2.1", 0, "not of this machine"),
        ("no-such-host.invalid", 0, "host name is unknown"),
        ("127.0.0.1", 70_000, "ports go from"),
    ],
)
async def test_addresses_that_cannot_be_listened_on(host: str, port: int, why: str) -> None:
    with pytest.raises(ListenError, match=why):
        await HttpServer(echo).start(host, port)


async def test_there_is_no_port_before_the_start() -> None:
    server = HttpServer(echo)
    assert server.sockets == []
    with pytest.raises(ListenError, match="start"):
        _ = server.port
    assert await server.drain(0) == 0


async def test_a_socket_handed_in(serve: Serve) -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = HttpServer(echo)
    await server.start(sock=sock)
    assert server.port == sock.getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(GET)
    assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    assert await server.drain(5) == 0


async def test_the_date_follows_the_wall_clock(serve: Serve) -> None:
    now = [1_700_000_000.0]
    server = HttpServer(echo, ServerSettings(linger_s=0.01), wall_clock=lambda: now[0])
    await server.start()
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        (date,) = [line[6:] for line in head.split("\r\n") if line.startswith("date: ")]
        assert email.utils.parsedate_to_datetime(date).timestamp() == now[0]
        writer.close()
        await eventually(lambda: server.connection_count == 0)
        now[0] += 100
        await eventually(lambda: server._sweeper is None)
    await server.drain(0)


class Gated:
    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __call__(self, request: Request) -> None:
        if request.path == "/stream":
            request.start(200, [])
            await request.write(b"x")
        await self.gate.wait()
        if request.path == "/stream":
            request.end(b"y")
        else:
            request.respond(200, [], b"done")


async def test_drain_lets_requests_finish(serve: Serve) -> None:
    handler = Gated()
    running = await serve(handler)
    server, port = running.server, running.server.port
    async with running.client() as idle, running.client() as busy, running.client() as streaming:
        busy.send(GET)
        streaming.send(GET.replace(b"/a", b"/stream"))
        await eventually(lambda: server.active_count == 2)
        draining = asyncio.create_task(server.drain(10))
        assert await idle.closed()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not draining.done()
        handler.gate.set()
        answer = await busy.answer()
        assert (answer.body, answer.headers["connection"]) == (b"done", "close")
        assert (await streaming.answer()).body == b"xy"
        assert await busy.closed()
        assert await draining == 0


async def test_drain_lets_a_request_arrive(serve: Serve) -> None:
    running = await serve()
    async with running.client() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
        await eventually(lambda: running.server.buffered_bytes > 0)
        draining = asyncio.create_task(running.server.drain(10))
        await asyncio.sleep(0)
        answer = await client.ask(b"b")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await draining == 0


async def test_drain_cuts_what_takes_too_long(serve: Serve) -> None:
    handler = Gated()
    running = await serve(handler)
    async with running.client() as busy, running.client() as streaming:
        busy.send(GET)
        streaming.send(GET.replace(b"/a", b"/stream"))
        await eventually(lambda: running.server.active_count == 2)
        assert await running.server.drain(0.02) == 2
        assert running.server.active_count == 0
        assert await busy.closed()
        assert not (await streaming.rest()).endswith(b"0\r\n\r\n")


async def test_drain_waits_for_work_after_the_answer(serve: Serve) -> None:
    gate = asyncio.Event()
    recorded = False

    async def handler(request: Request) -> None:
        nonlocal recorded
        request.respond(200, [], b"")
        await gate.wait()
        recorded = True

    running = await serve(handler)
    async with running.client() as client:
        await client.ask(GET)
        draining = asyncio.create_task(running.server.drain(10))
        assert await client.closed()
        assert not draining.done()
        gate.set()
        assert await draining == 0
    assert recorded
