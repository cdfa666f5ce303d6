"""The compiled kernel against a plain reading of the same rules, on random boards, states and workloads."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_samples import NOW, board, chat, decide, gpu_job, gpu_offer, offer

from amaru.domain import Capability, Kind, Limits, Offer, Price, Weights, Workload
from amaru.routing import kernels as k
from amaru.routing.board import Board
from amaru.routing.kernels import Code
from amaru.routing.policies import make_policy
from amaru.routing.router import Router

REGIONS = ("eu", "us", "ap")
CAPABILITIES = [Capability.NONE, Capability.STREAM, Capability.STREAM | Capability.TOOLS, Capability.VISION]
prices = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.75])
some_regions = st.lists(st.sampled_from((*REGIONS, "global")), min_size=1, max_size=3, unique=True).map(tuple)


def offers() -> st.SearchStrategy[list[Offer]]:
    one = st.builds(
        offer,
        kinds=st.sampled_from([(Kind.CHAT,), (Kind.CHAT, Kind.EMBEDDING), (Kind.GPU_JOB,)]),
        regions=some_regions,
        price=st.builds(Price, prices, st.none(), prices, prices),
        context_window_tokens=st.sampled_from([None, 500, 1000, 8000]),
        capabilities=st.sampled_from(CAPABILITIES),
        latency_ms=st.sampled_from([0.0, 100.0, 250.0, 900.0]),
        reputation=st.sampled_from([0.0, 50.0, 80.0]),
        capacity=st.sampled_from([None, 1.0, 4.0]),
        requests_per_min=st.sampled_from([None, 2.0, 60.0]),
        tokens_per_min=st.sampled_from([None, 1000.0]),
    )
    return st.lists(one, min_size=1, max_size=6).map(
        lambda many: [
            Offer(**{f: getattr(o, f) for f in o.__struct_fields__} | {"id": f"p{i}/m", "provider": f"p{i}"})
            for i, o in enumerate(many)
        ]
    )


def workloads() -> st.SearchStrategy[Workload]:
    return st.builds(
        chat,
        kind=st.sampled_from([Kind.CHAT, Kind.EMBEDDING, Kind.GPU_JOB]),
        region=st.sampled_from([None, "global", "eu", "mars"]),
        input_tokens=st.sampled_from([0, 300, 900]),
        output_tokens=st.sampled_from([0, 400]),
        gpu_hours=st.sampled_from([0.5, 3.0]),
        needs=st.sampled_from(CAPABILITIES),
        limits=st.builds(
            Limits,
            st.sampled_from([None, 1.0, 2.0]),
            st.sampled_from([None, 200.0]),
            st.sampled_from([None, 50.0]),
            st.none() | some_regions,
        ),
        weights=st.builds(Weights, *[st.sampled_from([0.0, 0.3, 1.0])] * 4),
    )


def disturb(on: Board, rng: random.Random) -> None:
    """Live columns as traffic could have left them."""
    for row in range(len(on.offers)):
        live = on.live[int(on.static[row, k.SLOT])]
        live[k.IN_FLIGHT] = rng.choice([0.0, 0.0, 1.0, 3.5])
        live[k.REFUSES_UNTIL] = rng.choice([-math.inf, -math.inf, -math.inf, NOW, NOW + 3.0, math.inf])
        live[k.IS_BROKEN] = float(rng.random() < 0.2)
        live[k.THROTTLED_UNTIL] = rng.choice([-math.inf, -math.inf, NOW + 2.0])
        live[k.REQUEST_TAT] = rng.choice([-math.inf, NOW + 20.0, NOW + 60.0])
        live[k.TOKEN_TAT] = rng.choice([-math.inf, NOW + 10.0, NOW + 70.0])
        for column, values in ((k.FIRST_TOKEN, (80.0, 700.0)), (k.ANSWER, (900.0, 4000.0)), (k.SUCCESS, (0.3, 1.0))):
            live[column] = rng.choice(values)
            live[column + 1] = rng.choice([0.0, 0.2, 0.9])
            live[column + 2] = NOW - rng.choice([0.0, 60.0, 200.0])
        live[k.DRAINED_FROM] = rng.choice([0.0, 2.0, math.inf, math.inf, math.inf])
        live[k.CARE] = rng.choice([1.0, 1.0, 0.25, 0.0])
        live[k.LIMIT] = rng.choice([math.inf, math.inf, 1.0, 5.0])


def fading(live: np.ndarray, column: int) -> float:
    return float(live[column + 1]) * 0.5 ** ((NOW - live[column + 2]) / 60.0)


def reference(on: Board, w: Workload, excluded: set[int], policy: str) -> dict[int, tuple[Code, list[float]]]:
    """Row → its code, and (price, cost, latency, availability) with, where feasible, the score's parts behind."""
    gpu = w.kind is Kind.GPU_JOB
    tokens = w.input_tokens + w.output_tokens
    place = w.gpu_hours if gpu else 1.0
    whole = not gpu and Capability.STREAM not in w.needs
    lives = [on.live[int(on.static[row, k.SLOT])] for row in range(len(on.offers))]
    seen = [fading(live, k.ANSWER) for live in lives]
    told = sum(v * max(o.latency_ms, 1e-9) for v, o in zip(seen, on.offers, strict=True))
    ratio = sum(v * live[k.ANSWER] for v, live in zip(seen, lives, strict=True)) / told if told > 0 else 1.0
    found: dict[int, tuple[Code, list[float]]] = {}
    behind_the_drain: dict[int, Code] = {}
    for row, (o, live) in enumerate(zip(on.offers, lives, strict=True)):
        p = o.price
        if gpu:
            price, cost = p.usd_per_gpu_hour, w.gpu_hours * p.usd_per_gpu_hour
        else:
            cost = (w.input_tokens * p.input_usd_per_mtok + w.output_tokens * p.output_usd_per_mtok) / 1e6
            price = cost * 1e6 / tokens if tokens else (p.input_usd_per_mtok + p.output_usd_per_mtok) / 2
        v = fading(live, k.FIRST_TOKEN)
        first = v * live[k.FIRST_TOKEN] + (1 - v) * o.latency_ms
        latency = first
        if whole:
            latency = seen[row] * live[k.ANSWER] + (1 - seen[row]) * o.latency_ms * ratio
        room = math.inf if o.capacity is None else o.capacity
        availability = 1.0 if o.capacity is None else max(room - live[k.IN_FLIGHT], 0.0) / room
        named = {r for r in o.regions if r != "global"}
        anywhere = "global" in o.regions
        if w.region not in (None, "global"):
            named &= {w.region}
        global_ = {"global"} if anywhere else set()
        allowed = set(w.limits.regions or ())
        slow = w.limits.max_latency_ms is not None and first > w.limits.max_latency_ms
        limited = [NOW]
        if o.requests_per_min:
            limited.append(live[k.REQUEST_TAT] + 60.0 / o.requests_per_min - 60.0)
        if o.tokens_per_min:
            limited.append(live[k.TOKEN_TAT] + min(tokens * 60.0 / o.tokens_per_min, 60.0) - 60.0)
        cools = live[k.REFUSES_UNTIL] > NOW
        checks = [
            (Code.KIND, w.kind not in o.kinds),
            (Code.CAPABILITY, w.needs & ~o.capabilities),
            (Code.REGION, not named and not anywhere),
            (Code.REGION_LIMIT, w.limits.regions is not None and not (named | global_) & allowed),
            (Code.CONTEXT_WINDOW, o.context_window_tokens is not None and tokens > o.context_window_tokens),
            (Code.MAX_PRICE, w.limits.max_price is not None and price > w.limits.max_price + 1e-9),
            (Code.MIN_REPUTATION, w.limits.min_reputation is not None and o.reputation < w.limits.min_reputation),
            (Code.MAX_LATENCY, slow and o.latency_ms > (w.limits.max_latency_ms or 0)),
            (Code.TOO_LARGE, place > room),
            (Code.EXCLUDED, row in excluded),
            (Code.BROKEN, cools and live[k.IS_BROKEN]),
            (Code.DRAINED, live[k.IN_FLIGHT] + (place if live[k.IN_FLIGHT] else 1e-9) > live[k.DRAINED_FROM]),
            (Code.SLOWED, slow),
            (Code.COOLING_DOWN, cools),
            (Code.THROTTLED, live[k.THROTTLED_UNTIL] > NOW),
            (Code.RATE_LIMIT, max(limited) > NOW),
            (Code.CAPACITY, live[k.IN_FLIGHT] + place > min(room, live[k.LIMIT])),
        ]  # fmt: skip
        refused = [code for code, refuses in checks if refuses] or [Code.FEASIBLE]
        found[row] = refused[0], [price, cost, latency, availability]
        if refused[0] is Code.DRAINED:
            behind_the_drain[row] = (*refused[1:], Code.FEASIBLE)[0]
    if all(code is not Code.FEASIBLE for code, _ in found.values()):
        for row, code in behind_the_drain.items():
            found[row] = code, found[row][1]
    feasible = {row: figures for row, (code, figures) in found.items() if code is Code.FEASIBLE}
    if policy == "rules":
        for row, figures in feasible.items():
            v = fading(lives[row], k.SUCCESS)
            figures[3] *= v * lives[row][k.SUCCESS] + 1 - v
    if not feasible:
        return found
    weights = [w.weights.price, w.weights.latency, w.weights.reputation, w.weights.availability]
    best_price = min(max(f[0], 1e-9) for f in feasible.values())
    best_latency = min(max(f[2], 1e-9) for f in feasible.values())
    best_reputation = max(on.offers[row].reputation for row in feasible) or 1.0
    best_availability = max(f[3] for f in feasible.values()) or 1.0
    for row, f in feasible.items():
        trust = on.offers[row].reputation
        terms = [
            best_price / max(f[0], 1e-9),
            best_latency / max(f[2], 1e-9),
            trust / best_reputation,
            f[3] / best_availability,
        ]
        share = sum(weights) or 1.0
        if policy == "rules_classic":
            terms = [1 / max(f[0], 1e-9), 1 / max(f[2], 1e-9), trust / 100, f[3]]
            share = 1.0
        care = lives[row][k.CARE]
        f.extend(care * weight * term / share for weight, term in zip(weights, terms, strict=True))
    return found


@settings(max_examples=300, deadline=None)
@given(offers(), workloads(), st.integers(0, 10**6), st.sampled_from(["rules", "rules_classic"]))
def test_equals_the_plain_reading(many: list[Offer], w: Workload, seed: int, policy: str) -> None:
    on = board(*many)
    rng = random.Random(seed)
    disturb(on, rng)
    excluded = {0} if rng.random() < 0.3 else set()
    ranking = Router(on, make_policy(policy), rng=rng).decide(w, NOW, excluded)
    expected = reference(on, w, excluded, policy)
    assert [Code(code) for code in ranking.codes] == [code for code, _ in expected.values()]
    for row, (code, figures) in expected.items():
        got = ranking.table[row]
        facts = got[[k.UNIT_PRICE, k.COST, k.LATENCY, k.AVAILABILITY]]
        told = 4 if code is Code.FEASIBLE else 3  # the availability of who is refused is nobody's concern
        np.testing.assert_allclose(facts[:told], figures[:told], rtol=1e-9, atol=1e-12)
        if code is Code.FEASIBLE:
            np.testing.assert_allclose(got[k.PRICE_PART : k.AVAILABILITY_PART + 1], figures[4:], rtol=1e-9, atol=1e-12)
    scores = [ranking.table[row, k.SCORE] for row in ranking.order]
    assert scores == sorted(scores, reverse=True)
    assert sorted(ranking.order) == [row for row, (code, _) in expected.items() if code is Code.FEASIBLE]
    assert ranking.transient == any(code >= Code.SLOWED for code, _ in expected.values())


@settings(max_examples=150, deadline=None)
@given(offers(), workloads(), st.integers(0, 10**6))
def test_the_order_of_offers_does_not_matter(many: list[Offer], w: Workload, seed: int) -> None:
    def scores(of: list[Offer]) -> dict[str, float]:
        ranking = decide(board(*of), w)
        return {of[row].id: ranking.table[row, k.SCORE] for row in ranking.order}

    shuffled = random.Random(seed).sample(many, len(many))
    before, after = scores(many), scores(shuffled)
    assert before.keys() == after.keys()
    np.testing.assert_allclose([before[i] for i in before], [after[i] for i in before], rtol=1e-12)


@settings(max_examples=200, deadline=None)
@given(offers(), workloads(), st.sampled_from(["rules", "rules_classic"]))
def test_parts_add_up_and_normalised_scores_lie_in_0_1(many: list[Offer], w: Workload, policy: str) -> None:
    ranking = decide(board(*many), w, policy)
    for row in ranking.order:
        figures = ranking.table[row]
        assert figures[k.SCORE] == pytest.approx(figures[k.PRICE_PART : k.AVAILABILITY_PART + 1].sum(), rel=1e-12)
        if policy == "rules":
            assert 0.0 <= figures[k.SCORE] <= 1.0 + 1e-12


GOODS = ("price", "latency", "reputation", "availability")


def with_good(name: str, good: str, better: float) -> Offer:
    """An offer that is ``better`` (> 1) times as good as ``gpu_offer(1, 100, 50, ...)`` in one respect."""
    usd, ms, reputation, capacity = 1.0, 100.0, 50.0, 100.0
    if good == "price":
        usd /= better
    elif good == "latency":
        ms /= better
    elif good == "reputation":
        reputation *= better
    return gpu_offer(name, usd, ms, reputation, capacity, ["global"])


def two(good: str, better: float, *, other_good: str | None = None, other_better: float = 1.0) -> Board:
    a, b = with_good("a", good, better), with_good("b", other_good or good, other_better if other_good else 1.0)
    on = board(a, b)
    for row, (which, factor) in enumerate(((good, better), (other_good, other_better))):
        taken = 50.0 if which != "availability" else 100.0 - 50.0 * factor
        on.live[int(on.static[row, k.SLOT]), k.IN_FLIGHT] = taken
    return on


@pytest.mark.parametrize("good", GOODS)
@pytest.mark.parametrize("policy", ["rules", "rules_classic"])
@given(better=st.floats(1.001, 1.9))
@settings(max_examples=25, deadline=None)
def test_the_better_never_ranks_lower_all_else_equal(good: str, policy: str, better: float) -> None:
    ranking = decide(two(good, better), gpu_job(weights=Weights(0.4, 0.3, 0.2, 0.1)), policy)
    assert ranking.order == [0, 1]


@pytest.mark.parametrize(("good", "other"), list(itertools.permutations(GOODS, 2)))
def test_every_weight_can_change_the_order_and_no_scale_dominates(good: str, other: str) -> None:
    on = two(good, 1.5, other_good=other, other_better=1.5)
    leaning = {name: 0.5 if name == good else 0.4 for name in GOODS}
    assert decide(on, gpu_job(weights=Weights(**leaning))).order == [0, 1]
    leaning[good], leaning[other] = 0.4, 0.5
    assert decide(on, gpu_job(weights=Weights(**leaning))).order == [1, 0]


def test_only_ratios_of_weights_matter() -> None:
    on = board(offer("a"), offer("b", latency_ms=200.0, reputation=80.0))
    one, ten = (decide(on, chat(weights=Weights(0.1 * f, 0.2 * f, 0.3 * f, 0.4 * f))) for f in (1, 10))
    np.testing.assert_allclose(one.table, ten.table, rtol=1e-12)


def test_a_term_on_which_all_agree_adds_the_same_to_all() -> None:
    ranking = decide(board(offer("a"), offer("b", latency_ms=200.0)), chat(weights=Weights(0.4, 0.3, 0.2, 0.1)))
    for part, weight in ((k.PRICE_PART, 0.4), (k.REPUTATION_PART, 0.2), (k.AVAILABILITY_PART, 0.1)):
        np.testing.assert_allclose(ranking.table[:, part], weight)


def test_free_offers_come_first_and_the_others_keep_their_order() -> None:
    on = board(*(offer(f"p{usd}", price=Price(usd, None, usd)) for usd in (2.0, 0.0, 3.0, 1.0)))
    for policy in ("cheapest", "rules", "rules_classic"):
        ranking = decide(on, chat(weights=Weights(1.0, 0.0, 0.0, 0.0)), policy)
        assert ranking.order == [1, 3, 0, 2]
        assert np.isfinite(ranking.table).all()


def test_unit_price_is_at_the_workloads_own_mix() -> None:
    on = board(offer(price=Price(1.0, 0.5, 4.0)))
    figures = decide(on, chat(input_tokens=3000, output_tokens=1000)).table[0]
    assert figures[k.UNIT_PRICE] == pytest.approx(1.75)
    assert figures[k.COST] == pytest.approx(0.007)


def test_equal_offers_share_the_load_evenly() -> None:
    on = board(*(offer(f"p{i}") for i in range(4)), offer("dear", price=Price(9.0, None, 9.0)))
    firsts = np.zeros(5)
    for seed in range(2000):
        ranking = decide(on, chat(), seed=seed)
        firsts[ranking.order[0]] += 1
        assert ranking.order[-1] == 4
        assert ranking.tied == 4
        assert ranking.propensity == 0.25
    chi_square = ((firsts[:4] - 500.0) ** 2 / 500.0).sum()
    assert chi_square < 16.3  # 0.999 quantile with 3 degrees of freedom
