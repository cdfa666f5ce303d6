"""How sure a difference between two replays is, as far as two runs can tell.

A run is resampled in blocks of neighbouring intervals (the circular block bootstrap: Politis and Romano, 1992, after
Künsch, 1989), since what happens to requests that are due at about the same time is anything but independent: an outage
strikes thousands of them at once, and resampling them one by one would make every difference look certain. A block is
the cube root of the number of intervals long, the longest of the orders that Hall, Horowitz and Jing (1995) derive. Two
runs of the same requests are resampled together, so that the traffic's own ups and downs cancel.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from amaru.learning.intervals import CONFIDENCE, Interval
from amaru.readiness.replay_data import ReplayReport
from amaru.readiness.replay_series import HISTOGRAM_BINS, HISTOGRAM_FROM_S, HISTOGRAM_RATIO, Series

DRAWS = 2000
LEAST_INTERVALS = 10
"""Runs of fewer are not resampled: there is too little to draw from."""

Array = npt.NDArray[np.floating[Any]]  # Any: numpy's precision


class Differences(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals of what the second run has more than the first; ``None``: there is nothing to resample."""

    goodput_share: Interval | None = None
    first_token_p50_s: Interval | None = None
    first_token_p95_s: Interval | None = None
    block_s: float | None = None
    """How long the blocks were that were resampled."""


def differences(a: ReplayReport, b: ReplayReport, *, seed: int = 0) -> Differences:
    """Resample two runs of the same trace, second less first."""
    counts = len(a.series.sent), len(b.series.sent)
    if min(counts) < LEAST_INTERVALS:
        return Differences()
    rng = np.random.default_rng(seed)
    first = _weights(rng, counts[0])
    second = first if _paired(a.series, b.series) else _weights(rng, counts[1])
    return Differences(
        goodput_share=_interval(_goodput(b, second) - _goodput(a, first)),
        first_token_p50_s=_interval(_first_token_s(b, second, 0.50) - _first_token_s(a, first, 0.50)),
        first_token_p95_s=_interval(_first_token_s(b, second, 0.95) - _first_token_s(a, first, 0.95)),
        block_s=_block(counts[0]) * a.series.interval_s,
    )


def _paired(a: Series, b: Series) -> bool:
    """Whether their intervals hold the same requests, but for a few at the edges."""
    return len(a.sent) == len(b.sent) and math.isclose(a.interval_s, b.interval_s, rel_tol=0.02)


def _block(count: int) -> int:
    return math.ceil(math.cbrt(count))


def _weights(rng: np.random.Generator, count: int) -> Array:
    """How often each of ``count`` intervals is in each of ``DRAWS`` resampled runs; shape (draws, intervals)."""
    block = _block(count)
    starts = rng.integers(0, count, (DRAWS, math.ceil(count / block)))
    drawn = ((starts[:, :, None] + np.arange(block)) % count).reshape(DRAWS, -1)[:, :count]
    weights = np.zeros((DRAWS, count))
    np.add.at(weights, (np.arange(DRAWS)[:, None], drawn), 1.0)
    return weights


def _goodput(report: ReplayReport, weights: Array) -> Array:
    """Share of good answers in each resampled run; shape (draws,). What was never sent is spread evenly."""
    series, summary = report.series, report.summary
    sent = weights @ np.asarray(series.sent, np.float64)
    offered = sent * (1 + summary.dropped / summary.sent if summary.sent else 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share: Array = weights @ np.asarray(series.good, np.float64) / offered
    return share


def _first_token_s(report: ReplayReport, weights: Array, share: float) -> Array:
    """Quantile of the time to first token in each resampled run; shape (draws,), NaN where none was measured."""
    histograms = np.zeros((len(report.series.sent), HISTOGRAM_BINS))
    for place, bins in enumerate(report.series.first_token_histograms):
        for bin_, count in bins.items():
            histograms[place, bin_] = count
    up_to = np.cumsum(weights @ histograms, axis=1)
    total = up_to[:, -1]
    wanted = share * total
    found = np.minimum((up_to < wanted[:, None]).sum(axis=1), HISTOGRAM_BINS - 1)
    rows = np.arange(len(weights))
    below = np.where(found > 0, up_to[rows, found - 1], 0.0)
    within = np.maximum(up_to[rows, found] - below, 1e-12)
    value_s: Array = HISTOGRAM_FROM_S * HISTOGRAM_RATIO ** (found + (wanted - below) / within)
    return np.where(total > 0, value_s, np.nan)


def _interval(drawn: Array) -> Interval | None:
    known = drawn[np.isfinite(drawn)]
    if len(known) < DRAWS // 2:
        return None
    low, high = np.quantile(known, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Interval(float(low), float(high))
