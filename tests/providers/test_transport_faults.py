"""Every transport against a provider that fails on the wire: each fault becomes one failure of the taxonomy."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket

import pytest
from transport_calls import LIMIT, ask, every, failure_of, read_chunks, transports
from transport_peer import CHUNKED, Wire, answer

from amaru.domain import FailureKind


@every
async def test_a_refused_connection(kind, connect):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        failure = await failure_of(ask(connect(port, kind)), FailureKind.CONNECT)
    assert f"127.0.0.1:{port}" in failure.message


@every
async def test_a_name_that_does_not_exist(kind, connect):
    failure = await failure_of(ask(connect(80, kind, host="nowhere.invalid")), FailureKind.CONNECT)
    assert "nowhere.invalid" in failure.message


@every
async def test_a_connection_that_never_comes_about_is_no_answer(kind, connect):
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # the kernel accepts what the backlog holds, and drops what comes on top of it
            caller = waiting.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        transport = connect(full.getsockname()[1], kind, connect_timeout_s=0.2)
        failure = await failure_of(ask(transport, within_s=60), FailureKind.NO_ANSWER)
    assert "could not be connected" in failure.message


@every
async def test_a_provider_that_never_answers(kind, peer, connect):
    server = await peer(answer(then="hold"))
    failure = await failure_of(ask(connect(server, kind), within_s=0.2), FailureKind.NO_ANSWER)
    assert failure.bytes_received == 0


@transports(reqwest="the library leaves its own call running when it is given up before the head")
async def test_a_call_that_is_not_answered_in_time_is_hung_up(kind, peer, connect):
    server = await peer(answer(then="hold"))
    await failure_of(ask(connect(server, kind), within_s=0.1), FailureKind.NO_ANSWER)
    await asyncio.wait_for(server.hung_up.wait(), 60 if kind == "h1" else 1)


@every
async def test_a_head_that_trickles_past_its_deadline(kind, peer, connect):
    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\n")
        for number in range(1000):
            await wire.send(b"x-%d: 1\r\n" % number)
            await wire.pace(0.05)

    await failure_of(ask(connect(await peer(script), kind), within_s=0.3), FailureKind.NO_ANSWER)


@every
@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_connection_that_ends_before_the_head(kind, then, peer, connect):
    server = await peer(answer(then=then))
    failure = await failure_of(ask(connect(server, kind)), FailureKind.RESET)
    assert failure.bytes_received == 0
    assert server.accepted == 1, "a fresh connection's request is not sent twice"


@every
@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_connection_that_ends_inside_the_head(kind, then, peer, connect):
    await failure_of(ask(connect(await peer(answer(b"HTTP/1.1 20", then=then)), kind)), FailureKind.RESET)


@every
@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x50" * 20,
        b"HTTP/1.1 abc Nope\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_http(kind, garbage, peer, connect):
    await failure_of(ask(connect(await peer(answer(garbage, then="hold")), kind)), FailureKind.MALFORMED_BODY)


@transports(reqwest="hyper lets Transfer-Encoding win (RFC 9112 section 6.3 allows it)")
async def test_two_framings_at_once_are_refused(kind, peer, connect):
    both = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    await failure_of(ask(connect(await peer(answer(both, then="hold")), kind)), FailureKind.MALFORMED_BODY)


@every
@pytest.mark.parametrize("header", [b"x-long: " + b"a" * 1_000_000, b"x-many: 1\r\n" * 50_000])
async def test_a_giant_head(kind, header, peer, connect):
    server = await peer(answer(b"HTTP/1.1 200 OK\r\n", header, then="hold"))
    await failure_of(ask(connect(server, kind)), FailureKind.MALFORMED_BODY)


@every
@pytest.mark.parametrize(
    ("cut", "received"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfour", 4),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", 0),
        (CHUNKED + b"a\r\nfour", 4),
        (CHUNKED + b"4\r\nfour\r\n", 4),
        (CHUNKED + b"4\r\nfour\r\n0\r\n", 4),
    ],
)
@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("whole", [True, False])
async def test_a_body_that_is_cut(kind, cut, received, then, whole, peer, connect):
    took = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(cut)
        await took.wait()
        wire.reset() if then == "reset" else wire.close()
        await wire.gone()

    response = await ask(connect(await peer(script), kind))
    if whole:
        took.set()
        failure = await failure_of(response.read(LIMIT), FailureKind.STREAM_CUT)
    else:
        assert received == 0 or await response.chunk() == b"four"
        took.set()
        failure = await failure_of(response.chunk(), FailureKind.STREAM_CUT)
        assert failure.bytes_received == received
    assert failure.status == 200
    await failure_of(response.chunk(), FailureKind.STREAM_CUT)  # it never turns into a clean end


@every
async def test_a_body_without_a_length_that_is_reset(kind, peer, connect):
    took = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\nfour")
        await took.wait()
        wire.reset()

    response = await ask(connect(await peer(script), kind))
    assert await response.chunk() == b"four"
    took.set()
    await failure_of(response.chunk(), FailureKind.STREAM_CUT)


@every
@pytest.mark.parametrize(
    "bad", [b"zz\r\nfour\r\n", b"4\r\nfourXX0\r\n\r\n", b"fffffffffffffffff\r\nfour", b"-1\r\nfour\r\n"]
)
async def test_chunks_with_a_broken_size(kind, bad, peer, connect):
    response = await ask(connect(await peer(answer(CHUNKED + bad, then="hold")), kind))
    await failure_of(read_chunks(response), FailureKind.STREAM_CUT)


@every
@pytest.mark.parametrize("whole", [True, False])
async def test_a_body_that_stalls(kind, whole, peer, connect):
    server = await peer(answer(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfour", then="hold"))
    response = await ask(connect(server, kind))
    loop = asyncio.get_running_loop()
    if not whole:
        assert await response.chunk() == b"four"
    response.set_deadline(loop.time() + 0.1, FailureKind.NO_ANSWER, "no data for 0.1 s")
    failure = await failure_of(response.read(LIMIT) if whole else response.chunk(), FailureKind.NO_ANSWER)
    assert "no data for 0.1 s" in failure.message
    assert failure.bytes_received == 4
    await asyncio.wait_for(server.hung_up.wait(), 60)


@every
async def test_a_deadline_that_is_moved_while_waiting(kind, peer, connect):
    response = await ask(connect(await peer(answer(CHUNKED, then="hold")), kind))
    now = asyncio.get_running_loop().time()
    waiting = asyncio.ensure_future(response.chunk())
    asyncio.get_running_loop().call_soon(response.set_deadline, now + 0.05, FailureKind.STREAM_STALLED, "moved forward")
    assert "moved forward" in (await failure_of(waiting, FailureKind.STREAM_STALLED)).message


@every
async def test_a_deadline_that_moves_back_with_each_chunk_lets_a_long_stream_live(kind, peer, connect):
    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(CHUNKED)
        for _ in range(12):
            await wire.send(b"1\r\nx\r\n")
            await wire.pace(0.2)
        await wire.send(b"0\r\n\r\n")

    response = await ask(connect(await peer(script), kind), within_s=1.5)
    loop = asyncio.get_running_loop()
    total = 0
    while part := await response.chunk():
        total += len(part)
        response.set_deadline(loop.time() + 1.5, FailureKind.STREAM_STALLED, "stalled")
    assert total == 12


@every
@pytest.mark.parametrize("head", [b"content-length: 200000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n186a0\r\n"])
async def test_a_body_over_the_limit(kind, head, peer, connect):
    server = await peer(answer(b"HTTP/1.1 200 OK\r\n" + head + b"x" * 100_000, then="hold"))
    response = await ask(connect(server, kind))
    failure = await failure_of(response.read(50_000), FailureKind.MALFORMED_BODY)
    assert "50000 bytes" in failure.message
    await asyncio.wait_for(server.hung_up.wait(), 60)


@every
async def test_a_small_body_that_swells(kind, peer, connect):
    bomb = gzip.compress(bytes(50_000_000))
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    response = await ask(connect(await peer(answer(head + bomb, then="hold")), kind))
    await failure_of(response.read(LIMIT), FailureKind.MALFORMED_BODY)


@every
@pytest.mark.parametrize("encoding", [b"br", b"gzip"])
async def test_a_body_that_cannot_be_decoded(kind, encoding, peer, connect):
    async def attempt() -> None:
        await (await ask(transport)).read(LIMIT)

    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: %b\r\ncontent-length: 40\r\n\r\nabcd" % encoding
    server = await peer(answer(head, then="hold"))
    transport = connect(server, kind)
    await failure_of(attempt(), FailureKind.MALFORMED_BODY)
    await asyncio.wait_for(server.hung_up.wait(), 60)


@every
async def test_an_encoded_body_that_ends_early(kind, peer, connect):
    half = gzip.compress(bytes(range(256)) * 100)[:100]
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 100\r\n\r\n"
    response = await ask(connect(await peer(answer(head + half)), kind))
    await failure_of(response.read(LIMIT), FailureKind.STREAM_CUT)
