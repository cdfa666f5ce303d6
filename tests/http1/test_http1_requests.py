"""What the handler sees of a request, and the order in which requests are served."""

from __future__ import annotations

import asyncio

import pytest
from http1_client import Serve, eventually

from amaru.http1 import Request

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_request_is_understood_whole(serve: Serve) -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> None:
        seen.append(request)
        request.respond(201, [(b"x-a", b"b")], b"made")

    running = await serve(handler)
    async with running.client() as client:
        answer = await client.ask(
            b"POST /v1/chat%20s/%C3%A9?x=%41&y HTTP/1.1\r\nHOST: x\r\nX-Two: 1\r\nx-two: 2 \t\r\n"
            b"Cookie: a=1\r\ncookie: b=2\r\nX-Empty:\r\nContent-Length: 5\r\n\r\nhello"
        )
    (request,) = seen
    assert (request.method, request.path, request.query) == ("POST", "/v1/chat s/é", b"x=%41&y")
    assert request.target == b"/v1/chat%20s/%C3%A9?x=%41&y"
    assert request.headers == {
        b"host": b"x",
        b"x-two": b"1, 2",
        b"cookie": b"a=1; b=2",
        b"x-empty": b"",
        b"content-length": b"5",
    }
    assert request.body == b"hello"
    assert request.peer == "127.0.0.1"
    assert request.arrived_at > 0
    assert (answer.status, answer.body, answer.headers["x-a"]) == (201, b"made", "b")
    assert answer.headers["content-length"] == "4"
    assert answer.headers["date"].endswith("gmt")
    assert "connection" not in answer.headers


async def test_a_chunked_body_is_joined_and_its_trailers_are_dropped(serve: Serve) -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> None:
        seen.append(request)
        request.respond(200, [], b"")

    running = await serve(handler, max_headers=40)
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
    async with running.client() as client:
        await client.ask(chunked + b'3;ext="q"\r\nabc\r\n2\r\nde\r\n0\r\nX-Evil: 1\r\nHost: y\r\n\r\n')
        for _ in range(30):  # what trailers repeat does not count against later heads
            await client.ask(chunked + b"0\r\nt: 1\r\nt: 2\r\nt: 3\r\nt: 4\r\n\r\n")
        await client.ask(GET)
    assert [request.body for request in seen] == [b"abcde", *[b""] * 31]
    assert seen[0].headers[b"host"] == b"x"
    assert seen[-1].headers == {b"host": b"x"}


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", b""),
        (b"/a?b?c", "/a", b"b?c"),
        (b"/a#f?q", "/a", b""),
        (b"http://h:1/p/q?r", "/p/q", b"r"),
        (b"http://h", "/", b""),
        (b"//x/y", "//x/y", b""),
        (b"/a%2Fb%3F", "/a/b?", b""),
        (b"/a%zz%", "/a%zz%", b""),
        (b"/../a", "/../a", b""),
    ],
)
async def test_targets(serve: Serve, target: bytes, path: str, query: bytes) -> None:
    async def handler(request: Request) -> None:
        assert (request.path, request.query) == (path, query)
        request.respond(200, [], b"")

    running = await serve(handler)
    async with running.client() as client:
        assert (await client.ask(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200


async def test_any_known_method_reaches_the_handler(serve: Serve) -> None:
    running = await serve()
    async with running.client() as client:
        for method in (b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"PROPFIND", b"QUERY"):
            assert (await client.ask(method + b" /a HTTP/1.1\r\nHost: x\r\n\r\n")).body.startswith(method)
        assert (await client.ask(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")).body.startswith(b"OPTIONS *")


async def test_head_gets_the_length_and_no_body(serve: Serve) -> None:
    running = await serve()
    async with running.client() as client:
        client.send(GET.replace(b"GET", b"HEAD") + GET)
        head = await client.answer(bodiless=True)
        get = await client.answer()
        assert (head.status, int(head.headers["content-length"])) == (200, len(b"HEAD /a  0"))
        assert get.body == b"GET /a  0"


async def test_http10_closes_unless_asked_to_stay(serve: Serve) -> None:
    running = await serve()
    async with running.client() as client:
        answer = await client.ask(b"GET /a HTTP/1.0\r\n\r\n")
        assert answer.headers["connection"] == "close"
        assert await client.closed()
    async with running.client() as client:
        for _ in range(2):
            answer = await client.ask(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert answer.headers["connection"] == "keep-alive"


async def test_connection_close_is_honoured_and_what_follows_is_ignored(serve: Serve) -> None:
    running = await serve()
    async with running.client() as client:
        answer = await client.ask(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + GET)
        assert answer.headers["connection"] == "close"
        assert await client.closed()


async def test_expect_100_continue(serve: Serve) -> None:
    running = await serve()
    async with running.client() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await client.head() == (100, {})
        assert (await client.ask(b"ab")).body == b"POST /a  2"
        # No invitation where the body is already there.
        client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab")
        assert (await client.answer()).status == 200


async def test_the_invitation_waits_for_the_answer_before_it(serve: Serve) -> None:
    running = await serve()
    async with running.client() as client:
        client.send(GET + b"POST /b HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (await client.answer()).body == b"GET /a  0"
        assert await client.head() == (100, {})
        assert (await client.ask(b"ab")).body == b"POST /b  2"


UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (b"GET /u HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\n", b"GET /u  0"),
        (b"POST /u HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"Content-Length: 3\r\n\r\nabc", b"POST /u  3"),
        (
            b"POST /u HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"POST /u  3",
        ),
    ],
)
async def test_upgrade_is_ignored(serve: Serve, request_bytes: bytes, answer: bytes) -> None:
    running = await serve()
    async with running.client() as client:
        client.send(request_bytes * 2 + GET)
        assert [(await client.answer()).body for _ in range(3)] == [answer, answer, b"GET /a  0"]
        for cut in range(1, len(request_bytes)):
            client.send(request_bytes[:cut])
            await client.writer.drain()
            assert (await client.ask(request_bytes[cut:])).body == answer


async def test_upgrade_with_close_closes(serve: Serve) -> None:
    running = await serve()
    async with running.client() as client:
        upgrade = b"GET /u HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n"
        answer = await client.ask(upgrade + GET)
        assert answer.body == b"GET /u  0"
        assert await client.closed()


async def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    entered: list[str] = []

    async def handler(request: Request) -> None:
        entered.append(request.path)
        await gates[int(request.path[1:])].wait()
        request.respond(200, [], request.path.encode() + request.body)

    running = await serve(handler)
    async with running.client() as client:
        client.send(b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\nPOST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
        await eventually(lambda: entered == ["/0"])
        client.send(b"cdGET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
        for gate in reversed(gates):
            gate.set()
        assert [(await client.answer()).body for _ in range(3)] == [b"/0", b"/1abcd", b"/2"]
        assert entered == ["/0", "/1", "/2"]


async def test_many_pipelined_requests_in_many_pieces(serve: Serve) -> None:
    running = await serve()
    stream = b"".join(
        b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (n, n, b"z" * n) for n in range(300)
    )
    async with running.client() as client:

        async def send() -> None:
            for at in range(0, len(stream), 977):
                client.send(stream[at : at + 977])
                await client.writer.drain()

        sending = asyncio.create_task(send())
        for n in range(300):
            assert (await client.answer()).body == b"POST /%d  %d" % (n, n)
        await sending


async def test_a_client_that_sends_ahead_without_end_is_not_read(serve: Serve) -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> None:
        await gate.wait()
        request.respond(200, [], b"")

    running = await serve(handler, max_pipelined_bytes=4096)
    async with running.client() as client:
        client.send(GET)
        await eventually(lambda: running.server.active_count == 1)
        body = 8 * 1024 * 1024
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % body + b"z" * body)
        await eventually(lambda: running.server.buffered_bytes > 4096)
        for _ in range(20):
            await asyncio.sleep(0)
        assert running.server.buffered_bytes < 1024 * 1024
        gate.set()
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 200


async def test_no_number_of_requests_in_one_read_is_too_many(serve: Serve) -> None:
    running = await serve()
    async with running.client() as client:
        client.send(GET * 5000)
        for _ in range(5000):
            assert (await client.answer()).status == 200
