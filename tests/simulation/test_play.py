"""The war-game's accounts: every total can be worked out again from what was decided, in plain Python."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from wargame_samples import Recording, demand, gpu, gpu_scenario, hidden, same_tally, slot_of

from amaru.domain import Limits, Weights
from amaru.routing import belief_kernels as b
from amaru.routing.policies import LEARNED, POLICIES, make_policy
from amaru.simulation import play_kernels as p
from amaru.simulation import world_kernels as w
from amaru.simulation.play import Game, play
from amaru.simulation.references import Reference, informed, oracle
from amaru.simulation.scenario import Regime
from amaru.simulation.scenario_files import load_scenario
from amaru.simulation.world import World

FAMILIES = ("classic", "hidden-train-v1", "chat-azure-v1")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["random", "hybrid"])
def test_totals_are_what_the_decisions_come_to(family: str, name: str) -> None:
    scenario, steps = load_scenario(family), 40
    world, record = World(scenario, 21), Recording()
    tally = play(world, make_policy(name), steps, on_chunk=record, chunk_steps=16, keep_steps=True, floor=0.05)
    chunk, played = record.chunk, record.all
    totals, by_step = np.zeros((len(world.tenants), p.N_TALLY)), np.zeros((steps, p.N_TALLY))
    taken: dict[int, float] = {}
    budgets: list[float] = []
    before = -1
    for step, r in record.requests():
        if step != before:
            taken, budgets, before = {}, world.budgets.tolist(), step
        t, row = int(chunk.tenant[r]), int(played.chosen[r])
        totals[t, p.REQUESTS] += 1
        by_step[step, p.REQUESTS] += 1
        assert played.ok[r] or played.utility[r] == played.cost_usd[r] == played.latency_ms[r] == 0.0
        if row < 0:
            assert not played.ok[r]
            continue
        posted, truth = chunk.posted[step, row], chunk.truth[step, row]
        hours, read, written = chunk.sizes[r].tolist()
        place = hours if world.is_gpu else 1.0
        slot = slot_of(world, row)
        load = taken.get(slot, 0.0) / posted[w.CAPACITY]
        taken[slot] = taken.get(slot, 0.0) + place
        assert taken[slot] <= posted[w.CAPACITY]
        ok = chunk.luck[r, w.SUCCESS_LUCK] >= truth[w.FAILURE]
        assert played.ok[r] == ok
        if world.is_gpu:
            assert posted[w.PRICE] <= min(max(budgets[t] / hours, 0.1), 10.0)
        if not ok:
            continue
        log_ms = truth[w.LOG_MS] + load * truth[w.LOAD_SLOPE] + truth[w.NOISE_SD] * chunk.luck[r, w.LATENCY_LUCK]
        charged = math.exp(truth[w.LOG_PRICE])
        cost = charged * (hours * posted[w.PRICE] + (read * posted[w.PRICE] + written * posted[w.PRICE_OUT]) * 1e-6)
        budgets[t] -= cost

        def unit(offer: int, step: int = step, read: float = read, written: float = written) -> float:
            p_in, p_out = float(chunk.posted[step, offer, w.PRICE]), float(chunk.posted[step, offer, w.PRICE_OUT])
            return p_in if world.is_gpu else p_in + (p_out - p_in) * written / (read + written)

        pool = world.pools[chunk.pool[r]].tolist()
        best_price = min(unit(other) for other in pool)
        best_ms = chunk.posted[step, pool, w.LATENCY_MS].min()
        tenant = world.tenants[t]
        wish = tenant.weights
        worth = (
            wish.price * best_price / (unit(row) * charged)
            + wish.latency * best_ms / math.exp(log_ms)
            + wish.reputation * posted[w.REPUTATION] / 100.0
            + wish.availability
        ) / (wish.price + wish.latency + wish.reputation + wish.availability)
        assert played.latency_ms[r] == pytest.approx(math.exp(log_ms), rel=1e-12)
        assert played.cost_usd[r] == pytest.approx(cost, rel=1e-12)
        assert played.utility[r] == pytest.approx(worth, rel=1e-12)
        in_time = math.exp(log_ms) <= (tenant.limits.max_latency_ms or math.inf)
        for tallied, of in ((totals, t), (by_step, step)):
            tallied[of] += (0.0, 1.0, cost, math.exp(log_ms), float(in_time), worth)
    np.testing.assert_allclose(tally.totals, totals, rtol=1e-10)
    assert tally.by_step is not None
    np.testing.assert_allclose(tally.by_step, by_step, rtol=1e-10)
    served = totals[:, p.SERVED].sum()
    assert 0 < served <= totals[:, p.REQUESTS].sum()
    assert (played.ok.all() and world.scenario.hidden is None) or served < tally.requests
    assert tally.served == served
    assert tally.fill_rate == pytest.approx(served / tally.requests)
    assert tally.avg_cost_usd == pytest.approx(totals[:, p.COST_USD].sum() / served)
    assert tally.avg_latency_ms == pytest.approx(totals[:, p.LATENCY_MS].sum() / served)
    assert tally.slo_attainment == pytest.approx(totals[:, p.SLO_MET].sum() / tally.requests)
    assert tally.mean_utility == pytest.approx(totals[:, p.UTILITY].sum() / tally.requests)


def test_steps_and_tenants_add_up_to_the_same() -> None:
    tally = play(World(load_scenario("hidden-train-v1"), 2), make_policy("thompson"), 100, keep_steps=True)
    assert tally.by_step is not None
    np.testing.assert_allclose(tally.by_step.sum(axis=0), tally.totals.sum(axis=0), rtol=1e-10)


def test_nothing_served_has_no_average() -> None:
    scenario = gpu_scenario([gpu("a")], [demand(limits=Limits(max_price=1.0))])
    tally = play(World(scenario, 0), make_policy("rules"), 3)
    assert tally.fill_rate == tally.slo_attainment == tally.mean_utility == 0.0
    assert math.isnan(tally.avg_cost_usd)
    assert math.isnan(tally.avg_latency_ms)
    empty = play(World(gpu_scenario([gpu("a")], [demand(mean=-20.0)]), 0), make_policy("rules"), 3)
    assert empty.requests == 0
    assert empty.fill_rate == empty.mean_utility == 0.0


def test_a_budget_is_never_overspent_where_the_posted_price_is_the_true_one() -> None:
    """And it is spent again in the next step: what is left bounds the price of a job, down to 0.1 USD an hour."""
    offers = [gpu("a", 2.0), gpu("b", 1.0), gpu("c", 0.5)]
    world, record = World(gpu_scenario(offers, [demand(budget=7.0, mean=12.0)]), 6), Recording()
    play(world, make_policy("fastest"), 200, on_chunk=record)
    steps = np.array([step for step, _ in record.requests()])
    spent = np.bincount(steps, weights=record.all.cost_usd, minlength=200)
    assert spent.max() <= 7.0
    assert (spent > 5.0).mean() > 0.8
    assert (record.all.chosen == -1).any()


# ---- the floor, and what is probable ----------------------------------------------------------------------------


@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_the_floor_draws_as_often_as_it_says(floor: float) -> None:
    record = Recording()
    play(World(load_scenario("classic"), 3), make_policy("rules"), 150, floor=floor, on_chunk=record)
    played = record.all
    could = played.chosen >= 0
    n = int(could.sum())
    assert played.explored[could].mean() == pytest.approx(floor, abs=4.5 * math.sqrt(floor * (1.0 - floor) / n))
    assert (played.feasible[could] > 0).all()
    assert not played.feasible[~could].any()
    if floor == 1.0:
        assert played.propensity[could] == pytest.approx(1.0 / played.feasible[could])
        greedy = Recording()
        play(World(load_scenario("classic"), 3), make_policy("rules"), 150, on_chunk=greedy)
        assert (greedy.all.chosen != played.chosen).mean() > 0.2


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("family", ["hidden-train-v1", "chat-azure-v1"])
def test_propensities_are_the_probabilities_of_what_was_chosen(name: str, family: str) -> None:
    """Where every feasible offer has a chance, 1/propensity has their number as its mean: Σ p · 1/p."""
    record = Recording()
    play(World(load_scenario(family), 8), make_policy(name), 200, floor=0.2, on_chunk=record)
    played = record.all
    could = played.chosen >= 0
    propensity, feasible = played.propensity[could], played.feasible[could]
    assert (propensity >= 0.2 / feasible - 1e-12).all()
    assert (propensity <= 1.0 + 1e-12).all()
    surplus = 1.0 / propensity - feasible
    assert abs(surplus.mean()) < 4.5 * max(surplus.std() / math.sqrt(len(surplus)), 1e-9)


@pytest.mark.parametrize("floor", [-0.1, 1.5, math.nan])
def test_a_floor_that_is_no_probability_is_refused(floor: float) -> None:
    with pytest.raises(ValueError, match="floor is a probability"):
        Game(World(load_scenario("classic"), 0), make_policy("rules"), floor=floor)


# ---- the same again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [*POLICIES, "oracle", "informed"])
def test_the_same_seed_gives_the_same_however_it_is_cut(name: str, family: str) -> None:
    def run(chunk_steps: int) -> tuple[np.ndarray, bytes]:
        world = World(load_scenario(family), 4)
        references = {"oracle": oracle, "informed": informed}
        policy = references[name](world) if name in references else make_policy(name)
        tally = play(world, policy, 50, chunk_steps=chunk_steps)
        return tally.totals, b"" if isinstance(policy, Reference) else policy.state()

    (whole, state), (again, same_state), (cut, cut_state) = run(64), run(64), run(7)
    np.testing.assert_array_equal(whole, again)
    np.testing.assert_allclose(whole, cut, rtol=1e-13)
    assert state == same_state == cut_state


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "knobs"),
    [(name, {}) for name in LEARNED] + [("qlearning", {"discount": 0.6, "replays": 3}), ("thompson", {"boldness": 1})],
)
def test_a_restored_policy_goes_on_bit_for_bit(name: str, knobs: dict[str, float], family: str) -> None:
    first, second = World(load_scenario(family), 30), World(load_scenario(family), 30)
    kept, saved = make_policy(name, **knobs), make_policy(name, **knobs)
    for world, policy in ((first, kept), (second, saved)):
        play(world, policy, 60)
    restored = make_policy(name)
    restored.restore(saved.state())
    assert restored.state() == kept.state()
    records = Recording(), Recording()
    tallies = [
        play(world, policy, 60, on_chunk=record)
        for world, policy, record in ((first, kept, records[0]), (second, restored, records[1]))
    ]
    assert same_tally(*tallies)
    for mine, yours in zip(records[0].all, records[1].all, strict=True):
        np.testing.assert_array_equal(mine, yours)
    assert restored.state() == kept.state()
    assert kept.state() != saved.state()


@pytest.mark.parametrize("name", LEARNED)
def test_who_does_not_learn_takes_in_nothing(name: str) -> None:
    """Time may pass in what it believes; what it saw, and how often, stays."""
    policy = make_policy(name)
    play(World(load_scenario("hidden-train-v1"), 1), policy, 30)
    mind = policy.mind
    arrays = (mind.sums, mind.values, mind.memory, mind.ring, mind.knobs, mind.beliefs[:, b.SUMS_AT])
    before = [array.copy() for array in arrays]
    play(World(load_scenario("hidden-train-v1"), 2), policy, 40, learn=False)
    assert policy.table_size() > 0
    for was, array in zip(before, arrays, strict=True):
        np.testing.assert_array_equal(was, array)


@pytest.mark.parametrize("name", LEARNED)
def test_what_was_never_chosen_is_restored_too(name: str) -> None:
    """An offer without an outcome of its own is judged by its provider's others, before and after a restart alike."""
    offers = [
        gpu("a", 1.1),
        gpu("b", 1.0),
        gpu("b", 9.0, 3e3, id="b/dear", reputation=1.0),
        gpu("c", 1.0, capacity=4.0),
    ]
    well = Regime(failure=(0.02, 0.1), slowdown=(1.0, 1.0), steps=(1e4, 1e4))
    calm = hidden(healthy=well, bridge_up_steps=(1e4, 1e4))
    worlds = [World(gpu_scenario(offers, [demand(mean=12.0)], what_is_hidden=calm), 3) for _ in range(2)]
    kept, saved = (make_policy(name, boldness=0.0, epsilon=0.0) for _ in range(2))
    first = Recording()
    play(worlds[0], kept, 70, on_chunk=first)
    play(worlds[1], saved, 70)
    assert 2 not in first.all.chosen
    restored = make_policy(name)
    restored.restore(saved.state())
    records = Recording(), Recording()
    for world, policy, record in zip(worlds, (kept, restored), records, strict=True):
        play(world, policy, 70, on_chunk=record, floor=0.3)
    np.testing.assert_array_equal(records[0].all.chosen, records[1].all.chosen)
    np.testing.assert_array_equal(records[0].all.propensity, records[1].all.propensity)
    assert kept.state() == restored.state()


def test_foreign_weights_steer_the_choice_and_not_the_judgement() -> None:
    by_price = np.tile([1.0, 0.0, 0.0, 0.0], (4, 1))
    scenario = load_scenario("classic")
    steered = play(World(scenario, 1), make_policy("rules"), 60, weights=by_price)
    assert same_tally(steered, play(World(scenario, 1), make_policy("cheapest"), 60))
    assert not same_tally(steered, play(World(scenario, 1), make_policy("rules"), 60))


def test_weights_of_nought_judge_by_service_alone() -> None:
    scenario = gpu_scenario(
        [gpu("a"), gpu("b")], [demand(weights=Weights(0.0, 0.0, 0.0, 1.0))], what_is_hidden=hidden()
    )
    tally = play(World(scenario, 1), make_policy("random"), 60)
    assert tally.mean_utility == pytest.approx(tally.fill_rate)
    assert 0.5 < tally.fill_rate < 1.0


def test_memory_does_not_grow_with_the_steps() -> None:
    scenario = load_scenario("hidden-train-v1")
    play(World(scenario, 1), make_policy("hybrid"), 20)
    peaks = []
    for steps in (200, 4_000):
        world, policy = World(scenario, 1), make_policy("hybrid")
        tracemalloc.start()
        play(world, policy, steps, chunk_steps=50)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 100_000
