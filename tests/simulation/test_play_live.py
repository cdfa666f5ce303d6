"""Law 5: what is trained is what is served. The war-game and the live router, request by request, beside each other."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest
from wargame_samples import Recording, demand, gpu, gpu_scenario, hidden

from amaru.domain import Capability, Experience, FailureKind, Kind, Limits, Offer, Price, Tenant, Weights, Workload
from amaru.errors import Failure
from amaru.routing import kernels as k
from amaru.routing.board import Board
from amaru.routing.breaker import BreakerSettings
from amaru.routing.live import Admission
from amaru.routing.policies import LearnedPolicy, RulePolicy, make_policy
from amaru.routing.ranking import Ranking, seen_of
from amaru.routing.router import Router
from amaru.simulation import play_kernels as p
from amaru.simulation import world_kernels as w
from amaru.simulation.play import play
from amaru.simulation.scenario import Event, EventKind, Scenario
from amaru.simulation.scenario_files import load_scenario
from amaru.simulation.world import World

NEVER_OPENS = BreakerSettings(consecutive_failures=10**9, at_least=10**9, last_outcomes=1, cool_down_s=1e12)
"""The war-game has no breakers: its providers answer, or fail, at every attempt."""
FAILED = Failure(FailureKind.SERVER_ERROR, "as drawn")


class Lots(random.Random):
    """Hands out the lot of the request in hand."""

    lot = 0.0

    def random(self) -> float:
        return self.lot


class Live:
    """The real router on the real board, fed with what a world posts and what came of each decision."""

    def __init__(self, world: World, policy: RulePolicy | LearnedPolicy) -> None:
        self.world = world
        self.policy = policy
        self.lots = Lots()
        self.board = Board(world.offers, {}, breaker=NEVER_OPENS)
        self.taken: list[Admission] = []
        self.budgets: list[float] = []

    def begin(self, posted: list[list[float]]) -> None:
        """A step begins: posted figures change as by a reload, capacity is free and budgets are full again."""
        for admission in self.taken:
            self.board.release(admission)
        self.taken = []
        offers = [as_posted(offer, posted[row]) for row, offer in enumerate(self.world.offers)]
        self.board = Board(offers, {}, breaker=NEVER_OPENS, carry=self.board)
        self.budgets = self.world.budgets.tolist()

    def decide(self, workload: Workload, now_s: float, lot: float) -> Ranking:
        self.lots.lot = lot
        return Router(self.board, self.policy, rng=self.lots).decide(workload, now_s)

    def settle(self, ranking: Ranking, now_s: float, ok: bool, latency_ms: float, cost_usd: float) -> None:
        """What came of it, as the loop reports it: to the board, and to the policy."""
        row, workload = ranking.order[0], ranking.workload
        figures = ranking.table[ranking.rows.tolist().index(row)]
        tokens = workload.input_tokens + workload.output_tokens
        admission = self.board.admit(row, tokens, now_s, gpu_hours=workload.gpu_hours)
        assert admission is not None
        self.taken.append(admission)
        self.board.observe(admission, now_s, None if ok else FAILED, first_token_ms=latency_ms if ok else None)
        experience = Experience(
            at=now_s,
            ok=ok,
            failure=None if ok else FAILED.kind,
            latency_ms=latency_ms if ok else None,
            cost_usd=cost_usd,
            expected_cost_usd=float(figures[k.COST]),
            load=float(figures[k.LOAD]),
            seen=seen_of(ranking, row),
        )
        self.policy.learn(workload, self.board.offers[row], experience)


def as_posted(offer: Offer, posted: list[float]) -> Offer:
    price = Price(usd_per_gpu_hour=posted[w.PRICE])
    if Kind.GPU_JOB not in offer.kinds:
        price = Price(input_usd_per_mtok=posted[w.PRICE], output_usd_per_mtok=posted[w.PRICE_OUT])
    capacity = None if posted[w.CAPACITY] == np.inf else posted[w.CAPACITY]
    return msgspec.structs.replace(
        offer,
        price=price,
        latency_ms=posted[w.LATENCY_MS],
        capacity=capacity,
        reputation=posted[w.REPUTATION],
    )


def workload_of(live: Live, tenant: Tenant, region: str | None, resource: str, sizes: k.Floats, t: int) -> Workload:
    hours = float(sizes[w.GPU_HOURS])
    limits = tenant.limits
    if live.world.is_gpu:  # what a budget leaves bounds the price
        left = p.max_price(live.budgets[t], hours)
        limits = msgspec.structs.replace(limits, max_price=min(left, limits.max_price or np.inf))
    return Workload(
        tenant=tenant.id,
        kind=Kind.GPU_JOB if live.world.is_gpu else Kind.CHAT,
        resource=resource,
        region=region,
        input_tokens=int(sizes[w.INPUT_TOKENS]),
        output_tokens=int(sizes[w.OUTPUT_TOKENS]),
        gpu_hours=hours,
        needs=Capability.NONE if live.world.is_gpu else Capability.STREAM,
        limits=limits,
        weights=tenant.weights,
    )


def gpu_world() -> Scenario:
    """Five clouds, tight in price, place and reputation; a limit on latency binds differently live, by design."""
    offers = [
        gpu("akash", 1.8, 300, 14, reputation=78.0, regions=("east", "west")),
        gpu("ionet", 2.2, 320, 10, reputation=74.0, regions=("west",)),
        gpu("flux", 1.7, 330, 12, reputation=68.0, regions=("east",)),
        gpu("aethir", 2.5, 260, 11, reputation=85.0, regions=("east", "west")),
        gpu("vast", 1.4, 380, None, reputation=62.0),
    ]
    demands = [
        demand("one", region="east", weights=Weights(0.5, 0.2, 0.2, 0.1), limits=Limits(min_reputation=64.0)),
        demand("two", region="west", weights=Weights(0.1, 0.6, 0.1, 0.2), limits=Limits(max_price=2.3)),
        demand("three", budget=14.0, weights=Weights(0.2, 0.2, 0.3, 0.3)),
        demand("four", mean=4.0, weights=Weights(0.3, 0.3, 0.1, 0.3), limits=Limits(regions=("east",))),
    ]
    events = [
        Event(step=2, steps=3, kind=EventKind.OUTAGE, provider="akash"),
        Event(step=4, steps=3, kind=EventKind.PRICE_SPIKE, provider="flux", multiplier=1.5),
        Event(step=5, steps=3, kind=EventKind.REPUTATION_DROP, provider="flux", delta=-10.0),
    ]
    bridges = {"akash": "axelar", "ionet": "axelar", "flux": "ibc"}
    return gpu_scenario(offers, demands, bridges=bridges, events=events, what_is_hidden=hidden())


def chat_world() -> Scenario:
    scenario = load_scenario("chat-azure-v1")
    unhurried = [
        msgspec.structs.replace(tenant, limits=msgspec.structs.replace(tenant.limits, max_latency_ms=None))
        for tenant in scenario.tenants
    ]
    return msgspec.structs.replace(scenario, tenants=tuple(unhurried), step_s=6.0)


POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("rules", {}),
    ("rules_classic", {}),
    ("cheapest", {}),
    ("fastest", {}),
    ("random", {}),
    ("thompson", {}),
    ("thompson", {"boldness": 1.0}),
    ("hybrid", {}),
    # Which experiences are replayed is drawn by another lot live, where none stands beside the outcome.
    ("qlearning", {"replays": 0}),
    ("qlearning", {"replays": 0, "discount": 0.5, "epsilon": 0.5}),
]


@pytest.mark.parametrize("scenario", [gpu_world(), chat_world()], ids=["gpu", "chat"])
@pytest.mark.parametrize(("name", "knobs"), POLICIES)
def test_the_war_game_takes_first_what_the_live_router_puts_first(
    scenario: Scenario, name: str, knobs: dict[str, Any]
) -> None:
    record = Recording()
    played_by = make_policy(name, **knobs)
    world = World(scenario, 17)
    play(world, played_by, 10, on_chunk=record, chunk_steps=4)
    chunk, played = record.chunk, record.all

    regions = [d.region for d in scenario.demands] or [None] * len(world.tenants)
    live = Live(world, make_policy(name, **knobs))
    step_before, chosen = -1, set()
    for step, r in record.requests():
        if step != step_before:
            live.begin(chunk.posted[step].tolist())
            step_before = step
        t, now_s = int(chunk.tenant[r]), step * scenario.step_s
        resource = world.resources[chunk.pool[r]]
        workload = workload_of(live, world.tenants[t], regions[t], resource, chunk.sizes[r], t)
        ranking = live.decide(workload, now_s, float(chunk.luck[r, w.LOT]))
        assert len(ranking.order) == played.feasible[r]
        first = ranking.order[0] if ranking.order else -1
        assert first == played.chosen[r], f"request {r} of step {step}"
        if first >= 0:
            assert ranking.propensity == pytest.approx(played.propensity[r], abs=1e-12)
            live.settle(ranking, now_s, bool(played.ok[r]), played.latency_ms[r], played.cost_usd[r])
            live.budgets[t] -= played.cost_usd[r]
        chosen.add(first)
    assert len(played.chosen) > 150
    assert len(chosen) >= 2 or name == "cheapest"
    same_mind(played_by, live.policy)


def same_mind(a: RulePolicy | LearnedPolicy, b: RulePolicy | LearnedPolicy) -> None:
    """Both learned the same."""
    np.testing.assert_allclose(a.mind.values, b.mind.values, rtol=1e-9)
    np.testing.assert_allclose(a.mind.knobs, b.mind.knobs, rtol=1e-12)
    for key, slot in (a.mind.slot_of or {}).items():
        assert b.mind.slot_of is not None
        other = b.mind.slot_of.get(key)
        theirs = np.zeros_like(a.mind.sums[slot]) if other is None else b.mind.sums[other]
        np.testing.assert_allclose(a.mind.sums[slot], theirs, rtol=1e-8, atol=1e-10)


def test_a_cause_that_ends_is_told_from_a_hard_limit_alike() -> None:
    """A tenant that nobody may serve gets nothing, live and played."""
    scenario = gpu_scenario([gpu("a"), gpu("b")], [demand(limits=Limits(max_price=0.5))])
    record = Recording()
    tally = play(World(scenario, 1), make_policy("hybrid"), 5, on_chunk=record)
    assert tally.requests > 0
    assert tally.served == 0
    assert (record.all.chosen == -1).all()
    assert not record.all.feasible.any()
