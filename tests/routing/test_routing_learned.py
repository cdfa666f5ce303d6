"""What learning does to the order of offers, and what it never does."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_samples import (
    OFFERS,
    STREAM,
    WHOLE,
    AnyPolicy,
    Lesson,
    failed,
    first,
    lessons,
    ranked,
    served,
    tables,
    taught,
    teach,
)  # fmt: skip
from routing_samples import NOW, board, chat, gpu_job, gpu_offer, offer

from amaru.domain import Experience, Limits, Offer, Price, Weights, Workload
from amaru.routing import kernels as k
from amaru.routing.board import Board
from amaru.routing.kernels import Code
from amaru.routing.policies import LEARNED, POLICIES, make_policy
from amaru.routing.ranking import seen_of
from amaru.routing.router import Router

BELIEVERS = ("thompson", "hybrid")
STEADY = {"boldness": 0.0, "epsilon": 0.0}
"""Without draws, so that what was learned decides alone."""

FAST_A = (offer("a", latency_ms=200.0), offer("b", latency_ms=260.0))
CHEAP_A = (
    offer("a", price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0)),
    offer("b", price=Price(input_usd_per_mtok=1.3, output_usd_per_mtok=1.3)),
)
BY_LATENCY, BY_PRICE = chat(weights=Weights(0.0, 1.0, 0.0, 0.0)), chat(weights=Weights(1.0, 0.0, 0.0, 0.0))


def live(policy: AnyPolicy, on: Board, name: str, workload: Workload, experience: Experience) -> None:
    """What a gateway does after an answer: teach it the outcome, with what the decision saw of the offer."""
    ranking = ranked(policy, on, workload, now=experience.at)
    row = on.row_of[name]
    policy.learn(workload, on.offers[row], msgspec.structs.replace(experience, seen=seen_of(ranking, row)))


# ---- the right way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNED)
def test_an_offer_that_fails_loses_its_place_within_a_few_outcomes(name: str) -> None:
    on, policy = board(*FAST_A), make_policy(name, **STEADY)
    assert first(policy, on, BY_LATENCY) == "a/m"
    for i in range(4):
        live(policy, on, "a/m", BY_LATENCY, failed(NOW + i))
    assert first(policy, on, BY_LATENCY, now=NOW + 4) == "b/m"


@pytest.mark.parametrize("name", BELIEVERS)
def test_failures_are_forgiven_as_time_passes(name: str) -> None:
    a, slow = FAST_A[0], offer("b", latency_ms=400.0)
    log = [(each, served(each.latency_ms, float(i))) for i in range(200) for each in (a, slow)]
    policy = taught(name, *log, *[(a, failed(200.0 + i)) for i in range(6)], **STEADY)
    relax_s = policy.mind.settings.relax_s
    told = [
        ranked(policy, board(a, slow), BY_LATENCY, now=206.0 + relaxed * relax_s).table[0, k.PREDICTED_SUCCESS]
        for relaxed in (0.0, 1.0, 2.0, 10.0)
    ]
    assert told == sorted(told)
    # What was sensed halves with each half-life, as far as it is from what is usual.
    assert (told[3] - told[1]) / (told[3] - told[0]) == pytest.approx(0.5, abs=0.01)
    assert (told[3] - told[2]) / (told[3] - told[0]) == pytest.approx(0.25, abs=0.01)
    assert first(policy, board(a, slow), BY_LATENCY, now=206.0) == "b/m"
    assert first(policy, board(a, slow), BY_LATENCY, now=206.0 + 10.0 * relax_s) == "a/m"


@pytest.mark.parametrize("name", BELIEVERS)
def test_successes_bring_it_back(name: str) -> None:
    on = board(*FAST_A)
    log = [(FAST_A[0], failed(float(i))) for i in range(6)]
    policy = taught(name, *log, *[(FAST_A[0], served(200.0, 1_000.0 + i)) for i in range(40)], **STEADY)
    assert first(policy, on, BY_LATENCY, now=1_040.0) == "a/m"


@pytest.mark.parametrize("name", LEARNED)
def test_an_offer_slower_than_posted_loses_its_place(name: str) -> None:
    on, policy = board(*FAST_A), make_policy(name, **STEADY)
    for i in range(8):
        live(policy, on, "a/m", BY_LATENCY, served(900.0, NOW + i))
        live(policy, on, "b/m", BY_LATENCY, served(260.0, NOW + i))
    assert first(policy, on, BY_LATENCY, now=NOW + 8) == "b/m"
    assert first(policy, on, BY_PRICE, now=NOW + 8) in ("a/m", "b/m")


@pytest.mark.parametrize("name", LEARNED)
def test_an_offer_dearer_than_posted_loses_its_place(name: str) -> None:
    on, policy = board(*CHEAP_A), make_policy(name, **STEADY)
    assert first(policy, on, BY_PRICE) == "a/m"
    for i in range(8):
        for which, factor in (("a/m", 2.0), ("b/m", 1.0)):
            billed = served(500.0, NOW + i, cost_usd=0.01 * factor, expected_cost_usd=0.01)
            live(policy, on, which, BY_PRICE, billed)
    assert first(policy, on, BY_PRICE, now=NOW + 8) == "b/m"


@pytest.mark.parametrize("name", BELIEVERS)
def test_the_siblings_of_an_offer_that_fails_are_suspected(name: str) -> None:
    failing, sibling, stranger = offer("a", id="a/1"), offer("a", id="a/2", latency_ms=490.0), offer("b")
    policy = taught(name, *[(failing, failed(NOW + i)) for i in range(5)], **STEADY)
    ranking = ranked(policy, board(failing, sibling, stranger), now=NOW + 5)
    one, two, other = ranking.table[:, k.PREDICTED_SUCCESS]
    assert one <= two < other
    if name == "thompson":  # the hybrid goes by the rule where it has no outcome of the offer itself
        assert ranking.order == [2, 1, 0]


@pytest.mark.parametrize("name", BELIEVERS)
def test_latencies_and_prices_are_each_offers_own(name: str) -> None:
    slow, sibling = offer("a", id="a/1"), offer("a", id="a/2")
    dear = served(2_000.0, cost_usd=0.05, expected_cost_usd=0.01)
    table = ranked(taught(name, *[(slow, dear)] * 5), board(slow, sibling)).table
    assert table[0, k.PREDICTED_MS] > 1.5 * table[1, k.PREDICTED_MS]
    assert table[0, k.PREDICTED_PRICE] > 1.5 * table[1, k.PREDICTED_PRICE]
    assert table[1, k.PREDICTED_PRICE] == pytest.approx(1.0)


@pytest.mark.parametrize("name", BELIEVERS)
def test_whole_answers_teach_nothing_of_first_tokens(name: str) -> None:
    policy = make_policy(name)
    before = tables(policy, NOW, (STREAM,))[0]
    teach(policy, [(OFFERS[0], WHOLE, served(9_000.0))] * 5)
    np.testing.assert_array_equal(tables(policy, NOW, (STREAM,))[0], before)
    assert tables(policy, NOW, (WHOLE,))[0][0, k.EVIDENCE] > 1.0
    teach(policy, [(OFFERS[0], STREAM, served())])
    assert policy.table_size() == 1


@pytest.mark.parametrize("name", LEARNED)
def test_what_says_nothing_about_the_offer_teaches_nothing(name: str) -> None:
    policy = make_policy(name)
    before = policy.state()
    policy.learn(STREAM, OFFERS[0], Experience(at=NOW, ok=False, blame=False))
    assert policy.state() == before


def test_a_hybrid_lies_between_the_rule_and_the_belief() -> None:
    log = [(FAST_A[0], served(700.0, NOW + i)) for i in range(6)]
    rule, hybrid, thompson = (
        ranked(taught(name, *log, **STEADY), board(*FAST_A), BY_LATENCY, now=NOW + 6.0).table[0, k.LATENCY_PART]
        for name in ("rules", "hybrid", "thompson")
    )
    assert thompson < hybrid < rule


# ---- law 6 and law 10 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNED)
def test_weights_are_applied_when_it_is_asked(name: str) -> None:
    """The same learned model, other weights, another order; asking changes nothing of it."""
    offers = (
        offer("cheap", price=Price(input_usd_per_mtok=0.5, output_usd_per_mtok=0.5), latency_ms=900.0, reputation=50.0),
        offer("fast", price=Price(input_usd_per_mtok=3.0, output_usd_per_mtok=3.0), latency_ms=100.0, reputation=50.0),
        offer("good", price=Price(input_usd_per_mtok=3.0, output_usd_per_mtok=3.0), latency_ms=900.0, reputation=99.0),
    )
    policy = taught(name, *[(each, served(each.latency_ms, NOW + i)) for i in range(10) for each in offers], **STEADY)
    before = policy.state()
    winners = [
        first(policy, board(*offers), chat(weights=weights), now=NOW + 10)
        for weights in (Weights(1.0, 0.0, 0.0, 0.0), Weights(0.0, 1.0, 0.0, 0.0), Weights(0.0, 0.0, 1.0, 0.0))
    ]
    assert winners == ["cheap/m", "fast/m", "good/m"]
    assert policy.state() == before


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(list(POLICIES)),
    lessons(15),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 10**6),
    st.builds(
        Limits,
        st.sampled_from([None, 0.5, 1.0]),
        st.sampled_from([None, 210.0, 250.0]),
        st.sampled_from([None, 70.0, 80.0, 101.0]),
        st.none() | st.just(("eu",)),
    ),
    st.sets(st.integers(0, 3), max_size=2),
)
def test_hard_limits_bind_whatever_was_learned(
    name: str, log: list[Lesson], exploration: float, seed: int, limits: Limits, excluded: set[int]
) -> None:
    policy = make_policy(name, epsilon=0.5, boldness=1.0)
    teach(policy, log)
    on = board(*OFFERS)
    workload = chat(limits=limits)
    router = Router(on, policy, exploration=exploration, rng=random.Random(seed))
    ranking = router.decide(workload, NOW, excluded)
    rules = Router(on, make_policy("rules")).decide(workload, NOW, excluded)
    np.testing.assert_array_equal(ranking.codes, rules.codes)
    assert sorted(ranking.order) == sorted(rules.order)
    for row in ranking.order:
        assert row not in excluded
        assert ranking.codes[list(ranking.rows).index(row)] == Code.FEASIBLE
        assert limits.max_latency_ms is None or on.offers[row].latency_ms <= limits.max_latency_ms
        assert limits.min_reputation is None or on.offers[row].reputation >= limits.min_reputation


# ---- slots ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(LEARNED),
    lessons(10),
    lessons(10),
    st.permutations(OFFERS),
    st.permutations([*OFFERS, offer("new"), offer("a", id="a/new")]),
    st.integers(1, 6),
)
def test_what_was_learned_stays_with_the_offer_on_every_board(
    name: str, log: list[Lesson], later: list[Lesson], one: list[Offer], two: list[Offer], count: int
) -> None:
    """Boards come and go in other orders, with offers added and taken away: what counts is the offer's id."""
    moved, fresh = make_policy(name, **STEADY), make_policy(name, **STEADY)
    teach(moved, log)
    ranked(moved, board(*one), now=1e5)
    teach(moved, later)
    ranked(moved, board(*two[:1]), now=1e5)
    teach(fresh, [*log, *later])
    on = board(*two[:count])
    np.testing.assert_array_equal(ranked(moved, on, now=2e5).table, ranked(fresh, on, now=2e5).table)
    by_id = dict(zip([each.id for each in two], ranked(fresh, board(*two), now=2e5).table, strict=True))
    for each, figures in zip(two, ranked(moved, on, now=2e5).table, strict=False):
        told = [k.PREDICTED_SUCCESS, k.PREDICTED_MS, k.PREDICTED_PRICE]
        np.testing.assert_allclose(figures[told], by_id[each.id][told], rtol=1e-12)


def test_a_gpu_offer_learns_its_acceptance() -> None:
    a100 = gpu_offer("a", 1.0, 300.0, 50.0, 9.0, ["global"])
    policy = make_policy("thompson")
    teach(policy, [(a100, gpu_job(), served(900.0))] * 5)
    assert ranked(policy, board(a100), gpu_job()).table[0, k.PREDICTED_MS] > 500.0


# ---- reset and size -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LEARNED), lessons(), lessons(10))
def test_a_reset_policy_is_as_new(name: str, log: list[Lesson], after: list[Lesson]) -> None:
    policy, fresh = make_policy(name), make_policy(name)
    teach(policy, log)
    tables(policy, 2e5)
    policy.reset()
    assert policy.table_size() == 0
    for _ in range(2):
        assert policy.state() == fresh.state()
        for got, expected in zip(tables(policy, 2e5), tables(fresh, 2e5), strict=True):
            np.testing.assert_array_equal(got, expected)
        teach(policy, after)
        teach(fresh, after)


@pytest.mark.parametrize("name", BELIEVERS)
def test_the_size_is_the_offers_with_evidence(name: str) -> None:
    policy = taught(name, *[(each, served()) for each in OFFERS[:3]] * 2)
    ranked(policy)  # the others have slots, and no evidence
    assert policy.table_size() == 3
    named_badly = offer("my offer x", id="x offer y")
    teach(policy, [(named_badly, STREAM, served())])
    assert policy.table_size() == 4


def test_the_size_is_the_states_visited() -> None:
    policy = taught("qlearning", (OFFERS[0], served()), (OFFERS[0], failed()), (OFFERS[3], served()))
    assert policy.table_size() == len({row.tobytes() for row in policy.mind.values if row[1]}) == 2
