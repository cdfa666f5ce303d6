"""A steering moves traffic for every kind of policy, is told with the decision, and leaves nothing behind."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_samples import NOW, admit, board, chat, fail_until_open, gpu_job, gpu_offer, offer, providers, run

from amaru.domain import Capability, FailureKind, Weights, Workload
from amaru.errors import RequestError
from amaru.routing import kernels as k
from amaru.routing.board import Board
from amaru.routing.breaker import BreakerSettings
from amaru.routing.explanation import explain, why_none
from amaru.routing.kernels import Code
from amaru.routing.patience import PatienceSettings
from amaru.routing.policies import POLICIES, make_policy
from amaru.routing.ranking import Ranking, pack, unpack
from amaru.routing.router import Router
from amaru.routing.steering import UNSTEERED, Steering

CARING = [policy for policy in POLICIES if policy != "random"]
"""All but the one that gives every offer the same score."""

shares = st.floats(0.0, 1.0)
steerings = st.builds(
    Steering,
    drained=st.booleans(),
    weight=shares,
    risk=shares,
    at_once=st.none() | st.floats(1.0, 9.0),
    concurrency=st.none() | st.floats(1.0, 9.0),
    patience=st.floats(0.01, 1.0),
    first_token_ms=st.none() | st.floats(1.0, 1e5),
    idle_ms=st.none() | st.floats(1.0, 1e5),
    breaker_failures=st.none() | st.integers(1, 9),
    cool_down_s=st.none() | st.floats(0.1, 1e3),
    backoff=st.floats(1.0, 9.0),
    retry_ratio=st.none() | st.floats(0.0, 1.0),
    non_stream=st.booleans(),
    adapted=st.booleans(),
)


def pair(**of_a: object) -> Board:
    """``a`` is a little better than ``b`` in everything."""
    return board(offer("a", latency_ms=100.0, reputation=80.0, **of_a), offer("b", latency_ms=110.0, reputation=75.0))


def decide(
    on: Board,
    workload: Workload | None = None,
    policy: str = "rules",
    *,
    seed: int = 1,
    excluded: set[int] | None = None,
) -> Ranking:
    return Router(on, make_policy(policy), rng=random.Random(seed)).decide(workload or chat(), NOW, excluded)


def words(ranking: Ranking) -> list[str]:
    return [rank.reason for rank in explain(ranking.board.offers, ranking, "id", 0.0).ranked]


@pytest.mark.parametrize("policy", CARING)
@pytest.mark.parametrize("steering", [Steering(weight=0.4), Steering(risk=0.35)])
def test_weight_and_risk_move_traffic_whatever_the_policy_and_the_weights(policy: str, steering: Steering) -> None:
    for weights in ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.25, 0.25, 0.25, 0.25)):
        on = pair()
        workload = chat(weights=Weights(*weights))
        before = decide(on, workload, policy)
        on.steer(0, steering)
        after = decide(on, workload, policy)
        gone = {row: before.table[row, k.SCORE] - after.table[row, k.SCORE] for row in (0, 1)}
        assert gone[0] > 0.2 * before.table[0, k.SCORE]
        assert providers(after)[0] == "b" or policy in ("thompson", "hybrid", "qlearning")
        if policy in ("rules", "rules_classic"):
            assert after.table[0, k.SCORE] == pytest.approx(before.table[0, k.SCORE] * steering.care)


@pytest.mark.parametrize("policy", CARING)
def test_every_kind_of_policy_prefers_the_offer_that_is_not_weighed_down(policy: str) -> None:
    def first(steering: Steering) -> int:
        on = pair()
        on.steer(0, steering)
        return sum(providers(decide(on, chat(), policy, seed=seed))[0] == "a" for seed in range(60))

    assert first(Steering(weight=0.2)) < first(UNSTEERED)
    assert first(Steering(risk=0.8)) < first(UNSTEERED)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_parts_add_up_and_the_shares_too_under_a_steering(policy: str) -> None:
    on = pair()
    on.steer(0, Steering(weight=0.9, risk=0.1))
    ranking = decide(on, chat(), policy)
    rank = explain(on.offers, ranking, "id", 0.0).ranked
    for one in rank:
        parts = one.parts
        assert sum(getattr(parts, name) for name in parts.__struct_fields__) == pytest.approx(one.score)


def test_the_decision_says_what_the_steering_did() -> None:
    on = pair()
    on.steer(0, Steering(weight=0.4))
    reasons = words(decide(on))
    assert reasons[0].startswith("first of 2")
    assert "most by what it is weighed by; weighed down to 40 % by a healing" in reasons[1]
    on.steer(0, Steering(risk=0.35))
    assert words(decide(on))[1].endswith("most by what it is weighed by; a failure within a minute is 35 % likely")
    on.steer(0, Steering(weight=0.5, risk=0.5))
    for policy in ("thompson", "qlearning"):
        assert "weighed down to 50 % by a healing; a failure within a minute is 50 % likely" in " ".join(
            words(decide(on, policy=policy))
        )
    on.steer(0, Steering(weight=0.99))
    assert words(decide(on, chat(needs=Capability.NONE)))[0].endswith("; weighed down to 99 % by a healing")


def test_an_unsteered_decision_says_nothing_of_it() -> None:
    assert all("healing" not in reason and "drained" not in reason for reason in words(decide(pair())))


def test_a_drained_offer_is_refused_while_another_can_serve() -> None:
    on = pair()
    on.steer(0, Steering(drained=True))
    ranking = decide(on)
    assert providers(ranking) == ["b"]
    assert [Code(code) for code in ranking.codes] == [Code.DRAINED, Code.FEASIBLE]
    (refusal,) = explain(on.offers, ranking, "id", 0.0).refused
    assert (refusal.constraint, refusal.detail) == (
        "drained",
        "drained: it serves only what no other offer can take now",
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_where_every_feasible_offer_is_drained_they_serve(policy: str) -> None:
    on = pair()
    on.steer(0, Steering(drained=True))
    on.steer(1, Steering(drained=True))
    ranking = decide(on, policy=policy)
    assert sorted(providers(ranking)) == ["a", "b"]
    assert all("it is drained, and serves since no other can" in reason for reason in words(ranking))


def test_a_drained_offer_serves_what_the_others_cannot_take_now() -> None:
    on = board(offer("a"), offer("b", capacity=1.0))
    on.steer(0, Steering(drained=True))
    held = admit(on, row=1)
    assert providers(decide(on)) == ["a"]
    on.release(held)
    assert providers(decide(on)) == ["b"]
    assert providers(decide(on, excluded={1})) == ["a"]


def test_a_drained_offer_keeps_to_limits_and_breakers_as_a_last_resort() -> None:
    on = board(offer("a", capacity=1.0))
    on.steer(0, Steering(drained=True))
    held = admit(on)
    full = decide(on)
    assert [Code(code) for code in full.codes] == [Code.CAPACITY]
    on.release(held)
    run(on, FailureKind.BAD_CREDENTIALS)
    assert [Code(code) for code in decide(on).codes] == [Code.BROKEN]


def test_nobody_waits_for_a_drained_offer_to_return_by_itself() -> None:
    on = board(offer("a"), offer("b", capacity=1.0))
    on.steer(0, Steering(drained=True))
    admit(on, row=1)
    assert on.soonest_return_s([0, 1], NOW) is None
    woken: list[bool] = []
    on.changed.add(lambda: woken.append(True))
    on.steer(0, UNSTEERED)
    assert woken
    assert on.soonest_return_s([0, 1], NOW) == 0.0


def test_an_offer_kept_to_so_many_at_once_serves_more_only_where_no_other_can() -> None:
    on = board(offer("a"), offer("b", latency_ms=900.0, capacity=1.0))
    on.steer(0, Steering(at_once=1.0))
    first = admit(on)
    ranking = decide(on)
    assert [Code(code) for code in ranking.codes] == [Code.DRAINED, Code.FEASIBLE]
    (refusal,) = explain(on.offers, ranking, "id", 0.0).refused
    assert refusal.detail == "kept to 1 at once: it serves more only where no other offer can take it now"
    assert on.soonest_return_s([0], NOW) is None  # a place becomes free, or nothing does
    held = admit(on, row=1)
    assert providers(decide(on)) == ["a"]  # nobody is turned away
    on.release(first)
    on.release(held)
    assert on.soonest_return_s([0], NOW) == 0.0
    assert providers(decide(on)) == ["a", "b"]


def test_an_idle_offer_that_is_tried_takes_one_job_of_whatever_size() -> None:
    offers = [gpu_offer(name, 1.0, 100.0, 50.0, 100.0, ["global"]) for name in ("a", "b")]
    on = board(*offers)
    on.steer(0, Steering(at_once=1.0))
    assert sorted(decide(on, gpu_job(gpu_hours=8.0)).order) == [0, 1]
    assert on.admit(0, 0.0, NOW, gpu_hours=8.0) is not None
    assert decide(on, gpu_job(gpu_hours=8.0)).order == [1]


def test_a_concurrency_limit_holds_below_the_capacity_and_without_one() -> None:
    for capacity in (None, 8.0):
        on = board(offer("a", capacity=capacity))
        on.steer(0, Steering(concurrency=2.0))
        first, _ = admit(on), admit(on)
        assert on.admit(0, 10.0, NOW) is None
        ranking = decide(on)
        assert [Code(code) for code in ranking.codes] == [Code.CAPACITY]
        error = why_none(ranking)
        assert isinstance(error, RequestError)
        assert error.status == 503
        assert "0 free under the limit that a healing has set" in str(error)
        on.release(first)
        assert providers(decide(on)) == ["a"]


def test_the_lower_of_limit_and_capacity_holds() -> None:
    on = board(offer("a", capacity=1.0))
    on.steer(0, Steering(concurrency=5.0))
    admit(on)
    assert on.admit(0, 10.0, NOW) is None
    refusal = explain(on.offers, decide(on), "id", 0.0).refused[0]
    assert refusal.detail == "1 place needed, 0 of 1 free"


def test_a_limit_counts_the_gpu_hours_of_jobs() -> None:
    on = board(gpu_offer("a", 1.0, 100.0, 50.0, 100.0, ["global"]))
    on.steer(0, Steering(concurrency=4.0))
    assert decide(on, gpu_job(gpu_hours=5.0)).order == []
    assert decide(on, gpu_job(gpu_hours=4.0)).order == [0]


def test_the_breaker_takes_the_steering_and_gives_it_back() -> None:
    configured = BreakerSettings(consecutive_failures=5, cool_down_s=5.0, max_cool_down_s=25.0)
    on = board(offer("a"), offer("b"), breaker=configured)
    on.steer(0, Steering(breaker_failures=1, cool_down_s=40.0))
    run(on, FailureKind.SERVER_ERROR)
    assert [Code(code) for code in decide(on).codes] == [Code.COOLING_DOWN, Code.FEASIBLE]
    free_in_s = on.health(0, NOW).free_in_s
    assert free_in_s is not None
    assert 40.0 <= free_in_s <= 48.0
    on.steer(0, UNSTEERED)
    assert on.states[0].breaker.settings == configured


def test_a_probe_that_finds_the_offer_well_is_told_to_whoever_foresaw_its_fall() -> None:
    on = board(offer("a"), offer("b"))
    on.steer(0, Steering(risk=0.9, weight=0.5))
    fail_until_open(on)
    assert on.kept_away(0)
    later = NOW + 60.0
    run(on, None, later)
    assert not on.kept_away(0)
    assert (on.recoveries(0), on.recoveries(1)) == (1, 0)
    assert on.steering(0) == Steering(risk=0.9, weight=0.5)  # what it makes of that is its own


def test_limits_on_waiting_take_the_steering_within_the_configured_ones() -> None:
    on = board(offer("a"), patience={"a": PatienceSettings(first_token_s=30.0, idle_s=20.0)})
    before = on.limits_s(0, 100, NOW)
    on.steer(0, Steering(first_token_ms=1_500.0, idle_ms=99_000.0))
    assert on.limits_s(0, 100, NOW) == (1.5, 20.0)
    on.steer(0, UNSTEERED)
    assert on.limits_s(0, 100, NOW) == before


def test_an_offer_that_nobody_prefers_is_looked_at_now_and_then_but_never_twice_at_a_time() -> None:
    on = board(offer("a"), offer("b"))
    assert not on.probe_due(0, NOW)
    on.steer(0, Steering(look_s=5.0, risk=0.9))
    assert on.probe_due(0, NOW)
    admission = on.admit(0, 100.0, NOW)
    assert admission is not None
    assert not on.probe_due(0, NOW + 6.0)
    on.release(admission)
    assert not on.probe_due(0, NOW + 4.0)
    assert on.probe_due(0, NOW + 5.0)
    on.steer(0, UNSTEERED)
    assert not on.probe_due(0, NOW + 5.0)


def test_a_drained_offer_may_be_chosen_where_it_is_to_be_looked_at() -> None:
    on = board(offer("a"), offer("b"))
    on.steer(0, Steering(drained=True, look_s=5.0))
    assert sorted(decide(on).order) == [0, 1]
    admission = on.admit(0, 100.0, NOW)
    assert admission is not None
    assert decide(on).order == [1]
    on.release(admission)
    assert decide(on).order == [1]  # it was asked just now


def test_a_reload_carries_the_steering_on_under_the_new_configuration() -> None:
    old = pair()
    steering = Steering(drained=True, breaker_failures=2, concurrency=3.0)
    old.steer(0, steering)
    changed = BreakerSettings(consecutive_failures=9, cool_down_s=7.0)
    new = Board([*old.offers, offer("c")], {}, carry=old, breaker=changed, rng=random.Random(1))
    assert new.steering(0) == steering
    assert providers(decide(new))[0] != "a"
    assert new.states[0].breaker.settings.consecutive_failures == 2
    assert new.states[0].breaker.settings.cool_down_s == 7.0
    new.steer(0, UNSTEERED)
    assert old.steering(0) == UNSTEERED
    assert new.states[0].breaker.settings == changed
    assert "a" in providers(decide(new))


@settings(max_examples=100, deadline=None)
@given(st.lists(steerings, min_size=1, max_size=4))
def test_whatever_the_steerings_taking_them_away_leaves_the_initial_board(many: list[Steering]) -> None:
    on = board(offer("a", capacity=4.0), offer("b"))
    values, breaker = on.live.copy(), on.states[0].breaker.settings
    before = decide(on)
    last = UNSTEERED
    for steering in many:
        assert on.steer(0, steering) == last
        last = steering
        assert on.steering(0) == steering
        assert decide(on).order != []
    on.steer(0, UNSTEERED)
    np.testing.assert_array_equal(on.live, values)
    assert on.states[0].breaker.settings == breaker
    np.testing.assert_array_equal(decide(on).table, before.table)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": 1.1}, {"weight": -0.1}, {"risk": math.nan}, {"concurrency": 0.5}, {"breaker_failures": 0},
        {"first_token_ms": 0.0}, {"idle_ms": -1.0}, {"cool_down_s": math.nan},
    ],
)  # fmt: skip
def test_a_steering_out_of_bounds_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Steering(**wrong)  # type: ignore[arg-type]  # a name of a field


def test_stored_rankings_keep_what_was_steered_and_older_ones_stay_readable() -> None:
    on = pair()
    on.steer(0, Steering(weight=0.4))
    ranking = decide(on)
    assert [rank.reason for rank in explain(on.offers, unpack(pack(ranking)), "id", 0.0).ranked] == words(ranking)
    old = decide(pair())
    reasons = words(old)
    old.table = np.ascontiguousarray(old.table[:, : k.CARED])  # as it was stored before these columns were there
    assert [rank.reason for rank in explain(on.offers, unpack(pack(old)), "id", 0.0).ranked] == reasons
