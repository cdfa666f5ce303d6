"""Every transport against a provider that misbehaves on the wire; ``docs/explanation/transports.md`` shows the outcome.

A case that a library cannot pass is a strict ``xfail`` with its reason: it will speak up when the library learns it.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import zlib
from collections.abc import Awaitable
from typing import Any

import pytest
from transport_peer import CHUNKED, OK, Authority, Wire, answer

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.providers.transport import HttpResponse, Transport

LIMIT = 1 << 20


def transports(**deviations: str) -> pytest.MarkDecorator:
    """Run the test over each transport; ``deviations`` gives the reason for which one cannot pass it."""
    return pytest.mark.parametrize(
        "kind",
        [
            pytest.param(kind, marks=pytest.mark.xfail(strict=True, reason=deviations[kind]))
            if kind in deviations
            else kind
            for kind in ("h1", "reqwest")
        ],
    )


every = transports()


async def ask(transport: Transport, *, within_s: float = 5.0, body: bytes = b"{}", **options: Any) -> HttpResponse:
    arguments = {"method": "POST", "target": b"/chat/completions", "headers": [(b"x-id", b"1")]} | options
    at = asyncio.get_running_loop().time() + within_s
    response = await transport.send(body=body, head_deadline=at, head_kind=FailureKind.NO_ANSWER, **arguments)
    response.set_deadline(at, FailureKind.STREAM_STALLED, "the test ran out of patience")
    return response


async def failure_of(awaitable: Awaitable[Any], kind: FailureKind) -> Failure:
    with pytest.raises(Failure) as caught:
        await awaitable
    assert caught.value.kind is kind, caught.value
    return caught.value


async def read_chunks(response: HttpResponse) -> bytes:
    parts = []
    while part := await response.chunk():
        parts.append(part)
    return b"".join(parts)


# What arrives as it should.


@every
async def test_a_request_arrives_as_it_was_sent(kind, peer, connect):
    wires: list[Wire] = []

    async def script(wire: Wire) -> None:
        wires.append(wire)
        await wire.request()
        await wire.send(OK)

    server = await peer(script)
    response = await ask(connect(server, kind), body=b'{"a":1}', headers=[(b"authorization", b"Bearer k")])
    assert (response.status, await response.read(LIMIT)) == (200, b"ok")
    line, *headers = server.requests[0].lower().strip().split(b"\r\n")
    assert line == b"post /v1/chat/completions http/1.1"
    assert {b"authorization: bearer k", b"content-length: 7", b"accept-encoding: identity"} <= set(headers)
    assert f"host: 127.0.0.1:{server.port}".encode() in headers
    assert wires[0].body == b'{"a":1}'


@every
@pytest.mark.parametrize("body", [b"", b"x" * 3_000_000])
async def test_bodies_of_any_size_are_sent_whole(kind, body, peer, connect):
    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n%07d" % len(wire.body))

    response = await ask(connect(await peer(script), kind), body=body)
    assert int(await response.read(LIMIT)) == len(body)


@every
async def test_a_get_carries_no_body(kind, peer, connect):
    server = await peer(answer(OK))
    response = await ask(connect(server, kind), method="GET", target=b"/models", body=b"")
    assert await response.read(LIMIT) == b"ok"
    assert server.requests[0].startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert b"content-length" not in server.requests[0].lower()


@every
async def test_repeated_headers_are_joined_and_names_lower_case(kind, peer, connect):
    server = await peer(answer(b"HTTP/1.1 429 Slow\r\nX-A: 1\r\nx-a: 2\r\nRetry-After: 3\r\ncontent-length: 0\r\n\r\n"))
    response = await ask(connect(server, kind))
    assert response.status == 429
    assert (response.headers[b"x-a"], response.headers[b"retry-after"]) == (b"1, 2", b"3")
    assert await response.read(LIMIT) == b""


@every
async def test_chunks_come_as_they_arrive(kind, peer, connect):
    turn = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(CHUNKED)
        for part in (b"a", b"bc", b"def"):
            await wire.send(b"%x\r\n%b\r\n" % (len(part), part))
            await turn.wait()
            turn.clear()
        await wire.send(b"0\r\nx-trailer: 1\r\n\r\n")

    response = await ask(connect(await peer(script), kind))
    for part in (b"a", b"bc", b"def"):
        assert await response.chunk() == part
        turn.set()
    assert await response.chunk() == b""
    assert await response.chunk() == b""
    assert response.bytes_received == 6
    assert not response.ended_by_eof
    assert b"x-trailer" not in response.headers


@every
async def test_interim_responses_are_skipped(kind, peer, connect):
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    response = await ask(connect(await peer(answer(early, OK)), kind))
    assert (response.status, await response.read(LIMIT)) == (200, b"ok")
    assert b"link" not in response.headers


@every
async def test_a_body_without_a_length_ends_with_its_connection_and_says_so(kind, peer, connect):
    response = await ask(connect(await peer(answer(b"HTTP/1.1 200 OK\r\n\r\nda", b"ta")), kind))
    assert await read_chunks(response) == b"data"
    assert response.ended_by_eof


@every
@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_ends_at_once_and_keeps_its_connection(kind, status, peer, connect):
    server = await peer(answer(b"HTTP/1.1 %d x\r\n\r\n" % status, then="keep"))
    transport = connect(server, kind)
    for _ in range(2):
        response = await ask(transport)
        assert (response.status, await response.read(LIMIT)) == (status, b"")
        assert not response.ended_by_eof
    assert server.accepted == 1


@every
@pytest.mark.parametrize("close", [True, False])
async def test_a_connection_is_used_again_and_again(kind, close, peer, connect):
    server = await peer(answer(OK, then="keep"))
    transport = connect(server, kind)
    for _ in range(5):
        response = await ask(transport)
        assert await response.read(LIMIT) == b"ok"
        if close:
            response.close()
    assert (server.accepted, len(server.requests)) == (1, 5)


@every
async def test_a_provider_that_closes_after_each_answer_costs_a_connection_each(kind, peer, connect):
    server = await peer(answer(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"))
    transport = connect(server, kind)
    for _ in range(3):
        assert await (await ask(transport)).read(LIMIT) == b"ok"
    assert server.accepted == 3


@every
async def test_bytes_behind_the_response_are_not_the_next_response(kind, peer, connect):
    server = await peer(answer(OK + b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", then="keep"))
    transport = connect(server, kind)
    for _ in range(3):
        response = await ask(transport)
        assert (response.status, await response.read(LIMIT)) == (200, b"ok")


@every
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "raw deflate"])
@pytest.mark.parametrize("whole", [True, False])
async def test_an_encoding_that_was_not_asked_for_is_undone(kind, encoding, whole, peer, connect):
    text = b"data: {}\n\n" * 100_000
    raw = zlib.compressobj(wbits=-15)
    body = {
        "gzip": gzip.compress(text[:400_000]) + gzip.compress(text[400_000:]),
        "x-gzip": gzip.compress(text),
        "deflate": zlib.compress(text),
        "raw deflate": raw.compress(text) + raw.flush(),
    }[encoding]
    name = encoding.removeprefix("raw ").encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: %b\r\ncontent-length: %d\r\n\r\n" % (name, len(body))
    response = await ask(connect(await peer(answer(head + body[:9], body[9:])), kind))
    assert (await response.read(LIMIT) if whole else await read_chunks(response)) == text
    assert b"content-encoding" not in response.headers
    assert response.bytes_received == len(body)


@every
async def test_a_stream_that_is_closed_with_patience_keeps_its_connection(kind, peer, connect):
    async def script(wire: Wire) -> None:
        while True:
            await wire.request()
            await wire.send(CHUNKED + b"6\r\n[DONE]\r\n")
            await closed.wait()
            await wire.send(b"0\r\n\r\n")

    closed = asyncio.Event()
    server = await peer(script)
    transport = connect(server, kind, max_connections=1)
    for _ in range(3):
        response = await ask(transport)
        assert await response.chunk() == b"[DONE]"
        response.close(linger_s=2.0)
        response.close()
        closed.set()
    assert server.accepted == 1


@every
async def test_a_head_request_has_no_body(kind, peer, connect):
    server = await peer(answer(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"))
    transport = connect(server, kind)
    for _ in range(2):
        response = await ask(transport, method="HEAD", body=b"")
        assert (response.status, await response.read(LIMIT)) == (200, b"")


# What fails.


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
async def test_a_provider_that_never_answers(kind, peer, connect):
    server = await peer(answer(then="hold"))
    failure = await failure_of(ask(connect(server, kind), within_s=0.2), FailureKind.NO_ANSWER)
    assert failure.bytes_received == 0


@transports(reqwest="the library leaves its own call running when it is given up before the head")
async def test_a_call_that_is_not_answered_in_time_is_hung_up(kind, peer, connect):
    server = await peer(answer(then="hold"))
    await failure_of(ask(connect(server, kind), within_s=0.1), FailureKind.NO_ANSWER)
    await asyncio.wait_for(server.hung_up.wait(), 1)


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
    await asyncio.wait_for(server.hung_up.wait(), 5)


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
            await wire.pace(0.04)
        await wire.send(b"0\r\n\r\n")

    response = await ask(connect(await peer(script), kind), within_s=0.3)
    loop = asyncio.get_running_loop()
    total = 0
    while part := await response.chunk():
        total += len(part)
        response.set_deadline(loop.time() + 0.3, FailureKind.STREAM_STALLED, "stalled")
    assert total == 12


@every
@pytest.mark.parametrize("head", [b"content-length: 200000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n186a0\r\n"])
async def test_a_body_over_the_limit(kind, head, peer, connect):
    server = await peer(answer(b"HTTP/1.1 200 OK\r\n" + head + b"x" * 100_000, then="hold"))
    response = await ask(connect(server, kind))
    failure = await failure_of(response.read(50_000), FailureKind.MALFORMED_BODY)
    assert "50000 bytes" in failure.message
    await asyncio.wait_for(server.hung_up.wait(), 5)


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
    await asyncio.wait_for(server.hung_up.wait(), 5)


@every
async def test_an_encoded_body_that_ends_early(kind, peer, connect):
    half = gzip.compress(bytes(range(256)) * 100)[:100]
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 100\r\n\r\n"
    response = await ask(connect(await peer(answer(head + half)), kind))
    await failure_of(response.read(LIMIT), FailureKind.STREAM_CUT)


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
    await asyncio.wait_for(server.hung_up.wait(), 1)


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
    await asyncio.wait_for(server.hung_up.wait(), 5)
    with pytest.raises(Failure):  # a cancelled body never looks like one that ended
        await response.chunk()


@every
async def test_closing_inside_the_body_hangs_up(kind, peer, connect):
    server = await peer(answer(CHUNKED + b"4\r\nfour\r\n", then="hold"))
    response = await ask(connect(server, kind))
    assert await response.chunk() == b"four"
    response.close()
    response.close()
    await asyncio.wait_for(server.hung_up.wait(), 5)
    with pytest.raises(Failure):
        await response.chunk()


@every
async def test_a_lingering_stream_that_does_not_end_is_hung_up(kind, peer, connect):
    server = await peer(answer(CHUNKED + b"4\r\nfour\r\n", then="hold"))
    response = await ask(connect(server, kind))
    assert await response.chunk() == b"four"
    response.close(linger_s=0.1)
    await asyncio.wait_for(server.hung_up.wait(), 5)


@every
async def test_a_lingering_stream_does_not_outlive_its_transport(kind, peer, connect):
    server = await peer(answer(CHUNKED + b"4\r\nfour\r\n", then="hold"))
    transport = connect(server, kind)
    response = await ask(transport)
    assert await response.chunk() == b"four"
    response.close(linger_s=60)
    await transport.aclose()
    await asyncio.wait_for(server.hung_up.wait(), 5)


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
    await asyncio.wait_for(server.hung_up.wait(), 5)


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

    response = await ask(connect(await peer(script), kind), within_s=30)
    await asyncio.wait_for(blocked.wait(), 10)
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
    response = await asyncio.wait_for(waiting[2], 5)
    response.close()
    (await ask(transport)).close()


@every
async def test_a_closed_transport_says_so(kind, peer, connect):
    server = await peer(answer(CHUNKED, then="hold"))
    transport = connect(server, kind)
    response = await ask(transport)
    await transport.aclose()
    await asyncio.wait_for(server.hung_up.wait(), 5)
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


# TLS.


@every
async def test_tls_with_an_authority_of_ones_own(kind, peer, connect, authority: Authority):
    server = await peer(answer(OK, then="keep"), tls=authority.issue("localhost", "127.0.0.1"))
    transport = connect(server, kind, scheme="https", host="localhost", ca_file=authority.ca_file)
    for _ in range(3):
        assert await (await ask(transport)).read(LIMIT) == b"ok"
    assert server.accepted == 1


@every
async def test_tls_from_an_unknown_authority_is_refused_with_a_remedy(kind, peer, connect, authority: Authority):
    server = await peer(answer(OK), tls=authority.issue("localhost"))
    failure = await failure_of(ask(connect(server, kind, scheme="https", host="localhost")), FailureKind.CONNECT)
    assert "providers.test.ca_file" in failure.message
    assert not server.requests


@every
async def test_tls_for_another_host_is_refused(kind, peer, connect, authority: Authority):
    server = await peer(answer(OK), tls=authority.issue("elsewhere.example"))
    transport = connect(server, kind, scheme="https", host="localhost", ca_file=authority.ca_file)
    failure = await failure_of(ask(transport), FailureKind.CONNECT)
    assert "certificate" in failure.message
    assert not server.requests


@every
async def test_tls_unverified_where_the_configuration_says_so(kind, peer, connect, authority: Authority):
    server = await peer(answer(OK), tls=authority.issue("elsewhere.example"))
    transport = connect(server, kind, scheme="https", host="localhost", verify=False)
    assert await (await ask(transport)).read(LIMIT) == b"ok"


@every
async def test_tls_to_a_plain_server(kind, peer, connect):
    async def script(wire: Wire) -> None:
        await wire.reader.read(100)
        await wire.send(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")

    await failure_of(ask(connect(await peer(script), kind, scheme="https")), FailureKind.CONNECT)


@every
async def test_a_handshake_that_never_ends_is_bounded_by_the_connect_timeout(kind, peer, connect):
    server = await peer(Wire.gone)
    transport = connect(server, kind, scheme="https", connect_timeout_s=0.2)
    await failure_of(ask(transport, within_s=10), FailureKind.CONNECT)


@every
async def test_a_cut_inside_tls(kind, peer, connect, authority: Authority):
    tls = authority.issue("localhost")
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfour"
    transport = connect(
        await peer(answer(head, then="reset"), tls=tls),
        kind,
        scheme="https",
        host="localhost",
        ca_file=authority.ca_file,
    )
    response = await ask(transport)
    await failure_of(response.read(LIMIT), FailureKind.STREAM_CUT)
