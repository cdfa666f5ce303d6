"""The measurement of recovery, on worlds as they are played."""

from __future__ import annotations

import numpy as np

from amaru.learning.evaluation import Player
from amaru.learning.regained_play import WARM_STEPS, strikes, trail
from amaru.simulation.scenario_files import load_scenario

ORACLE = Player(name="oracle", role="reference")
STEPS = WARM_STEPS + 300


def test_a_trail_has_every_request_with_its_step_and_class() -> None:
    found = trail(load_scenario("hidden-eval-v1"), 3, ORACLE, 30)
    assert len({len(part) for part in (found.steps, found.classes, found.chosen, found.utility)}) == 1
    assert (np.diff(found.steps) >= 0).all()
    assert found.steps[-1] <= 29
    assert found.failure.shape[0] == 30
    assert ((found.failure >= 0) & (found.failure <= 1)).all()


def test_the_oracle_loses_nothing_beside_itself_and_others_do() -> None:
    rules = Player(name="rules", role="rule")
    found = strikes(load_scenario("hidden-eval-v1"), 10_001, [ORACLE, rules], STEPS)
    assert found["oracle"][0].changes == found["rules"][0].changes > 0
    assert not found["oracle"][0].shortfall.any()
    assert found["rules"][0].shortfall.sum() > 0


def test_where_nothing_is_hidden_no_regime_changes() -> None:
    found = strikes(load_scenario("classic"), 1, [Player(name="rules", role="rule")], STEPS)
    assert [curves.changes for curves in found["rules"]] == [0, 0]
