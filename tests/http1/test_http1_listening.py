"""Sockets that several servers accept from."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from http1_client import echo

from amaru.http1 import HttpServer, ListenError, listen
from amaru.http1.listening import Acceptor


@pytest.fixture
async def share() -> AsyncIterator[Callable[..., HttpServer]]:
    """Make servers that share listening sockets; they stop with the test."""
    servers: list[HttpServer] = []

    def make(sockets: list[socket.socket], may_take: Callable[[int], bool]) -> HttpServer:
        server = HttpServer(echo)
        server.share([socket.socket(fileno=os.dup(one.fileno())) for one in sockets], may_take=may_take)
        servers.append(server)
        return server

    yield make
    for server in servers:
        await server.drain(0)


async def connected(port: int) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    return writer


async def test_connections_go_to_who_has_fewest(share: Callable[..., HttpServer]) -> None:
    sockets = await listen("127.0.0.1", 0, backlog=16)
    port = sockets[0].getsockname()[1]
    servers: list[HttpServer] = []

    def fewest(count: int) -> bool:
        return count <= min(server.connection_count for server in servers)

    servers += [share(sockets, fewest), share(sockets, fewest)]
    writers = await asyncio.gather(*(connected(port) for _ in range(10)))
    counts = [server.connection_count for server in servers]
    assert sum(counts) == 10
    assert min(counts) >= 3
    for writer in writers:
        writer.close()
    for one in sockets:
        one.close()


async def test_what_is_left_to_another_who_does_not_take_it_is_served_all_the_same(
    share: Callable[..., HttpServer],
) -> None:
    sockets = await listen("127.0.0.1", 0, backlog=16)
    server = share(sockets, lambda _: False)
    writer = await connected(sockets[0].getsockname()[1])
    assert server.connection_count == 1
    writer.close()
    sockets[0].close()


async def test_who_drains_takes_no_more_and_the_other_goes_on(share: Callable[..., HttpServer]) -> None:
    sockets = await listen("127.0.0.1", 0, backlog=16)
    port = sockets[0].getsockname()[1]
    first, second = (share(sockets, lambda _: True) for _ in range(2))
    await first.drain(0)
    assert first.sockets == []
    writers = [await connected(port) for _ in range(3)]
    assert second.connection_count == 3
    for writer in writers:
        writer.close()
    sockets[0].close()


async def test_a_connection_that_was_just_accepted_does_not_come_up_after_a_drain(
    share: Callable[..., HttpServer],
) -> None:
    (listening,) = await listen("127.0.0.1", 0, backlog=16)
    server = share([listening], lambda _: True)
    caller = socket.create_connection(listening.getsockname())  # it waits in the backlog: the loop has had no turn
    acceptor = server._listener
    assert isinstance(acceptor, Acceptor)
    acceptor._accept(acceptor.sockets[0])
    await server.drain(0)
    came_up = server.connection_count
    for _ in range(10):
        await asyncio.sleep(0)
        came_up = max(came_up, server.connection_count)
    assert came_up == 0
    caller.close()
    listening.close()


@pytest.mark.parametrize(
    ("host", "why"), [("192.0.2.1", "not of this machine"), ("no-such-host.invalid", "host name is unknown")]
)
async def test_addresses_that_cannot_be_listened_on(host: str, why: str) -> None:
    with pytest.raises(ListenError, match=why):
        await listen(host, 0, backlog=16)


async def test_a_taken_port_is_named() -> None:
    (taken,) = await listen("127.0.0.1", 0, backlog=16)
    port = taken.getsockname()[1]
    with pytest.raises(ListenError, match=rf"127.0.0.1:{port}: the port is taken; stop the program"):
        await listen("127.0.0.1", port, backlog=16)
    taken.close()
