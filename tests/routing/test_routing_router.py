"""Decisions: constraints by name, policies, exploration, explanations, storage, and what callers are told."""

from __future__ import annotations

import random
import re

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_samples import NOW, board, chat, classic_a100, decide, failure, gpu_job, gpu_offer, offer, providers

from amaru.domain import Capability, Decision, FailureKind, Kind, Limits, Offer, Price, Weights, Workload
from amaru.errors import RequestError
from amaru.routing import kernels as k
from amaru.routing.board import Board
from amaru.routing.policies import LEARNED, POLICIES, make_policy
from amaru.routing.router import Ranking, Router, explain_packed, model_not_found, pack, unpack, why_none

DAO = Weights(price=0.5, latency=0.1, reputation=0.25, availability=0.15)
GAMING = Weights(price=0.2, latency=0.4, reputation=0.2, availability=0.2)


def explain(ranking: Ranking) -> Decision:
    return Router(ranking.board, make_policy("rules")).explain(ranking, "d1", 1.7e9)


def refused(on: Board, workload: Workload) -> tuple[str, str]:
    """Constraint and detail of a board's only offer."""
    (refusal,) = explain(decide(on, workload)).refused
    return refusal.constraint, refusal.detail


# ---- constraints ----------------------------------------------------------------------------------------------------

CONSTRAINTS: list[tuple[Offer, Workload, str, str]] = [
    (offer(), chat(kind=Kind.EMBEDDING), "kind", "it serves chat, not embedding"),
    (offer(), chat(needs=Capability.TOOLS | Capability.VISION), "capability", "it lacks tools, vision"),
    (offer(regions=("us",)), chat(region="eu"), "region", "it serves us, not eu"),
    (
        offer(regions=("us", "ap")),
        chat(limits=Limits(regions=("eu",))),
        "regions",
        "it serves us, ap; allowed are eu",
    ),
    (offer(), chat(limits=Limits(regions=("eu",))), "regions", "it serves global; allowed are eu"),
    (
        offer(context_window_tokens=999),
        chat(),
        "context_window",
        "1000 tokens of input and output exceed its context window of 999",
    ),
    (
        gpu_offer("a", 3.2, 100, 50, 9, ["global"]),
        gpu_job(limits=Limits(max_price=2.0)),
        "max_price",
        "price 3.20 USD per GPU-hour is above the limit 2.00",
    ),
    (
        offer(price=Price(2.0, None, 2.0)),
        chat(limits=Limits(max_price=1.999)),
        "max_price",
        "price 2.00 USD per million tokens is above the limit 1.999",
    ),
    (
        offer(latency_ms=350.0),
        chat(limits=Limits(max_latency_ms=300.0)),
        "max_latency_ms",
        "expected latency 350 ms is above the limit 300",
    ),
    (
        offer(reputation=55.0),
        chat(limits=Limits(min_reputation=60.0)),
        "min_reputation",
        "reputation 55 is below the limit 60",
    ),
    (
        gpu_offer("a", 1.0, 100, 50, 8, ["global"]),
        gpu_job(gpu_hours=9.0),
        "capacity",
        "9 GPU-hours needed, 8 there in all",
    ),
]


@pytest.mark.parametrize(("only", "workload", "constraint", "detail"), CONSTRAINTS)
def test_each_constraint_refuses_by_name_and_figures(
    only: Offer, workload: Workload, constraint: str, detail: str
) -> None:
    assert refused(board(only), workload) == (constraint, detail)


@pytest.mark.parametrize(
    ("only", "workload"),
    [
        (offer(regions=("eu", "us")), chat(region="eu", limits=Limits(regions=("eu",)))),
        (offer(regions=("eu", "us")), chat(limits=Limits(regions=("us",)))),
        (offer(), chat(region="eu", limits=Limits(regions=("eu", "global")))),
        (offer(), chat(region="mars")),
        (offer(regions=("eu",)), chat(region="global")),
        (offer(context_window_tokens=1000), chat()),
        (offer(price=Price(0.1, None, 0.1)), chat(limits=Limits(max_price=0.1))),
        (offer(latency_ms=300.0), chat(limits=Limits(max_latency_ms=300.0))),
        (offer(reputation=60.0), chat(limits=Limits(min_reputation=60.0))),
        (gpu_offer("a", 1.0, 100, 50, 8, ["global"]), gpu_job(gpu_hours=8.0)),
    ],
)
def test_limits_are_inclusive(only: Offer, workload: Workload) -> None:
    assert decide(board(only), workload).order == [0]


def test_a_region_that_may_not_serve_is_refused_even_where_another_of_the_offer_may() -> None:
    only = board(offer(regions=("eu", "us")))
    assert refused(only, chat(region="us", limits=Limits(regions=("eu",))))[0] == "regions"


def test_transient_refusals_are_named_with_their_end() -> None:
    on = board(*(offer(name, capacity=3.0, requests_per_min=60.0) for name in ("cool", "busy", "thr", "key", "full")))
    for _ in range(5):
        on.observe(0, NOW, failure(FailureKind.SERVER_ERROR))
    for _ in range(60):
        admission = on.admit(1, 0.0, NOW)
        assert admission is not None
        on.release(admission)
    on.observe(2, NOW, failure(FailureKind.RATE_LIMITED, retry_after_s=12.0))
    on.observe(3, NOW, failure(FailureKind.BAD_CREDENTIALS))
    for _ in range(3):
        on.admit(4, 0.0, NOW)
    ranking = decide(on, chat())
    assert ranking.transient
    found = {refusal.provider: (refusal.constraint, refusal.detail) for refusal in explain(ranking).refused}
    assert found["cool"][0] == "cooling_down"
    assert re.fullmatch(r"cooling down after failures; next probe in [56]\.\d s", found["cool"][1])
    assert found["busy"] == ("rate_limit", "its rate limit is used up for 1.0 s more")
    assert found["thr"] == ("throttled", "throttled by the provider for 12.0 s more")
    assert found["key"][0] == "broken"
    assert found["full"] == ("capacity", "1 place needed, 0 of 3 free")
    probe = on.admit(0, 0.0, NOW + 10.0)
    assert probe is not None
    assert explain(decide(on, chat(), now=NOW + 10.0)).refused[0].detail.endswith("a probe is under way")


def test_excluded_rows_are_refused_as_such() -> None:
    on = board(offer("a"), offer("b"))
    ranking = Router(on, make_policy("rules")).decide(chat(), NOW, frozenset({0}))
    assert providers(ranking) == ["b"]
    assert explain(ranking).refused[0].constraint == "excluded"


def test_an_offer_slower_now_than_advertised_is_refused_until_that_fades() -> None:
    on = board(offer("a", latency_ms=200.0))
    for _ in range(20):
        on.observe(0, NOW, None, 2_000.0, stream=True)
    w = chat(limits=Limits(max_latency_ms=300.0))
    ranking = decide(on, w)
    assert ranking.transient
    (refusal,) = explain(ranking).refused
    assert refusal.constraint == "max_latency_ms"
    assert refusal.detail.endswith("is now above the limit 300 (advertised 200)")
    assert decide(on, w, now=NOW + 600.0).order == [0]


# ---- policies -------------------------------------------------------------------------------------------------------


def test_rules_classic_gives_the_classic_figures() -> None:
    ranking = decide(board(*classic_a100()), gpu_job(region="us-west-2", weights=DAO), "rules_classic")
    decision = explain(ranking)
    assert [(ranked.provider, round(ranked.score, 6)) for ranked in decision.ranked] == [
        ("vast", 0.662406),
        ("akash", 0.623111),
        ("aethir", 0.562885),
        ("ionet", 0.562585),
    ]
    by_provider = {ranked.provider: ranked for ranked in decision.ranked}
    assert by_provider["vast"].score == pytest.approx(0.5 / 1.4 + 0.1 / 380 + 0.25 * 0.62 + 0.15)
    assert by_provider["aethir"].score == pytest.approx(0.5 / 2.5 + 0.1 / 260 + 0.25 * 0.85 + 0.15)


def test_rules_classic_counts_the_capacity_left() -> None:
    on = board(*classic_a100())
    on.admit(0, 0.0, NOW, gpu_hours=55.0)
    ranking = decide(on, gpu_job(region="eu-west-1", weights=GAMING), "rules_classic")
    part = ranking.table[0, k.AVAILABILITY_PART]
    assert part == pytest.approx(0.2 * (220 - 55) / 220)


def test_cheapest_and_fastest_order_by_one_figure() -> None:
    on = board(*classic_a100())
    w = gpu_job(region="us-west-2", weights=GAMING)
    assert providers(decide(on, w, "cheapest")) == ["vast", "akash", "ionet", "aethir"]
    assert providers(decide(on, w, "fastest")) == ["aethir", "akash", "ionet", "vast"]


def test_rules_weighs_all_four() -> None:
    on = board(*classic_a100())
    assert providers(decide(on, gpu_job(region="us-west-2", weights=Weights(1, 0, 0, 0))))[0] == "vast"
    assert providers(decide(on, gpu_job(region="us-west-2", weights=Weights(0, 1, 0, 0))))[0] == "aethir"
    assert providers(decide(on, gpu_job(region="us-west-2", weights=Weights(0, 0, 1, 0))))[0] == "aethir"
    on.admit(3, 0.0, NOW, gpu_hours=150.0)
    assert providers(decide(on, gpu_job(region="us-west-2", weights=Weights(0, 0, 0, 1))))[-1] == "aethir"


def test_random_is_uniform_over_the_feasible() -> None:
    on = board(*classic_a100())
    firsts = np.zeros(5)
    for seed in range(2_000):
        ranking = decide(on, gpu_job(region="us-west-2"), "random", seed=seed)
        assert ranking.propensity == 0.25
        firsts[ranking.order[0]] += 1
    assert firsts[2] == 0.0  # flux does not serve the region
    expected = 500.0
    assert ((firsts[[0, 1, 3, 4]] - expected) ** 2 / expected).sum() < 16.3  # 0.999 quantile, 3 degrees of freedom


def test_an_unknown_policy_is_answered_with_the_names() -> None:
    with pytest.raises(
        ValueError, match="no policy 'best'; choose one of rules, rules_classic, cheapest, fastest, random"
    ):
        make_policy("best")


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in LEARNED])
def test_rules_have_nothing_to_learn_or_save(name: str) -> None:
    policy = make_policy(name)
    assert policy.name == name
    assert not policy.learns
    policy.restore(policy.state())
    with pytest.raises(ValueError, match="has no state"):
        policy.restore(b"other")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(POLICIES)),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 10**6),
    st.sampled_from([None, 1.5, 2.0]),
    st.sampled_from([None, 310.0]),
    st.sampled_from([None, 70.0]),
    st.sampled_from([None, "eu-west-1", "us-west-2"]),
)
def test_limits_bind_every_policy_and_exploration(
    policy: str,
    exploration: float,
    seed: int,
    max_price: float | None,
    max_latency_ms: float | None,
    min_reputation: float | None,
    region: str | None,
) -> None:
    limits = Limits(max_price, max_latency_ms, min_reputation)
    ranking = decide(
        board(*classic_a100()), gpu_job(region=region, limits=limits), policy, exploration=exploration, seed=seed
    )
    for row in ranking.order:
        chosen = ranking.board.offers[row]
        assert max_price is None or chosen.price.usd_per_gpu_hour <= max_price
        assert max_latency_ms is None or chosen.latency_ms <= max_latency_ms
        assert min_reputation is None or chosen.reputation >= min_reputation
        assert region is None or region in chosen.regions
    assert len(set(ranking.order)) == len(ranking.order)


# ---- exploration and propensity -------------------------------------------------------------------------------------


def test_exploration_is_a_probability() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, not 1\.5"):
        Router(board(offer()), make_policy("rules"), exploration=1.5)


def test_propensities_are_the_frequencies_of_the_first_place() -> None:
    """Two offers tie for the best, two are worse; a floor of 20 %."""
    on = board(offer("a"), offer("b"), offer("c", latency_ms=800.0), offer("d", latency_ms=900.0))
    router = Router(on, make_policy("rules"), exploration=0.2, rng=random.Random(7))
    told: dict[int, set[float]] = {row: set() for row in range(4)}
    firsts = np.zeros(4)
    explored = 0
    for _ in range(6_000):
        ranking = router.decide(chat(), NOW)
        firsts[ranking.order[0]] += 1
        told[ranking.order[0]].add(round(ranking.propensity, 12))
        explored += ranking.explored
        assert sorted(ranking.order) == [0, 1, 2, 3]
    assert told == {0: {0.45}, 1: {0.45}, 2: {0.05}, 3: {0.05}}
    expected = 6_000 * np.array([0.45, 0.45, 0.05, 0.05])
    assert ((firsts - expected) ** 2 / expected).sum() < 16.3
    assert explored == pytest.approx(1_200, abs=120)


def test_without_exploration_a_sole_best_has_propensity_one() -> None:
    ranking = decide(board(offer("a"), offer("b", latency_ms=900.0)), chat())
    assert (ranking.propensity, ranking.explored, ranking.tied) == (1.0, False, 1)


def test_the_same_seed_gives_the_same_decisions() -> None:
    on = board(*(offer(f"p{i}") for i in range(6)))

    def run() -> list[list[int]]:
        router = Router(on, make_policy("random"), exploration=0.3, rng=random.Random(11))
        return [router.decide(chat(), NOW + i).order for i in range(50)]

    assert run() == run()


# ---- in words -------------------------------------------------------------------------------------------------------


def test_reasons_are_true_and_short() -> None:
    ranking = decide(board(*classic_a100()), gpu_job(region="us-west-2", weights=DAO), "rules_classic")
    decision = explain(ranking)
    assert decision.ranked[0].reason == "first of 4: cheapest"
    assert decision.ranked[1].reason == ("0.0393 behind the first, most by price: 1.8 against 1.4 USD per GPU-hour")
    assert (decision.id, decision.at, decision.tenant, decision.resource) == ("d1", 1.7e9, "t", "A100")
    assert [refusal.offer for refusal in decision.refused] == ["flux/A100"]
    for ranked in decision.ranked:
        parts = ranked.parts
        assert ranked.score == pytest.approx(parts.price + parts.latency + parts.reputation + parts.availability)
        assert ranked.estimated_cost_usd == pytest.approx(ranked.unit_price_usd)


@pytest.mark.parametrize(
    ("worse", "words"),
    [
        ({"latency_ms": 900.0}, "most by latency: 900 against 500 ms"),
        ({"reputation": 40.0}, "most by reputation: 40 against 50"),
        ({"price": Price(1.5, None, 1.5)}, "most by price: 1.5 against 1 USD per million tokens"),
    ],
)
def test_the_largest_loss_is_named(worse: dict[str, object], words: str) -> None:
    first, second = explain(decide(board(offer("a"), offer("b", **worse)), chat())).ranked
    assert first.offer == "a/m"
    assert second.reason.endswith(words)


def test_a_loss_by_availability_is_named() -> None:
    on = board(offer("a", capacity=4.0), offer("b", capacity=4.0))
    on.admit(1, 0.0, NOW)
    assert explain(decide(on, chat())).ranked[1].reason.endswith("most by availability: 75.0% against 100.0%")


def test_lots_and_explorations_are_told() -> None:
    assert explain(decide(board(offer()), chat())).ranked[0].reason == "the only feasible offer"
    tie = explain(decide(board(offer("a"), offer("b")), chat())).ranked
    assert [ranked.reason for ranked in tie] == [
        "drawn by lot among 2 of 2 with the same score",
        "the same score as the first, which was drawn by lot",
    ]
    on = board(offer("a"), offer("b", latency_ms=800.0), offer("c", latency_ms=900.0))
    reasons = set()
    for seed in range(30):
        decision = explain(decide(on, chat(), exploration=1.0, seed=seed))
        assert decision.explored
        assert decision.propensity == pytest.approx(1 / 3)
        assert decision.ranked[0].reason == "drawn among 3 by the exploration floor"
        reasons |= {re.sub(r"0\.\d+", "x", ranked.reason) for ranked in decision.ranked[1:]}
    assert "best by score; the exploration floor drew another" in reasons
    assert "x ahead of the first by score; the exploration floor drew that one" in reasons


# ---- stored ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(POLICIES)), st.sampled_from([0.0, 1.0]), st.integers(0, 1000), st.sampled_from([1.75, 9.0]))
def test_a_stored_decision_is_explained_like_the_live_one(
    policy: str, exploration: float, seed: int, max_price: float
) -> None:
    on = board(*classic_a100())
    w = gpu_job(region="us-west-2", weights=DAO, limits=Limits(max_price=max_price))
    ranking = decide(on, w, policy, exploration=exploration, seed=seed)
    live = explain(ranking)
    stored = explain_packed(on.offers, on.version, pack(ranking), "d1", 1.7e9)
    assert msgspec.structs.replace(stored, ranked=()) == msgspec.structs.replace(live, ranked=())
    for one, other in zip(stored.ranked, live.ranked, strict=True):
        assert (one.offer, one.unit_price_usd) == (other.offer, other.unit_price_usd)
        assert one.score == pytest.approx(other.score, rel=1e-6)
        if exploration == 0.0:
            assert one.reason == other.reason


def test_what_is_stored_holds_no_session_and_is_checked() -> None:
    ranking = decide(board(offer()), chat(session="caller-7"))
    packed = pack(ranking)
    assert b"caller-7" not in packed
    assert unpack(packed).workload == chat()
    with pytest.raises(ValueError, match="made on board"):
        explain_packed(ranking.board.offers, "other", packed, "d", 0.0)
    for broken in (b"", packed[:-3], b"\x93abc"):
        with pytest.raises(ValueError, match="not a packed ranking"):
            unpack(broken)


# ---- when nothing can serve -----------------------------------------------------------------------------------------


def test_an_unknown_model_is_answered_with_near_names() -> None:
    on = board(offer(resource="llama-3-70b"), aliases={"fast": ["llama-3-70b"]})
    with pytest.raises(RequestError) as caught:
        decide(on, chat(resource="llama3-70b"))
    error = caught.value
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert "Did you mean llama-3-70b?" in error.message
    assert "GET /v1/models" in model_not_found("zzz", on.resources()).message
    assert len(model_not_found("z" * 10_000, on.resources()).message) < 400


def none_for(on: Board, workload: Workload) -> RequestError:
    ranking = decide(on, workload)
    assert ranking.order == []
    return why_none(ranking)


def test_hard_limits_give_400_and_name_the_constraints() -> None:
    on = board(*classic_a100())
    error = none_for(on, gpu_job(region="us-west-2", limits=Limits(max_price=1.0)))
    assert (error.status, error.code, error.retry_after_s) == (400, "no_feasible_offer", None)
    assert "4 of 5 by max_price (price 1.80 USD per GPU-hour is above the limit 1.00)" in error.message
    assert "1 of 5 by region" in error.message


def test_too_long_a_context_has_openais_code() -> None:
    on = board(offer("a", context_window_tokens=10), offer("b", capabilities=Capability.NONE))
    error = none_for(on, chat())
    assert (error.status, error.code) == (400, "context_length_exceeded")


def test_a_missing_capability_gives_400() -> None:
    error = none_for(board(offer()), chat(needs=Capability.TOOLS))
    assert (error.status, error.code) == (400, "no_feasible_offer")
    assert "it lacks tools" in error.message


def test_throttled_gives_429_with_the_soonest_return() -> None:
    on = board(offer("a"), offer("b"), offer("hard", latency_ms=9e9))
    on.observe(0, NOW, failure(FailureKind.RATE_LIMITED, retry_after_s=8.0))
    on.observe(1, NOW, failure(FailureKind.RATE_LIMITED, retry_after_s=3.0))
    error = none_for(on, chat(limits=Limits(max_latency_ms=600.0)))
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert error.retry_after_s == pytest.approx(3.0)
    assert why_none(decide(on, chat(limits=Limits(max_latency_ms=600.0))), 1.5).retry_after_s == 1.5


def test_cooling_down_gives_503_with_the_soonest_return() -> None:
    on = board(offer("a"))
    for _ in range(5):
        on.observe(0, NOW, failure(FailureKind.SERVER_ERROR))
    error = none_for(on, chat())
    assert error.status == 503
    assert error.retry_after_s is not None
    assert 5.0 <= error.retry_after_s <= 6.0


def test_broken_offers_give_502_without_telling_when() -> None:
    on = board(offer("a"))
    on.observe(0, NOW, failure(FailureKind.BAD_CREDENTIALS))
    error = none_for(on, chat())
    assert (error.status, error.retry_after_s) == (502, None)


def test_what_may_return() -> None:
    on = board(offer("a"), offer("b", capacity=1.0), offer("c", kinds=(Kind.EMBEDDING,)), offer("d"))
    on.observe(0, NOW, failure(FailureKind.BAD_CREDENTIALS))
    on.admit(1, 0.0, NOW)
    ranking = decide(on, chat())
    assert [ranking.may_return([row]) for row in range(4)] == [False, True, False, True]
    assert not ranking.may_return([])
