"""Quantiles of a stream in constant memory: a histogram of logarithms that forgets.

Bins are equally wide in the logarithm, so a quantile is off by a bounded ratio and no more: that of half a bin (as
in DDSketch: Masson, Rim and Lee, VLDB 2019). Weights grow with time instead of fading (forward decay: Cormode et al.,
ICDE 2009), so an update touches one bin, and late observations get the weight that they would have had.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from amaru.compiling import inlined

Floats = NDArray[np.float64]

N_BINS = 128
LEAST_MS, MOST_MS = 1.0, 600_000.0
"""What is shorter or longer falls into the first or the last bin."""
_WIDTH = math.log(MOST_MS / LEAST_MS) / N_BINS
RELATIVE_ERROR = math.exp(0.5 * _WIDTH) - 1.0
"""A quantile between the bounds is within 5.4 % of an observed value of that rank."""
HALF_LIFE_S = 600.0
"""In the offer's own time: 30 answers at least, where they are rare."""
_MOST_HALF_LIVES = 32.0


@inlined
def add(slot: int, histogram: int, ms: float, own_s: float, landmark_s: float, bins: Floats) -> None:
    """Take in one duration, as of ``own_s``."""
    place = int(math.log(min(max(ms, LEAST_MS), MOST_MS) / LEAST_MS) / _WIDTH)
    bins[slot, histogram, min(max(place, 0), N_BINS - 1)] += 2.0 ** ((own_s - landmark_s) / HALF_LIFE_S)


@inlined
def moved_landmark(slot: int, own_s: float, landmark_s: float, bins: Floats) -> float:
    """The landmark to use from now on: weights are scaled down before they grow too large."""
    halvings = (own_s - landmark_s) / HALF_LIFE_S
    if halvings < _MOST_HALF_LIVES:
        return landmark_s
    scale = 2.0**-halvings
    for histogram in range(bins.shape[1]):
        for place in range(N_BINS):
            bins[slot, histogram, place] *= scale
    return own_s


@inlined
def quantile(bins: Floats, slot: int, histogram: int, q: float) -> float:
    """The q-quantile in ms; NaN where nothing was observed."""
    total = 0.0
    for place in range(N_BINS):
        total += bins[slot, histogram, place]
    if not total > 0.0:
        return math.nan
    below = 0.0
    last = 0
    for place in range(N_BINS):
        if bins[slot, histogram, place] > 0.0:
            last = place
            below += bins[slot, histogram, place]
            if below >= q * total:
                break
    return LEAST_MS * math.exp((last + 0.5) * _WIDTH)
