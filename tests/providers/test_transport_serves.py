"""Every transport against a provider that does what HTTP/1.1 allows."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest
from transport_calls import LIMIT, ask, every, read_chunks
from transport_peer import CHUNKED, OK, Wire, answer


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
