"""Change detection: the evidence is an e-process, so the budget of false alarms holds."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pattern_samples import seen

from amaru.domain import FailureKind
from amaru.health import change_kernels as k
from amaru.health.changes import Changes
from amaru.health.pattern_types import SIGNALS, PatternSettings

bets = st.integers(min_value=0, max_value=k.N_BETS - 1)


@given(bets, st.floats(min_value=k.least_p0(k.SHAPE), max_value=0.9), st.floats(min_value=0.0, max_value=1.0))
def test_yes_or_no_bets_gain_nothing_at_any_usual_rate(bet: int, p0: float, part: float) -> None:
    p = part * p0
    mean = p * math.exp(k._bet(bet, True, 1.0, p0)) + (1.0 - p) * math.exp(k._bet(bet, True, 0.0, p0))
    assert mean <= 1.0 + 1e-9


QUANTILES = (np.arange(20_000) + 0.5) / 20_000
NOISES = {
    "uniform": math.sqrt(12.0) * (QUANTILES - 0.5),
    "exponential": -np.log1p(-QUANTILES) - 1.0,
    "Laplace": np.sign(QUANTILES - 0.5) * -np.log1p(-2.0 * np.abs(QUANTILES - 0.5)) / math.sqrt(2.0),
    "normal": np.array([NormalDist().inv_cdf(q) for q in QUANTILES]),
}


@given(bets, st.sampled_from(sorted(NOISES)), st.floats(min_value=k.LEAST_MU, max_value=k.MOST_MU))
def test_continuous_bets_gain_nothing_on_noise_of_any_usual_form(bet: int, name: str, mu: float) -> None:
    held = np.clip(NOISES[name], -k.MOST_Z, k.MOST_Z)
    gains = np.exp([k._bet(bet, False, z, mu) for z in held[::20].tolist()])
    assert float(gains.mean()) < 1.0


def test_the_evidence_of_calm_is_no_more_than_the_time_that_passed() -> None:
    # R minus the time passed is a supermartingale: over many offers its mean stays below the time.
    draws = np.random.default_rng(7)
    offers = [f"p/{i}" for i in range(300)]
    changes = Changes(PatternSettings(), offers)
    for i in range(200):
        for row, offer in enumerate(offers):
            bad = draws.random() < 0.02
            changes.observe(seen(offer, float(i), FailureKind.CONNECT if bad else None), row)
    evidence = [changes.row(row)[k.ERRORS, k.NOW :].sum() for row in range(len(offers))]
    assert np.mean(evidence) < 200.0


def test_the_threshold_follows_from_the_budget() -> None:
    changes = Changes(PatternSettings(false_alarms_per_day=0.5), ["p/a", "p/b"])
    assert math.exp(changes.threshold) == pytest.approx(86400.0 * 2 * len(SIGNALS) / 0.5)
    stricter = Changes(PatternSettings(false_alarms_per_day=0.1), ["p/a", "p/b"])
    assert stricter.threshold > changes.threshold


def test_what_is_known_stays_where_offers_come_and_go() -> None:
    changes = Changes(PatternSettings(), ["p/a", "p/b"])
    for i in range(50):
        changes.observe(seen("p/b", float(i)), 1)
    before = changes.row(1).copy()
    changes.set_offers(["p/c", "p/b"])
    assert changes.row_of("p/a") is None
    assert np.array_equal(changes.row(1), before, equal_nan=True)
    assert changes.row(0)[:, k.SEEN].max() == 0.0


def test_an_offer_that_was_idle_for_days_is_still_known() -> None:
    changes = Changes(PatternSettings(), ["p/a"])
    draws = np.random.default_rng(3)

    def observe(at: float) -> None:
        changes.observe(seen("p/a", at, latency_ms=float(1000.0 * draws.lognormal(0.0, 0.3))), 0)

    for i in range(300):
        observe(float(i))
    for i in range(300):
        observe(5 * 86_400.0 + i)
    assert changes.alarms() == []
    assert changes.row(0)[k.LATENCY, k.SD] == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize(("load_told", "named"), [(True, False), (False, True)])
def test_an_offer_that_is_slower_only_because_it_is_asked_more_is_well(load_told: bool, named: bool) -> None:
    changes = Changes(PatternSettings(), ["p/a"])
    draws = np.random.default_rng(4)
    for i in range(1200):
        load = float(draws.uniform(0.8, 1.0) if i >= 900 else draws.uniform(0.1, 0.4))
        latency_ms = float(1000.0 * (1.0 + load**2) * draws.lognormal(0.0, 0.3))
        changes.observe(seen("p/a", float(i), latency_ms=latency_ms, load=load if load_told else 0.0), 0)
    assert any(alarm.signal == k.LATENCY for alarm in changes.alarms()) is named


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0.0, 1e9), st.booleans()), max_size=60))
def test_figures_stay_finite_whatever_is_observed(attempts: list[tuple[float, float, bool]]) -> None:
    changes = Changes(PatternSettings(), ["p/a"])
    for at, ms, ok in attempts:
        changes.observe(seen("p/a", at, None if ok else FailureKind.RESET, latency_ms=ms), 0)
    rest = np.delete(changes.row(0), k.ALARM, axis=1)
    assert np.isfinite(rest).all()
    assert (rest[:, k.BEFORE - 1 :] >= 0.0).all()
