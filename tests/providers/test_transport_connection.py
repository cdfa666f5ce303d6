"""What one HTTP/1.1 connection promises: deadlines at the cost of one timer, back-pressure, bounded memory."""

from __future__ import annotations

import asyncio

import pytest
from transport_line import HeldLoop, begin, connection_on
from transport_peer import CHUNKED, OK

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.providers.h1_message import COMPLETE


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
