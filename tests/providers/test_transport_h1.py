"""What the HTTP/1.1 transport promises beyond conformance: timers, pool, framing under any split, no leaks."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transport_peer import CHUNKED, OK, Wire, answer

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.providers.h1 import H1Transport
from amaru.providers.h1_connection import H1Connection
from amaru.providers.h1_message import COMPLETE
from amaru.providers.transport import HttpResponse, Transport

REQUEST = (b"POST / HTTP/1.1\r\n\r\n", b"")


async def ask(transport: Transport, target: bytes = b"/") -> HttpResponse:
    at = asyncio.get_running_loop().time() + 5
    response = await transport.send("POST", target, [], b"{}", head_deadline=at, head_kind=FailureKind.NO_ANSWER)
    response.set_deadline(at, FailureKind.STREAM_STALLED, "stalled")
    return response


# A connection by itself, on a clock that the test holds.


class HeldLoop:
    """As much of an event loop as a connection uses, with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.armed = 0

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.Future(loop=asyncio.get_event_loop())

    def call_at(self, at: float, callback: Callable[[], None]) -> Any:
        self.armed += 1
        timer = (at, callback)
        self.timers.append(timer)
        held = self

        class Handle:
            def cancel(self) -> None:
                if timer in held.timers:
                    held.timers.remove(timer)

        return Handle()

    def advance(self, to: float) -> None:
        while due := [timer for timer in self.timers if timer[0] <= to]:
            timer = min(due, key=lambda one: one[0])
            self.timers.remove(timer)
            self.now = max(self.now, timer[0])
            timer[1]()
        self.now = to


class Line:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.reading = True
        self.unsent = 0

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: Any) -> None:
        self.written += b"".join(parts)

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def connection_on(loop: Any) -> tuple[H1Connection, Line, list[bool]]:
    ended: list[bool] = []
    connection = H1Connection(loop, "peer:1", lambda _, lingered: ended.append(lingered))
    line = Line()
    connection.connection_made(line)  # type: ignore[arg-type]  # as much of a transport as is used
    return connection, line, ended


def begin(connection: H1Connection, deadline: float = 60.0) -> None:
    connection.start(REQUEST, bodiless=False, deadline=deadline, kind=FailureKind.NO_ANSWER)


async def test_a_hundred_requests_cost_one_timer():
    loop = HeldLoop()
    connection, _, _ = connection_on(loop)
    for number in range(100):
        loop.now = number / 10
        begin(connection, deadline=loop.now + 60)
        waiting = asyncio.ensure_future(connection.wait())
        await asyncio.sleep(0)
        connection.data_received(OK)
        await waiting
        assert connection.rest(30.0)
    assert loop.armed == 1


async def test_a_timer_that_comes_early_for_a_later_deadline_is_armed_again():
    loop = HeldLoop()
    connection, _, _ = connection_on(loop)
    begin(connection, deadline=10)
    waiting = asyncio.ensure_future(connection.wait())
    await asyncio.sleep(0)
    connection.set_deadline(50, FailureKind.NO_ANSWER, "later")
    loop.advance(49)
    assert connection.failure is None
    loop.advance(50)
    await waiting
    assert connection.failure is not None
    assert connection.failure.message == "peer:1: later"


async def test_a_deadline_does_not_fail_a_response_that_nobody_waits_for():
    loop = HeldLoop()
    connection, _, _ = connection_on(loop)
    begin(connection, deadline=10)
    waiting = asyncio.ensure_future(connection.wait())
    await asyncio.sleep(0)
    connection.data_received(CHUNKED + b"2\r\nhi\r\n")
    await waiting
    connection.set_deadline(5, FailureKind.STREAM_STALLED, "slow provider")
    loop.advance(100)  # the caller was busy; the bytes had come in time
    assert await connection.read_some() == b"hi"
    reading = asyncio.ensure_future(connection.read_some())
    await asyncio.sleep(0)
    loop.advance(101)
    with pytest.raises(Failure, match="slow provider"):
        await reading


async def test_a_deadline_between_the_last_byte_and_its_reader_does_not_spoil_a_whole_answer():
    loop = HeldLoop()
    connection, _, _ = connection_on(loop)
    begin(connection, deadline=10)
    waiting = asyncio.ensure_future(connection.wait())
    await asyncio.sleep(0)
    connection.data_received(OK)
    loop.advance(11)  # fires before the reader's task runs
    await waiting
    assert connection.failure is None
    assert connection.state == COMPLETE


async def test_an_idle_connection_closes_itself_when_it_is_too_old():
    loop = HeldLoop()
    connection, line, ended = connection_on(loop)
    begin(connection)
    connection.data_received(OK)
    assert connection.rest(30.0)
    assert connection.usable(29.9)
    assert not connection.usable(30.0)
    loop.advance(31)
    assert line.closed
    assert ended == [False]


async def test_bytes_on_an_idle_connection_close_it():
    connection, line, ended = connection_on(HeldLoop())
    begin(connection)
    connection.data_received(OK)
    assert connection.rest(30.0)
    connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert line.closed
    assert ended == [False]


async def test_a_connection_whose_request_is_not_all_written_is_not_kept():
    connection, line, _ = connection_on(HeldLoop())
    line.unsent = 1
    begin(connection)
    connection.data_received(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
    assert connection.state == COMPLETE
    assert not connection.rest(30.0)


async def test_reading_pauses_above_the_high_water_mark_and_resumes():
    connection, line, _ = connection_on(HeldLoop())
    begin(connection)
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + bytes(65536))
    assert line.reading
    connection.data_received(b"x")
    assert not line.reading
    assert len(await connection.read_some()) == 65537
    assert line.reading


@pytest.mark.parametrize("prefix", [b"0\r\nx-trailer: ", b"1\r\nx\r\n5;extension="])
async def test_endless_trailers_and_extensions_are_bounded(prefix):
    connection, line, _ = connection_on(HeldLoop())
    begin(connection)
    connection.data_received(CHUNKED + prefix)
    for _ in range(20):
        connection.data_received(b"a" * 10_000)
    assert line.closed
    assert connection.failure is not None
    assert connection.failure.kind is FailureKind.MALFORMED_BODY


async def test_endless_interim_responses_are_bounded():
    connection, line, _ = connection_on(HeldLoop())
    begin(connection)
    for _ in range(5000):
        connection.data_received(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert line.closed


# Any split, and any garbage.

_token = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(lambda name: b"x-" + name.encode())
_value = st.text("abcXYZ019 ;,=", max_size=30).map(lambda value: value.strip().encode())
_framing = st.sampled_from(["length", "chunked", "eof"])


def _render(status: int, headers: list[tuple[bytes, bytes]], body: list[bytes], framing: str, interim: bool) -> bytes:
    whole = b"".join(body)
    lines = [b"%b: %b\r\n" % header for header in headers]
    if framing == "length":
        lines.append(b"Content-Length: %d\r\n" % len(whole))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked\r\n")
        whole = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in body if part) + b"0\r\n\r\n"
    first = b"HTTP/1.1 103 Early\r\nx-early: 1\r\n\r\n" if interim else b""
    return first + b"HTTP/1.1 %d Reason\r\n" % status + b"".join(lines) + b"\r\n" + whole


async def _play(pieces: list[bytes]) -> tuple[H1Connection, bytes, Failure | None]:
    connection, _, _ = connection_on(HeldLoop())
    begin(connection)
    for piece in pieces:
        connection.data_received(piece)
    connection.eof_received()
    connection.connection_lost(None)
    body = b""
    try:
        while connection.status and (part := await connection.read_some()):
            body += part
    except Failure as failure:
        return connection, body, failure
    return connection, body, connection.failure


def _run(pieces: list[bytes]) -> tuple[H1Connection, bytes, Failure | None]:
    return _LOOP.run_until_complete(asyncio.wait_for(_play(pieces), 5))


_LOOP = asyncio.new_event_loop()


@pytest.fixture(scope="module", autouse=True)
def _close_loop() -> Any:
    yield
    _LOOP.close()


@settings(max_examples=150, deadline=None)
@given(
    status=st.sampled_from([200, 201, 400, 429, 500, 529]),
    headers=st.lists(st.tuples(_token, _value), max_size=5),
    body=st.lists(st.binary(max_size=40), max_size=5),
    framing=_framing,
    interim=st.booleans(),
    data=st.data(),
)
def test_a_response_is_the_same_however_it_is_split(status, headers, body, framing, interim, data):
    wire = _render(status, headers, body, framing, interim)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    bounds = [0, *cuts, len(wire)]
    pieces = [wire[start:end] for start, end in itertools.pairwise(bounds) if start < end]
    connection, got, failure = _run(pieces)
    assert failure is None
    assert (connection.status, got) == (status, b"".join(body))
    assert connection.ended_by_eof == (framing == "eof")
    expected: dict[bytes, bytes] = {}
    for name, value in headers:
        expected[name] = expected[name] + b", " + value if name in expected else value
    assert {name: value for name, value in connection.headers.items() if name.startswith(b"x-")} == expected


@settings(max_examples=150, deadline=None)
@given(
    body=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5),
    framing=st.sampled_from(["length", "chunked"]),
    data=st.data(),
)
def test_a_response_that_is_cut_anywhere_is_a_failure(body, framing, data):
    wire = _render(200, [], body, framing, interim=False)
    kept = data.draw(st.integers(0, len(wire) - 1))
    connection, got, failure = _run([wire[:kept]])
    assert failure is not None
    assert b"".join(body).startswith(got), "what was given out is what was sent"
    assert failure.kind is (FailureKind.STREAM_CUT if connection.status else FailureKind.RESET)


@settings(max_examples=200, deadline=None)
@given(garbage=st.lists(st.binary(min_size=1, max_size=60), max_size=6), prefix=st.sampled_from([b"", b"HTTP/1.1 "]))
def test_garbage_is_a_failure_and_never_a_hang(garbage, prefix):
    connection, _, failure = _run([prefix, *garbage] if prefix else garbage)
    assert failure is not None or connection.status, "no answer came of it, or one that a server could have meant"


@settings(max_examples=150, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4), framing=_framing)
def test_damage_ends_in_an_answer_or_a_failure(flips, framing):
    wire = bytearray(_render(200, [(b"x-a", b"1")], [b"hello", b"world"], framing, interim=True))
    for place, byte in flips:
        wire[place % len(wire)] = byte
    connection, _, failure = _run([bytes(wire)])
    assert failure is not None or connection.status


# The pool.


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
    for _ in range(100):  # the library closes its sockets on a thread of its own
        if process.num_fds() <= before and len(asyncio.all_tasks()) <= tasks:
            break
        await asyncio.sleep(0.01)
    assert process.num_fds() <= before
    assert len(asyncio.all_tasks()) <= tasks
