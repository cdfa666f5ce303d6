"""Intervals over worlds: they cover, they pair, and they say when they cannot be had."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from amaru.learning.intervals import Interval, Resampling, bca


def test_matches_scipys_bca_on_a_skewed_sample() -> None:
    sample = np.random.default_rng(7).lognormal(0.0, 1.0, 25)
    ours = Resampling(25, seed=3).estimate(sample[:, None], lambda means: means[..., 0]).interval
    theirs = stats.bootstrap(
        (sample,), np.mean, n_resamples=10_000, method="BCa", rng=np.random.default_rng(4)
    ).confidence_interval
    assert ours is not None
    assert ours.low == pytest.approx(theirs.low, rel=0.03)
    assert ours.high == pytest.approx(theirs.high, rel=0.03)


def test_covers_a_true_ratio_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    held = 0
    for seed in range(300):
        below = rng.uniform(1.0, 3.0, 20)
        above = 0.7 * below + rng.normal(0.0, 0.3, 20)
        columns = np.column_stack([above, below])
        found = Resampling(20, seed=seed, resamples=1000).estimate(columns, lambda m: m[..., 0] / m[..., 1]).interval
        assert found is not None
        held += found.low <= 0.7 <= found.high
    assert 0.88 <= held / 300 <= 0.99


def test_worlds_that_are_hard_for_both_cancel() -> None:
    rng = np.random.default_rng(1)
    hardness = rng.normal(0.0, 1.0, 20)
    columns = np.column_stack([hardness + 0.01 + rng.normal(0, 0.005, 20), hardness])
    difference = Resampling(20, seed=0).estimate(columns, lambda m: m[..., 0] - m[..., 1])
    assert difference.interval is not None
    assert difference.interval.sure
    assert difference.interval.high - difference.interval.low < 0.02


def test_same_seed_same_interval() -> None:
    columns = np.random.default_rng(5).normal(0, 1, (20, 1))
    first, second = (Resampling(20, seed=9).estimate(columns, lambda m: m[..., 0]) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("worlds", [1, 2])
def test_too_few_worlds_give_a_figure_without_an_interval(worlds: int) -> None:
    found = Resampling(worlds, seed=0).estimate(np.ones((worlds, 1)), lambda m: m[..., 0])
    assert found.value == 1.0
    assert found.interval is None


def test_a_figure_that_is_undefined_in_some_resamples_has_no_interval() -> None:
    assert bca(1.0, np.array([1.0, np.nan, 1.2]), np.array([1.0, 1.1])) is None


def test_what_never_varies_has_an_interval_of_one_point() -> None:
    assert bca(2.0, np.full(100, 2.0), np.full(20, 2.0)) == Interval(2.0, 2.0)
