"""Every transport when connections went stale, callers go away, readers are slow, or the pool is full."""

from __future__ import annotations

import asyncio

import pytest
from transport_calls import LIMIT, ask, every, failure_of, transports
from transport_peer import CHUNKED, OK, Wire, answer

from amaru.domain import FailureKind
from amaru.errors import Failure

# Kept connections that went stale.


@every
async def test_a_connection_closed_while_idle_is_replaced(kind, peer, connect):
    closed = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        if wire.number == 1:
            wire.close()
            await wire.gone()
            closed.set()

    server = await peer(script)
    transport = connect(server, kind)
    assert await (await ask(transport)).read(LIMIT) == b"ok"
    await closed.wait()
    assert await (await ask(transport)).read(LIMIT) == b"ok"
    assert server.accepted == 2


@transports(reqwest="the library does not tell a kept connection from a fresh one, so it ends as RESET")
@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_request_that_meets_a_stale_connection_is_sent_once_more(kind, then, peer, connect):
    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()
        if wire.number == 1:
            wire.reset() if then == "reset" else wire.close()
        else:
            await wire.send(OK)

    server = await peer(script)
    transport = connect(server, kind)
    assert await (await ask(transport)).read(LIMIT) == b"ok"
    assert await (await ask(transport)).read(LIMIT) == b"ok"
    assert (server.accepted, len(server.requests)) == (2, 3)


@every
async def test_a_stale_connection_is_replaced_only_once(kind, peer, connect):
    async def script(wire: Wire) -> None:
        await wire.request()
        if wire.number == 1:
            await wire.send(OK)
            await wire.request()
        wire.close()

    server = await peer(script)
    transport = connect(server, kind)
    assert await (await ask(transport)).read(LIMIT) == b"ok"
    await failure_of(ask(transport), FailureKind.RESET)
    assert server.accepted <= 2


@every
async def test_a_kept_connection_that_answers_by_half_is_not_asked_again(kind, peer, connect):
    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()
        await wire.send(b"HTTP/1.1 2")
        wire.close()

    server = await peer(script)
    transport = connect(server, kind)
    assert await (await ask(transport)).read(LIMIT) == b"ok"
    await failure_of(ask(transport), FailureKind.RESET)
    assert server.accepted == 1


# Giving up.


@transports(reqwest="the library leaves its own call running when it is given up before the head")
async def test_cancelling_before_the_head_hangs_up(kind, peer, connect):
    server = await peer(answer(then="hold"))
    call = asyncio.ensure_future(ask(connect(server, kind)))
    await server.arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(server.hung_up.wait(), 60 if kind == "h1" else 1)


@every
@pytest.mark.parametrize("whole", [True, False])
async def test_cancelling_inside_the_body_hangs_up(kind, whole, peer, connect):
    server = await peer(answer(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", then="hold"))
    response = await ask(connect(server, kind))
    reading = asyncio.ensure_future(response.read(LIMIT) if whole else response.chunk())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await asyncio.wait_for(server.hung_up.wait(), 60)
    with pytest.raises(Failure):  # a cancelled body never looks like one that ended
        await response.chunk()


@every
async def test_closing_inside_the_body_hangs_up(kind, peer, connect):
    server = await peer(answer(CHUNKED + b"4\r\nfour\r\n", then="hold"))
    response = await ask(connect(server, kind))
    assert await response.chunk() == b"four"
    response.close()
    response.close()
    await asyncio.wait_for(server.hung_up.wait(), 60)
    with pytest.raises(Failure):
        await response.chunk()


@every
async def test_a_lingering_stream_that_does_not_end_is_hung_up(kind, peer, connect):
    server = await peer(answer(CHUNKED + b"4\r\nfour\r\n", then="hold"))
    response = await ask(connect(server, kind))
    assert await response.chunk() == b"four"
    response.close(linger_s=0.1)
    await asyncio.wait_for(server.hung_up.wait(), 60)


@every
async def test_a_lingering_stream_does_not_outlive_its_transport(kind, peer, connect):
    server = await peer(answer(CHUNKED + b"4\r\nfour\r\n", then="hold"))
    transport = connect(server, kind)
    response = await ask(transport)
    assert await response.chunk() == b"four"
    response.close(linger_s=60)
    await transport.aclose()
    await asyncio.wait_for(server.hung_up.wait(), 60)


@every
async def test_a_lingering_stream_that_goes_on_and_on_is_hung_up(kind, peer, connect):
    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(CHUNKED + b"4\r\nfour\r\n")
        try:
            while wire.sent_bytes < 50_000_000:
                await wire.send(b"2710\r\n" + bytes(10_000) + b"\r\n")
        except ConnectionError:
            wire.peer.hung_up.set()

    server = await peer(script)
    response = await ask(connect(server, kind))
    assert await response.chunk()
    response.close(linger_s=60)
    await asyncio.wait_for(server.hung_up.wait(), 60)


@every
async def test_a_slow_reader_slows_the_provider_down(kind, peer, connect):
    size = 64 << 20
    blocked = asyncio.Event()
    wires: list[Wire] = []

    async def script(wire: Wire) -> None:
        wires.append(wire)
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            sending = asyncio.ensure_future(wire.send(bytes(65536)))
            done, _ = await asyncio.wait([sending], timeout=None if blocked.is_set() else 0.3)
            if not done:
                blocked.set()
            await sending

    response = await ask(connect(await peer(script), kind))
    await asyncio.wait_for(blocked.wait(), 60)
    assert wires[0].sent_bytes < 16 << 20, "what the kernel and one high-water mark hold, and no more"
    assert response.bytes_received < 1 << 20
    total = 0
    while part := await response.chunk():
        total += len(part)
        assert len(part) < 1 << 20
    assert total == size


@every
async def test_an_exhausted_pool_fails_at_the_deadline_and_says_what_to_do(kind, peer, connect):
    server = await peer(answer(CHUNKED, then="hold"))
    transport = connect(server, kind, max_connections=2)
    busy = [await ask(transport) for _ in range(2)]
    failure = await failure_of(ask(transport, within_s=0.1), FailureKind.CONNECT)
    assert "connection pool exhausted" in failure.message
    assert "providers.test.max_connections" in failure.message
    waiting = asyncio.ensure_future(ask(transport))
    await asyncio.sleep(0)
    busy[0].close()
    (await waiting).close()
    assert server.accepted == 3


@every
async def test_a_full_pool_serves_its_queue_in_order(kind, peer, connect):
    async def script(wire: Wire) -> None:
        while True:
            head = await wire.request()
            served.append(head.lower().split(b"x-id: ")[1].split(b"\r\n")[0])
            await wire.send(OK)

    async def call(number: int) -> None:
        response = await ask(transport, headers=[(b"x-id", b"%d" % number)])
        assert await response.read(LIMIT) == b"ok"

    served: list[bytes] = []
    server = await peer(script)
    transport = connect(server, kind, max_connections=1)
    await asyncio.gather(*[call(number) for number in range(20)])
    assert served == [b"%d" % number for number in range(20)]
    assert server.accepted == 1


@every
async def test_a_caller_cancelled_in_the_queue_costs_nobody_a_connection(kind, peer, connect):
    server = await peer(answer(CHUNKED, then="hold"))
    transport = connect(server, kind, max_connections=1)
    first = await ask(transport)
    waiting = [asyncio.ensure_future(ask(transport)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    first.close()  # the slot goes to the second waiter, which is cancelled before it runs
    waiting[1].cancel()
    response = await asyncio.wait_for(waiting[2], 60)
    response.close()
    (await ask(transport)).close()


@every
async def test_a_closed_transport_says_so(kind, peer, connect):
    server = await peer(answer(CHUNKED, then="hold"))
    transport = connect(server, kind)
    response = await ask(transport)
    await transport.aclose()
    await asyncio.wait_for(server.hung_up.wait(), 60)
    with pytest.raises(Failure):
        await response.chunk()
    failure = await failure_of(ask(transport), FailureKind.CONNECT)
    assert "closed by amaru" in failure.message
    await transport.aclose()


@every
async def test_a_call_whose_transport_closes_before_the_head_fails(kind, peer, connect):
    server = await peer(answer(then="hold"))
    transport = connect(server, kind)
    call = asyncio.ensure_future(ask(transport))
    await server.arrived.wait()
    await transport.aclose()
    with pytest.raises(Failure, match="closed by amaru"):
        await call


@every
@pytest.mark.parametrize(
    "header",
    [
        (b"x-a", b"1\r\nx-evil: 2"),
        (b"x-a", b"sk-secret\x00"),
        (b"x a", b"1"),
        (b"", b"1"),
        (b"Host", b"elsewhere"),
        (b"Transfer-Encoding", b"chunked"),
    ],
)
async def test_headers_that_cannot_be_sent_are_refused_without_their_values(kind, header, peer, connect):
    server = await peer(answer(OK))
    with pytest.raises(ValueError, match="header") as caught:
        await ask(connect(server, kind), headers=[header])
    assert "secret" not in str(caught.value)
    assert server.accepted == 0


@every
@pytest.mark.parametrize("bad", [{"target": b"/a b"}, {"target": b"/a\r\nx: y"}, {"method": "GET /"}])
async def test_request_lines_that_cannot_be_sent_are_refused(kind, bad, peer, connect):
    with pytest.raises(ValueError, match="not a"):
        await ask(connect(await peer(answer(OK)), kind), **bad)
