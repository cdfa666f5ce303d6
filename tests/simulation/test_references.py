"""What the best is measured against: the references know what they may know, and no policy does better."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from wargame_samples import Recording, demand, gpu, gpu_scenario, hidden, slot_of

from amaru.domain import Limits
from amaru.routing import belief_kernels as b
from amaru.routing.policies import POLICIES, make_policy
from amaru.simulation import world_kernels as w
from amaru.simulation.play import Game, play
from amaru.simulation.references import Reference, informed, oracle
from amaru.simulation.scenario import Event, EventKind, Scenario
from amaru.simulation.scenario_files import load_scenario
from amaru.simulation.world import World

SEEDS = range(200, 212)
STEPS = 250


@pytest.fixture(scope="module")
def utilities() -> dict[str, np.ndarray]:
    """Mean utility of every player in the same worlds, [worlds]."""
    scenario = load_scenario("hidden-train-v1")
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        for name in (*POLICIES, "oracle", "informed"):
            world = World(scenario, seed)
            references = {"oracle": oracle, "informed": informed}
            player = references[name](world) if name in references else make_policy(name)
            found.setdefault(name, []).append(play(world, player, STEPS).mean_utility)
    return {name: np.array(values) for name, values in found.items()}


def z_of(differences: np.ndarray) -> float:
    return float(differences.mean() / (differences.std(ddof=1) / math.sqrt(len(differences))))


@pytest.mark.parametrize("name", [*POLICIES, "informed"])
def test_nobody_does_better_than_who_knows_the_truth(utilities: dict[str, np.ndarray], name: str) -> None:
    differences = utilities["oracle"] - utilities[name]
    assert z_of(differences) > 4.0
    assert (differences > -0.002).all()


@pytest.mark.parametrize("name", ["rules", "rules_classic", "cheapest", "fastest", "random", "qlearning"])
def test_who_knows_how_the_world_was_drawn_does_better_than_rules(utilities: dict[str, np.ndarray], name: str) -> None:
    assert z_of(utilities["informed"] - utilities[name]) > 4.0


# ---- the filter, against brute force ----------------------------------------------------------------------------


def tiny(**changes: object) -> Scenario:
    """Two providers on one bridge, one on another."""
    offers = [gpu("a", 1.6, 300.0), gpu("b", 1.7, 320.0, 60.0), gpu("c", 2.4, 400.0)]
    bridges = {"a": "one", "b": "one", "c": "two"}
    return gpu_scenario(offers, [demand(mean=4.0)], bridges=bridges, what_is_hidden=hidden(**changes))


def chain_of(provider: np.ndarray) -> np.ndarray:
    leaves, down = provider[w.LEAVES_HEALTHY : w.LEAVES_DOWN + 1], provider[w.GOES_DOWN]
    return np.array([
        [1.0 - leaves[0], leaves[0] * (1.0 - down), leaves[0] * down],
        [leaves[1], 1.0 - leaves[1], 0.0],
        [leaves[2], 0.0, 1.0 - leaves[2]],
    ])  # fmt: skip


def forward(world: World, record: Recording, bridge: int) -> dict[tuple[int, ...], float]:
    """Posterior of (out, regime of each provider on the bridge), by summing over every state at every step."""
    members = np.flatnonzero(world.bridge_of == bridge).tolist()
    states = list(itertools.product((0, 1), *[range(3)] * len(members)))
    breaks, mends, out_failure = world.bridge_truth[bridge]
    moves = np.array([[1.0 - breaks, breaks], [mends, 1.0 - mends]])
    chains = [chain_of(world.provider_truth[p]) for p in members]
    step_to = np.array([
        [
            moves[here[0], there[0]] * math.prod(c[i, j] for c, i, j in zip(chains, here[1:], there[1:], strict=True))
            for there in states
        ]
        for here in states
    ])  # fmt: skip
    belief = np.array([float(not any(state)) for state in states])
    chunk, played = record.chunk, record.all
    taken: dict[int, float] = {}
    before = -1
    for step, r in [*record.requests(), (len(chunk.starts) - 1, -1)]:
        while before < min(step, len(chunk.starts) - 2):
            belief, before, taken = belief @ step_to, before + 1, {}
        if r < 0 or played.chosen[r] < 0:
            continue
        row = int(played.chosen[r])
        load = taken.get(slot_of(world, row), 0.0) / chunk.posted[step, row, w.CAPACITY]
        taken[slot_of(world, row)] = taken.get(slot_of(world, row), 0.0) + chunk.sizes[r, w.GPU_HOURS]
        p = int(world.provider_of[row])
        if p not in members:
            continue
        provider, offer = world.provider_truth[p], world.offer_truth[row]
        idle = math.log(chunk.posted[step, row, w.LATENCY_MS]) + offer[w.LOG_BIAS] + load * offer[w.SLOPE]
        for i, state in enumerate(states):
            regime = state[1 + members.index(p)]
            failure = provider[w.FAILURE_HEALTHY + regime]
            if state[0]:
                failure = max(failure, out_failure)
            if not played.ok[r]:
                belief[i] *= failure
                continue
            excess = math.log(played.latency_ms[r]) - idle - provider[w.SLOW_HEALTHY + regime]
            belief[i] *= (1.0 - failure) * math.exp(-0.5 * (excess / offer[w.NOISE]) ** 2)
        belief /= belief.sum()
    return dict(zip(states, belief.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steps", [1, 2, 17, 60])
def test_the_filter_believes_what_summing_over_all_states_gives(seed: int, steps: int) -> None:
    world, record = World(tiny(), seed), Recording()
    knows = informed(world)
    play(world, knows, steps, on_chunk=record, floor=0.3, chunk_steps=13)
    for bridge in range(2):
        members = np.flatnonzero(world.bridge_of == bridge).tolist()
        expected = forward(world, record, bridge)
        n = 3 ** len(members)
        for state, probability in expected.items():
            place = state[0] * n + sum(regime * 3**j for j, regime in enumerate(state[1:]))
            assert knows.known.joint[bridge, place] == pytest.approx(probability, abs=1e-9)
        for j, p in enumerate(members):
            success = 0.0
            for state, probability in expected.items():
                failure = world.provider_truth[p, w.FAILURE_HEALTHY + state[1 + j]]
                success += probability * (1.0 - max(failure, world.bridge_truth[bridge, w.BRIDGE_FAILURE] * state[0]))
            slots, _ = knows.mind.slots(world.offers)
            assert knows.mind.beliefs[slots[p], b.SUCCESS] == pytest.approx(success, abs=1e-9)


def test_an_event_is_no_news_about_the_hidden_price() -> None:
    """All can see it. Where prices do not move in secret, what is posted is what will be charged."""
    still = {"price_drift": (0.0, 0.0), "price_jumps": (0.0, 0.0), "price_lag_steps": (9, 9)}
    scenario = tiny(**still)
    events = (Event(step=5, steps=6, kind=EventKind.PRICE_SPIKE, provider="a", multiplier=2.0),)
    scenario = gpu_scenario(
        scenario.offers, scenario.demands, bridges=scenario.bridges, events=events, what_is_hidden=scenario.hidden
    )
    world = World(scenario, 1)
    knows = informed(world)
    for _ in range(20):
        play(world, knows, 1, floor=0.5)
        assert not knows.mind.beliefs[:, b.LOG_PRICE].any()


def test_the_price_believed_is_the_fresher_of_bill_and_posting_pulled_towards_the_advertised() -> None:
    world, record = World(tiny(price_drift=(0.05, 0.05), price_lag_steps=(6, 6)), 3), Recording()
    knows = informed(world)
    slots, _ = knows.mind.slots(world.offers)
    bill: dict[int, tuple[int, float]] = {}
    pull = 1.0 - w.PULL
    for step in range(40):
        play(world, knows, 1, on_chunk=record, floor=0.2)
        chunk, played = record.chunks[-1], record.played[-1]
        stale = chunk.truth[0, :, w.LOG_STALE]
        for row in played.chosen[played.ok].tolist():
            bill[row] = step, chunk.truth[0, row, w.LOG_PRICE] + stale[row]
        for row in range(3):
            lag = min(6, step)
            believed = stale[row] * pull**lag
            if row in bill and step - bill[row][0] < lag:
                believed = bill[row][1] * pull ** (step - bill[row][0])
            assert knows.mind.beliefs[slots[row], b.LOG_PRICE] == pytest.approx(believed - stale[row], abs=1e-12)


def test_the_oracle_is_told_the_truth_of_the_moment() -> None:
    world, record = World(tiny(), 5), Recording()
    knows = oracle(world)
    play(world, knows, 30, on_chunk=record)
    slots, _ = knows.mind.slots(world.offers)
    now, posted = record.chunk.truth[-1], record.chunk.posted[-1]
    for row, slot in enumerate(slots.tolist()):
        told = knows.mind.beliefs[slot]
        assert told[b.SUCCESS] == pytest.approx(1.0 - now[row, w.FAILURE])
        assert told[b.LOG_MS] == pytest.approx(now[row, w.LOG_MS] - math.log(posted[row, w.LATENCY_MS]))
        assert told[b.LOG_MS_SLOPE] == now[row, w.LOAD_SLOPE]
        assert told[b.LOG_PRICE] == now[row, w.LOG_PRICE]
    assert (record.all.propensity[record.all.chosen >= 0] == 1.0).all()


# ---- what is refused --------------------------------------------------------------------------------------------


def test_more_providers_on_a_bridge_than_the_filter_can_follow() -> None:
    def world_of(n: int) -> World:
        names = [f"p{i}" for i in range(n)]
        bridges = dict.fromkeys(names, "axelar")
        return World(gpu_scenario([gpu(name) for name in names], bridges=bridges, what_is_hidden=hidden()), 0)

    most = world_of(6)
    assert play(most, informed(most), 3).requests > 0
    with pytest.raises(ValueError, match="7 providers share the bridge 'axelar'; `informed` can follow at most 6"):
        informed(world_of(7))
    many = world_of(7)
    assert play(many, oracle(many), 3).requests > 0


@pytest.mark.parametrize("make", [oracle, informed])
def test_a_reference_for_another_world_or_for_one_that_has_begun(make: Callable[[World], Reference]) -> None:
    world, other = World(tiny(), 0), World(tiny(), 0)
    early = make(world)
    with pytest.raises(ValueError, match="knows another world"):
        Game(other, early)
    play(world, make_policy("rules"), 1)
    with pytest.raises(ValueError, match="before its world begins; this one is at step 1"):
        make(world)
    with pytest.raises(ValueError, match="at step 0, and was handed step 1"):
        play(world, early, 1)


def test_references_without_anybody_to_serve() -> None:
    for make in (oracle, informed):
        scenario = gpu_scenario([gpu("a")], [demand(limits=Limits(max_price=0.5))], what_is_hidden=hidden())
        world = World(scenario, 0)
        assert play(world, make(world), 10).served == 0
