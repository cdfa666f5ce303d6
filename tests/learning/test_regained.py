"""How soon the loss after a change of regime is regained: made-up policies whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from amaru.learning import regained as r
from amaru.learning.regained import AFTER, Change, changes, curves, falling, regained

OFFERS = 3
STEPS, PER_STEP = 400, 5


def failing(*spells: tuple[int, int, int]) -> np.ndarray:
    """[STEPS, OFFERS]: 0.02, but 0.5 while an offer is ill; spells are offer, from, to."""
    path = np.full((STEPS, OFFERS), 0.02)
    for offer, begin, end in spells:
        path[begin:end, offer] = 0.5
    return path


def decided(best_by_step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    steps = np.repeat(np.arange(STEPS), PER_STEP)
    return steps, best_by_step[steps]


def test_an_illness_of_the_best_offer_strikes_twice_worse_then_better() -> None:
    best = np.zeros(STEPS, np.int64)
    best[100:200] = 1
    found = changes(*decided(best), failing((0, 100, 200)))
    assert found == [Change(100 * PER_STEP, 100, True), Change(200 * PER_STEP, 200, False)]


def test_an_illness_of_an_offer_that_nobody_would_choose_strikes_nobody() -> None:
    assert changes(*decided(np.zeros(STEPS, np.int64)), failing((2, 100, 200))) == []


def test_another_choice_without_a_change_of_regime_is_no_change() -> None:
    best = np.zeros(STEPS, np.int64)
    best[150:] = 1  # a price moved
    assert changes(*decided(best), failing((2, 150, 160))) == []


def test_a_drift_of_the_failure_probability_is_no_change_of_regime() -> None:
    best = np.zeros(STEPS, np.int64)
    best[200:] = 1
    path = failing()
    path[:, 0] += np.linspace(0, 0.4, STEPS)
    assert changes(*decided(best), path) == []


def struck(tau: float, seed: int, *, floor: float = 0.01, noise: float = 0.05) -> tuple[list[Change], np.ndarray]:
    """A class that loses 0.3 at each change and regains it exponentially, by 1/e in ``tau`` decisions."""
    rng = np.random.default_rng(seed)
    found = [Change(at, at, True) for at in range(700, 6000, 700)]
    shortfall = np.full(6300, floor)
    for change in found:
        since = np.arange(min(700, len(shortfall) - change.at))
        shortfall[change.at : change.at + len(since)] += 0.3 * np.exp(-since / tau)
    return found, shortfall + rng.normal(0, noise, len(shortfall))


@pytest.mark.parametrize("tau", [20.0, 60.0])
def test_exponential_recovery_is_timed_at_its_logarithm(tau: float) -> None:
    found = regained([curves([struck(tau, seed)], worse=True) for seed in range(20)], seed=0)
    assert found.changes == 20 * 8
    assert found.before == pytest.approx(0.01, abs=0.003)
    # The loss is that of the first bin, a little less than the peak, and the end of a bin counts: never too early.
    assert tau * np.log(10) <= found.decisions.value <= tau * np.log(10) + 3 * r.BIN
    interval = found.decisions.interval
    assert interval is not None
    assert interval.low <= found.decisions.value <= interval.high


def test_what_is_never_regained_says_so() -> None:
    def world(seed: int) -> r.Curves:
        found, shortfall = [Change(700, 700, True)], np.full(1400, 0.01)
        shortfall[700:] = 0.2
        return curves([(found, shortfall + np.random.default_rng(seed).normal(0, 0.01, 1400))], worse=True)

    assert regained([world(seed) for seed in range(5)], seed=0).decisions.value == AFTER


def test_a_lucky_bin_is_no_recovery() -> None:
    found, shortfall = struck(60.0, 0, noise=0.0)
    for change in found:
        shortfall[change.at + 20 : change.at + 30] = -0.2
    lucky = regained([curves([(found, shortfall)], worse=True)], seed=0).decisions.value
    assert lucky >= 60 * np.log(10) - r.BIN


def test_a_change_is_followed_until_the_next_of_its_class_only() -> None:
    found = [Change(400, 40, True), Change(450, 50, False)]
    sums = curves([(found, np.ones(600))], worse=True)
    assert sums.changes == 1
    assert sums.decisions.sum() == r.BEFORE + 50


def test_what_comes_right_after_a_change_is_not_what_was_before_the_next() -> None:
    found = [Change(400, 40, True), Change(450, 50, False), Change(450 + r.CALM + 30, 60, True)]
    before = curves([(found, np.ones(900))], worse=True).decisions[: r.BEFORE // r.BIN]
    assert before.sum() == r.BEFORE + 30  # all of the first change's, the last 30 of the third's


def test_changes_while_everybody_still_learns_count_only_as_ends() -> None:
    found = [Change(400, 40, True), Change(450, 50, True)]
    sums = curves([(found, np.ones(600))], worse=True, from_step=45)
    assert sums.changes == 1
    assert sums.decisions.sum() == 150


def test_worse_and_better_are_told_apart() -> None:
    found = [Change(400, 40, True), Change(450, 50, False)]
    shortfall = np.zeros(600)
    shortfall[450:] = 1.0
    assert curves([(found, shortfall)], worse=True).shortfall.sum() == 0
    assert curves([(found, shortfall)], worse=False).shortfall.sum() == 150


def test_without_a_change_there_is_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="take more worlds"):
        regained([curves([([], np.zeros(100))], worse=True)], seed=0)


def test_isotonic_fit_never_rises_and_keeps_the_mean() -> None:
    rng = np.random.default_rng(2)
    values, weights = rng.normal(0, 1, 50), rng.uniform(0.5, 2, 50)
    fitted = falling(values, weights)
    assert (np.diff(fitted) <= 1e-12).all()
    assert np.average(fitted, weights=weights) == pytest.approx(np.average(values, weights=weights))
    np.testing.assert_array_equal(falling(np.array([3.0, 2.0, 1.0]), np.ones(3)), [3.0, 2.0, 1.0])
