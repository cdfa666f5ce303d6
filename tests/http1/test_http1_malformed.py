"""Malformed input gets a clear answer, ambiguous framing is never guessed at, and nothing kills the server."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import cast

import pytest
from http1_client import Running, Serve, echo
from hypothesis import given, settings
from hypothesis import strategies as st

from amaru.http1 import HttpServer, Request, ServerSettings
from amaru.http1.connection import Connection
from amaru.http1.reader import RequestReader

POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED = [
    # the request line
    (b"GET\r\n\r\n", 400),
    (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET a/b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    (b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    (b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    (b"GET / HTTP/0.9\r\nHost: x\r\n\r\n", 505),
    (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # a TLS handshake
    (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    (b"GET / HTTP/1.1\rHost: x\r\r", 400),
    # the path
    (b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /a%0d%0aSet-Cookie:%20x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /%1b[2J HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /%7f HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    # headers
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    (POST + b"A : b\r\n\r\n", 400),
    (POST + b" A: b\r\n\r\n", 400),
    (POST + b"A\x00: b\r\n\r\n", 400),
    (POST + b"A: b\x00\r\n\r\n", 400),
    (POST + b"A: b\nC: d\r\n\r\n", 400),
    (POST + b"A: b\r\n folded\r\n\r\n", 400),
    (POST + b"A\r\n\r\n", 400),
    (POST + b": x\r\n\r\n", 400),
    (POST + b"Expect: tea\r\nContent-Length: 1\r\n\r\n", 417),
    # framing: what two parsers could read in two ways
    (POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
    (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na", 400),
    (POST + b"Content-Length: 1, 1\r\n\r\na", 400),
    (POST + b"Content-Length: +1\r\n\r\na", 400),
    (POST + b"Content-Length: -1\r\n\r\na", 400),
    (POST + b"Content-Length: 0x1\r\n\r\na", 400),
    (POST + b"Content-Length: \r\n\r\na", 400),
    (POST + b"Content-Length: 1 1\r\n\r\na", 400),
    (POST + b"Content-Length: 99999999999999999999999\r\n\r\na", 400),
    (POST + b"Content-Length: 18446744073709551615\r\n\r\na", 413),
    (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: identity\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: \r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    # chunks
    (CHUNKED + b"1\r\nab\r\n0\r\n\r\n", 400),
    (CHUNKED + b"-1\r\n", 400),
    (CHUNKED + b"0x1\r\na\r\n0\r\n\r\n", 400),
    (CHUNKED + b"1 \r\na\r\n0\r\n\r\n", 400),
    (CHUNKED + b"1\na\n0\n\n", 400),
    (CHUNKED + b"G\r\n", 400),
    (CHUNKED + b"FFFFFFFFFFFFFFFFFF\r\na", 400),
    (CHUNKED + b"\r\n", 400),
]


@pytest.mark.parametrize(("data", "status"), MALFORMED)
async def test_malformed_input_is_refused(serve: Serve, data: bytes, status: int) -> None:
    served: list[Request] = []

    async def handler(request: Request) -> None:
        served.append(request)
        await echo(request)

    running = await serve(handler)
    async with running.client() as client:
        answer = await client.ask(data)
        assert answer.status == status, answer.body
        assert answer.headers["connection"] == "close"
        assert json.loads(answer.body)["error"]["message"]
        assert await client.closed()
    assert not served
    assert running.server.refused == {status: 1}
    await running.lives()


async def test_a_refusal_follows_the_answers_before_it(serve: Serve) -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> None:
        await gate.wait()
        await echo(request)

    running = await serve(handler)
    async with running.client() as client:
        client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"\x00garbage" + b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
        gate.set()
        assert [(await client.answer()).status for _ in range(3)] == [200, 200, 400]
        assert await client.closed()


async def test_empty_lines_before_a_request_are_skipped(serve: Serve) -> None:
    running = await serve()
    async with running.client() as client:
        assert (await client.ask(b"\r\n\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200


# --- properties -----------------------------------------------------------------------------------------------------

_token = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12)
_value = st.text('abc XYZ;=,"/\\é\t', max_size=20).map(lambda text: text.strip(" \t").encode("latin-1"))


@st.composite
def _request(draw: st.DrawFn) -> tuple[bytes, tuple[str, str, dict[bytes, bytes], bytes]]:
    """The bytes of a valid request, and what they mean: method, path, headers, body."""
    method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE"]))
    path = "/" + draw(_token)
    headers = {b"host": b"x"}
    names = _token.filter(
        lambda name: name not in ("host", "content-length", "transfer-encoding", "connection", "expect", "upgrade")
    )
    for name, value in draw(st.dictionaries(names, _value, max_size=4)).items():
        headers[b"x-" + name.encode()] = value
    body = draw(st.binary(max_size=60))
    framing = draw(st.sampled_from(["length", "chunked"])) if body else "none"
    wire = b""
    if framing == "length":
        headers[b"content-length"] = b"%d" % len(body)
        wire = body
    elif framing == "chunked":
        headers[b"transfer-encoding"] = b"chunked"
        step = draw(st.integers(1, 20))
        pieces = [body[at : at + step] for at in range(0, len(body), step)]
        wire = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n"
        wire += b"x-trailer: t\r\n\r\n" if draw(st.booleans()) else b"\r\n"
    if draw(st.booleans()):
        headers[b"connection"], headers[b"upgrade"] = b"upgrade", b"h2c"
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n".encode() + lines + b"\r\n" + wire, (method, path, headers, body)


def _read(pieces: list[bytes]) -> tuple[list[tuple[str, str, dict[bytes, bytes], bytes]], int | None]:
    reader = RequestReader(cast("Connection", SimpleNamespace()), ServerSettings())
    out = []
    for piece in pieces:
        while piece:
            piece = reader.feed(piece)
            while reader.requests:
                request = reader.requests.popleft()
                out.append((request.method, request.path, request.headers, request.body))
    return out, reader.refusal.status if reader.refusal else None


@given(st.lists(_request(), min_size=1, max_size=5), st.data())
def test_any_split_of_a_stream_gives_the_same_requests(
    requests: list[tuple[bytes, tuple[str, str, dict[bytes, bytes], bytes]]], data: st.DataObject
) -> None:
    stream = b"".join(wire for wire, _ in requests)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=30)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    meaning = ([meaning for _, meaning in requests], None)
    assert _read(pieces) == meaning
    assert _read([bytes([byte]) for byte in stream]) == meaning


@given(st.lists(_request(), min_size=1, max_size=3), st.data())
def test_a_mutated_stream_is_read_the_same_however_it_is_split(
    requests: list[tuple[bytes, tuple[str, str, dict[bytes, bytes], bytes]]], data: st.DataObject
) -> None:
    """Also of broken streams: the requests before the break, then a refusal or silence, whatever the split."""
    stream = bytearray(b"".join(wire for wire, _ in requests))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    whole = _read([bytes(stream)])
    bytewise = _read([bytes([byte]) for byte in stream])
    assert whole[0] == bytewise[0]
    assert (whole[1] is None) == (bytewise[1] is None)


_garbage = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([data for data, _ in MALFORMED]),
    st.tuples(_request(), st.binary(max_size=50)).map(lambda pair: pair[0][0] + pair[1]),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(_garbage, min_size=1, max_size=10))
def test_garbage_never_kills_the_server(garbage: list[bytes]) -> None:
    async def play() -> None:
        server = HttpServer(echo, ServerSettings(linger_s=0.5))
        await server.start()
        running = Running(server)
        for data in garbage:
            async with running.client() as client:
                client.send(data)
                client.writer.write_eof()
                await client.rest()
        async with running.client() as client:
            answer = await client.ask(b"GET /good HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (answer.status, answer.body) == (200, b"GET /good  0")
        await server.drain(5)
        assert server.connection_count == server.active_count == server.buffered_bytes == 0

    asyncio.run(play())
