"""What our anomaly scorer is measured beside: each gives a row a score from the rows up to it, and from nothing later.

Their own parameters are the best of those named, on the series that ours was tuned on too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from anomaly_rule import Floats, Series

Peer = Callable[[Series], Floats]

SEED = 20150
REST_ROWS, REST_SHARES = 150, (0.05, 0.1)
"""A rest's length and share of the rows so far: of the shares, each has the one that is best for it."""
GAUSSIAN_ROWS = 1024
"""Of 128, 256, 512, 1024, 2048 and 6400 rows."""
HAZARD_ROWS = 250
"""Rows between two changes that are expected beforehand: what the benchmark's own contender has."""
LONGEST_RUN = 500
KAPPA, ALPHA, BETA = 0.1, 1.0, 1.0
"""Of the conjugate prior, in units of everything before: a tenth of a row's worth of mean. Sharper is no better."""
GAMMA_RATIOS = np.array([math.lgamma(ALPHA + (n + 1) / 2) - math.lgamma(ALPHA + n / 2) for n in range(LONGEST_RUN)])
"""log Γ(α + ½) − log Γ(α) of a run of n rows."""
TREES = {"n_trees": 25, "height": 8, "window_size": 500}
"""Of 10 and 25 trees, heights 6 and 8, windows of 100, 250, 500 and 600 rows; best where it rests."""
INSTALL = "HalfSpaceTrees are River's: python -m pip install river (or --target FOLDER, with PYTHONPATH=FOLDER)"


def windowed_gaussian(series: Series, rows: int = GAUSSIAN_ROWS) -> Floats:
    """Deviation from the mean of the last ``rows``, in their standard deviations."""
    values, scores = series.values, np.zeros(len(series.values))
    for row in range(2, len(values)):
        window = values[max(0, row - rows) : row]
        spread = float(window.std())
        off = abs(float(values[row] - window.mean()))
        scores[row] = off / spread if spread > 0.0 else (math.inf if off > 0.0 else 0.0)
    return scores


def change_point(series: Series) -> Floats:
    """Bayesian online change-point detection (Adams and MacKay, 2007, arXiv:0710.3742), values in units of all before.

    Each run is normal with unknown mean and variance, so it predicts by Student's t. The score is how improbable the
    row is under all runs together: that does better than the probability of a recent change (31 points against 19 on
    the tuning series).
    """
    scores = np.zeros(len(series.values))
    chance = np.ones(1)
    mean, kappa, alpha, beta = np.zeros(1), np.full(1, KAPPA), np.full(1, ALPHA), np.full(1, BETA)
    centre, squares = 0.0, 0.0
    for row, value in enumerate(series.values.tolist()):
        seen = row + 1
        off = value - centre
        centre += off / seen
        squares += off * (value - centre)
        x = (value - centre) / math.sqrt(squares / seen) if squares > 0.0 else 0.0
        freedom, spread = 2.0 * alpha, beta * (kappa + 1.0) / (alpha * kappa)
        logs = (
            GAMMA_RATIOS[: len(alpha)]
            - 0.5 * np.log(freedom * np.pi * spread)
            - (alpha + 0.5) * np.log1p((x - mean) ** 2 / (freedom * spread))
        )
        most = float(logs.max())
        weighted = chance * np.exp(logs - most)
        total = float(weighted.sum())
        scores[row] = -(math.log(total) + most)
        chance = np.append(total / HAZARD_ROWS, weighted * (1.0 - 1.0 / HAZARD_ROWS))[:LONGEST_RUN]
        chance /= chance.sum()
        grown = kappa + 1.0
        beta = np.append(BETA, beta + kappa * (x - mean) ** 2 / (2.0 * grown))[:LONGEST_RUN]
        mean = np.append(0.0, (kappa * mean + x) / grown)[:LONGEST_RUN]
        kappa = np.append(KAPPA, grown)[:LONGEST_RUN]
        alpha = np.append(ALPHA, alpha + 0.5)[:LONGEST_RUN]
    return scores


def half_space_trees(series: Series, **trees: int) -> Floats:
    """River's HalfSpaceTrees (Tan, Ting and Liu, 2011) behind its MinMaxScaler, as its documentation has it."""
    try:
        from river import anomaly, compose, preprocessing
    except ImportError as error:
        raise SystemExit(f"{error}. {INSTALL}") from None
    model = compose.Pipeline(preprocessing.MinMaxScaler(), anomaly.HalfSpaceTrees(seed=SEED, **(trees or TREES)))
    scores = np.zeros(len(series.values))
    for row, value in enumerate(series.values.tolist()):
        seen = {"value": value}
        scores[row] = model.score_one(seen)
        model.learn_one(seen)
    return scores


def chance(series: Series) -> Floats:
    """Random scores; the same for a series in every run."""
    return np.random.default_rng([SEED, *series.name.encode()]).random(len(series.values))


def rested(scores: Floats, share: float, rows: int = REST_ROWS) -> Floats:
    """With a rest as ours takes it after an alarm: for so many rows nothing scores but what scores higher."""
    kept = np.zeros(len(scores))
    held, since = -math.inf, -math.inf
    for row, score in enumerate(scores.tolist()):
        if row - since >= min(rows, share * row) or score > held:
            kept[row], held, since = score, score, row
    return kept


PEERS: Sequence[tuple[str, Peer]] = (
    ("HalfSpaceTrees", half_space_trees),
    ("windowed Gaussian", windowed_gaussian),
    ("Bayesian change-point", change_point),
    ("random", chance),
)
