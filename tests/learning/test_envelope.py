"""The classic game gives what is published, and its envelope is one."""

from __future__ import annotations

import pytest

from amaru.learning.envelope import PUBLISHED, Mean, envelope, play_corners
from amaru.learning.evaluation import evaluate, players
from amaru.simulation.scenario_files import load_scenario

SEEDS = range(30)


@pytest.fixture(scope="module")
def found():
    scenario = load_scenario("classic")
    return envelope(play_corners(scenario, steps=scenario.steps, seeds=SEEDS))


@pytest.mark.parametrize("which", range(3), ids=[what for what, *_ in PUBLISHED])
def test_rules_classic_lands_within_sampling_error_of_what_is_published(found, which: int) -> None:
    _, value, error, _ = PUBLISHED[which]
    classic = found.classic
    measured = (classic.fill_rate, classic.avg_cost_usd, classic.avg_latency_ms)[which]
    # The published errors are of 100 seeds.
    assert abs(measured.z(value, error)) < 4


@pytest.mark.parametrize(("end", "cost", "latency"), [("cheapest", 3.413, 326.2), ("fastest", 3.947, 282.6)])
def test_the_ends_are_where_they_are_published(found, end: str, cost: float, latency: float) -> None:
    corner = getattr(found, end)
    assert abs(corner.avg_cost_usd.z(cost, 0.010)) < 4
    assert abs(corner.avg_latency_ms.z(latency, 0.06)) < 4
    assert corner.fill_rate.value == pytest.approx(found.classic.fill_rate.value, abs=0.0005)


def test_nobody_is_outside_of_it(found) -> None:
    scenario = load_scenario("classic")
    games = evaluate(scenario, players(), steps=scenario.steps, seeds=range(5))
    for seed in games.seeds:
        played = {one.policy: one for one in games.played if one.seed == seed}
        least_cost = played["cheapest"].cost_usd / played["cheapest"].served
        least_latency = played["fastest"].latency_ms / played["fastest"].served
        for one in played.values():
            assert one.cost_usd / one.served >= least_cost * (1 - 1e-3)
            assert one.latency_ms / one.served >= least_latency * (1 - 1e-3)


def test_the_claim_of_both_savings_at_once_is_far_outside(found) -> None:
    assert found.cost_saving == pytest.approx(0.007, abs=0.003)
    assert found.latency_saving == pytest.approx(0.118, abs=0.005)
    assert found.cost_saving < 0.14
    assert found.latency_saving < 0.12
    assert found.cheapest.avg_latency_ms.value > found.classic.avg_latency_ms.value
    assert found.fastest.avg_cost_usd.value > found.classic.avg_cost_usd.value


def test_hidden_worlds_have_none() -> None:
    assert envelope(play_corners(load_scenario("hidden-eval-v1"), steps=10, seeds=[0])) is None


def test_z_counts_the_errors_of_both() -> None:
    assert Mean(1.0, 0.3).z(0.0, 0.4) == pytest.approx(2.0)
    assert Mean(1.0, 0.0).z(1.0) == 0.0
    assert Mean(1.0, 0.0).z(0.0) == float("inf")
