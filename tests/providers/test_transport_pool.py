"""The pool: which connection is used, who waits, and that 500 calls of every outcome leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import random

import psutil
import pytest
from transport_peer import CHUNKED, OK, Wire, answer

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.providers.h1 import H1Transport
from amaru.providers.transport import HttpResponse, Transport


async def ask(transport: Transport, target: bytes = b"/") -> HttpResponse:
    at = asyncio.get_running_loop().time() + 5
    response = await transport.send("POST", target, [], b"{}", head_deadline=at, head_kind=FailureKind.NO_ANSWER)
    response.set_deadline(at, FailureKind.STREAM_STALLED, "stalled")
    return response


async def test_the_connection_used_last_is_used_first(peer, connect):
    ports: list[int] = []

    async def script(wire: Wire) -> None:
        while True:
            await wire.request()
            ports.append(wire.writer.get_extra_info("peername")[1])
            if len(ports) == 3:
                together.set()
            await together.wait()
            await wire.send(OK)

    together = asyncio.Event()
    transport = connect(await peer(script))
    responses = await asyncio.gather(*[ask(transport) for _ in range(3)])
    last = None
    for response in responses:
        await response.read(10)
    assert isinstance(transport, H1Transport)
    assert (transport.connections, transport.idle_connections) == (3, 3)
    for _ in range(4):
        await (await ask(transport)).read(10)
        assert last in (None, ports[-1])
        last = ports[-1]


async def test_a_connection_that_idles_too_long_is_not_used(peer, connect):
    server = await peer(answer(OK, then="keep"))
    transport = connect(server, idle_timeout_s=0.0)
    for _ in range(3):
        assert await (await ask(transport)).read(10) == b"ok"
    assert server.accepted == 3


async def test_a_broken_connection_gives_its_place_to_the_queue(peer, connect):
    async def script(wire: Wire) -> None:
        await wire.request()
        if wire.number % 2:
            wire.reset()
        else:
            await wire.send(OK)

    async def call() -> bytes:
        return await (await ask(transport)).read(10)

    transport = connect(await peer(script), max_connections=1)
    results = await asyncio.gather(*[call() for _ in range(6)], return_exceptions=True)
    assert [isinstance(result, Failure) for result in results] == [True, False] * 3
    assert isinstance(transport, H1Transport)
    assert transport.connections <= 1


async def test_a_caller_cancelled_as_a_connection_is_handed_over_passes_its_place_on(peer, connect):
    transport = connect(await peer(answer(OK, then="keep")), max_connections=1)
    first = await ask(transport)
    waiting = [asyncio.ensure_future(ask(transport)) for _ in range(2)]
    await asyncio.sleep(0)
    assert await first.read(10) == b"ok"  # hands its connection to the first waiter
    waiting[0].cancel()
    assert await (await waiting[1]).read(10) == b"ok"
    assert waiting[0].cancelled()
    assert (transport.connections, transport.idle_connections) == (1, 1)


async def test_a_connection_that_dies_on_its_way_to_a_waiter_is_dialled_anew(peer, connect):
    server = await peer(answer(OK, then="keep"))
    transport = connect(server, max_connections=1, idle_timeout_s=0.0)  # too old as soon as it is handed over
    first = await ask(transport)
    waiting = asyncio.ensure_future(ask(transport))
    await asyncio.sleep(0)
    assert await first.read(10) == b"ok"
    assert await (await waiting).read(10) == b"ok"
    assert server.accepted == 2
    assert transport.connections <= 1


async def test_closing_the_transport_wakes_its_queue(peer, connect):
    transport = connect(await peer(answer(CHUNKED, then="hold")), max_connections=1)
    await ask(transport)
    waiting = asyncio.ensure_future(ask(transport))
    await asyncio.sleep(0)
    await transport.aclose()
    with pytest.raises(Failure, match="closed by amaru"):
        await waiting


async def test_a_transport_closed_while_a_call_connects_keeps_no_connection(peer, connect):
    server = await peer(answer(OK))
    transport = connect(server)
    call = asyncio.ensure_future(ask(transport))
    await asyncio.sleep(0)
    await transport.aclose()
    with pytest.raises(Failure, match="closed by amaru"):
        await call
    assert transport.connections == 0
    assert not server.requests


async def test_a_call_cancelled_while_connecting_leaves_nothing(peer, connect):
    async def script(wire: Wire) -> None:
        wire.peer.arrived.set()
        await wire.gone()
        wire.peer.hung_up.set()

    server = await peer(script)
    transport = connect(server, scheme="https", max_connections=1)
    for _ in range(2):
        call = asyncio.ensure_future(ask(transport))
        await server.arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(server.hung_up.wait(), 60)
        assert transport.connections == 0
        server.arrived.clear()
        server.hung_up.clear()


@pytest.mark.parametrize("kind", ["h1", "reqwest"])
async def test_500_calls_that_end_in_every_way_leave_nothing_behind(kind, peer, connect):
    async def script(wire: Wire) -> None:
        while True:
            head = await wire.request()
            if b"/cut" in head:
                await wire.send(CHUNKED + b"4\r\nfour\r\n")
                wire.close()
                return
            if b"/reset" in head:
                wire.reset()
                return
            if b"/garbage" in head:
                await wire.send(b"?!\r\n\r\n")
                return
            if b"/hold" in head:
                await wire.send(CHUNKED + b"4\r\nfour\r\n")
                await wire.gone()
                return
            await wire.send(OK)

    async def call(target: bytes) -> None:
        try:
            response = await ask(transport, target)
        except Failure:
            return
        if target == b"/hold":
            await response.chunk()
            reading = asyncio.ensure_future(response.read(100))
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
        elif target == b"/close":
            response.close()
        else:
            try:
                await response.read(100)
            except Failure:
                assert target == b"/cut"

    targets = [b"/cut", b"/reset", b"/garbage", b"/hold", b"/close", b"/ok", b"/ok", b"/ok"]
    order = random.Random(7).choices(targets, k=500)
    server = await peer(script)
    transport = connect(server, kind, max_connections=20)
    await call(b"/ok")
    await transport.aclose()
    transport = connect(server, kind, max_connections=20)
    gc.collect()
    process = psutil.Process()
    before = process.num_fds()
    tasks = len(asyncio.all_tasks())
    for start in range(0, len(order), 25):
        await asyncio.gather(*[call(target) for target in order[start : start + 25]])
    await transport.aclose()
    await server.stop()
    if kind == "h1":
        assert isinstance(transport, H1Transport)
        assert transport.connections == 0
    gc.collect()
    for _ in range(6000):  # the library closes its sockets on a thread of its own
        if process.num_fds() <= before and len(asyncio.all_tasks()) <= tasks:
            break
        await asyncio.sleep(0.01)
    assert process.num_fds() <= before
    assert len(asyncio.all_tasks()) <= tasks
