"""A warm prompt cache is a term of every policy's score: it prefers, never pins, and no limit sees it."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_samples import OFFERS, Lesson, lessons, teach
from routing_samples import NOW, board, chat, fail_until_open, gpu_offer, offer

from amaru.domain import Limits, Offer, Price, Weights
from amaru.routing import kernels as k
from amaru.routing.board import Board
from amaru.routing.conversation import Conversation, Failed, FailureKind, mark_of
from amaru.routing.explanation import explain
from amaru.routing.policies import POLICIES, make_policy
from amaru.routing.ranking import Ranking, pack, unpack
from amaru.routing.router import Router
from amaru.routing.warmth import MOST, ConversationWarmth, Saved, Warmth, WarmthSettings

CACHED = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0, cached_input_usd_per_mtok=0.25)
PAIR = (offer("a"), offer("b"))


def decided(
    on: Board, warmth: Warmth | None, policy: Any = "rules", seed: int = 1, now: float = NOW, **asked: Any
) -> Ranking:
    made = make_policy(policy) if isinstance(policy, str) else policy
    return Router(on, made, rng=random.Random(seed)).decide(chat(**asked), now, warmth=warmth)


def warmth_of(
    conversation: Conversation, now: float, *offers: Offer, lifetime_s: float = 300.0, **settings: float
) -> Warmth | None:
    on = board(*offers)
    places = {each.id: (row, lifetime_s) for row, each in enumerate(offers)}
    found = ConversationWarmth(places, on.static, WarmthSettings(**settings))
    return found.of(conversation, chat(input_tokens=600, output_tokens=400), now)


def reasons(on: Board, ranking: Ranking) -> list[str]:
    return [rank.reason for rank in explain(on.offers, ranking, "id", 0.0).ranked]


# ---- the term of the score ------------------------------------------------------------------------------------------

shares = st.builds(Saved, st.floats(0.0, MOST), st.floats(0.0, MOST))


@pytest.mark.parametrize("policy", POLICIES)
def test_among_equals_the_warm_one_comes_first_whatever_the_lot(policy: str) -> None:
    on = board(*PAIR)
    still = make_policy(policy, epsilon=0.0, boldness=0.0)
    cold = {decided(on, None, still, seed).order[0] for seed in range(30)}
    assert cold == {0, 1}
    for term, warm in (("price", Saved(0.1, 0.0)), ("latency", Saved(0.0, 0.1))):
        weighs = {"cheapest": ("price",), "fastest": ("latency",), "random": ()}.get(policy, ("price", "latency"))
        firsts = {decided(on, {1: warm}, still, seed).order[0] for seed in range(30)}
        assert firsts == ({1} if term in weighs else {0, 1})


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"random"}))
def test_what_is_better_by_more_than_the_cache_saves_still_comes_first(policy: str) -> None:
    on = board(offer("a"), offer("b", price=Price(input_usd_per_mtok=3.0, output_usd_per_mtok=3.0), latency_ms=900.0))
    assert decided(on, {1: Saved(0.1, 0.1)}, make_policy(policy, epsilon=0.0, boldness=0.0)).order[0] == 0


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(POLICIES)), lessons(20), st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1.0]))
def test_nothing_saved_is_no_term_at_all(name: str, log: list[Lesson], seed: int, drawn: float) -> None:
    policy = make_policy(name, epsilon=drawn, boldness=drawn)
    teach(policy, log)
    on = board(*OFFERS)
    without = decided(on, None, policy, seed, now=2e5)
    for nothing in ({}, {0: Saved(0.0, 0.0)}):
        found = decided(on, nothing, policy, seed, now=2e5)
        assert (found.order, found.tied, found.propensity) == (without.order, without.tied, without.propensity)
        np.testing.assert_array_equal(found.table, without.table)
        np.testing.assert_array_equal(found.codes, without.codes)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(list(POLICIES)),
    st.dictionaries(st.integers(0, 3), shares),
    st.integers(0, 10**6),
    st.sampled_from([Limits(), Limits(max_price=0.9), Limits(max_latency_ms=450.0), Limits(min_reputation=60.0)]),
    st.sampled_from([Weights(), Weights(1.0, 0.0, 0.0, 0.0), Weights(0.0, 1.0, 0.0, 0.0)]),
)
def test_no_limit_sees_it_and_it_only_ever_lifts(
    name: str, warmth: dict[int, Saved], seed: int, limits: Limits, weights: Weights
) -> None:
    on = board(
        offer("a"), offer("b", price=CACHED), offer("c", latency_ms=400.0, reputation=80.0),
        offer("d", price=Price(input_usd_per_mtok=0.5, output_usd_per_mtok=0.5)),
    )  # fmt: skip
    fail_until_open(on, row=2)
    policy = make_policy(name, epsilon=0.0, boldness=0.0)
    without = decided(on, None, policy, seed, limits=limits, weights=weights)
    found = decided(on, warmth, policy, seed, limits=limits, weights=weights)
    assert sorted(found.order) == sorted(without.order)
    np.testing.assert_array_equal(found.codes, without.codes)
    for column in (k.UNIT_PRICE, k.COST, k.LATENCY, k.POSTED_MS):
        np.testing.assert_array_equal(found.table[:, column], without.table[:, column])
    for row in warmth:  # what is warm never stands behind one that it stood before, unless that is warm too
        if row not in without.order:
            continue
        behind = without.order[without.order.index(row) + 1 :]
        ties = {other for other in behind if without.table[other, k.SCORE] == without.table[row, k.SCORE]}
        passed = set(behind) & set(found.order[: found.order.index(row)])
        assert passed <= set(warmth) | ties


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(POLICIES)), lessons(15), shares, st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1.0]))
def test_propensities_of_warm_decisions_add_up_and_parts_to_scores(
    name: str, log: list[Lesson], saved: Saved, seed: int, drawn: float
) -> None:
    policy = make_policy(name, epsilon=drawn, boldness=drawn)
    teach(policy, log)
    on = board(*OFFERS)
    ranking = decided(on, {1: saved}, policy, seed, now=2e5)
    assert sum(policy.share(ranking, place) for place in range(len(ranking.order))) == pytest.approx(1.0, abs=1e-9)
    for rank in explain(on.offers, ranking, "id", 0.0).ranked:
        parts = rank.parts
        whole = parts.price + parts.latency + parts.reputation + parts.availability + parts.draw
        assert whole == pytest.approx(rank.score, abs=1e-9)


# ---- in words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_it_is_told_also_of_stored_decisions(policy: str) -> None:
    on = board(*PAIR)
    ranking = decided(on, {1: Saved(0.25, 0.1)}, policy)
    told = dict(zip(ranking.order, reasons(on, ranking), strict=True))
    assert "its prompt cache is warm" in told[1]
    assert "25.0 % of its price and 10.0 % of its latency" in told[1]
    assert "warm" not in told[0]
    stored = unpack(pack(ranking))
    assert [rank.reason for rank in explain(on.offers, stored, "id", 0.0).ranked] == reasons(on, ranking)


def test_who_stands_behind_a_warm_one_is_told_by_what_was_scored() -> None:
    on = board(*PAIR)
    ranking = decided(on, {1: Saved(0.25, 0.0)})
    assert "most by price: 1 against 0.75 USD" in reasons(on, ranking)[1]


# ---- what is expected of a conversation -----------------------------------------------------------------------------


def served_by(name: str, at: float = NOW, prompt_tokens: int = 500, **fields: Any) -> Conversation:
    return Conversation(offer=mark_of(f"{name}/m"), at=at, turns=1, prompt_tokens=prompt_tokens, **fields)


def test_what_is_saved_is_the_difference_of_the_prices_on_the_last_prompt() -> None:
    warmth = warmth_of(served_by("b"), NOW, offer("a"), offer("b", price=CACHED))
    assert warmth == {1: Saved(pytest.approx(500 * 0.75 / 1000), pytest.approx(0.1))}
    # A prompt that has become shorter holds no more of the last one than itself.
    warmth = warmth_of(served_by("b", prompt_tokens=9_000), NOW, offer("a"), offer("b", price=CACHED))
    assert warmth == {1: Saved(pytest.approx(600 * 0.75 / 1000), pytest.approx(0.1))}
    assert warmth_of(served_by("a"), NOW, offer("a")) == {0: Saved(0.0, pytest.approx(0.1))}


def test_it_fades_over_the_lifetime_of_the_cache() -> None:
    for age_s, left in ((0.0, 1.0), (150.0, 0.5), (299.0, 1 / 300), (-5.0, 1.0)):
        warmth = warmth_of(served_by("a"), NOW + age_s, offer("a", price=CACHED), first_token=0.2)
        assert warmth == {0: Saved(pytest.approx(left * 0.375), pytest.approx(left * 0.2))}
    assert warmth_of(served_by("a"), NOW + 300.0, offer("a")) is None
    assert warmth_of(served_by("a"), NOW + 300.0, offer("a"), lifetime_s=600.0) is not None


def test_an_offer_that_failed_the_conversation_lately_is_not_preferred() -> None:
    failed = served_by("a", failed=(Failed(mark_of("a/m"), FailureKind.SERVER_ERROR, NOW - 30.0),))
    assert warmth_of(failed, NOW, offer("a")) is None
    assert warmth_of(failed, NOW + 30.0, offer("a")) is not None
    another = served_by("a", failed=(Failed(mark_of("b/m"), FailureKind.SERVER_ERROR, NOW),))
    assert warmth_of(another, NOW, offer("a"), offer("b")) is not None


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"first_token": 0.0}])
def test_without_weight_there_is_no_term(settings: dict[str, float]) -> None:
    assert warmth_of(served_by("a"), NOW, offer("a"), **settings) is None


def test_an_offer_that_is_gone_or_has_never_served_is_not_preferred() -> None:
    assert warmth_of(served_by("gone"), NOW, offer("a")) is None
    assert warmth_of(Conversation(), NOW, offer("a")) is None


@given(
    st.floats(0.0, 1e11), st.integers(0, 2**48), st.floats(0.0, 1.0), st.floats(0.0, 0.9), st.floats(1.0, 86_400.0),
    st.floats(0.0, 1e3), st.floats(0.0, 1e3), st.floats(0.0, 1e3),
)  # fmt: skip
def test_what_is_expected_is_a_share(
    at: float, prompt_tokens: int, weight: float, first_token: float, lifetime_s: float, fresh: float, cached: float,
    out: float,
) -> None:  # fmt: skip
    price = Price(input_usd_per_mtok=fresh, output_usd_per_mtok=out, cached_input_usd_per_mtok=cached)
    found = warmth_of(
        served_by("a", at, prompt_tokens), NOW, offer("a", price=price), lifetime_s=lifetime_s, weight=weight,
        first_token=first_token,
    )  # fmt: skip
    for saved in (found or {}).values():
        assert all(0.0 <= share <= MOST and math.isfinite(share) for share in saved)


def test_gpu_offers_have_no_price_for_tokens() -> None:
    assert warmth_of(served_by("a"), NOW, gpu_offer("a", 1.8, 300, 78, 220, ["eu-west-1"])) is None
