"""Places, throttles, averages, waiting and reloads."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_samples import (
    NOW,
    OPENING,
    admit,
    board,
    chat,
    decide,
    fail_until_open,
    failure,
    gpu_job,
    gpu_offer,
    offer,
    providers,
    run,
)

from amaru.domain import Capability, FailureKind, Price, Weights
from amaru.routing import kernels as k
from amaru.routing.board import Board
from amaru.routing.kernels import Code
from amaru.routing.live import Admission


def codes(on: Board, now: float = NOW) -> list[Code]:
    return [Code(code) for code in decide(on, chat(), now=now).codes]


def expected_ms(on: Board, now: float = NOW) -> float:
    return float(decide(on, chat(), now=now).table[0, k.LATENCY])


# ---- names ----------------------------------------------------------------------------------------------------------


def test_pools_of_resources_and_aliases() -> None:
    offers = [offer("a"), offer("b"), offer("c", resource="n", id="special")]
    on = Board(offers, {"fast": ["m", "special"], "only-c": ["special"], "n": ["m"]})
    assert {name: rows.tolist() for name in on.resources() if (rows := on.pool(name)) is not None} == {
        "fast": [0, 1, 2],
        "m": [0, 1],
        "n": [0, 1],
        "only-c": [2],
    }
    assert on.pool("unknown") is None
    assert on.rows_of_provider == {"a": (0,), "b": (1,), "c": (2,)}


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="given twice: a/m"):
        board(offer("a"), offer("a"))
    with pytest.raises(ValueError, match="alias 'x' names 'nobody'"):
        board(offer("a"), aliases={"x": ["nobody"]})
    with pytest.raises(ValueError, match="53 regions; at most 52"):
        board(*(offer(f"p{i}", regions=(f"r{i}",)) for i in range(53)))
    with pytest.raises(ValueError, match="positive number per minute"):
        board(offer("a", requests_per_min=0.0))


def test_52_regions_are_told_apart() -> None:
    on = board(*(offer(f"p{i}", regions=(f"r{i:02}",)) for i in range(52)))
    for i in (0, 31, 51):
        assert providers(decide(on, chat(region=f"r{i:02}"))) == [f"p{i}"]


def test_version_is_that_of_the_offers() -> None:
    assert board(offer("a")).version == board(offer("a")).version
    assert board(offer("a")).version != board(offer("a", latency_ms=1.0)).version


# ---- places and limits ----------------------------------------------------------------------------------------------


def test_capacity_is_taken_and_given_back_once() -> None:
    on = board(offer("a", capacity=2.0))
    first, second = admit(on), admit(on)
    assert on.admit(0, 0.0, NOW) is None
    assert codes(on) == [Code.CAPACITY]
    on.release(first)
    on.release(first)
    assert admit(on)
    assert on.admit(0, 0.0, NOW) is None
    on.release(second)


def test_gpu_hours_are_taken_as_such_and_an_idle_offer_is_exactly_idle() -> None:
    on = board(gpu_offer("a", 1.0, 100, 50, 1.0, ["global"]))
    for _ in range(50):
        held = [on.admit(0, 0.0, NOW, gpu_hours=0.1) for _ in range(9)]
        assert on.admit(0, 0.0, NOW, gpu_hours=0.2) is None
        for admission in held:
            assert admission is not None
            on.release(admission)
        assert on.health(0, NOW).in_flight == 0.0
    assert decide(on, gpu_job(gpu_hours=1.0)).order == [0]
    assert decide(on, gpu_job(gpu_hours=1.1)).codes.tolist() == [Code.TOO_LARGE]


def test_request_limit() -> None:
    on = board(offer("a", requests_per_min=2.0))
    for _ in range(2):
        on.release(admit(on))
    assert on.admit(0, 0.0, NOW) is None
    assert codes(on) == [Code.RATE_LIMIT]
    assert on.soonest_return_s([0], NOW) == pytest.approx(30.0)
    assert admit(on, NOW + 30.0)


def test_token_limit_is_reserved_and_settled() -> None:
    on = board(offer("a", tokens_per_min=1_000.0))
    first = admit(on, tokens=900.0)
    assert on.admit(0, 200.0, NOW) is None
    assert on.soonest_return_s([0], NOW, 200.0) == pytest.approx(6.0)
    on.observe(first, NOW, None, 100.0, 900.0, stream=True, tokens_used=500.0)
    on.observe(first, NOW, None, 100.0, 900.0, stream=True, tokens_used=500.0)
    on.release(first)
    assert on.admit(0, 501.0, NOW) is None
    assert admit(on, tokens=500.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0.0, 20.0)), max_size=40))
def test_what_is_ranked_feasible_is_admitted_and_nothing_else(steps: list[tuple[int, float]]) -> None:
    on = board(offer("a", capacity=3.0, requests_per_min=20.0, tokens_per_min=8_000.0))
    held: list[Admission] = []
    now = NOW
    for action, wait_s in steps:
        now += wait_s
        ranked = bool(decide(on, chat(), now=now).order)
        admission = on.admit(0, 1_000.0, now)
        assert ranked == (admission is not None)
        if admission is None:
            soonest = on.soonest_return_s([0], now, 1_000.0)
            assert soonest is None or soonest > 0.0
        else:
            held.append(admission)
        if action and held:
            gone = held.pop()
            kinds = (None, FailureKind.SERVER_ERROR, FailureKind.RATE_LIMITED, FailureKind.BAD_CREDENTIALS)
            kind = kinds[action - 1]
            on.observe(gone, now, failure(kind) if kind else None, 90.0, 500.0, stream=True)
            on.release(gone)


# ---- health ---------------------------------------------------------------------------------------------------------


def test_failures_open_the_breaker_and_one_probe_closes_it() -> None:
    on = board(offer("a"))
    fail_until_open(on)
    assert codes(on) == [Code.COOLING_DOWN]
    soonest = on.soonest_return_s([0], NOW)
    assert soonest is not None
    assert 5.0 <= soonest <= 6.0
    later = NOW + soonest
    probe = admit(on, later)
    assert on.admit(0, 0.0, later) is None
    assert codes(on, later) == [Code.COOLING_DOWN]
    assert on.soonest_return_s([0], later) is None
    on.observe(probe, later, None, 100.0, 900.0, stream=True)
    on.release(probe)
    assert codes(on, later) == [Code.FEASIBLE]


def test_a_caller_who_leaves_frees_the_probe() -> None:
    on = board(offer("a"))
    fail_until_open(on)
    later = NOW + 10.0
    on.release(admit(on, later))
    assert on.soonest_return_s([0], later) == 0.0
    assert admit(on, later)


def test_a_probe_observed_after_its_release_still_counts() -> None:
    on = board(offer("a"))
    fail_until_open(on)
    probe = admit(on, NOW + 10.0)
    on.release(probe)
    on.observe(probe, NOW + 10.0, None, 100.0, 900.0, stream=True)
    assert on.health(0, NOW + 10.0).state == "closed"


def test_a_throttled_probe_proves_nothing_and_the_next_may_come() -> None:
    on = board(offer("a"))
    fail_until_open(on)
    run(on, FailureKind.RATE_LIMITED, NOW + 10.0, retry_after_s=3.0)
    assert on.soonest_return_s([0], NOW + 10.0) == pytest.approx(3.0)
    run(on, None, NOW + 13.0)
    assert on.health(0, NOW + 13.0).state == "closed"


@pytest.mark.parametrize("kind", [FailureKind.BAD_REQUEST, FailureKind.CONTENT_REJECTED, FailureKind.CONTEXT_TOO_LONG])
def test_callers_mistakes_say_nothing_against_the_offer(kind: FailureKind) -> None:
    on = board(offer("a"))
    for _ in range(20):
        run(on, kind)
    health = on.health(0, NOW)
    assert (health.state, health.success) == ("closed", 1.0)


@pytest.mark.parametrize("kind", [FailureKind.MALFORMED_BODY, FailureKind.MALFORMED_EVENT])
def test_suspect_counts_as_failing(kind: FailureKind) -> None:
    on = board(offer("a"))
    for _ in range(OPENING):
        run(on, kind)
    assert codes(on) == [Code.COOLING_DOWN]


@pytest.mark.parametrize("kind", [FailureKind.BAD_CREDENTIALS, FailureKind.QUOTA_EXHAUSTED, FailureKind.UNKNOWN_MODEL])
def test_broken_until_fixed(kind: FailureKind) -> None:
    on = board(offer("a"))
    run(on, kind)
    assert codes(on) == [Code.BROKEN]
    assert not decide(on, chat()).transient
    assert on.soonest_return_s([0], NOW) is None
    health = on.health(0, NOW)
    assert health.broken
    assert health.free_in_s is not None
    assert health.free_in_s >= 60.0
    run(on, None, NOW + 72.0)
    assert codes(on, NOW + 72.0) == [Code.FEASIBLE]


def test_a_throttle_is_no_sickness() -> None:
    on = board(offer("a"))
    for i in range(30):
        admission = on.admit(0, 0.0, NOW + i, again=True)
        assert admission is not None
        on.observe(admission, NOW + i, failure(FailureKind.RATE_LIMITED, retry_after_s=7.0))
        on.release(admission)
    assert on.health(0, NOW).state == "closed"
    assert codes(on, NOW + 29.0) == [Code.THROTTLED]
    assert on.soonest_return_s([0], NOW + 29.0) == pytest.approx(7.0)


def test_a_later_shorter_retry_after_does_not_cut_a_longer_one() -> None:
    on = board(offer("a"))
    first, second = admit(on), admit(on)
    on.observe(first, NOW, failure(FailureKind.RATE_LIMITED, retry_after_s=9.0))
    on.observe(second, NOW + 1.0, failure(FailureKind.RATE_LIMITED, retry_after_s=1.0))
    assert on.soonest_return_s([0], NOW + 1.0) == pytest.approx(8.0)


def test_throttles_without_retry_after_grow_but_not_by_requests_already_under_way() -> None:
    on = board(offer("a"))
    under_way = [admit(on) for _ in range(20)]
    for admission in under_way:
        on.observe(admission, NOW + 0.01, failure(FailureKind.RATE_LIMITED))
    first = on.soonest_return_s([0], NOW + 0.01)
    assert first is not None
    assert 0.1 <= first <= 0.2
    now, pauses = NOW + 0.01, [first]
    for _ in range(10):
        now += pauses[-1]
        run(on, FailureKind.RATE_LIMITED, now)
        pauses.append(on.soonest_return_s([0], now) or 0.0)
    assert pauses[3] >= 0.8
    assert 15.0 <= pauses[-1] <= 30.0


def test_absurd_retry_afters_are_bounded() -> None:
    on = board(offer("a"))
    run(on, FailureKind.RATE_LIMITED, retry_after_s=1e12)
    assert on.soonest_return_s([0], NOW) == pytest.approx(3_600.0)
    other = board(offer("a"))
    run(other, FailureKind.RATE_LIMITED, retry_after_s=-5.0)
    assert codes(other) == [Code.FEASIBLE]


def test_an_overloaded_offer_that_says_when_is_left_alone_until_then() -> None:
    on = board(offer("a"))
    run(on, FailureKind.OVERLOADED, retry_after_s=4.0)
    assert codes(on) == [Code.THROTTLED]
    other = board(offer("a"))
    run(other, FailureKind.OVERLOADED)
    assert codes(other) == [Code.FEASIBLE]


def test_reported_outcomes_open_and_close_the_breaker_too() -> None:
    on = board(offer("a"))
    for _ in range(OPENING):
        on.observe(0, NOW, failure(FailureKind.SERVER_ERROR))
    assert codes(on) == [Code.COOLING_DOWN]
    until = NOW + (on.soonest_return_s([0], NOW) or 0.0)
    on.observe(0, NOW + 1.0, failure(FailureKind.SERVER_ERROR))
    assert on.soonest_return_s([0], NOW + 1.0) == pytest.approx(until - NOW - 1.0)
    on.observe(0, until, None, 100.0)
    assert codes(on, until) == [Code.FEASIBLE]


# ---- averages -------------------------------------------------------------------------------------------------------


def test_observations_replace_the_advertisement_and_fade_back_to_it() -> None:
    on = board(offer("a", latency_ms=300.0))
    run(on, None)
    assert expected_ms(on) == pytest.approx(0.8 * 300.0 + 0.2 * 100.0)
    for _ in range(30):
        run(on, None)
    assert expected_ms(on) == pytest.approx(100.0, abs=1.0)
    assert expected_ms(on, NOW + 60.0) == pytest.approx(200.0, abs=1.0)
    assert expected_ms(on, NOW + 120.0) == pytest.approx(250.0, abs=1.0)


def test_success_lowers_availability_and_recovers() -> None:
    on = board(offer("a"))
    for _ in range(4):
        run(on, FailureKind.SERVER_ERROR)
    assert on.health(0, NOW).success == pytest.approx(0.8**4)
    assert on.health(0, NOW + 600.0).success == pytest.approx(1.0, abs=0.01)


def test_whole_answers_are_compared_with_whole_answers() -> None:
    """An offer not yet seen must not look fast only because a first token, not an answer, is advertised for it."""
    on = board(offer("seen", latency_ms=200.0), offer("unseen", latency_ms=400.0))
    for _ in range(20):
        admission = admit(on)
        on.observe(admission, NOW, None, None, 3_000.0, stream=False)
        on.release(admission)
    whole = decide(on, chat(needs=Capability.NONE, weights=Weights(0.0, 1.0, 0.0, 0.0)))
    assert whole.table[:, k.LATENCY] == pytest.approx([3_000.0, 6_000.0], rel=0.02)
    assert whole.order == [0, 1]
    assert decide(on, chat()).table[:, k.LATENCY] == pytest.approx([200.0, 400.0])


def test_a_gpu_jobs_latency_is_the_time_until_it_is_accepted() -> None:
    on = board(gpu_offer("a", 1.0, 300.0, 50.0, 9.0, ["global"]))
    on.observe(0, NOW, None, None, 800.0)
    assert decide(on, gpu_job()).table[0, k.LATENCY] == pytest.approx(0.8 * 300.0 + 0.2 * 800.0)


@pytest.mark.parametrize("nothing", [0.0, -1.0, math.nan, math.inf, None])
def test_a_latency_that_is_none_teaches_nothing(nothing: float | None) -> None:
    on = board(offer("a", latency_ms=300.0))
    on.observe(0, NOW, None, nothing, nothing)
    assert expected_ms(on) == 300.0
    assert on.health(0, NOW).answer_ms is None


def test_failures_do_not_teach_latency() -> None:
    on = board(offer("a", latency_ms=300.0))
    run(on, FailureKind.STREAM_CUT)
    assert expected_ms(on) == pytest.approx(300.0)


# ---- waiting and reloading ------------------------------------------------------------------------------------------


def test_whoever_waits_is_woken_by_a_release_and_by_a_breaker() -> None:
    on = board(offer("a", capacity=1.0))
    woken: list[str] = []
    wake = lambda: woken.append("now")  # noqa: E731
    on.changed.add(wake)
    admission = admit(on)
    assert woken == []
    on.release(admission)
    assert woken == ["now"]
    fail_until_open(on)
    woken.clear()
    on.observe(0, NOW + 30.0, None)
    assert woken == ["now"]
    on.changed.discard(wake)
    on.release(admit(on, NOW + 30.0))
    assert woken == ["now"]


def test_a_reload_carries_live_state_and_releases_on_the_old_board_are_seen_by_the_new() -> None:
    old = board(offer("a", capacity=1.0), offer("b"))
    held = admit(old)
    fail_until_open(old, row=1)
    new = board(offer("c"), offer("b", latency_ms=9.0), offer("a", capacity=1.0), carry=old)
    assert codes(new) == [Code.FEASIBLE, Code.COOLING_DOWN, Code.CAPACITY]
    woken: list[int] = []
    new.changed.add(lambda: woken.append(1))
    old.release(held)
    assert woken == [1]
    assert codes(new) == [Code.FEASIBLE, Code.COOLING_DOWN, Code.FEASIBLE]
    assert codes(old) == [Code.FEASIBLE, Code.COOLING_DOWN]


def test_another_provider_under_the_same_id_starts_afresh() -> None:
    old = board(offer("a"))
    fail_until_open(old)
    new = board(offer("a", provider="z"), carry=old)
    assert codes(new) == [Code.FEASIBLE]
    assert codes(old) == [Code.COOLING_DOWN]


def test_a_reload_gives_a_broken_offer_another_chance() -> None:
    old = board(offer("a"))
    run(old, FailureKind.BAD_CREDENTIALS)
    assert codes(board(offer("a"), carry=old)) == [Code.FEASIBLE]


def test_reloads_do_not_grow_the_slab() -> None:
    on = board(*(offer(f"a{i}") for i in range(6)))
    for generation in range(50):
        on = board(*(offer(f"g{generation}-{i}") for i in range(6)), carry=on)
    assert len(on.live) <= 16


def test_a_growing_slab_keeps_what_the_old_board_knew() -> None:
    old = board(offer("a", capacity=1.0))
    held = admit(old)
    new = board(offer("a", capacity=1.0), *(offer(f"n{i}") for i in range(40)), carry=old)
    assert codes(new)[0] is Code.CAPACITY
    assert codes(old) == [Code.CAPACITY]
    new.release(held)
    assert codes(old) == [Code.FEASIBLE]
    assert codes(new) == [Code.FEASIBLE] * 41


def test_larger_windows() -> None:
    on = board(offer("a", context_window_tokens=8_000), offer("b", context_window_tokens=32_000), offer("c"))
    assert on.larger_window(1, 0)
    assert on.larger_window(2, 1)
    assert not on.larger_window(0, 0)
    assert not on.larger_window(2, 2)


def test_cached_price_and_unbounded_columns() -> None:
    on = board(offer("a", price=Price(2.0, None, 3.0)), offer("b", price=Price(2.0, 0.5, 3.0)))
    assert on.static[:, k.PRICE_CACHED].tolist() == [2.0, 0.5]
    assert on.static[0, k.CAPACITY] == math.inf
    assert on.static.flags.c_contiguous
    assert on.live.flags.c_contiguous
    assert msgspec.json.encode(on.health(0, NOW))
