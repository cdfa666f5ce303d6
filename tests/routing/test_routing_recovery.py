"""Probes, the way back to the old rank, what an offer would not continue, and limits that follow its answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from routing_samples import NOW, OPENING, admit, board, chat, decide, fail_until_open, failure, offer, run

from amaru.domain import Capability, FailureKind
from amaru.routing.board import Board
from amaru.routing.breaker import BreakerSettings
from amaru.routing.patience import PatienceSettings

# ---- probes ---------------------------------------------------------------------------------------------------------


def test_an_offer_that_is_well_again_is_ranked_as_before_its_fall() -> None:
    on = board(offer("a", latency_ms=100.0), offer("b", latency_ms=110.0))
    before = decide(on, chat()).table[0].tolist()
    late = admit(on)
    fail_until_open(on)
    later = NOW + 6.0
    assert on.probe_due(0, later)
    assert decide(on, chat(), now=later).order == [1, 0]
    run(on, None, later)
    on.observe(late, later, failure(FailureKind.SERVER_ERROR), stream=True)  # it began before the fall
    assert on.health(0, later).success == 1.0
    assert decide(on, chat(), now=later).table[0].tolist() == pytest.approx(before)
    assert decide(on, chat(), now=later).order == [0, 1]


@pytest.mark.parametrize("kind", [FailureKind.SERVER_ERROR, FailureKind.BAD_CREDENTIALS])
def test_a_probe_is_due_when_the_row_is_feasible_again_and_until_it_is_under_way(kind: FailureKind) -> None:
    on = board(offer("a"), offer("b"))
    assert not on.probe_due(0, NOW)
    for _ in range(1 if kind is FailureKind.BAD_CREDENTIALS else OPENING):
        run(on, kind)
    until = NOW + (on.health(0, NOW).free_in_s or 0.0)
    for now in (NOW, until - 0.001, until, until + 100.0):
        assert on.probe_due(0, now) == (now >= until) == (0 in decide(on, chat(), now=now).order)
    probe = admit(on, until)
    assert not on.probe_due(0, until)
    on.release(probe)
    assert on.probe_due(0, until)
    run(on, None, until)
    assert not on.probe_due(0, until + 100.0)
    assert not on.probe_due(1, until)


def test_an_offer_that_lost_its_rank_by_failures_is_due_though_its_breaker_never_opened() -> None:
    on = board(offer("a", latency_ms=100.0), offer("b", latency_ms=105.0))
    run(on, FailureKind.SERVER_ERROR)
    assert decide(on, chat()).order == [1, 0]
    assert not on.probe_due(0, NOW + 4.9)
    assert on.probe_due(0, NOW + 5.0)
    assert decide(on, chat(), now=NOW + 5.0).order == [1, 0]
    run(on, None, NOW + 5.0)
    assert not on.probe_due(0, NOW + 100.0)
    assert decide(on, chat(), now=NOW + 5.0).order == [0, 1]


def test_what_was_known_of_its_latency_has_not_faded_while_nobody_asked_it() -> None:
    on = board(offer("a", latency_ms=900.0))
    for _ in range(30):
        run(on, None)
    fail_until_open(on)
    assert on.health(0, NOW + 300.0).first_token_ms > 800.0
    run(on, None, NOW + 300.0)
    assert on.health(0, NOW + 300.0).first_token_ms == pytest.approx(100.0, abs=1.0)


def test_a_success_among_failures_forgets_none_of_them() -> None:
    on = board(offer("a"))
    for _ in range(3):
        run(on, FailureKind.SERVER_ERROR)
    run(on, None)
    assert on.health(0, NOW).success < 0.7


def test_the_first_token_of_a_probe_is_proof_enough_and_its_end_still_counts() -> None:
    on = board(offer("a"))
    fail_until_open(on)
    probe = admit(on, NOW + 6.0)
    on.answering(probe, NOW + 6.5)
    assert on.health(0, NOW + 6.5).state == "closed"
    assert on.health(0, NOW + 6.5).success == 1.0
    on.observe(probe, NOW + 60.0, failure(FailureKind.STREAM_CUT), 500.0, 54_000.0, True)
    on.release(probe)
    assert on.health(0, NOW + 60.0).success == pytest.approx(0.8)
    assert on.probe_due(0, NOW + 65.0)


@pytest.mark.parametrize("kind", [FailureKind.STREAM_CUT, FailureKind.STREAM_STALLED, FailureKind.MALFORMED_EVENT])
def test_an_offer_that_fell_by_breaking_streams_has_to_end_one(kind: FailureKind) -> None:
    on = board(offer("a"))
    for _ in range(OPENING):
        run(on, kind)
    probe = admit(on, NOW + 6.0)
    on.answering(probe, NOW + 6.5)
    assert on.health(0, NOW + 6.5).state == "half_open"
    on.observe(probe, NOW + 9.0, None, 500.0, 3_000.0, True)
    assert on.health(0, NOW + 9.0).state == "closed"


def test_the_first_token_of_a_request_that_was_due_restores_the_rank_and_of_others_nothing() -> None:
    on = board(offer("a"))
    run(on, FailureKind.SERVER_ERROR)
    early = admit(on, NOW + 1.0)
    on.answering(early, NOW + 1.5)
    assert on.health(0, NOW + 1.5).success < 0.9
    on.answering(admit(on, NOW + 7.0), NOW + 7.5)
    assert on.health(0, NOW + 7.5).success == 1.0


def test_a_first_token_from_before_the_fall_proves_nothing() -> None:
    on = board(offer("a"))
    early = admit(on)
    fail_until_open(on)
    admit(on, NOW + 6.0)
    on.answering(early, NOW + 6.5)
    assert on.health(0, NOW + 6.5).state == "half_open"


# ---- continuing -----------------------------------------------------------------------------------------------------


def test_an_offer_continues_until_it_refuses_to_and_again_after_a_reload() -> None:
    able = offer("a", capabilities=Capability.STREAM | Capability.PREFILL)
    on = board(able, offer("b"))
    assert [on.can_continue(row) for row in (0, 1)] == [True, False]
    on.prefill_refused(0)
    assert not on.can_continue(0)
    assert not on.health(0, NOW).continues
    new = board(able, carry=on)
    assert new.can_continue(0)
    assert new.health(0, NOW).continues


# ---- adaptive limits ------------------------------------------------------------------------------------------------


def stream(on: Board, now: float, takes_s: float, kind: FailureKind | None = None, **told: Any) -> None:
    """One streamed attempt that begins at ``now``, and ends with its first token or in a failure."""
    admission = admit(on, now)
    first_ms = takes_s * 1e3 if kind is None else None
    problem = failure(kind) if kind else None
    on.observe(admission, now + takes_s, problem, first_ms, takes_s * 1e3, **({"stream": True} | told))
    on.release(admission)


def streams(on: Board, count: int = 50, **told: Any) -> float:
    """So many answers of half a second each, and the instant after the last."""
    for second in range(count):
        stream(on, NOW + second, 0.5, **({"input_tokens": 600, "longest_gap_ms": 1_000.0} | told))
    return NOW + count


def test_limits_follow_the_answers_of_an_offer() -> None:
    on = board(offer("a"))
    assert on.limits_s(0, 600, NOW) == (30.0, 30.0)
    now = streams(on)
    assert on.limits_s(0, 600, now) == pytest.approx((2.0, 4.0))
    assert on.limits_s(0, 10_000, now) == pytest.approx((30.0, 4.0))
    health = on.health(0, now)
    assert (health.first_token_limit_ms, health.idle_limit_ms) == pytest.approx((2_000.0, 4_000.0))


@pytest.mark.parametrize(
    "told",
    [{"stream": False, "longest_gap_ms": None}, {"kind": FailureKind.STREAM_CUT}, {"kind": FailureKind.SERVER_ERROR}],
)
def test_neither_whole_answers_nor_failures_teach_limits(told: dict[str, Any]) -> None:
    on = board(offer("a"), breaker=BreakerSettings(consecutive_failures=1_000, failure_rate=1.0, at_least=1_000))
    now = streams(on, **told)
    assert on.limits_s(0, 600, now) == (30.0, 30.0)


def test_what_others_report_teaches_no_limits() -> None:
    on = board(offer("a"))
    for second in range(50):
        on.observe(0, NOW + second, None, 500.0, 900.0, stream=True)
    assert on.limits_s(0, 600, NOW + 50.0) == (30.0, 30.0)


@pytest.mark.parametrize("nothing", [0.0, -1.0, math.nan, math.inf, None])
def test_waits_that_are_none_teach_no_limits(nothing: float | None) -> None:
    on = board(offer("a"))
    now = streams(on)
    before = on.limits_s(0, 600, now)
    for _ in range(100):
        admission = admit(on, now)
        on.observe(admission, now, None, nothing, nothing, True, input_tokens=600, longest_gap_ms=nothing)
        on.release(admission)
    assert on.limits_s(0, 600, now) == before


def test_a_first_token_that_did_not_come_backs_off_and_so_does_a_stall() -> None:
    on = board(offer("a"))
    now = streams(on)
    stream(on, now, 2.0, FailureKind.NO_ANSWER, input_tokens=600)
    assert on.limits_s(0, 600, now + 2.0) == pytest.approx((4.0, 4.0), rel=0.05)
    stream(on, now + 3.0, 9.0, FailureKind.STREAM_STALLED, input_tokens=600, longest_gap_ms=4_000.0)
    assert on.limits_s(0, 600, now + 12.0) == pytest.approx((4.0, 8.0), rel=0.05)


def test_waits_that_began_before_the_offer_fell_do_not_back_off_further_and_probes_do_so_gently() -> None:
    on = board(offer("a"))
    now = streams(on)
    under_way = [admit(on, now) for _ in range(OPENING)]
    late = admit(on, now + 1.9)
    for admission in under_way:
        on.observe(admission, now + 2.0, failure(FailureKind.NO_ANSWER), None, 2_000.0, True, input_tokens=600)
        on.release(admission)
    on.observe(late, now + 5.9, failure(FailureKind.NO_ANSWER), None, 4_000.0, True, input_tokens=600)
    on.release(late)
    assert on.limits_s(0, 600, now + 6.0)[0] == pytest.approx(4.0)
    stream(on, now + 10.0, 4.0, FailureKind.NO_ANSWER, input_tokens=600)
    assert on.limits_s(0, 600, now + 14.0)[0] == pytest.approx(5.0)


@pytest.mark.parametrize("gap_ms", [None, 30.0])
def test_a_stall_of_unmeasured_silence_backs_off_once_for_all_that_were_under_way(
    gap_ms: float | None,
) -> None:
    on = board(offer("a"))
    now = streams(on)
    under_way = [admit(on, now) for _ in range(4)]
    for admission in under_way:
        stalled = failure(FailureKind.STREAM_STALLED)
        on.observe(admission, now + 5.0, stalled, None, 5_000.0, True, longest_gap_ms=gap_ms)
        on.release(admission)
    assert on.limits_s(0, 600, now + 5.0)[1] == pytest.approx(8.0, rel=0.05)


def test_a_whole_answer_that_did_not_come_in_time_says_nothing_about_streams() -> None:
    on = board(offer("a"))
    now = streams(on)
    stream(on, now, 20.0, FailureKind.NO_ANSWER, stream=False)
    assert on.limits_s(0, 600, now + 20.0)[0] == pytest.approx(2.0)


def test_the_bounds_are_the_providers_and_a_reload_brings_new_ones_to_what_was_learned() -> None:
    tight = {"a": PatienceSettings(first_token_s=10.0, idle_s=5.0, least_first_token_s=0.1, least_idle_s=0.1)}
    old = board(offer("a"), offer("b"), patience=tight)
    assert [old.limits_s(row, 0, NOW) for row in (0, 1)] == [(10.0, 5.0), (30.0, 30.0)]
    now = streams(old)
    assert old.limits_s(0, 600, now) == pytest.approx((2.0, 4.0))
    new = board(offer("a"), patience={"a": PatienceSettings(idle_s=3.0, least_first_token_s=7.0)}, carry=old)
    assert new.limits_s(0, 600, now) == pytest.approx((7.0, 3.0))
    off = board(offer("a"), patience={"a": PatienceSettings(adaptive=False, first_token_s=20.0)}, carry=new)
    assert off.limits_s(0, 600, now) == (20.0, 30.0)


def test_where_breakers_keep_every_offer_away_the_one_that_serves_most_is_the_last_resort() -> None:
    on = Board([offer("never"), offer("half")], {}, breaker=BreakerSettings(cool_down_s=60.0))
    for row, serves in ((0, False), (1, True)):
        for step in range(40):
            admission = on.admit(row, 0.0, NOW + step * 0.1)
            if admission is None:
                break
            well = serves and step % 2 == 1
            on.observe(admission, NOW + step * 0.1, None if well else failure(FailureKind.STREAM_CUT))
            on.release(admission)
        assert on.health(row, NOW + 4.0).state == "open"
    later = NOW + 4.0
    rows = on.last_resorts([0, 1], later)
    assert rows[0] == 1
    taken = on.admit(1, 0.0, later, last_resort=True)
    assert taken is not None
    before = on.health(1, later)
    on.observe(taken, later, failure(FailureKind.STREAM_CUT))
    on.release(taken)
    after = on.health(1, later)
    assert (after.state, after.free_in_s) == (before.state, before.free_in_s), "it moves no breaker"
    assert after.success < before.success


def test_an_offer_that_always_fails_is_no_last_resort_for_long() -> None:
    on = Board([offer("dead")], {}, breaker=BreakerSettings(cool_down_s=60.0))
    tries = 0
    for step in range(200):
        now = NOW + step * 0.1
        admission = on.admit(0, 0.0, now)
        if admission is None and on.last_resorts([0], now):
            admission = on.admit(0, 0.0, now, last_resort=True)
            assert admission is not None
        if admission is None:
            continue
        tries += 1
        on.observe(admission, now, failure(FailureKind.SERVER_ERROR))
        on.release(admission)
    # A few at once, then one now and then, as what is known of it fades.
    assert OPENING < tries <= OPENING + 10
