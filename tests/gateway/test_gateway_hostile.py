"""Hostile callers and hostile providers: neither can put a word into an answer's head, and the server outlives both."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from gateway_world import KEY, MakeWorld, World, until

from amaru.http1 import ServerSettings

CHAT = "/v1/chat/completions"
OUR_HEADERS = {
    "date", "content-type", "content-length", "transfer-encoding", "connection", "cache-control", "x-accel-buffering",
    "retry-after", "retry-after-ms", "x-amaru-decision", "x-amaru-attempts", "x-amaru-provider", "x-amaru-cost-usd",
}  # fmt: skip


def request(path: str = CHAT, *fields: bytes, body: bytes | None = None, method: str = "POST") -> bytes:
    """The bytes of a good request with further header fields."""
    if body is None and method == "POST":
        body = json.dumps({"model": "sim", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}).encode()
    head = [
        f"{method} {path} HTTP/1.1".encode("latin-1"), b"host: amaru", b"connection: close",
        f"authorization: Bearer {KEY}".encode(), *fields,
    ]  # fmt: skip
    if body is not None:
        head.append(b"content-length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + (body or b"")


async def exchange(world: World, data: bytes) -> bytes:
    """Send bytes and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    try:
        writer.write(data)
        async with asyncio.timeout(60.0):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def head_of(answer: bytes) -> tuple[int, dict[str, str]]:
    lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:])


# ---- what callers put into headers and paths ------------------------------------------------------------------------

HOSTILE_VALUES = {
    "bare cr": b"a\rx-evil: 1", "bare lf": b"a\nx-evil: 1", "null": b"a\0b", "escape": b"a\x1b[31mb", "tab": b"a\tb",
    "delete": b"a\x7fb", "latin-1": b"caf\xe9", "utf-8": "na\u00efve".encode(), "long": b"x" * 257,
    "folded": b"a\r\n x-evil: 1",
}  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES.keys())
@pytest.mark.parametrize("name", [b"x-amaru-session", b"x-amaru-region", b"x-amaru-deadline-ms"])
async def test_hostile_header_values_are_refused_and_repeated_nowhere(world: World, name: bytes, value: bytes) -> None:
    answer = await exchange(world, request(CHAT, name + b": " + value))
    status, headers = head_of(answer)
    if b"\nx-evil" in value:  # a bare LF may end a line (RFC 9112, section 2.2): then it is a header of its own
        assert status in (200, 400)
    else:
        assert status == 400
    assert set(headers) <= OUR_HEADERS
    assert "evil" not in str(headers)
    assert (await world.chat()).status_code == 200


async def test_printable_values_are_taken_and_repeated_nowhere(world: World) -> None:
    fields = (b"x-amaru-session: a: b, c; d%0d%0ax-evil: 1", b"x-amaru-region: global", b"x-evil: 1")
    status, headers = head_of(await exchange(world, request(CHAT, *fields)))
    assert status == 200
    assert set(headers) <= OUR_HEADERS
    assert "evil" not in str(headers)


@pytest.mark.parametrize("digits", [b"0" * 40 + b"1", b"0" * 5000 + b"1", b"9" * 5000, b"1" * 13, b"+5", b"5_0"])
async def test_deadlines_of_any_length_are_numbers_or_refused(world: World, digits: bytes) -> None:
    status, _ = head_of(await exchange(world, request(CHAT, b"x-amaru-deadline-ms: " + digits)))
    assert status == 400


@pytest.mark.parametrize("limit", ["0" * 5000 + "1", "9" * 4500, "0000000011", "5_0", "%D9%A3"])
async def test_limits_of_any_length_are_numbers_or_refused(world: World, limit: str) -> None:
    assert (await world.client.get(f"/decisions?limit={limit}")).status_code == 400


@pytest.mark.parametrize(
    "path",
    ["/providers/%0d%0ax-evil:%201", "/decisions/%0aevil", "/%00", "/providers/<script>", "/../../etc/passwd",
     "/providers/..%2f..%2fetc", "http://evil.example/providers/none", "/nothing?%0d%0ax-evil: 1", "/" + "a" * 7000],
)  # fmt: skip
async def test_paths_cannot_write_into_the_head(world: World, path: str) -> None:
    status, headers = head_of(await exchange(world, request(path.replace(" ", "%20"), method="GET")))
    assert status in (400, 404)
    assert set(headers) <= OUR_HEADERS
    assert headers["content-type"] == "application/json"
    assert "evil" not in str(headers)


@pytest.mark.parametrize("model", ["a\r\nx-evil: 1", "\u0000", "\u2028", "<script>", "x" * 100_000, "../sim", "sim "])
async def test_model_names_cannot_either(world: World, model: str) -> None:
    for path, body in ((CHAT, {"messages": [{"role": "user", "content": "x"}]}), ("/agent/route", {})):
        answer = await exchange(world, request(path, body=json.dumps({"model": model, **body}).encode()))
        status, headers = head_of(answer)
        assert status in (400, 404)
        assert set(headers) <= OUR_HEADERS
        assert len(answer) < 2000


# ---- what providers put into headers --------------------------------------------------------------------------------

HOSTILE_HEAD = (
    b"content-type: text/html\r\nset-cookie: a=b\r\nx-amaru-provider: somebody\r\nx-amaru-cost-usd: -1\r\n"
    b"x-evil: 1\r\nlocation: http://evil.example\r\naccess-control-allow-origin: *\r\nretry-after: 0; x\r\n"
    b"x-amaru-decision: fake\r\nwww-authenticate: Basic\r\nx-request-id: a\tb\r\nconnection: close\r\n"
)
WHOLE = json.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "x-evil: 1\r\n"}, "finish_reason": "stop"}]}
).encode()
STREAM = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@contextlib.asynccontextmanager
async def provider_that_answers(world: World, answer: bytes) -> AsyncIterator[None]:
    """Put a server that sends ``answer`` to whatever is asked in the place of every provider."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    world.reload(providers={name: {"base_url": url, "key_env": "SIM_KEY"} for name in world.providers})
    try:
        yield
    finally:
        server.close()


@pytest.mark.parametrize(
    "status", [b"200 OK", b"400 Bad", b"403 No", b"429 Slow", b"500 x-evil: 1", b"302 Found", b"999 ?"]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_no_header_of_a_provider_reaches_the_caller(make_world: MakeWorld, status: bytes, stream: bool) -> None:
    body = (STREAM if stream else WHOLE) if status.startswith(b"2") else b'{"error": {"message": "x-evil"}}'
    kind = b"text/event-stream" if stream else b"text/html"
    head = HOSTILE_HEAD.replace(b"text/html", kind if status.startswith(b"2") else b"application/json")
    answer = b"HTTP/1.1 " + status + b"\r\n" + head + b"content-length: %d\r\n\r\n" % len(body) + body
    async with make_world(routing={"deadline_ms": 500}) as world, provider_that_answers(world, answer):
        asked = {"model": "sim", "messages": [{"role": "user", "content": "x"}], "stream": stream}
        got = await exchange(world, request(CHAT, body=json.dumps(asked).encode()))
        code, headers = head_of(got)
        assert set(headers) <= OUR_HEADERS
        assert headers.get("x-amaru-provider", "alpha") in ("alpha", "beta")
        assert "evil" not in str(headers)
        assert (code == 200) == status.startswith(b"2"), got
        if code != 200 or not stream:
            assert headers["content-type"] == "application/json"
        assert got.count(b"HTTP/1.1") == 1


OK = b"HTTP/1.1 200 OK\r\n"
MALFORMED = {
    "two lengths": OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "endless header": OK + b"x: " + b"a" * 10**6,
    "control character": OK + b"x: \x01\r\ncontent-length: 2\r\n\r\n{}",
    "bad chunk": OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    "huge length": OK + b"content-length: 99999999999999999999\r\n\r\n{",
    "folded": OK + b" folded\r\n\r\n",
    "zeros": b"\0" * 1000,
    "icy": b"ICY 200 OK\r\n\r\n",
    "switching": b"HTTP/1.1 101 Go\r\n\r\n",
    "deep json": OK + b"content-length: 200006\r\n\r\n" + b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "infinite tokens": OK + b'content-length: 60\r\n\r\n{"choices":[{"message":{}}],"usage":{"prompt_tokens":1e999}} ',
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_providers_cost_the_caller_a_clear_error_at_most(make_world: MakeWorld, answer: bytes) -> None:
    async with make_world(routing={"deadline_ms": 500}) as world, provider_that_answers(world, answer):
        code, headers = head_of(await exchange(world, request()))
        assert code in (200, 502, 503, 504)
        assert set(headers) <= OUR_HEADERS
        assert (await world.client.get("/health/live")).status_code == 200
        assert world.mesh.in_flight == 0


# ---- what callers do to the server ----------------------------------------------------------------------------------


DEEP = b"[" * 100_000 + b"]" * 100_000
BODIES = {
    "arrays": DEEP,
    "objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep in a known field": b'{"weights":' + DEEP + b"}",
    "deep in an unknown field": b'{"model":"sim","x":' + DEEP + b"}",
    "not utf-8": b"\xff\xfe",
    "not utf-8 within": b'{"model":"\xff"}',
    "lone surrogate": b'{"model":"\\ud800"}',
    "infinite": b'{"gpu_hours":1e400}',
    "many digits": b'{"input_tokens":' + b"9" * 5000 + b"}",
    "newline in a word": b'{"needs":["stream\\n"]}',
    "least weight": b'{"model":"sim","weights":{"price":5e-324}}',
}


@pytest.mark.parametrize("path", ["/agent/route", "/agent/feedback", "/route", "/v1/embeddings"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_hostile_bodies_get_a_400(world: World, path: str, body: bytes) -> None:
    answer = await world.client.post(path, content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


CHUNKED = request(CHAT, b"transfer-encoding: chunked", method="GET").replace(b"GET", b"POST")
REFUSED: dict[str, tuple[bytes, int]] = {
    "huge header": (b"GET /health HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 2**20 + b"\r\n\r\n", 431),
    "many headers": (b"GET /health HTTP/1.1\r\nhost: a\r\n" + b"x: 1\r\n" * 5000 + b"\r\n", 431),
    "huge url": (b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414),
    "bad chunk size": (CHUNKED + b"zz\r\nhello", 400),
    "negative chunk": (CHUNKED + b"-5\r\nhello", 400),
    "huge chunk": (CHUNKED + b"f" * 40 + b"\r\n", 400),
    "two lengths": (request(CHAT, b"transfer-encoding: chunked"), 400),
    "other coding": (CHUNKED.replace(b": chunked", b": gzip, chunked") + b"0\r\n\r\n", 400),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "http/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "connect": (b"CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example\r\n\r\n", 501),
}


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED.keys())
async def test_malformed_http_is_refused_and_the_server_lives(world: World, data: bytes, status: int) -> None:
    answer = await exchange(world, data)
    code, headers = head_of(answer)
    assert code == status
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert headers["connection"] == "close"
    assert (await world.chat()).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [b"GET /health HT", b"POST /route HTTP/1.1\r\nhost: a\r\nx-a", request(body=b"{}" * 50)[:-80]],
    ids=["request line", "headers", "body"],
)
async def test_slow_senders_are_timed_out(make_world: MakeWorld, sent: bytes) -> None:
    patience = ServerSettings(header_timeout_s=0.1, body_timeout_s=0.1, linger_s=0.1)
    async with make_world(server=patience) as world:
        answers = await asyncio.gather(*[exchange(world, sent) for _ in range(50)], world.chat())
        assert {head_of(answer)[0] for answer in answers[:-1]} == {408}
        assert answers[-1].status_code == 200


async def test_silent_connections_are_closed(make_world: MakeWorld) -> None:
    async with make_world(server=ServerSettings(header_timeout_s=0.1, keep_alive_s=0.1)) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
        async with asyncio.timeout(60.0):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: world.gateway._server.connection_count == 0)


async def test_floods_of_connections_are_refused_politely(make_world: MakeWorld) -> None:
    limits = ServerSettings(max_connections=20, linger_s=0.2, header_timeout_s=60.0)  # who is in, stays in
    async with make_world(server=limits) as world:
        assert (await world.chat()).status_code == 200  # its connection is one of the twenty, and stays
        opened = [await asyncio.open_connection("127.0.0.1", world.gateway.port) for _ in range(19)]
        refused = await asyncio.gather(*[exchange(world, request("/health", method="GET")) for _ in range(200)])
        told = [head_of(answer) for answer in refused if answer]
        assert told, "nobody was told why"
        assert {status for status, _ in told} == {503}
        assert all(int(headers["retry-after"]) >= 1 for _, headers in told)
        assert (await world.chat()).status_code == 200  # who was in is served on
        for _, writer in opened:
            writer.close()
        await until(lambda: world.gateway._server.connection_count <= 1)
        assert head_of(await exchange(world, request()))[0] == 200


async def test_many_bodies_at_once_are_bounded_together(make_world: MakeWorld) -> None:
    limits = ServerSettings(max_buffered_bytes=200_000, max_body_bytes=100_000)
    async with make_world(server=limits) as world:
        opened = [await asyncio.open_connection("127.0.0.1", world.gateway.port) for _ in range(10)]
        for _, writer in opened:
            writer.write(request(body=b"x" * 90_000)[:-10])
        await until(lambda: world.gateway._server.refused[503] >= 8)
        assert world.gateway._server.buffered_bytes <= 200_000
        for _, writer in opened:
            writer.close()
        await until(lambda: world.gateway._server.buffered_bytes == 0)
        assert (await world.chat()).status_code == 200
