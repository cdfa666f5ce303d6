"""Streams: what is handed on, how each kind of end is judged, and that nothing is lost, kept open or made up."""

from __future__ import annotations

import asyncio

import pytest
from openai_peer import (
    DONE,
    HELLO,
    KEY,
    ROLE,
    STOP,
    STREAM_HEAD,
    USAGE,
    WORLD,
    Exchange,
    chat,
    chunk,
    event,
    peer,
    read_all,
    read_on,
)

from amaru.domain import FailureKind, Usage
from amaru.errors import Failure
from amaru.providers import openai_stream
from amaru.providers.base import MAX_STREAM_SAMPLE_BYTES
from amaru.providers.h1 import H1Transport

ERROR = event(error={"message": f"overloaded, key {KEY}", "type": "overloaded_error"})


def streams(*events: bytes, end: str = "end"):  # type: ignore[no-untyped-def]  # a Script
    """A script: the head, these events, and an end of its body by the rules, by a closed, or by a reset connection."""

    async def script(exchange: Exchange) -> None:
        if end == "end":
            exchange.stream(*events)
            return
        exchange.send(STREAM_HEAD)
        exchange.events(*events)
        if end == "close":
            exchange.close()
        else:
            await exchange.gone.wait()

    return script


async def call_fails(*events: bytes, end: str = "end", **limits: float) -> Failure:
    async with peer(streams(*events, end=end)) as provider:
        with pytest.raises(Failure) as caught:
            await provider.stream(**limits)
        if end == "open":
            await provider.exchanges[0].gone.wait()
    return caught.value


async def breaks(*events: bytes, end: str = "end", **limits: float) -> tuple[bytes, Failure]:
    """How a stream breaks by ``events`` after its role and first token came: what was handed on from there."""

    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        exchange.events(ROLE, HELLO)
        await opened.wait()
        exchange.events(*events)
        if end == "end":
            exchange.send(b"0\r\n\r\n")
        elif end == "close":
            exchange.close()
        await exchange.gone.wait()

    opened = asyncio.Event()
    handed_on: list[bytes] = []
    async with peer(script) as provider:
        reply = await provider.stream(**limits)
        assert reply.first == ROLE + HELLO
        opened.set()
        with pytest.raises(Failure) as caught:
            await read_on(reply, handed_on)
        if end == "open":
            await provider.exchanges[0].gone.wait()
    return b"".join(handed_on), caught.value


async def test_an_ordinary_stream_is_handed_on_verbatim_and_its_connection_kept() -> None:
    async with peer(streams(ROLE, HELLO, WORLD, STOP, USAGE, DONE)) as provider:
        for _ in range(3):
            reply = await provider.stream()
            assert reply.first.startswith(ROLE + HELLO)
            assert await read_all(reply) == ROLE + HELLO + WORLD + STOP
            assert await reply.next() == b""
            facts = reply.facts
            assert (facts.model, facts.usage, facts.finish_reasons) == ("their-model", Usage(3, 2), ("stop",))
            assert ("".join(facts.output_text), facts.output_chars) == ("Hello world", 11)
            assert facts.first_token_at is not None
            assert facts.bytes_received >= len(ROLE + HELLO + WORLD + STOP + USAGE + DONE)
        assert provider.connections == 1


async def test_it_returns_with_the_first_content_and_not_before() -> None:
    seen = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        exchange.events(ROLE, b": processing\n\n", HELLO)
        await seen.wait()
        exchange.events(WORLD, STOP, DONE)
        exchange.send(b"0\r\n\r\n")

    async with peer(script) as provider:
        reply = await provider.stream()
        assert reply.first == ROLE + HELLO
        seen.set()
        assert await read_all(reply) == ROLE + HELLO + WORLD + STOP


@pytest.mark.parametrize("reason", ["stop", "content_filter", "length"])
async def test_an_answer_without_content_is_one(reason: str) -> None:
    async with peer(streams(ROLE, chunk(reason=reason), DONE)) as provider:
        reply = await provider.stream()
        assert await read_all(reply) == ROLE + chunk(reason=reason)
        assert reply.facts.finish_reasons == (reason,)


# ---- ends that are whole --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["end", "close", "open"])
@pytest.mark.parametrize("last", [(), (USAGE,), (b": bye\n\n",), (b"data: {broken\n\n",)])
async def test_a_finished_stream_without_done_is_whole(end: str, last: tuple[bytes, ...]) -> None:
    async with peer(streams(ROLE, HELLO, STOP, *last, end=end)) as provider:
        started = asyncio.get_running_loop().time()
        reply = await provider.stream(tail=0.1)
        assert await read_all(reply) == ROLE + HELLO + STOP
        assert asyncio.get_running_loop().time() - started < 30.0
        if USAGE in last:
            assert reply.facts.usage == Usage(3, 2)
        if end == "open":
            await provider.exchanges[0].gone.wait()


@pytest.mark.parametrize("usage", [False, True])
async def test_finish_and_usage_end_a_stream_that_is_held_open_at_once(usage: bool) -> None:
    async with peer(streams(ROLE, HELLO, STOP, USAGE, end="open")) as provider:
        started = asyncio.get_running_loop().time()
        reply = await provider.stream(chat(stream=True, stream_options={"include_usage": usage}))
        assert await read_all(reply) == ROLE + HELLO + STOP + (USAGE if usage else b"")
        assert asyncio.get_running_loop().time() - started < 30.0
        assert reply.facts.usage == Usage(3, 2)
        await provider.exchanges[0].gone.wait()


async def test_a_finish_that_carries_usage_lets_one_more_event_of_it_come_but_does_not_wait_long() -> None:
    stop = STOP.replace(b'"choices"', b'"usage": {"prompt_tokens": 3, "completion_tokens": 2}, "choices"')
    for last in (b"", USAGE):
        async with peer(streams(ROLE, HELLO, stop, last, end="open")) as provider:
            started = asyncio.get_running_loop().time()
            reply = await provider.stream(chat(stream=True, stream_options={"include_usage": True}))
            assert await read_all(reply) == ROLE + HELLO + stop + last
            assert asyncio.get_running_loop().time() - started < 30.0


async def test_a_stream_ended_by_its_usage_leaves_its_connection_to_the_next() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        exchange.events(ROLE, HELLO, STOP, USAGE)
        await ended.wait()
        exchange.events(DONE)
        exchange.send(b"0\r\n\r\n")

    ended = asyncio.Event()
    async with peer(script) as provider:
        assert await read_all(await provider.stream()) == ROLE + HELLO + STOP
        ended.set()
        transport = provider.provider._transport
        assert isinstance(transport, H1Transport)
        while not transport.idle_connections:  # noqa: ASYNC110  # a pool tells nobody of what comes back to it
            await asyncio.sleep(0)
        await read_all(await provider.stream())
        assert provider.connections == 1


async def test_after_done_nothing_is_waited_for_or_handed_on() -> None:
    async with peer(streams(HELLO, DONE + WORLD, end="open")) as provider:
        started = asyncio.get_running_loop().time()
        reply = await provider.stream()
        assert await read_all(reply) == HELLO
        assert asyncio.get_running_loop().time() - started < 30.0
        await provider.exchanges[0].gone.wait()


async def test_a_stream_without_framing_ends_with_its_connection() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", HELLO, STOP.rstrip())
        exchange.close()

    async with peer(script) as provider:
        assert await read_all(await provider.stream()) == HELLO + STOP


async def test_one_finished_choice_does_not_end_the_others() -> None:
    going_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        exchange.events(HELLO, STOP)
        await going_on.wait()
        exchange.events(chunk({"content": "b"}, index=1), chunk(reason="stop", index=1), DONE)

    async with peer(script) as provider:
        reply = await provider.stream(chat(stream=True, n=2), tail=0.01)
        task = asyncio.ensure_future(read_all(reply))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 0.1)
        going_on.set()
        assert (await task).count(b"data:") == 4
        assert reply.facts.finish_reasons == ("stop", "stop")


async def test_a_stream_that_ends_before_a_choice_began_is_cut() -> None:
    received: list[bytes] = []
    async with peer(streams(HELLO, STOP)) as provider:
        reply = await provider.stream(chat(stream=True, n=2))
        with pytest.raises(Failure) as caught:
            await read_on(reply, received)
    assert caught.value.kind is FailureKind.STREAM_CUT
    assert reply.sent.choices == {0}
    async with peer(streams(HELLO, STOP, DONE)) as provider:  # one that knows of no second choice, and says so
        assert await read_all(await provider.stream(chat(stream=True, n=2))) == HELLO + STOP


async def test_usage_is_handed_on_to_who_asked() -> None:
    async with peer(streams(HELLO, STOP, USAGE, DONE)) as provider:
        request = chat(stream=True, stream_options={"include_usage": True})
        assert await read_all(await provider.stream(request)) == HELLO + STOP + USAGE


# ---- what fails before the first content, unseen ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "end", "kind"),
    [
        ((), "end", FailureKind.MALFORMED_BODY),
        ((b": ping\n\n",), "end", FailureKind.STREAM_CUT),
        ((ROLE,), "end", FailureKind.STREAM_CUT),
        ((ROLE,), "close", FailureKind.STREAM_CUT),
        ((DONE,), "end", FailureKind.MALFORMED_BODY),
        ((ROLE, DONE), "end", FailureKind.MALFORMED_BODY),
        ((USAGE, DONE), "end", FailureKind.MALFORMED_BODY),
        ((ROLE, b"data: {broken\n\n"), "open", FailureKind.MALFORMED_EVENT),
        ((b"<html><body>Welcome</body></html>",), "end", FailureKind.STREAM_CUT),
        ((ERROR,), "open", FailureKind.OVERLOADED),
        ((ROLE + HELLO + ERROR,), "open", FailureKind.OVERLOADED),
        ((ROLE + HELLO + b"data: {\n\n",), "open", FailureKind.MALFORMED_EVENT),
        ((event(error={"message": "m", "code": "context_length_exceeded"}),), "end", FailureKind.CONTEXT_TOO_LONG),
        ((event(error={"message": "m", "code": 429}),), "end", FailureKind.RATE_LIMITED),
    ],
)
async def test_failures_before_the_first_content(events: tuple[bytes, ...], end: str, kind: FailureKind) -> None:
    failure = await call_fails(*events, end=end)
    assert failure.kind is kind
    assert failure.status == 200
    assert KEY not in str(failure)
    assert failure.bytes_received >= sum(map(len, events))


async def test_a_first_token_that_is_late() -> None:
    assert (await call_fails(ROLE, end="open", first_token=0.1)).kind is FailureKind.NO_ANSWER
    assert (await call_fails(ROLE, end="open", deadline=0.1)).kind is FailureKind.NO_ANSWER


async def test_keepalives_do_not_hold_off_the_first_token_limit() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        while not exchange.gone.is_set():
            exchange.events(b": ping\n\n", ROLE)
            await asyncio.sleep(0.01)

    async with peer(script) as provider:
        with pytest.raises(Failure) as caught:
            await provider.stream(first_token=0.1)
        assert caught.value.kind is FailureKind.NO_ANSWER


async def test_events_without_content_are_not_held_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_stream, "MAX_OPENING_BYTES", 3 * len(ROLE))
    failure = await call_fails(*[ROLE] * 4, end="open")
    assert failure.kind is FailureKind.MALFORMED_BODY


async def test_a_head_that_never_comes() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.gone.wait()

    async with peer(script) as provider:
        with pytest.raises(Failure) as caught:
            await provider.stream(first_token=0.1)
        assert caught.value.kind is FailureKind.NO_ANSWER
        await provider.exchanges[0].gone.wait()


# ---- what breaks in the middle --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["end", "close"])
async def test_a_stream_that_ends_without_finish_reason_is_cut(end: str) -> None:
    handed_on, failure = await breaks(WORLD, end=end)
    assert failure.kind is FailureKind.STREAM_CUT
    assert handed_on == WORLD


async def test_a_reset_connection_cuts_the_stream_or_ends_a_whole_one() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        exchange.events(*events)
        await seen.wait()
        exchange.reset()

    for events, whole in (((HELLO,), False), ((HELLO, STOP), True)):
        seen = asyncio.Event()
        async with peer(script) as provider:
            reply = await provider.stream()
            received = [reply.first]
            while b"".join(received) != b"".join(events):
                received.append(await reply.next())
            seen.set()
            if whole:
                assert await reply.next() == b""
                continue
            with pytest.raises(Failure) as caught:
                await reply.next()
            assert caught.value.kind is FailureKind.STREAM_CUT


@pytest.mark.parametrize("line_end", [b"", b"\n", b"\r\n"])
async def test_a_last_event_that_lacks_its_blank_line_goes_out_before_the_cut(line_end: bytes) -> None:
    """It counts as sent, and would be missing from what another provider goes on with."""
    handed_on, failure = await breaks(WORLD.rstrip() + line_end)
    assert (handed_on, failure.kind) == (WORLD, FailureKind.STREAM_CUT)
    assert (await call_fails(ROLE, HELLO.rstrip() + line_end)).kind is FailureKind.STREAM_CUT


async def test_half_an_event_is_not_handed_on() -> None:
    handed_on, failure = await breaks(WORLD[:-10], end="close")
    assert (handed_on, failure.kind) == (b"", FailureKind.STREAM_CUT)


async def test_silence_is_a_stall() -> None:
    handed_on, failure = await breaks(WORLD, end="open", idle=0.1)
    assert (handed_on, failure.kind) == (WORLD, FailureKind.STREAM_STALLED)
    assert "idle" in failure.message
    _, failure = await breaks(WORLD, end="open", deadline=0.1)
    assert failure.kind is FailureKind.STREAM_STALLED
    assert "deadline" in failure.message


async def test_keepalives_do_not_break_the_silence_and_events_do() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        for _ in range(8):
            exchange.events(HELLO)
            await asyncio.sleep(0.25)
        while not exchange.gone.is_set():
            exchange.events(b": ping\n\n")
            await asyncio.sleep(0.01)

    async with peer(script) as provider:
        reply = await provider.stream(idle=1.5)
        received = [reply.first]
        with pytest.raises(Failure) as caught:
            await read_on(reply, received)
        assert caught.value.kind is FailureKind.STREAM_STALLED
        assert b"".join(received) == HELLO * 8


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (b"data: {broken\n\n", FailureKind.MALFORMED_EVENT),
        (b'data: {"choices":null}\n\n', FailureKind.MALFORMED_EVENT),
        (chunk({"content": "é"}).replace(b"\\u00e9", b"\xc3"), FailureKind.MALFORMED_EVENT),
        (ERROR, FailureKind.OVERLOADED),
        (event(error="boom"), FailureKind.SERVER_ERROR),
        (chunk(reason="error"), FailureKind.SERVER_ERROR),
    ],
)
async def test_a_bad_event_in_the_middle(bad: bytes, kind: FailureKind) -> None:
    handed_on, failure = await breaks(WORLD + bad + WORLD, end="open")
    assert (handed_on, failure.kind) == (WORLD, kind)
    assert KEY not in str(failure)


async def test_an_error_after_the_finish_takes_nothing_from_the_answer() -> None:
    async with peer(streams(HELLO, STOP, ERROR, end="open")) as provider:
        reply = await provider.stream()
        received = [reply.first]
        await read_on(reply, received)
        assert b"".join(received) == HELLO + STOP


async def test_an_error_without_its_frame_at_the_end() -> None:
    handed_on, failure = await breaks(b'{"error": {"message": "m", "code": "429"}}')
    assert (handed_on, failure.kind) == (b"", FailureKind.RATE_LIMITED)


# ---- a caller that goes away ----------------------------------------------------------------------------------------


async def test_closing_cancels_the_providers_call() -> None:
    async with peer(streams(HELLO, end="open")) as provider:
        reply = await provider.stream()
        reply.close()
        reply.close()
        await provider.exchanges[0].gone.wait()


@pytest.mark.parametrize("events", [(), (HELLO,)])
async def test_a_cancelled_task_cancels_the_providers_call(events: tuple[bytes, ...]) -> None:
    arrived = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        exchange.events(*events)
        arrived.set()
        await exchange.gone.wait()

    async with peer(script) as provider:

        async def use() -> None:
            reply = await provider.stream()
            arrived.set()
            await read_all(reply)

        task = asyncio.ensure_future(use())
        await arrived.wait()
        if events:  # the first arrival was the server's; the second is that of the first content
            arrived.clear()
            await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await provider.exchanges[0].gone.wait()


# ---- something other than a stream ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type", "kind"),
    [
        (b'{"error":{"message":"m","code":"insufficient_quota"}}', b"application/json", FailureKind.QUOTA_EXHAUSTED),
        (b'{"choices":[{"message":null}]}', b"application/json", FailureKind.MALFORMED_BODY),
        (b"{}", b"application/json; charset=utf-8", FailureKind.MALFORMED_BODY),
        (b"", b"application/json", FailureKind.MALFORMED_BODY),
        (b"<html></html>", b"text/html", FailureKind.MALFORMED_BODY),
        (b"<html></html>", b"text/plain", FailureKind.STREAM_CUT),
        (b"", b"text/event-stream", FailureKind.MALFORMED_BODY),
        (b'{"error":{"message":"m","code":429}}', b"text/event-stream", FailureKind.RATE_LIMITED),
    ],
)
async def test_no_stream(body: bytes, content_type: bytes, kind: FailureKind) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.answer(200, body, content_type)

    async with peer(script) as provider:
        with pytest.raises(Failure) as caught:
            await provider.stream()
        assert caught.value.kind is kind


async def test_a_stream_that_is_missing_its_content_type_is_one() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD.replace(b"content-type: text/event-stream\r\n", b""))
        exchange.events(HELLO, STOP, DONE)
        exchange.send(b"0\r\n\r\n")

    async with peer(script) as provider:
        assert await read_all(await provider.stream()) == HELLO + STOP


async def test_a_sample_of_a_short_stream_is_all_of_it() -> None:
    async with peer(streams(ROLE, HELLO, WORLD, STOP, DONE)) as provider:
        reply = await provider.stream()
        await read_all(reply)
        assert reply.sample() == (ROLE + HELLO + WORLD + STOP, True)


async def test_a_sample_of_a_long_stream_holds_its_first_events_and_the_last_ones_and_is_bounded() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        exchange.events(ROLE, HELLO)
        await more.wait()
        exchange.events(*[chunk({"content": "x" * 1000})] * 40)
        await end.wait()
        exchange.events(STOP, DONE)
        exchange.send(b"0\r\n\r\n")

    more, end = asyncio.Event(), asyncio.Event()
    async with peer(script) as provider:
        reply = await provider.stream()
        assert reply.sample() == (ROLE + HELLO, True)
        more.set()
        received = len(reply.first)
        while received < 40_000:
            received += len(await reply.next())
        end.set()
        await read_all(reply)
        sample, whole = reply.sample()
        assert not whole
        assert sample.startswith(ROLE + HELLO)
        assert sample.endswith(STOP)
        assert len(sample) <= MAX_STREAM_SAMPLE_BYTES


async def test_an_event_too_long_for_a_sample_is_left_out_of_it() -> None:
    long = chunk({"content": "x" * MAX_STREAM_SAMPLE_BYTES})
    async with peer(streams(long, STOP, DONE)) as provider:
        reply = await provider.stream()
        await read_all(reply)
        sample, whole = reply.sample()
        assert not whole
        assert b"x" not in sample.replace(STOP, b"")
