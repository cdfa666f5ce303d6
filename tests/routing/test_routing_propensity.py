"""The propensity stored with a decision is the frequency with which that offer comes first, over lots."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_samples import OFFERS, STREAM, AnyPolicy, Lesson, failed, lessons, ranked, served, taught, teach
from routing_samples import NOW, board, chat, offer
from scipy.stats import chi2

from amaru.domain import Limits, Offer
from amaru.routing import kernels as k
from amaru.routing.policies import POLICIES, make_policy
from amaru.routing.router import Router

LOG = [
    *[(OFFERS[0], failed(NOW + i)) for i in (1, 4)],
    *[(OFFERS[1], served(280.0, NOW + i)) for i in range(3)],
    *[(OFFERS[2], served(300.0, NOW + i)) for i in range(5)],
]
LATER = NOW + 6.0
KNOBS = {"epsilon": 0.3, "boldness": 0.7}
EQUAL = (offer("a"), offer("b"), offer("c"), offer("d", latency_ms=2_000.0))


def shares(policy: AnyPolicy, offers: tuple[Offer, ...] = OFFERS, seed: int = 1) -> list[float]:
    ranking = ranked(policy, board(*offers), now=LATER, seed=seed)
    return [policy.share(ranking, place) for place in range(len(ranking.order))]


def assert_frequencies(policy: AnyPolicy, offers: tuple[Offer, ...], exploration: float, draws: int = 6_000) -> None:
    router = Router(board(*offers), policy, exploration=exploration, rng=random.Random(5))
    firsts, told = np.zeros(len(offers)), np.full(len(offers), np.nan)
    explored = 0
    for _ in range(draws):
        ranking = router.decide(STREAM, LATER)
        row = ranking.order[0]
        firsts[row] += 1.0
        explored += ranking.explored
        assert np.isnan(told[row]) or told[row] == pytest.approx(ranking.propensity, abs=1e-12)
        told[row] = ranking.propensity
    seen = ~np.isnan(told)
    assert told[seen].sum() == pytest.approx(1.0, abs=1e-9)
    expected = draws * told[seen]
    statistic = ((firsts[seen] - expected) ** 2 / expected).sum()
    assert statistic <= chi2.ppf(0.9999, max(int(seen.sum()) - 1, 1))
    assert explored == pytest.approx(draws * exploration, abs=4.0 * np.sqrt(draws * exploration) + 1e-9)


@pytest.mark.parametrize("exploration", [0.0, 0.2])
@pytest.mark.parametrize("name", POLICIES)
def test_propensities_are_frequencies(name: str, exploration: float) -> None:
    assert_frequencies(taught(name, *LOG, **KNOBS), OFFERS, exploration)


@pytest.mark.parametrize("name", POLICIES)
def test_equal_offers_share_first_place_and_say_so(name: str) -> None:
    """Ties are drawn by lot, also those among draws from beliefs, and among values when another was explored."""
    assert_frequencies(make_policy(name, **KNOBS), EQUAL, 0.0)


@pytest.mark.parametrize("name", ["thompson", "hybrid", "qlearning"])
def test_without_draws_of_its_own_equal_offers_have_equal_shares(name: str) -> None:
    still = make_policy(name, epsilon=0.0, boldness=0.0)
    for seed in range(20):
        assert sorted(shares(still, EQUAL, seed)) == pytest.approx([0.0, 1 / 3, 1 / 3, 1 / 3])


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(list(POLICIES)),
    lessons(20),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([None, 210.0, 240.0, 260.0]),
)
def test_shares_of_the_feasible_add_up_to_1(
    name: str, log: list[Lesson], seed: int, drawn: float, max_latency_ms: float | None
) -> None:
    policy = make_policy(name, epsilon=drawn, boldness=drawn)
    teach(policy, log)
    workload = chat(limits=Limits(max_latency_ms=max_latency_ms))
    ranking = ranked(policy, board(*OFFERS, EQUAL[0], offer("e")), workload, now=2e5, seed=seed)
    all_shares = [policy.share(ranking, place) for place in range(len(ranking.order))]
    assert all(0.0 <= share <= 1.0 + 1e-12 for share in all_shares)
    assert sum(all_shares) == pytest.approx(1.0, abs=1e-9)
    assert all_shares[0] > 0.0


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(POLICIES)), lessons(20), st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_share_does_not_depend_on_the_lot_that_was_drawn(
    name: str, log: list[Lesson], seed: int, other: int
) -> None:
    policy = make_policy(name, **KNOBS)
    teach(policy, log)
    told = []
    for each in (seed, other):
        ranking = ranked(policy, board(*OFFERS, EQUAL[0], offer("e")), now=2e5, seed=each)
        told.append({row: policy.share(ranking, place) for place, row in enumerate(ranking.order)})
    assert told[0] == pytest.approx(told[1], abs=1e-12)


def test_exploration_comes_first_however_much_more_another_is_worth() -> None:
    """A value may exceed another by more than 1: latencies far below the posted ones are worth more than 1."""
    policy = make_policy("qlearning", epsilon=1.0, epsilon_kept=1.0)
    policy.mind.values[:] = [0.0, 1e4]
    on = board(*OFFERS)
    state = {}
    for which in range(2):
        before = policy.mind.values.copy()
        policy.learn(STREAM, OFFERS[which], served(1.0))
        state[which] = np.flatnonzero((policy.mind.values != before).any(axis=1))
    for states in state.values():
        policy.mind.values[states] = [40.0, 1e4]
    firsts = {ranked(policy, on, now=LATER, seed=seed).order[0] for seed in range(60)}
    assert firsts == {0, 1, 2, 3}


@pytest.mark.parametrize("name", ["thompson", "hybrid"])
def test_what_the_draw_added_is_told(name: str) -> None:
    policy = taught(name, *LOG, **KNOBS)
    drew = 0
    for seed in range(60):
        ranking = ranked(policy, now=LATER, seed=seed)
        parts = ranking.table[:, k.PRICE_PART : k.AVAILABILITY_PART + 1].sum(axis=1)
        np.testing.assert_allclose(ranking.table[:, k.SCORE], parts + ranking.table[:, k.DRAW], atol=1e-9)
        drew += bool(ranking.table[:, k.DRAW].any())
    assert 0 < drew < 60
