"""A whole replay against servers on real sockets: its plan, its progress, and what it hands over."""

import asyncio
import io
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from plain_target import plain_target, refuses_field
from replay_runs import answer, failure, run_of
from rich.console import Console

from amaru.errors import TraceError
from amaru.readiness.caller import Caller, Habits
from amaru.readiness.player import Lane
from amaru.readiness.preflight import TargetError
from amaru.readiness.replay import Replayed, ReplayOptions, replay
from amaru.readiness.replay_plan import described, plan, time_text
from amaru.readiness.replay_progress import PlainView, Progress, Tally, picture
from amaru.readiness.replay_report import build_report
from amaru.readiness.replay_verdict import verdict
from amaru.readiness.running import room_for_connections, unless_stopped
from amaru.simulation import Fault, Latency, ProviderProfile, SimulatedProvider
from amaru.simulation.traces import TraceFormat, TraceRequest, open_trace, write_amaru

ONE_MODEL = ProviderProfile(embedding_models=())


@pytest.fixture
def trace(tmp_path: Path) -> Callable[..., Path]:
    def write(count: int, apart_s: float = 1.0, tail: str = "") -> Path:
        path = tmp_path / "trace.jsonl"
        with path.open("w") as out:
            write_amaru(out, (TraceRequest(place * apart_s, 1000 + place, 4, (1,)) for place in range(count)))
            out.write(tail)
        return path

    return write


async def replayed(path: Path, stop: asyncio.Event | None = None, limit: int | None = None, **fields: Any) -> Replayed:
    """A replay at 100x; ``said`` of the test's own console."""
    options = ReplayOptions(**{"speed": 100.0, "patience_s": 2.0, "grace_s": 5.0, **fields})
    planned = plan(path, speed=options.speed, limit=limit, duration_s=options.duration_s)
    said: list[str] = []
    console = Console(file=io.StringIO(), width=100)
    done = await replay(planned, options, stop or asyncio.Event(), lambda: PlainView(console), said.append)
    assert done is not None
    assert said
    return done


async def test_a_trace_is_played_and_measured(trace: Callable[..., Path]) -> None:
    async with SimulatedProvider(ONE_MODEL, keep_received=30) as provider:
        done = await replayed(trace(20), target=provider.url, slo_first_token_s=0.5, seed=3)
        billed = provider.bill.total
    run = done.run
    assert done.broken_off is None
    assert run.complete
    assert (run.target, run.model) == (provider.base_url, "sim-model")
    assert (run.trace, run.trace_format, run.speed, run.slo_first_token_s) == ("trace.jsonl", "amaru", 100.0, 0.5)
    assert [sample.at_s for sample in run.samples] == pytest.approx([place / 100 for place in range(20)])
    assert all(sample.ok and sample.output_tokens == 4 for sample in run.samples)
    assert [sample.input_tokens for sample in run.samples] == [1000 + place for place in range(20)]
    assert billed.requests == 21  # one of them the trial
    assert billed.cached_input_tokens > 15 * 300  # all share a block
    assert sum(sample.cached_input_tokens or 0 for sample in run.samples) == billed.cached_input_tokens
    assert (run.client["stream"], run.client["max_retries"], run.client["seed"]) == (True, 0, 3)
    assert 0.19 <= run.duration_s < 60


async def test_failures_are_the_result(trace: Callable[..., Path]) -> None:
    async with SimulatedProvider(ONE_MODEL) as provider:
        provider.faults.add(Fault(kind="status", status=500, probability=0.5))
        done = await replayed(trace(40), target=provider.url)
        assert provider.requests == 41  # nothing was asked again
    errors = {sample.error for sample in done.run.samples}
    assert errors == {"", "http_500"}
    assert done.run.complete


async def test_retries_where_they_are_wanted(trace: Callable[..., Path]) -> None:
    async with SimulatedProvider(ONE_MODEL) as provider:
        wait = {"retry_after": "ms", "retry_after_s": 0.001}
        provider.faults.add(Fault(kind="status", status=500, times=2, **wait))  # the trial takes one
        done = await replayed(trace(3), target=provider.url, retries=1)
    assert all(sample.ok for sample in done.run.samples)
    assert sum(sample.client_retries for sample in done.run.samples) == 1


async def test_it_stops_when_told_with_what_was_measured(trace: Callable[..., Path]) -> None:
    slow = ProviderProfile(embedding_models=(), latency=Latency(ttft_ms=30_000, ttft_sigma=0))
    stop = asyncio.Event()
    async with SimulatedProvider(slow) as provider:
        provider.faults.add(Fault(kind="status", status=503, times=1))  # answers the trial at once

        async def stopping() -> None:
            while provider.requests < 4:  # noqa: ASYNC110 -- of another server
                await asyncio.sleep(0.005)
            stop.set()

        stopper = asyncio.create_task(stopping())
        done = await replayed(trace(1000), stop, target=provider.url, speed=5.0)
        await stopper
    assert not done.run.complete
    assert 3 <= len(done.run.samples) < 100
    assert {sample.error for sample in done.run.samples} == {"unfinished"}


async def test_stopped_while_the_target_is_looked_at(trace: Callable[..., Path]) -> None:
    stop = asyncio.Event()
    planned = plan(trace(1), speed=1)
    async with SimulatedProvider(ONE_MODEL, faults=[Fault(kind="hang")]) as provider:
        options = ReplayOptions(target=provider.url)
        work = asyncio.create_task(replay(planned, options, stop, lambda: PlainView(Console()), lambda _: None))
        async with asyncio.timeout(60.0):
            while not provider.requests:  # noqa: ASYNC110 -- of another server
                await asyncio.sleep(0.005)
        stop.set()
        assert await work is None


async def test_a_mistake_behind_what_was_read_ahead_ends_it_with_what_was_measured(trace: Callable[..., Path]) -> None:
    path = trace(5, tail="nonsense\n")
    planned = msgspec.structs.replace(plan(path, speed=1000.0, limit=5), requests=open_trace(path).requests)
    async with SimulatedProvider(ONE_MODEL) as provider:
        options = ReplayOptions(target=provider.url, speed=1000.0)
        done = await replay(planned, options, asyncio.Event(), lambda: PlainView(Console()), lambda _: None)
    assert done is not None
    assert "line 6: no JSON" in str(done.broken_off)
    assert len(done.run.samples) == 5
    assert all(sample.ok for sample in done.run.samples)
    assert not done.run.complete


async def test_what_is_due_while_too_many_are_open_is_dropped_and_counted(trace: Callable[..., Path]) -> None:
    async with SimulatedProvider(ONE_MODEL) as provider:
        provider.faults.add(Fault(kind="status", status=503, times=1))
        provider.faults.add(Fault(kind="hang"))
        done = await replayed(trace(10), target=provider.url, max_in_flight=4, patience_s=1.0)
    assert (len(done.run.samples), done.run.dropped) == (4, 6)


async def test_a_strict_server_that_is_not_amaru(trace: Callable[..., Path]) -> None:
    async with plain_target(refuses=refuses_field("ignore_eos", "stream_options")) as target:
        done = await replayed(trace(5), target=target.url)
    assert all(sample.ok for sample in done.run.samples)
    assert {(sample.output_tokens, sample.counted_by) for sample in done.run.samples} == {(2, "client")}


async def test_what_litellms_proxy_says_of_itself_is_read(trace: Callable[..., Path]) -> None:
    headers = {
        "x-litellm-model-api-base": "http://provider/v1?key=secret",
        "x-litellm-attempted-retries": "1",
        "x-litellm-attempted-fallbacks": "1",
        "x-litellm-response-cost": "None",
    }
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "cost": 0.5}
    async with plain_target(headers=headers, usage=usage) as target:
        done = await replayed(trace(2), target=target.url)
    sample = done.run.samples[0]
    assert (sample.provider, sample.attempts, sample.cost_usd) == ("http://provider/v1", 3, 0.5)
    assert (sample.input_tokens, sample.output_tokens, sample.counted_by) == (9, 2, "server")


async def test_what_amaru_says_at_the_end_of_a_stream_is_read(trace: Callable[..., Path]) -> None:
    headers = {"x-amaru-provider": "first", "x-amaru-attempts": "1", "x-amaru-decision": "d0"}
    receipt = b': amaru {"decision":"d1","provider":"second","attempts":2,"cost_usd":0.25,"joined":"repeated"}\n\n'
    async with plain_target(headers=headers, closing=receipt) as target:
        sample = (await replayed(trace(1), target=target.url)).run.samples[0]
    assert (sample.provider, sample.attempts, sample.cost_usd) == ("second", 2, 0.25)
    assert (sample.decision, sample.joined) == ("d1", "repeated")


async def test_a_target_that_cannot_serve_is_told_before_anything_is_sent(trace: Callable[..., Path]) -> None:
    async with SimulatedProvider(ONE_MODEL) as provider:
        with pytest.raises(TargetError, match="nope"):
            await replayed(trace(5), target=provider.url, model="nope")
        assert provider.requests == 1


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_a_plan_says_what_will_be_sent(trace: Callable[..., Path]) -> None:
    found = plan(trace(61), speed=2.0)
    assert (found.format, found.count, found.planned_s) == (TraceFormat.AMARU, 61, 30.0)
    assert described(found, 2.0) == (
        "trace.jsonl (amaru format) at 2x: 61 requests in 30 s, 62,830 tokens in and up to 244 out"
    )
    assert len(list(found.requests)) == 61
    limited = plan(trace(61), speed=2.0, limit=3)
    assert (limited.count, limited.planned_s, len(list(limited.requests))) == (3, 1.0, 3)
    timed = plan(trace(61), speed=2.0, duration_s=10)
    assert (timed.count, timed.planned_s) == (20, 10)


def test_a_mistake_far_into_a_trace_is_told_before_anything_is_sent(trace: Callable[..., Path]) -> None:
    with pytest.raises(TraceError, match="line 501: no JSON"):
        plan(trace(500, tail="nonsense\n"), speed=1.0)
    assert plan(trace(500, tail="nonsense\n"), speed=1.0, limit=500).count == 500


def test_a_trace_too_long_to_be_read_ahead_is_played_all_the_same(trace: Callable[..., Path]) -> None:
    ticks = iter(range(100))
    found = plan(trace(2500), speed=1.0, look_s=0.5, clock=lambda: float(next(ticks)))
    assert (found.count, found.planned_s) == (None, None)
    assert "its length is not known" in described(found, 1.0)
    assert len(list(found.requests)) == 2500


def test_a_trace_from_a_pipe_is_read_once(trace: Callable[..., Path], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = trace(3).read_text()
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    found = plan(pipe, speed=1.0)
    assert found.count is None
    assert len(list(found.requests)) == 3
    writer.join()


@pytest.mark.parametrize(("s", "text"), [(0.4, "0 s"), (59.6, "1:00 min"), (177, "2:57 min"), (3723, "1:02:03 h")])
def test_times_in_words(s: float, text: str) -> None:
    assert time_text(s) == text


# --- the progress -----------------------------------------------------------------------------------------------------


def lane_with(*samples: Any, dropped: int = 0) -> Lane:
    lane = Lane("a", Caller("http://127.0.0.1:9/v1", "m", habits=Habits()))
    lane.samples.extend(samples)
    lane.finished.extend(samples)
    lane.dropped = dropped
    return lane


def test_progress_is_counted_as_it_comes() -> None:
    lane = lane_with(*(answer(first_token_s=place / 1000) for place in range(1, 101)), failure(), dropped=2)
    tally = Tally(lane, 200, 60.0)
    first = tally.look(10.0)
    assert (first.sent, first.served, first.failed, first.dropped, first.planned) == (103, 100, 1, 2, 200)
    assert first.per_s == pytest.approx(10.3)
    assert (first.first_token_p50_s, first.first_token_p95_s) == (pytest.approx(0.05), pytest.approx(0.095))
    assert first.eta_s == 50.0
    lane.samples.extend([answer()] * 97)
    later = tally.look(30.0)
    assert later.per_s == pytest.approx(97 / 20)
    assert later.waiting
    assert later.served == 100  # they have not ended


def rendered(progress: Progress, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(picture(progress))
    return console.export_text()


def test_the_picture_has_rate_and_eta() -> None:
    lane = lane_with(*(answer() for _ in range(100)), failure(), dropped=2)
    shown = rendered(Tally(lane, 1200, 177.0).look(20.0))
    assert "20 s of 2:57 min, ETA 2:37 min" in shown
    assert "sent 103 of 1,200, 5.15/s; 0 in flight; 100 served; 1 failed; 2 dropped; first token p50 200 ms" in shown
    assert "waiting for the last answers" in rendered(Tally(lane, 103, 1.0).look(20.0))
    unknown = rendered(Tally(lane_with(), None, None).look(5.0))
    assert "sent 0, 0/s" in unknown
    assert "ETA" not in unknown


def test_without_a_terminal_there_is_a_line_every_ten_seconds() -> None:
    console = Console(width=300, record=True, file=io.StringIO())
    view, tally = PlainView(console), Tally(lane_with(answer()), 10, 60.0)
    with view:
        for elapsed_s in (0.0, 9.0, 10.5, 11.0, 19.0, 20.1):
            view.show(tally.look(elapsed_s))
    lines = console.export_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["10 s of 1:00 min", "20 s of 1:00 min"]


# --- the verdict, and what the system gives ---------------------------------------------------------------------------


def test_the_verdict_fits_on_a_screen_and_says_what_decides() -> None:
    samples = [
        answer(place / 10, joined="continued" if place == 3 else "", attempts=1 + (place == 3)) for place in range(200)
    ]
    samples += [failure(1.0), failure(2.0, "stream_cut", first_token_s=0.1)]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(verdict(build_report(run_of(samples, dropped=3))))
    shown = console.export_text()
    for words in (
        "trace.csv at 20x against a-model, 60 s of sending",
        "good: first token within 800 ms",
        "97.6 % of 205",
        "1 http_503, 1 stream_cut",
        "never sent: too many in flight",
        "1 continued",
        "200 anvil",
        "time to first token",
        "mind: ",
    ):
        assert words in shown, shown
    assert len(shown.splitlines()) <= 30
    assert "caches" not in shown  # where none was hit


def test_the_verdict_says_what_came_from_caches() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(verdict(build_report(run_of([answer(cached_input_tokens=4), answer(cached_input_tokens=0)]))))
    assert "input tokens from caches of prompts      20.0 % of 20" in console.export_text()


async def test_work_is_done_unless_stopped() -> None:
    stop = asyncio.Event()

    async def quick() -> int:
        return 5

    assert await unless_stopped(quick(), stop) == 5
    stop.set()
    assert await unless_stopped(asyncio.sleep(30, 1), stop) is None


def test_room_for_connections_is_made_up_to_what_the_system_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(256, 1000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert room_for_connections(100) == 100
    assert len(limits) == 1
    assert room_for_connections(500) == 500
    assert limits[-1] == (600, 1000)
    assert room_for_connections(4000) == 900
    assert limits[-1] == (1000, 1000)
