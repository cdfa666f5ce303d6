"""The estimators: their algebra, what they refuse, and that their intervals hold what they promise."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amaru.learning.off_policy import (
    Floats,
    Logged,
    SupportError,
    check_support,
    evaluate,
    predict,
    support,
)

OFFERS = 5


class Bandit:
    """Offers whose worth depends on a figure that is known and on one that is not; every value is known here.

    Like a gateway's: one offer promises most and is logged nearly always, another one keeps more of less.
    """

    def __init__(self, seed: int, decisions: int, *, floor: float = 0.1) -> None:
        rng = np.random.default_rng(seed)
        self.promised = np.array([0.9, 0.85, 0.8, 0.6, 0.5]) + rng.uniform(-0.2, 0.2, (decisions, OFFERS))
        served = np.array([0.6, 0.95, 0.9, 0.99, 0.7])
        best = self.promised.argmax(axis=1)
        self.propensities = np.full((decisions, OFFERS), floor / OFFERS)
        self.propensities[np.arange(decisions), best] += 1.0 - floor
        drawn = (self.propensities.cumsum(axis=1) < rng.random((decisions, 1))).sum(axis=1).clip(max=OFFERS - 1)
        self.expected = served * self.promised
        ok = rng.random(decisions) < served[drawn]
        rows = np.arange(decisions)
        self.logged = Logged(
            starts=np.arange(decisions + 1) * OFFERS,
            offer=np.tile(np.arange(OFFERS), decisions),
            features=self.promised.reshape(-1, 1),
            supported=self.propensities.reshape(-1) > 0.0,
            chosen=rows * OFFERS + drawn,
            propensity=self.propensities[rows, drawn],
            reward=np.where(ok, self.promised[rows, drawn], 0.0),
        )

    def target(self, offer: int) -> Floats:
        """Always this offer, with a tenth of the mass on the most promising one."""
        share = np.zeros_like(self.expected)
        share[:, offer] += 0.9
        share[np.arange(len(share)), self.promised.argmax(axis=1)] += 0.1
        return share.reshape(-1)

    def value(self, target: Floats) -> float:
        return float((target.reshape(self.expected.shape) * self.expected).sum(axis=1).mean())


def one_decision(propensities: Floats, rewards: Floats, chosen: int) -> Logged:
    n = len(rewards)
    return Logged(
        starts=np.array([0, n]),
        offer=np.arange(n),
        features=np.zeros((n, 1)),
        supported=propensities > 0.0,
        chosen=np.array([chosen]),
        propensity=propensities[[chosen]],
        reward=rewards[[chosen]],
    )


shares = arrays(np.float64, 4, elements=st.floats(0.05, 1.0)).map(lambda x: x / x.sum())
worths = arrays(np.float64, 4, elements=st.floats(-1.0, 2.0))


@given(shares, shares, worths, worths)
def test_ips_and_dr_are_unbiased_whatever_the_model_says(
    propensities: Floats, target: Floats, rewards: Floats, predicted: Floats
) -> None:
    """In expectation over what is taken, by enumeration."""
    ips = dr = 0.0
    for chosen in range(4):
        found = evaluate(one_decision(propensities, rewards, chosen), target, predicted, least_effective=0.0)
        ips += propensities[chosen] * found.ips.value
        dr += propensities[chosen] * found.dr.value
    assert ips == pytest.approx(target @ rewards, abs=1e-9)
    assert dr == pytest.approx(target @ rewards, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.floats(-2.0, 2.0))
def test_snips_shifts_with_the_rewards_and_dr_with_a_model_that_shifts_along(seed: int, shift: float) -> None:
    bandit = Bandit(seed, 300)
    target = bandit.target(1)
    shifted = dataclasses.replace(bandit.logged, reward=bandit.logged.reward + shift)
    nothing = np.zeros(len(target))
    before = evaluate(bandit.logged, target, nothing, least_effective=0.0, resamples=10)
    after = evaluate(shifted, target, nothing + shift, least_effective=0.0, resamples=10)
    assert after.snips.value == pytest.approx(before.snips.value + shift, abs=1e-9)
    assert after.dr.value == pytest.approx(before.dr.value + shift, abs=1e-9)


def test_the_logging_policy_itself_is_worth_what_was_seen() -> None:
    bandit = Bandit(1, 500)
    found = evaluate(bandit.logged, bandit.propensities.reshape(-1), np.zeros(500 * OFFERS))
    assert found.ips == found.snips == found.logged
    assert found.dr == found.logged  # of a model that knows nothing
    assert found.gain.value == pytest.approx(0.0, abs=1e-12)
    assert found.support.effective == pytest.approx(500)
    assert found.support.mean == pytest.approx(1.0)


def test_a_policy_that_always_differs_is_told_of_by_the_floors_share() -> None:
    """N decisions with floor ε over n offers: Nε/n, as the guide says."""
    n, floor = 20_000, 0.1
    bandit = Bandit(12, n, floor=floor)
    other = np.zeros((n, OFFERS))
    other[np.arange(n), (bandit.promised.argmax(axis=1) + 1) % OFFERS] = 1.0
    assert support(bandit.logged, other.reshape(-1)).effective == pytest.approx(n * floor / OFFERS, rel=0.15)


def test_dr_with_a_perfect_model_of_sure_rewards_has_no_error() -> None:
    bandit = Bandit(2, 300)
    sure = dataclasses.replace(bandit.logged, reward=bandit.expected.reshape(-1)[bandit.logged.chosen])
    target = bandit.target(3)
    found = evaluate(sure, target, bandit.expected.reshape(-1), least_effective=1.0)
    assert found.dr.value == pytest.approx(bandit.value(target), abs=1e-12)
    assert found.direct == pytest.approx(found.dr.value, abs=1e-12)


@pytest.mark.parametrize("offer", [1, 3])
def test_intervals_cover_the_truth_as_often_as_they_say(offer: int) -> None:
    """200 logs of 1,500 decisions; 95 % intervals may miss 10 of them on average, and rarely (1e-3) more than 20."""
    truth = Bandit(10_000, 200_000)
    value = truth.value(truth.target(offer))
    missed = dict.fromkeys(("ips", "snips", "dr"), 0)
    widths: dict[str, list[float]] = {name: [] for name in missed}
    for seed in range(200):
        bandit = Bandit(seed, 1_500)
        found = evaluate(
            bandit.logged, bandit.target(offer), predict(bandit.logged), least_effective=20.0, resamples=500
        )
        for name in missed:
            interval = getattr(found, name).interval
            missed[name] += not interval.low <= value <= interval.high
            assert interval.low <= getattr(found, name).value <= interval.high
            widths[name].append(interval.high - interval.low)
    assert max(missed.values()) <= 20, missed
    # The better estimators are narrower; that is what they are for.
    assert np.mean(widths["dr"]) < 1.05 * np.mean(widths["snips"]) < 0.6 * np.mean(widths["ips"])


def test_gain_is_paired_so_it_is_surer_than_the_difference_of_the_two() -> None:
    bandit = Bandit(3, 4_000)
    target = 0.9 * bandit.propensities.reshape(-1) + 0.1 * bandit.target(1)
    found = evaluate(bandit.logged, target, predict(bandit.logged))
    assert found.gain.interval is not None
    assert found.dr.interval is not None
    assert found.gain.value == pytest.approx(found.dr.value - found.logged.value)
    assert found.gain.interval.high - found.gain.interval.low < found.dr.interval.high - found.dr.interval.low


def test_predictions_do_not_see_their_own_fold() -> None:
    bandit = Bandit(4, 500)
    before = predict(bandit.logged)
    reward = bandit.logged.reward.copy()
    reward[:100] += 5.0  # the first of five folds
    after = predict(dataclasses.replace(bandit.logged, reward=reward))
    in_first = slice(0, 100 * OFFERS)
    assert np.allclose(before[in_first], after[in_first])
    assert not np.allclose(before[100 * OFFERS :], after[100 * OFFERS :])


def test_an_offer_that_was_never_taken_is_predicted_as_all_are() -> None:
    bandit = Bandit(5, 2_000)
    unseen = bandit.logged.offer[bandit.logged.chosen] == 1
    kept = np.flatnonzero(~unseen)
    starts = np.concatenate(([0], np.cumsum(np.full(len(kept), OFFERS))))
    rows = (kept[:, None] * OFFERS + np.arange(OFFERS)).reshape(-1)
    logged = Logged(
        starts=starts,
        offer=bandit.logged.offer[rows],
        features=bandit.logged.features[rows],
        supported=bandit.logged.supported[rows],
        chosen=starts[:-1] + bandit.logged.chosen[kept] % OFFERS,
        propensity=bandit.logged.propensity[kept],
        reward=bandit.logged.reward[kept],
    )
    predicted = predict(logged).reshape(-1, OFFERS)
    others = np.delete(predicted, 1, axis=1)
    assert others.mean(axis=1).min() < predicted[:, 1].mean() < others.max()


def test_folds_of_offers_come_out_the_same_whatever_their_order() -> None:
    bandit = Bandit(6, 400)
    turned = (np.arange(400)[:, None] * OFFERS + np.arange(OFFERS)[::-1]).reshape(-1)
    logged = dataclasses.replace(
        bandit.logged,
        offer=bandit.logged.offer[turned],
        features=bandit.logged.features[turned],
        supported=bandit.logged.supported[turned],
        chosen=bandit.logged.starts[:-1] + OFFERS - 1 - bandit.logged.chosen % OFFERS,
    )
    target = bandit.target(2)
    first = evaluate(bandit.logged, target, predict(bandit.logged), least_effective=1.0)
    second = evaluate(logged, target[turned], predict(logged), least_effective=1.0)
    assert first.dr.value == pytest.approx(second.dr.value, abs=1e-9)
    assert first.direct == pytest.approx(second.direct, abs=1e-9)


# ---- what is refused --------------------------------------------------------------------------------------------


def test_a_target_on_offers_that_could_not_be_taken_is_refused() -> None:
    bandit = Bandit(7, 1_000, floor=0.0)
    assert support(bandit.logged, bandit.target(3)).share < 0.2
    with pytest.raises(SupportError, match="could not have been taken"):
        evaluate(bandit.logged, bandit.target(3), np.zeros(5_000))


def test_without_exploration_the_logging_policy_can_still_be_judged() -> None:
    bandit = Bandit(7, 1_000, floor=0.0)
    found = evaluate(bandit.logged, bandit.propensities.reshape(-1), np.zeros(5_000))
    assert found.support.share == 1.0


def test_too_small_an_effective_sample_is_refused_with_both_figures() -> None:
    bandit = Bandit(8, 400, floor=0.02)
    with pytest.raises(SupportError, match=r"too few of the 400 logged decisions.* 50 are needed"):
        evaluate(bandit.logged, bandit.target(3), np.zeros(2_000))


def test_no_decision_at_all_is_refused() -> None:
    nothing = Bandit(9, 0).logged
    with pytest.raises(SupportError, match="no decision"):
        check_support(nothing, np.empty(0))


@pytest.mark.parametrize(
    "broken",
    [
        {"propensity": np.zeros(10)},
        {"propensity": np.full(10, 1.5)},
        {"reward": np.full(10, np.nan)},
        {"chosen": np.arange(10)},
        {"starts": np.arange(11)},
        {"supported": np.ones(3, dtype=bool)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"propensit|finite|candidate|fit"):
        dataclasses.replace(Bandit(9, 10).logged, **broken)


@pytest.mark.parametrize("target", [np.zeros(50), np.full(50, 0.3), np.full(7, 1.0)])
def test_a_target_that_is_no_distribution_is_refused(target: Floats) -> None:
    with pytest.raises(ValueError, match="probabilit"):
        check_support(Bandit(9, 10).logged, target)
