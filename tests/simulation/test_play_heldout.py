"""What was learned is worth something: policies that begin with nothing, in worlds that nothing was tuned on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from amaru.learning.evaluation import RULES
from amaru.routing.policies import make_policy
from amaru.simulation.play import play
from amaru.simulation.references import informed, oracle
from amaru.simulation.scenario_files import load_scenario
from amaru.simulation.world import World

pytestmark = pytest.mark.slow

WORLDS = range(30_000, 30_020)
STEPS = 500
LEAST_SHARE = 0.75
"""Of what ``informed`` gains over the best rule. ``docs/explanation/learning-results.md`` has the measured one."""


@pytest.fixture(scope="module")
def utilities() -> dict[str, np.ndarray]:
    """Mean utility, [worlds]: all players meet the same worlds, requests and luck."""
    scenario = load_scenario("hidden-eval-v1")
    references = {"informed": informed, "oracle": oracle}
    found: dict[str, list[float]] = {}
    for seed in WORLDS:
        for name in (*RULES, "qlearning", "thompson", "hybrid", *references):
            world = World(scenario, seed)
            player = references[name](world) if name in references else make_policy(name)
            found.setdefault(name, []).append(play(world, player, STEPS).mean_utility)
    return {name: np.array(values) for name, values in found.items()}


def best_rule(utilities: dict[str, np.ndarray]) -> np.ndarray:
    return utilities[max(RULES, key=lambda name: float(utilities[name].mean()))]


def z_of(differences: np.ndarray) -> float:
    return float(differences.mean() / (differences.std(ddof=1) / math.sqrt(len(differences))))


def test_q_learning_beats_every_rule(utilities: dict[str, np.ndarray]) -> None:
    assert z_of(utilities["qlearning"] - best_rule(utilities)) > 2.0


@pytest.mark.parametrize("name", ["thompson", "hybrid"])
def test_beliefs_beat_q_learning(utilities: dict[str, np.ndarray], name: str) -> None:
    assert z_of(utilities[name] - utilities["qlearning"]) > 3.0


@pytest.mark.parametrize("name", ["thompson", "hybrid"])
def test_beliefs_close_most_of_what_can_be_closed(utilities: dict[str, np.ndarray], name: str) -> None:
    floor = best_rule(utilities).mean()
    share = (utilities[name].mean() - floor) / (utilities["informed"].mean() - floor)
    assert LEAST_SHARE < share <= 1.0


def test_the_references_stand_above(utilities: dict[str, np.ndarray]) -> None:
    for name in ("thompson", "hybrid"):
        assert z_of(utilities["informed"] - utilities[name]) > 2.0
    assert z_of(utilities["oracle"] - utilities["informed"]) > 4.0
