"""What a policy would have been worth on decisions that another one made: pure estimators on arrays.

A decision was logged with the offers that could serve, the one that was taken, the probability with which it was taken
(its *propensity*) and what it was worth (its *reward*). A *target* gives each of these offers a probability of its
own. With ``w`` the target's probability of the offer taken over its propensity, and ``r`` the reward:

- **IPS**, the mean of ``w·r`` (Horvitz and Thompson, *A Generalization of Sampling Without Replacement from a Finite
  Universe*, 1952). Unbiased where every offer that the target may take could be taken; wide.
- **SNIPS**, the same over the mean of ``w`` (Swaminathan and Joachims, *The Self-Normalized Estimator for
  Counterfactual Learning*, 2015). A bias that vanishes with n buys much variance, and rewards may be shifted freely.
- **DR**, doubly robust: what a model of the reward predicts for the target, corrected by ``w`` times what it got wrong
  where it could be held against the reward (Dudík, Langford and Li, *Doubly Robust Policy Evaluation and Learning*,
  2011). Unbiased whatever the model is worth; the better the model, the narrower. The prediction alone is shown as the
  *direct method*; it is as wrong as the model, so no interval is given.

The model is a ridge regression per offer on the residuals of a ridge regression over all offers, on the features that
it is given. A table of means per offer, the simpler choice, does not know the figures of the moment, and rewards move
with them; of an offer that was hardly seen the ridge falls back to what all offers show. It is cross-fitted
(Chernozhukov et al., *Double/debiased machine learning*, 2018): no decision is predicted by a model that saw it. Folds
are consecutive decisions, because neighbours in time share what befell them.

Intervals are BCa bootstraps over blocks of consecutive decisions, n^(1/3) each and at most ``MOST_BLOCKS`` of them
(Künsch, *The Jackknife and the Bootstrap for General Stationary Observations*, 1989), so that outages that strike many
decisions in a row count as what they are. Empirical-Bernstein bounds were rejected: they hold for every n, but with
weights up to n/ε they are several times wider than the utility's own range at 10,000 decisions.

Where the target would take what could not be taken, no weighting helps: ``SupportError``.
"""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
from numpy.typing import NDArray

from amaru.errors import AmaruError
from amaru.learning.intervals import CONFIDENCE, Interval, bca

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FOLDS = 5
RIDGE = 10.0
"""Of both regressions: an offer's own model counts for half where so many of its rewards were seen."""
RESAMPLES = 2_000
MOST_BLOCKS = 2_000
LEAST_EFFECTIVE = 50.0
"""With a smaller effective sample the bootstrap has too little to draw from, and nothing is estimated."""
MOST_UNSUPPORTED = 0.001
"""Of the target's mass on offers that could not be taken. Rewards lie in about [0, 1], so this is the bias left."""


class SupportError(AmaruError):
    """The logged decisions say nothing, or too little, of what the target would do; the message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Logged:
    """N logged decisions with M candidates in all, in order of time.

    Attributes
    ----------
    starts
        [N+1]: the candidates of decision i are ``starts[i]:starts[i+1]``, at least one each.
    offer
        [M] which offer each candidate is, from 0.
    features
        [M, F] what the reward is predicted from, known before the decision. A constant is added.
    supported
        [M] it could have been taken: its propensity was above 0.
    chosen
        [N] the candidate taken, as an index into the M.
    propensity
        [N] of the one taken; in (0, 1].
    reward
        [N] about 0 to 1.

    Raises
    ------
    ValueError
        Arrays that do not fit together, a propensity outside (0, 1], a reward that is not finite.
    """

    starts: Ints
    offer: Ints
    features: Floats
    supported: Bools
    chosen: Ints
    propensity: Floats
    reward: Floats

    def __post_init__(self) -> None:
        n, m = len(self.reward), len(self.offer)
        if not (len(self.starts) == n + 1 and len(self.chosen) == len(self.propensity) == n):
            raise ValueError(f"starts, chosen and propensity do not fit the {n} rewards")
        if not (len(self.features) == len(self.supported) == m) or self.starts[0] != 0 or self.starts[-1] != m:
            raise ValueError(f"starts, features and supported do not fit the {m} candidates")
        if np.any(np.diff(self.starts) < 1):
            raise ValueError("every decision needs a candidate")
        if np.any(self.chosen < self.starts[:-1]) or np.any(self.chosen >= self.starts[1:]):
            raise ValueError("the candidate taken is not one of its decision")
        if not (np.all(self.propensity > 0.0) and np.all(self.propensity <= 1.0)):
            raise ValueError("propensities lie in (0, 1]")
        if not (np.isfinite(self.reward).all() and np.isfinite(self.features).all()):
            raise ValueError("rewards and features must be finite")

    def __len__(self) -> int:
        return len(self.reward)

    def per_decision(self, values: Floats) -> Floats:
        """Sums over each decision's candidates: [M] → [N]."""
        return np.add.reduceat(values, self.starts[:-1]) if len(self) else np.empty(0)


class Estimated(msgspec.Struct, frozen=True):
    """A value, and where it lies with 95 % confidence; ``None``: too few decisions to say."""

    value: float
    interval: Interval | None


class Support(msgspec.Struct, frozen=True):
    """How far the logged decisions reach towards the target.

    Attributes
    ----------
    share
        Of the target's mass, how much lies on offers that could be taken.
    effective
        Effective sample size, (Σw)²/Σw² (Kish, 1965): how many decisions by the target itself would tell as much.
    largest, mean
        Of the weights w. The mean is 1 in expectation; where it is not, propensities are wrong.
    agreement
        Share of decisions whose offer the target might have taken.
    """

    share: float
    effective: float
    largest: float
    mean: float
    agreement: float


class Evaluation(msgspec.Struct, frozen=True):
    """What a target would have been worth.

    Attributes
    ----------
    decisions
        How many were judged.
    logged
        What the decisions as they were made were worth.
    ips, snips, dr
        The estimators; ``dr`` is the one to quote.
    gain
        ``dr`` less ``logged``, decision by decision.
    direct
        The reward model's own word, which may be biased.
    """

    decisions: int
    logged: Estimated
    ips: Estimated
    snips: Estimated
    dr: Estimated
    gain: Estimated
    direct: float
    support: Support


def predict(logged: Logged, *, folds: int = FOLDS, ridge: float = RIDGE) -> Floats:
    """What each candidate would have been worth: [M], each predicted without the fold that its decision is in.

    Needs memory for ``folds`` models per offer, whatever the number of decisions.
    """
    n = len(logged)
    x = np.column_stack((np.ones(len(logged.offer)), logged.features))
    width = x.shape[1]
    offers = int(logged.offer.max(initial=0)) + 1
    fold_of = np.arange(n) * folds // max(n, 1)
    # Sums of squares and products by fold and offer; what is left out is subtracted from the whole.
    seen_x, seen_offer = x[logged.chosen], logged.offer[logged.chosen]
    squares = np.zeros((folds, offers, width, width))
    products = np.zeros((folds, offers, width))
    for fold in range(folds):
        for offer in np.unique(seen_offer[fold_of == fold]):
            where = (fold_of == fold) & (seen_offer == offer)
            squares[fold, offer] = seen_x[where].T @ seen_x[where]
            products[fold, offer] = seen_x[where].T @ logged.reward[where]
    squares, products = squares.sum(axis=0) - squares, products.sum(axis=0) - products
    penalty = ridge * np.eye(width)
    # Nothing seen is predicted as nothing; the constant of the whole is hardly held back.
    common_penalty = penalty.copy()
    common_penalty[0, 0] = 1e-6
    common = np.linalg.solve(squares.sum(axis=1) + common_penalty, products.sum(axis=1)[..., None])[..., 0]
    left = products - np.einsum("foij,fj->foi", squares, common)
    own = np.linalg.solve(squares + penalty, left[..., None])[..., 0]
    fold_of_candidate = np.repeat(fold_of, np.diff(logged.starts))
    weights = common[:, None, :] + own
    predicted: Floats = np.einsum("mi,mi->m", x, weights[fold_of_candidate, logged.offer])
    return predicted


def support(logged: Logged, target: Floats) -> Support:
    """How far the logged decisions reach towards ``target`` [M], each decision's probabilities."""
    weights = target[logged.chosen] / logged.propensity
    squares = float((weights**2).sum())
    return Support(
        share=float(target[logged.supported].sum() / max(target.sum(), 1e-300)),
        effective=float(weights.sum()) ** 2 / squares if squares > 0.0 else 0.0,
        largest=float(weights.max(initial=0.0)),
        mean=float(weights.mean()) if len(logged) else 0.0,
        agreement=float((weights > 0.0).mean()) if len(logged) else 0.0,
    )


def check_support(logged: Logged, target: Floats, *, least_effective: float = LEAST_EFFECTIVE) -> Support:
    """``support``, where it suffices.

    Raises
    ------
    ValueError
        ``target`` is not one distribution per decision.
    SupportError
        More than ``MOST_UNSUPPORTED`` of the target's mass lies where nothing was ever taken, or the effective sample
        is smaller than ``least_effective``.
    """
    if target.shape != logged.offer.shape or not np.all((target >= 0.0) & (target <= 1.0 + 1e-9)):
        raise ValueError("the target needs one probability per candidate")
    if not np.allclose(logged.per_decision(target), 1.0, atol=1e-6):
        raise ValueError("the target's probabilities must sum to 1 in each decision")
    found = support(logged, target)
    if len(logged) == 0:
        raise SupportError("there is no decision with an outcome and a known propensity to judge it by.")
    if 1.0 - found.share > MOST_UNSUPPORTED:
        raise SupportError(
            f"{1.0 - found.share:.1%} of its choices are offers that could not have been taken when the decisions were "
            "logged, so nothing is known of them. Let the gateway explore (routing.exploration above 0) and log anew."
        )
    if found.effective < least_effective:
        raise SupportError(
            f"its choices agree with too few of the {len(logged):,} logged decisions: they tell as much as "
            f"{found.effective:.1f} decisions of its own, and {least_effective:g} are needed. "
            "Log longer, or explore more (routing.exploration)."
        )
    return found


def evaluate(
    logged: Logged,
    target: Floats,
    predicted: Floats,
    *,
    seed: int = 0,
    least_effective: float = LEAST_EFFECTIVE,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Evaluation:
    """Estimate what ``target`` would have been worth.

    Parameters
    ----------
    target
        [M] its probability of each candidate; they sum to 1 in each decision.
    predicted
        [M] of ``predict``, or any other prediction that did not see the decision's own reward.
    seed
        Of the resamples.

    Raises
    ------
    ValueError, SupportError
        See ``check_support``.
    """
    found = check_support(logged, target, least_effective=least_effective)
    weights = target[logged.chosen] / logged.propensity
    direct = logged.per_decision(target * predicted)
    terms = direct + weights * (logged.reward - predicted[logged.chosen])
    one = np.ones(len(logged))
    blocks = _Blocks(len(logged), seed, resamples, confidence)
    ends = (min(float(logged.reward.min()), 0.0), max(float(logged.reward.max()), 1.0))
    by_themselves = _extremes(logged.reward, one, ends)
    by_target = _extremes(logged.reward, weights, ends)
    return Evaluation(
        decisions=len(logged),
        logged=blocks.ratio(logged.reward, one, by_themselves),
        ips=blocks.ratio(weights * logged.reward, one, by_target),
        snips=blocks.ratio(weights * logged.reward, weights, by_target),
        dr=blocks.ratio(terms, one, by_target),
        gain=blocks.ratio(terms - logged.reward, one, by_target),
        direct=float(direct.mean()),
        support=found,
    )


def _extremes(reward: Floats, weights: Floats, ends: tuple[float, float]) -> Floats:
    """What a worst and a best decision of the effective sample would move Σ``weights·reward`` by: [2]."""
    mean = float((weights * reward).sum() / weights.sum())
    typical = float((weights**2).sum() / weights.sum())
    return typical * (np.array(ends) - mean)


class _Blocks:
    """One set of resampled blocks of consecutive decisions, used for every figure of an evaluation.

    Failures are rare, and an offer that was hardly taken may not have shown one: the bootstrap cannot draw what is not
    there. So one decision more of each extreme is there to be drawn, worth nothing and worth all that there is, with
    the weight of a typical decision of the effective sample (what Agresti and Coull, *Approximate Is Better than
    "Exact"*, 1998, do for shares). Where none of thirty has failed, resamples then hold none to three that did.
    """

    def __init__(self, decisions: int, seed: int, resamples: int, confidence: float) -> None:
        length = max(round(decisions ** (1 / 3)), -(-decisions // MOST_BLOCKS))
        self._starts = np.arange(0, decisions, length)
        self._confidence = confidence
        count = len(self._starts) + 2
        rng = np.random.default_rng(seed)
        self._drawn = rng.multinomial(count, np.full(count, 1 / count), resamples).astype(np.float64)

    def ratio(self, above: Floats, below: Floats, extremes: Floats) -> Estimated:
        """Σabove/Σbelow, both [N]; ``extremes`` [2] are what else may be drawn into the upper sum."""
        a, b = np.add.reduceat(above, self._starts), np.add.reduceat(below, self._starts)
        value = float(a.sum() / b.sum())
        if len(a) < 3:
            return Estimated(value, None)
        a, b = np.append(a, extremes), np.append(b, (0.0, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = (self._drawn @ a) / (self._drawn @ b)
            left_out = (a.sum() - a) / (b.sum() - b)
        found = bca(float(a.sum() / b.sum()), drawn, left_out, self._confidence)
        if found is None:
            return Estimated(value, None)
        return Estimated(value, Interval(min(found.low, value), max(found.high, value)))
