"""How sure a figure over several worlds is: the paired bootstrap over worlds, bias-corrected and accelerated.

Worlds are drawn independently of each other, so they are what is resampled, whole: the requests of one world share its
outages and are anything but independent. All policies play the same worlds (common random numbers), and a resample
takes a world with everything that every policy did in it, so that what is hard for all of them cancels.

The intervals are BCa (Efron, *Better Bootstrap Confidence Intervals*, 1987): shares and ratios over twenty worlds are
skewed, which plain percentiles do not allow for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
CONFIDENCE = 0.95
LEAST_WORLDS = 3
"""Fewer are not resampled: there is too little to draw from."""

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Figures from means over worlds: [..., columns] → [...]. It is smooth, and applied to many resamples at once."""

_NORMAL = NormalDist()


class Interval(msgspec.Struct, frozen=True):
    """Where the figure lies with 95 % confidence."""

    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether all of it is on one side of nothing."""
        return self.low > 0 or self.high < 0


class Estimate(msgspec.Struct, frozen=True):
    """A figure over all worlds together, and its interval; ``None``: too few worlds, or it is undefined in some."""

    value: float
    interval: Interval | None = None


class Resampling:
    """One set of resampled worlds, used for every figure of a report, so that figures can be compared.

    ``worlds`` is how many there are, ``seed`` the generator's.
    """

    def __init__(self, worlds: int, *, seed: int, resamples: int = RESAMPLES) -> None:
        self.worlds = worlds
        self.resamples = resamples
        self._weights: Floats | None = None
        if worlds >= LEAST_WORLDS:
            rng = np.random.default_rng(seed)
            self._weights = rng.multinomial(worlds, np.full(worlds, 1 / worlds), resamples) / worlds

    def estimate(self, columns: Floats, statistic: Statistic) -> Estimate:
        """``statistic`` of the mean of ``columns`` [worlds, columns] over all worlds, with its interval."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(statistic(columns.mean(axis=0)))
            if self._weights is None:
                return Estimate(value)
            drawn = statistic(self._weights @ columns)
            left_out = statistic((columns.sum(axis=0) - columns) / (self.worlds - 1))
        return Estimate(value, bca(value, drawn, left_out))


def bca(value: float, drawn: Floats, left_out: Floats, confidence: float = CONFIDENCE) -> Interval | None:
    """The bias-corrected and accelerated interval.

    ``drawn`` are the resampled figures [resamples], ``left_out`` those with one world left out each [worlds]. ``None``
    where any of them is not a number.
    """
    if not (math.isfinite(value) and np.isfinite(drawn).all() and np.isfinite(left_out).all()):
        return None
    spread = drawn.max() - drawn.min()
    if spread <= 1e-12 * max(1.0, abs(value)):
        return Interval(float(drawn.min()), float(drawn.max()))
    # Ties count half: a figure that many resamples share is neither above nor below.
    below = float(((drawn < value).sum() + 0.5 * (drawn == value).sum()) / len(drawn))
    edge = 1 / len(drawn)
    bias = _NORMAL.inv_cdf(min(max(below, edge), 1 - edge))
    apart = left_out.mean() - left_out
    squares = float((apart**2).sum())
    acceleration = float((apart**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0

    def place(share: float) -> float:
        z = bias + _NORMAL.inv_cdf(share)
        return _NORMAL.cdf(bias + z / (1 - acceleration * z))

    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, (place(tail), place(1 - tail)))
    return Interval(float(low), float(high))
