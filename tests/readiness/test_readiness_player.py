"""Callers and the player, against simulated providers over real sockets."""

import asyncio
import json
import time

import pytest

from amaru.errors import TraceError
from amaru.readiness.caller import Caller, Habits
from amaru.readiness.measuring import TRUNCATED, UNFINISHED, Sample
from amaru.readiness.player import Lane, play
from amaru.simulation import Fault, Latency, ProviderProfile, SimulatedProvider
from amaru.simulation.traces import TraceRequest

QUICK = Habits(max_retries=0, patience_s=1.0)


async def called(
    provider: SimulatedProvider, habits: Habits = QUICK, tokens: int = 12, key: str | None = None, late_s: float = 0.0
) -> Sample:
    """One call of ``provider``; it was due ``late_s`` ago."""
    caller = Caller(provider.base_url, "sim-model", habits=habits, label="sim", key=key)
    sample = Sample(at_s=0.0)
    try:
        body = caller.body("one two three", tokens)
        await caller.call(body, sample, time.monotonic() - late_s)
    finally:
        await caller.aclose()
    return sample


async def test_a_whole_answer_is_measured() -> None:
    async with SimulatedProvider() as provider:
        sample = await called(provider)
    assert sample.ok
    assert (sample.status, sample.input_tokens, sample.output_tokens, sample.counted_by) == (200, 3, 12, "server")
    assert sample.first_token_s is not None
    assert 0 < sample.first_token_s <= sample.latency_s
    assert sample.provider == "sim"


async def test_where_no_usage_is_reported_the_client_counts() -> None:
    async with SimulatedProvider(ProviderProfile(stream_usage=False)) as provider:
        sample = await called(provider)
    assert (sample.output_tokens, sample.counted_by) == (12, "client")


async def test_each_gap_between_tokens_is_measured() -> None:
    async with SimulatedProvider(ProviderProfile(latency=Latency(ttft_ms=0, ttft_sigma=0, itl_ms=20))) as provider:
        sample = await called(provider)
    assert (sample.content_events, len(sample.gaps_s)) == (12, 11)
    assert sample.first_token_s is not None
    assert sum(sample.gaps_s) > 11 * 0.005
    assert sample.first_token_s + sum(sample.gaps_s) <= sample.latency_s + 1e-3


async def test_answers_that_are_not_streamed() -> None:
    whole = Habits(max_retries=0, patience_s=1.0, stream=False)
    async with SimulatedProvider() as provider:
        sample = await called(provider, whole)
        assert sample.ok
        assert (sample.output_tokens, sample.counted_by, sample.content_events) == (12, "server", 1)
        assert sample.first_token_s is not None
        assert sample.first_token_s <= sample.latency_s
        assert not sample.gaps_s
        for fault, error in [
            (Fault(kind="status", status=500), "http_500"),
            (Fault(kind="error_in_200"), "error_event"),
            (Fault(kind="cut"), "stream_cut"),
            (Fault(kind="garbage"), "malformed"),
            (Fault(kind="hang"), "no_answer"),
        ]:
            provider.faults.clear()
            provider.faults.add(fault)
            sample = await called(provider, whole)
            assert (sample.error, sample.first_token_s) == (error, None)
            assert sample.detail


async def test_a_request_says_what_its_habits_are() -> None:
    habits = Habits(exact_lengths=False, limit_field="max_completion_tokens", stream_usage=False)
    plain = json.loads(Caller("http://127.0.0.1:9/v1", "m", habits=habits).body("hello", 0))
    message = {"role": "user", "content": "hello"}
    assert plain == {"model": "m", "messages": [message], "max_completion_tokens": 1, "stream": True}
    full = json.loads(Caller("http://127.0.0.1:9/v1", "m").body("hello", 7))
    assert (full["max_tokens"], full["ignore_eos"], full["stream_options"]) == (7, True, {"include_usage": True})
    whole = json.loads(Caller("http://127.0.0.1:9/v1", "m", habits=Habits(stream=False)).body("hello", 7))
    assert "stream" not in whole


async def test_a_key_is_sent_and_never_told() -> None:
    async with SimulatedProvider(ProviderProfile(keys=("sk-secret",)), keep_received=2) as provider:
        assert (await called(provider, key="sk-secret")).ok
        provider.faults.add(Fault(kind="status", status=403, code="sk-secret"))
        sample = await called(provider, key="sk-secret")
        assert provider.received[0].headers[b"authorization"] == b"Bearer sk-secret"
    assert sample.error == "http_403"
    assert "[key]" in sample.detail
    assert "sk-secret" not in sample.detail


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(kind="refuse"), "connect"),
        (Fault(kind="reset"), "reset"),
        (Fault(kind="hang"), "no_answer"),
        (Fault(kind="status", status=500), "http_500"),
        (Fault(kind="status", status=400), "http_400"),
        (Fault(kind="error_in_200"), "error_event"),
        (Fault(kind="error_in_stream"), "error_event"),
        (Fault(kind="cut"), "stream_cut"),
        (Fault(kind="cut", how="close"), "stream_cut"),
        (Fault(kind="cut", how="end"), TRUNCATED),
        (Fault(kind="cut", at="first_byte", how="end"), TRUNCATED),
        (Fault(kind="stall"), "stream_stalled"),
        (Fault(kind="keepalive_only"), "stream_stalled"),  # comments are silence
        (Fault(kind="garbage"), "malformed"),
        (Fault(kind="truncated_utf8"), "malformed"),
    ],
)
async def test_each_break_has_its_name(fault: Fault, error: str) -> None:
    async with SimulatedProvider(faults=[fault]) as provider:
        sample = await called(provider)
    assert sample.error == error
    assert sample.detail
    assert not sample.ok


async def test_without_done_a_whole_answer_is_whole() -> None:
    async with SimulatedProvider(faults=[Fault(kind="no_done")]) as provider:
        assert (await called(provider)).ok


async def test_the_caller_retries_as_the_official_client_does() -> None:
    habits = Habits(max_retries=2, patience_s=2)
    wait = {"retry_after": "ms", "retry_after_s": 0.001}
    async with SimulatedProvider() as provider:
        provider.faults.add(Fault(kind="status", status=429, times=2, **wait))
        sample = await called(provider, habits)
        assert (sample.ok, sample.client_retries, provider.requests) == (True, 2, 3)
        provider.faults.add(Fault(kind="status", status=503, **wait))
        sample = await called(provider, habits)
        assert (sample.error, sample.client_retries, provider.requests) == ("http_503", 2, 6)
        provider.faults.clear()
        provider.faults.add(Fault(kind="status", status=400, **wait))
        assert (await called(provider, habits)).client_retries == 0
        provider.faults.clear()
        provider.faults.add(Fault(kind="cut"))
        assert (await called(provider, habits)).client_retries == 0  # a stream that broke is not asked for again


async def test_latency_counts_from_when_the_request_was_due() -> None:
    async with SimulatedProvider() as provider:
        sample = await called(provider, late_s=5.0)
    assert sample.latency_s > 5
    assert sample.first_token_s is not None
    assert sample.first_token_s > 5


def arrivals(count: int, apart_s: float) -> list[TraceRequest]:
    return [TraceRequest(place * apart_s, 5, 3) for place in range(count)]


async def test_requests_leave_on_time_whatever_became_of_those_before() -> None:
    async with SimulatedProvider(faults=[Fault(kind="hang")]) as provider:
        lane = Lane("a", Caller(provider.base_url, "sim-model", habits=Habits(max_retries=0, patience_s=60)))
        stop = asyncio.Event()
        playing = asyncio.create_task(play(arrivals(20, 1.0), [lane], speed=100, seed=1, stop=stop))
        async with asyncio.timeout(60.0):
            while provider.requests < 20:  # noqa: ASYNC110 -- all are there while not one was answered
                await asyncio.sleep(0.005)
        stop.set()
        run = await playing
        await lane.caller.aclose()
    assert not run.complete
    assert [sample.at_s for sample in lane.samples] == pytest.approx([place / 100 for place in range(20)])
    assert {sample.error for sample in lane.samples} == {UNFINISHED}
    assert lane.in_flight == 0


async def test_requests_that_come_together_are_made_before_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    burst = [TraceRequest(0.0, 5, 3), *(TraceRequest(2.0, 2_000, 1) for _ in range(20))]
    async with SimulatedProvider(faults=[Fault(kind="hang")]) as provider:
        lane = Lane("a", Caller(provider.base_url, "sim-model", habits=Habits(max_retries=0, patience_s=60)))
        made: list[float] = []
        make, loop = lane.caller.body, asyncio.get_running_loop()
        start = loop.time()

        def body(prompt: str, output_tokens: int) -> bytes:
            made.append(loop.time() - start)
            return make(prompt, output_tokens)

        monkeypatch.setattr(lane.caller, "body", body)
        stop = asyncio.Event()
        playing = asyncio.create_task(play(burst, [lane], speed=1, seed=1, stop=stop))
        async with asyncio.timeout(60.0):
            while len(lane.samples) < 21:  # noqa: ASYNC110 -- the player has no event for it
                await asyncio.sleep(0.005)
        stop.set()
        await playing
        await lane.caller.aclose()
    assert len(made) == 21
    assert max(made) < 2.0  # all of them in the seconds before


async def test_every_lane_gets_the_same_requests() -> None:
    async with SimulatedProvider(keep_received=10) as one, SimulatedProvider(keep_received=10) as two:
        lanes = [Lane(name, Caller(p.base_url, "sim-model", habits=QUICK)) for name, p in (("1", one), ("2", two))]
        run = await play(arrivals(6, 0.001), lanes, speed=1, seed=1, stop=asyncio.Event())
        for lane in lanes:
            await lane.caller.aclose()
        assert run.complete
        assert sorted(r.body for r in one.received) == sorted(r.body for r in two.received)
    assert all(sample.ok and sample.output_tokens == 3 for lane in lanes for sample in lane.samples)
    assert len(lanes[0].finished) == 6


async def test_too_many_open_requests_are_dropped_and_counted() -> None:
    async with SimulatedProvider(faults=[Fault(kind="hang")]) as provider:
        lane = Lane("a", Caller(provider.base_url, "sim-model", habits=Habits(patience_s=60)), max_in_flight=3)
        stop = asyncio.Event()
        playing = asyncio.create_task(play(arrivals(10, 0.0), [lane], speed=1, seed=1, stop=stop))
        async with asyncio.timeout(60.0):
            while lane.dropped < 7:  # noqa: ASYNC110 -- the player has no event for it
                await asyncio.sleep(0.005)
        stop.set()
        await playing
        await lane.caller.aclose()
    assert (len(lane.samples), lane.dropped) == (3, 7)


async def test_a_run_ends_with_its_duration_and_its_grace() -> None:
    async with SimulatedProvider(ProviderProfile(latency=Latency(ttft_ms=60_000, ttft_sigma=0))) as provider:
        lane = Lane("a", Caller(provider.base_url, "sim-model", habits=Habits(patience_s=60)))
        run = await play(
            arrivals(1000, 0.01), [lane], speed=1, seed=1, stop=asyncio.Event(), duration_s=0.05, grace_s=0.05
        )
        await lane.caller.aclose()
    assert run.complete
    assert 0.05 <= run.duration_s < 60
    assert len(lane.samples) == 5
    assert all(sample.error == UNFINISHED for sample in lane.samples)


async def test_a_wrong_trace_and_a_mistake_of_our_own_are_not_the_servers_failures() -> None:
    def wrong():
        yield TraceRequest(0.0, 1, 1)
        raise TraceError("line 3")

    async with SimulatedProvider() as provider:
        lane = Lane("a", Caller(provider.base_url, "sim-model", habits=QUICK))
        run = await play(wrong(), [lane], speed=1, seed=1, stop=asyncio.Event())
        assert str(run.broken_off) == "line 3"
        assert not run.complete
        assert lane.samples[0].ok  # what was sent before is measured
        await lane.caller.aclose()

        class Broken(Caller):
            async def call(self, body: bytes, sample: Sample, due: float) -> None:
                raise ZeroDivisionError

        broken = Lane("b", Broken(provider.base_url, "sim-model"))
        with pytest.raises(ZeroDivisionError):
            await play(arrivals(1, 0.0), [broken], speed=1, seed=1, stop=asyncio.Event())
        await broken.caller.aclose()
