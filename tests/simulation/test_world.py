"""Worlds: reproducible, indifferent to who plays, and distributed as their scenario says."""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from wargame_samples import Recording, demand, gpu, gpu_scenario, hidden, joined, same_chunk

from amaru.domain import GLOBAL_REGION, Limits
from amaru.routing.kernels import Floats
from amaru.routing.policies import make_policy
from amaru.simulation import world_kernels as w
from amaru.simulation.play import play
from amaru.simulation.scenario import Event, EventKind, Hidden, Profile, Range
from amaru.simulation.scenario_files import load_scenario
from amaru.simulation.world import World

FAMILIES = ("classic", "hidden-train-v1", "chat-azure-v1")
STEPS = 60


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), cuts=st.sets(st.integers(1, STEPS - 1), max_size=6))
def test_a_world_is_the_same_however_it_is_cut(family: str, seed: int, cuts: set[int]) -> None:
    scenario = load_scenario(family)
    whole, cut = World(scenario, seed), World(scenario, seed)
    ends = [0, *sorted(cuts), STEPS]
    parts = [cut.chunk(end - begin) for begin, end in itertools.pairwise(ends)]
    assert [part.first_step for part in parts] == ends[:-1]
    assert same_chunk(whole.chunk(STEPS), joined(parts))


@pytest.mark.parametrize("family", FAMILIES)
def test_another_seed_is_another_world(family: str) -> None:
    a, b = (World(load_scenario(family), seed).chunk(STEPS) for seed in (1, 2))
    assert not np.array_equal(a.luck, b.luck)
    if family != "classic":
        assert not np.array_equal(a.truth, b.truth)
    if family != "chat-azure-v1":  # there the trace says who comes when
        assert not np.array_equal(a.starts, b.starts)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_policy_does_changes_neither_weather_nor_requests(family: str) -> None:
    runs = []
    for name in ("cheapest", "random"):
        record = Recording()
        play(World(load_scenario(family), 5), make_policy(name), STEPS, on_chunk=record, chunk_steps=16)
        runs.append(record)
    assert same_chunk(runs[0].chunk, runs[1].chunk)
    assert not np.array_equal(runs[0].all.chosen, runs[1].all.chosen)


# ---- who asks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.5, 3.0, 10.0])
def test_arrivals_are_the_whole_part_of_a_normal_and_never_negative(mean: float) -> None:
    """max(0, int(N(mean, 2))): a chi-square test against the probability of each count."""
    steps = 6_000
    chunk = World(gpu_scenario([gpu("a")], [demand(mean=mean)]), 3).chunk(steps)
    counts = np.diff(chunk.starts)
    most = int(mean + 7)
    below = stats.norm.cdf((np.arange(most + 1) + 1.0 - mean) / 2.0)
    expected = np.diff(below, prepend=0.0, append=1.0)
    seen = np.bincount(np.minimum(counts, most + 1), minlength=most + 2)
    likely = expected * steps >= 5.0
    seen = np.append(seen[likely], seen[~likely].sum())
    expected = np.append(expected[likely], expected[~likely].sum())
    assert stats.chisquare(seen, expected * steps).pvalue > 1e-4


def test_a_tenants_mix_and_the_sizes_of_its_jobs() -> None:
    profiles = [Profile(id=name, resource="A100", gpu_hours=(low, low + 2.0)) for name, low in (("x", 1.0), ("y", 5.0))]
    demands = [demand("one", mix={"x": 0.8, "y": 0.2}), demand("two", mix={"y": 1.0}, mean=3.0)]
    world = World(gpu_scenario([gpu("a")], demands, profiles=profiles), 8)
    chunk = world.chunk(2_000)
    hours = chunk.sizes[:, w.GPU_HOURS]
    for index, shares in enumerate(((0.8, 0.2), (0.0, 1.0))):
        mine = chunk.tenant == index
        n = int(mine.sum())
        seen = np.bincount(chunk.profile[mine], minlength=2) / n
        np.testing.assert_allclose(seen, shares, atol=4.5 * math.sqrt(0.16 / n) if index == 0 else 0.0)
    for index, profile in enumerate(profiles):
        of_it = hours[chunk.profile == index]
        low, high = profile.gpu_hours
        assert low <= of_it.min()
        assert of_it.max() < high
        assert stats.kstest(of_it, "uniform", args=(low, high - low)).pvalue > 1e-4
    assert not chunk.sizes[:, [w.INPUT_TOKENS, w.OUTPUT_TOKENS]].any()


def test_luck_is_uniform_normal_uniform_and_independent() -> None:
    luck = World(load_scenario("classic"), 4).chunk(600).luck
    assert stats.kstest(luck[:, w.SUCCESS_LUCK], "uniform").pvalue > 1e-4
    assert stats.kstest(luck[:, w.LATENCY_LUCK], "norm").pvalue > 1e-4
    assert stats.kstest(luck[:, w.LOT], "uniform").pvalue > 1e-4
    correlations = np.array(np.corrcoef(luck.T))[np.triu_indices(w.N_LUCK, 1)]
    assert np.abs(correlations).max() < 4.5 / math.sqrt(len(luck))


def test_regions_that_tenants_ask_for_and_allow() -> None:
    """As the live router reads them: ``global`` as a wish means anywhere, in a limit it lets global offers pass."""
    offers = [gpu("a", regions=("east",)), gpu("b", regions=(GLOBAL_REGION,))]
    demands = [
        demand("anywhere"),
        demand("wide", region=GLOBAL_REGION),
        demand("east", region="east"),
        demand("limited", limits=Limits(regions=("east", GLOBAL_REGION))),
    ]
    world = World(gpu_scenario(offers, demands), 0)
    assert world.regions == (-1.0, -1.0, 1.0, -1.0)
    assert world.allowed == ((-1.0, 0.0), (-1.0, 0.0), (-1.0, 0.0), (1.0, 1.0))


# ---- what happens, for all to see -------------------------------------------------------------------------------


def test_incidents_show_exactly_when_and_how_and_again_in_every_round() -> None:
    kinds = list(EventKind)
    events = [
        Event(step=3, steps=4, kind=EventKind.PRICE_SPIKE, provider="a", multiplier=1.6),
        Event(step=5, steps=1, kind=EventKind.PRICE_SPIKE, provider="a", multiplier=2.0),
        Event(step=0, steps=2, kind=EventKind.OUTAGE, provider="b"),
        Event(step=18, steps=9, kind=EventKind.LATENCY_SPIKE, provider="b", delta=200.0),
        Event(step=6, steps=3, kind=EventKind.CAPACITY_SURGE, provider="c", multiplier=1.5),
        Event(step=10, steps=3, kind=EventKind.REPUTATION_DROP, provider="c", delta=-90.0),
    ]
    assert {event.kind for event in events} == set(kinds)
    offers = [gpu("a", usd=2.0), gpu("b", ms=300.0), gpu("c", capacity=100.0), gpu("d")]
    chunk = World(gpu_scenario(offers, events=events, steps=20), 0).chunk(50)
    for step in range(50):
        at = step % 20
        expected = np.array([[2.0, 0.0, 300.0, 200.0, 75.0]] * 4)
        expected[2, w.CAPACITY] = 100.0
        if 3 <= at < 7:
            expected[0, w.PRICE] *= 1.6
        if at == 5:
            expected[0, w.PRICE] *= 2.0
        if at < 2:
            expected[1, w.CAPACITY] = 0.0
        if at >= 18:  # what would outlast its round ends with it
            expected[1, w.LATENCY_MS] = 500.0
        if 6 <= at < 9:
            expected[2, w.CAPACITY] = 150.0
        if 10 <= at < 13:
            expected[2, w.REPUTATION] = 0.0
        np.testing.assert_allclose(chunk.posted[step], expected, rtol=1e-12)


def test_an_event_befalls_every_offer_of_its_provider() -> None:
    scenario = load_scenario("classic")
    posted = World(scenario, 0).chunk(scenario.steps).posted
    rows = [row for row, offer in enumerate(scenario.offers) if offer.provider == "vast"]
    assert len(rows) == 2
    for row in rows:
        usd = scenario.offers[row].price.usd_per_gpu_hour
        np.testing.assert_allclose(posted[20:30, row, w.PRICE], 1.6 * usd)
        np.testing.assert_allclose(np.delete(posted[:, row, w.PRICE], slice(20, 30)), usd)


def test_nothing_is_hidden_where_the_scenario_hides_nothing() -> None:
    scenario = load_scenario("classic")
    chunk = World(scenario, 9).chunk(300)
    np.testing.assert_allclose(np.exp(chunk.truth[:, :, w.LOG_MS]), chunk.posted[:, :, w.LATENCY_MS], rtol=1e-12)
    for column in (w.LOG_PRICE, w.LOAD_SLOPE, w.NOISE_SD, w.FAILURE):
        assert not chunk.truth[:, :, column].any()
    assert not chunk.path.any()
    record = Recording()
    play(World(scenario, 9), make_policy("random"), 300, on_chunk=record)
    played = record.all
    placed = played.chosen >= 0
    assert (played.ok == placed).all()
    step_of = np.array([step for step, _ in record.requests()])
    posted = record.chunk.posted[step_of[placed], played.chosen[placed]]
    np.testing.assert_allclose(played.latency_ms[placed], posted[:, w.LATENCY_MS], rtol=1e-12)
    hours = record.chunk.sizes[placed, w.GPU_HOURS]
    np.testing.assert_allclose(played.cost_usd[placed], posted[:, w.PRICE] * hours, rtol=1e-12)


# ---- what is hidden ---------------------------------------------------------------------------------------------


def within(values: np.ndarray, range_: Range) -> bool:
    return bool((values >= range_[0] - 1e-12).all() and (values <= range_[1] + 1e-12).all())


def test_every_world_is_drawn_within_the_ranges() -> None:
    scenario = load_scenario("hidden-eval-v1")
    h = scenario.hidden
    assert h is not None
    worlds = [World(scenario, seed) for seed in range(40)]
    providers = np.concatenate([world.provider_truth for world in worlds])
    bridges = np.concatenate([world.bridge_truth for world in worlds])
    offers = np.concatenate([world.offer_truth for world in worlds])
    for number, regime in enumerate((h.healthy, h.degraded, h.down)):
        assert within(providers[:, w.FAILURE_HEALTHY + number], regime.failure)
        assert within(np.exp(providers[:, w.SLOW_HEALTHY + number]), regime.slowdown)
        assert within(1.0 / providers[:, w.LEAVES_HEALTHY + number], regime.steps)
    assert within(providers[:, w.GOES_DOWN], h.down_share)
    assert within(1.0 / bridges[:, w.BREAKS], h.bridge_up_steps)
    assert within(1.0 / bridges[:, w.MENDS], h.bridge_down_steps)
    assert (bridges[:, w.BRIDGE_FAILURE] == h.bridge_failure).all()
    assert within(np.exp(offers[:, w.LOG_BIAS]), h.latency_bias)
    for column, range_ in (
        (w.NOISE, h.latency_noise), (w.SLOPE, h.latency_load), (w.DRIFT, h.price_drift), (w.JUMPS, h.price_jumps),
        (w.LAG, h.price_lag_steps),
    ):  # fmt: skip
        assert within(offers[:, column], range_)
    low, high = h.latency_noise
    assert stats.kstest(offers[:, w.NOISE], "uniform", args=(low, high - low)).pvalue > 1e-4
    assert (offers[:, w.LAG] == np.floor(offers[:, w.LAG])).all()


def run_of_hidden(steps: int, seed: int = 11, **changes: object) -> tuple[World, np.ndarray, Floats, Floats]:
    offers = [gpu("a"), gpu("b"), gpu("c", usd=3.0)]
    bridges = {"a": "one", "b": "one", "c": "two"}
    few = [demand(mean=0.0)]
    world = World(gpu_scenario(offers, few, bridges=bridges, what_is_hidden=hidden(**changes)), seed)
    chunk = world.chunk(steps)
    return world, chunk.path, chunk.truth, chunk.posted


def test_regimes_move_as_the_chain_says_and_stay_as_often_as_its_stationary_distribution() -> None:
    steps = 60_000
    world, path, _, _ = run_of_hidden(steps)
    regimes = path % w.N_REGIMES
    for p, truth in enumerate(world.provider_truth):
        leaves = truth[w.LEAVES_HEALTHY : w.LEAVES_DOWN + 1]
        down = truth[w.GOES_DOWN]
        chain = np.array([
            [1.0 - leaves[0], leaves[0] * (1.0 - down), leaves[0] * down],
            [leaves[1], 1.0 - leaves[1], 0.0],
            [leaves[2], 0.0, 1.0 - leaves[2]],
        ])  # fmt: skip
        moves = np.zeros((3, 3))
        np.add.at(moves, (regimes[:-1, p], regimes[1:, p]), 1.0)
        visits = moves.sum(axis=1, keepdims=True)
        z = (moves / visits - chain) / np.sqrt(np.maximum(chain * (1.0 - chain), 1e-9) / visits)
        assert np.abs(z[chain > 0.0]).max() < 4.5
        assert not moves[chain == 0.0].any()
        stationary = np.linalg.solve((np.eye(3) - chain + np.ones((3, 3))).T, np.ones(3))
        np.testing.assert_allclose(np.bincount(regimes[:, p]) / steps, stationary, atol=0.03)


def test_a_world_begins_healthy_and_may_change_with_its_first_step() -> None:
    first = np.concatenate([run_of_hidden(1, seed)[1] % w.N_REGIMES for seed in range(300)])
    shares = np.concatenate([run_of_hidden(1, seed)[0].provider_truth[:, w.LEAVES_HEALTHY] for seed in range(300)])
    expected, n = shares.mean(), first.size
    assert (first > 0).mean() == pytest.approx(expected, abs=4.5 * math.sqrt(expected / n))


def test_a_bridges_outage_strikes_all_its_providers_at_once_and_nobody_else() -> None:
    steps = 30_000
    world, path, truth, _ = run_of_hidden(steps)
    out = path >= w.N_REGIMES
    assert (out[:, 0] == out[:, 1]).all()
    assert not np.array_equal(out[:, 0], out[:, 2])
    for p in range(3):
        bridge = world.bridge_truth[world.bridge_of[p]]
        expected = world.provider_truth[p, w.FAILURE_HEALTHY + path[:, p] % w.N_REGIMES]
        expected = np.where(out[:, p], np.maximum(expected, bridge[w.BRIDGE_FAILURE]), expected)
        np.testing.assert_array_equal(truth[:, p, w.FAILURE], expected)
        began = (~out[:-1, p] & out[1:, p]).sum() / (~out[:-1, p]).sum()
        ended = (out[:-1, p] & ~out[1:, p]).sum() / out[:-1, p].sum()
        for seen, chance, n in ((began, bridge[w.BREAKS], (~out[:-1, p]).sum()), (ended, bridge[w.MENDS], out.sum())):
            assert abs(seen - chance) < 4.5 * math.sqrt(chance * (1.0 - chance) / n)


def test_latency_is_the_biased_advertisement_slowed_by_the_regime() -> None:
    world, path, truth, posted = run_of_hidden(3_000)
    for row in range(3):
        slow = world.provider_truth[row, w.SLOW_HEALTHY + path[:, row] % w.N_REGIMES]
        expected = np.log(posted[:, row, w.LATENCY_MS]) + world.offer_truth[row, w.LOG_BIAS] + slow
        np.testing.assert_allclose(truth[:, row, w.LOG_MS], expected, rtol=1e-12)
        assert (truth[:, row, w.LOAD_SLOPE] == world.offer_truth[row, w.SLOPE]).all()
        assert (truth[:, row, w.NOISE_SD] == world.offer_truth[row, w.NOISE]).all()


@pytest.mark.parametrize("lags", [(0, 0), (1, 1), (4, 12), (600, 700)])
def test_the_posted_price_is_the_true_one_of_some_steps_ago(lags: Range) -> None:
    events = [Event(step=9, steps=5, kind=EventKind.PRICE_SPIKE, provider="a", multiplier=1.6)]
    what = hidden(price_lag_steps=lags)
    world = World(gpu_scenario([gpu("a"), gpu("b")], what_is_hidden=what, events=events, steps=40), 2)
    open_ = World(gpu_scenario([gpu("a"), gpu("b")], events=events, steps=40), 2).chunk(900)
    chunk = world.chunk(900)
    # An event shows at once; what lags is how far the price has wandered from what is advertised.
    stale = np.log(chunk.posted[:, :, w.PRICE] / open_.posted[:, :, w.PRICE])
    true = stale + chunk.truth[:, :, w.LOG_PRICE]
    for row in range(2):
        lag = int(world.offer_truth[row, w.LAG])
        assert lags[0] <= lag <= lags[1]
        then = np.maximum(np.arange(900) - lag, 0)
        np.testing.assert_allclose(stale[:, row], true[then, row], atol=1e-12)
        np.testing.assert_allclose(chunk.truth[:, row, w.LOG_STALE], stale[:, row], atol=1e-12)


def test_prices_drift_around_the_advertised_one_and_jump_as_often_as_said() -> None:
    steps = 50_000
    world, _, truth, posted = run_of_hidden(steps)
    for row, usd in enumerate((2.0, 2.0, 3.0)):
        log_price = np.log(posted[:, row, w.PRICE] / usd) + truth[:, row, w.LOG_PRICE]
        pushed = log_price[1:] - (1.0 - w.PULL) * log_price[:-1]
        drift, jumps, jump_sd = world.offer_truth[row, [w.DRIFT, w.JUMPS, w.JUMP_SD]]
        variance = drift**2 + jumps * jump_sd**2
        assert pushed.mean() == pytest.approx(0.0, abs=4.5 * math.sqrt(variance / steps))
        assert pushed.var() == pytest.approx(variance, rel=0.15)
        # Beyond five times the drift there is nothing but jumps.
        far = 2.0 * stats.norm.sf(5.0 * drift / math.hypot(drift, jump_sd)) * jumps
        assert (np.abs(pushed) > 5.0 * drift).mean() == pytest.approx(far, abs=4.5 * math.sqrt(far / steps))
        assert abs(np.corrcoef(pushed[1:], pushed[:-1])[0, 1]) < 0.03


def test_a_seed_below_zero_and_a_resource_that_nobody_serves_are_refused() -> None:
    scenario = gpu_scenario([gpu("a")])
    with pytest.raises(ValueError, match="negative"):
        World(scenario, -1)
    wants = Profile(id="job", resource="TPU", gpu_hours=(1.0, 2.0))
    with pytest.raises(ValueError, match="no offer serves 'TPU'"):
        World(msgspec.structs.replace(scenario, profiles=(wants,)), 0)


def test_hidden_ranges_of_one_value_are_that_value() -> None:
    fixed: Hidden = hidden(latency_bias=(1.5, 1.5), price_drift=(0.0, 0.0), price_jumps=(0.0, 0.0))
    world = World(gpu_scenario([gpu("a"), gpu("b")], what_is_hidden=fixed), 1)
    assert np.exp(world.offer_truth[:, w.LOG_BIAS]).tolist() == [1.5, 1.5]
    chunk = world.chunk(200)
    assert not chunk.truth[:, :, w.LOG_PRICE].any()
    assert (chunk.posted[:, :, w.PRICE] == 2.0).all()
