"""Law 10: a tenant's hard limits bind every policy, the learned ones and the references too."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wargame_samples import Recording, demand, gpu, gpu_scenario, hidden, slot_of

from amaru.domain import GLOBAL_REGION, Limits, Offer
from amaru.routing.policies import POLICIES, make_policy
from amaru.simulation import world_kernels as w
from amaru.simulation.play import play
from amaru.simulation.references import informed, oracle
from amaru.simulation.scenario import Demand, Event, EventKind, Scenario
from amaru.simulation.world import World

REGIONS = ("east", "west", GLOBAL_REGION)
OFFERS = [
    gpu("a", 1.5, 300.0, 9.0, reputation=78.0, regions=("east", "west")),
    gpu("b", 2.2, 220.0, 6.0, reputation=74.0, regions=("west",)),
    gpu("c", 1.7, 330.0, 7.0, reputation=60.0, regions=("east",)),
    gpu("d", 2.6, 260.0, 5.0, reputation=85.0, regions=(GLOBAL_REGION, "east")),
    gpu("e", 1.1, 480.0, 30.0, reputation=50.0, regions=(GLOBAL_REGION,)),
]
EVENTS = (
    Event(step=1, steps=2, kind=EventKind.OUTAGE, provider="a"),
    Event(step=2, steps=3, kind=EventKind.LATENCY_SPIKE, provider="b", delta=150.0),
    Event(step=4, steps=2, kind=EventKind.REPUTATION_DROP, provider="d", delta=-30.0),
    Event(step=5, steps=2, kind=EventKind.PRICE_SPIKE, provider="e", multiplier=2.0),
)


def maybe(values: st.SearchStrategy[float]) -> st.SearchStrategy[float | None]:
    return st.none() | values


limits = st.builds(
    Limits,
    max_price=maybe(st.floats(1.0, 3.0)),
    max_latency_ms=maybe(st.floats(200.0, 500.0)),
    min_reputation=maybe(st.floats(40.0, 90.0)),
    regions=st.none() | st.lists(st.sampled_from(REGIONS), min_size=1, max_size=3, unique=True).map(tuple),
)
demands = st.lists(
    st.builds(
        lambda limits, region, budget: (limits, region, budget),
        limits,
        st.none() | st.sampled_from(REGIONS),
        st.sampled_from([5.0, 12.0, 1e6]),
    ),
    min_size=1,
    max_size=3,
).map(
    lambda drawn: [
        demand(f"t{i}", limits=limits, region=region, budget=budget, mean=6.0)
        for i, (limits, region, budget) in enumerate(drawn)
    ]
)


def obeys(offer: Offer, posted: list[float], asks: Demand, hours: float, budget: float, taken: float) -> bool:
    """The rules once more, in words of the domain."""
    limits = asks.tenant.limits
    named, everywhere = set(offer.regions) - {GLOBAL_REGION}, GLOBAL_REGION in offer.regions
    if asks.region not in (None, GLOBAL_REGION):
        named &= {asks.region}
        if not named and not everywhere:
            return False
    if limits.regions is not None:
        by_name = named & set(limits.regions)
        if not by_name and not (everywhere and GLOBAL_REGION in limits.regions):
            return False
    return (
        posted[w.PRICE] <= (math.inf if limits.max_price is None else limits.max_price)
        and posted[w.PRICE] <= min(max(budget / hours, 0.1), 10.0)
        and posted[w.LATENCY_MS] <= (math.inf if limits.max_latency_ms is None else limits.max_latency_ms)
        and posted[w.REPUTATION] >= (-math.inf if limits.min_reputation is None else limits.min_reputation)
        and taken + hours <= posted[w.CAPACITY]
    )


def scenario_of(asked: list[Demand]) -> Scenario:
    bridges = {"a": "one", "b": "one", "c": "two"}
    return gpu_scenario(OFFERS, asked, bridges=bridges, events=EVENTS, what_is_hidden=hidden())


@pytest.mark.parametrize("name", [*POLICIES, "oracle", "informed"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(asked=demands, seed=st.integers(0, 1000), floor=st.sampled_from([0.0, 0.3]))
def test_whoever_decides_takes_only_what_obeys_every_limit(
    name: str, asked: list[Demand], seed: int, floor: float
) -> None:
    world, record = World(scenario_of(asked), seed), Recording()
    references = {"oracle": oracle, "informed": informed}
    policy = references[name](world) if name in references else make_policy(name)
    play(world, policy, 8, floor=floor, on_chunk=record)
    chunk, played = record.chunk, record.all
    taken: dict[int, float] = {}
    budgets: list[float] = []
    before = -1
    for step, r in record.requests():
        if step != before:
            taken, budgets, before = {}, [d.budget_usd_per_step for d in asked], step
        t, row, hours = int(chunk.tenant[r]), int(played.chosen[r]), float(chunk.sizes[r, w.GPU_HOURS])
        posted = chunk.posted[step].tolist()
        able = [
            other
            for other, offer in enumerate(OFFERS)
            if obeys(offer, posted[other], asked[t], hours, budgets[t], taken.get(slot_of(world, other), 0.0))
        ]
        assert played.feasible[r] == len(able)
        assert row in able if able else row == -1
        if row >= 0:
            taken[slot_of(world, row)] = taken.get(slot_of(world, row), 0.0) + hours
            budgets[t] -= played.cost_usd[r]


@pytest.mark.parametrize("name", ["rules", "hybrid", "qlearning"])
def test_gpu_types_of_one_provider_share_its_capacity(name: str) -> None:
    both = [gpu("a", capacity=10.0), gpu("a", capacity=10.0, id="a/other", usd=1.0)]
    world, record = World(gpu_scenario(both, [demand(mean=20.0)]), 1), Recording()
    play(world, make_policy(name), 30, floor=0.5, on_chunk=record)
    hours = [0.0] * 30
    for step, r in record.requests():
        hours[step] += record.chunk.sizes[r, w.GPU_HOURS] if record.all.chosen[r] >= 0 else 0.0
    assert 8.0 < max(hours) <= 10.0
    assert set(record.all.chosen.tolist()) == {-1, 0, 1}
