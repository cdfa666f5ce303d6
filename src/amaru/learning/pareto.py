"""Fronts of cost, latency and success: which points no other beats, and how much they cover.

Points are rows (cost, latency, success): the first two are to be low, the third high.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from amaru.learning.intervals import Floats

Bools = NDArray[np.bool_]
MARGIN = 0.1
"""The reference point lies by this part of the range beyond the worst seen on each axis."""


def lattice(at_least: int) -> Floats:
    """Weights over the simplex, evenly spread [n, 3], each row summing to 1: the smallest simplex lattice with
    ``at_least`` points (Das and Dennis, *Normal-Boundary Intersection*, 1998), its three corners among them.

    >>> lattice(3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    parts = 1
    while math.comb(parts + 2, 2) < at_least:
        parts += 1
    rows = [(a, b, parts - a - b) for a in range(parts, -1, -1) for b in range(parts - a, -1, -1)]
    return np.array(rows, np.float64) / parts


def non_dominated(points: Floats) -> Bools:
    """[n]: whether no other row of ``points`` [n, 3] is at least as good on every axis and better on one."""
    losses = _losses(points)
    no_worse = (losses[:, None, :] <= losses[None, :, :]).all(axis=2)
    better = (losses[:, None, :] < losses[None, :, :]).any(axis=2)
    return np.asarray(~(no_worse & better).any(axis=0))


def reference_beyond(points: Floats, margin: float = MARGIN) -> tuple[float, float, float]:
    """A point that is worse than every row of ``points`` on every axis, by ``margin`` of the range there.

    Ishibuchi et al. (*How to Specify a Reference Point in Hypervolume Calculation*, 2018) give the reason for being a
    little beyond: at the worst itself, the ends of a front would cover nothing.
    """
    losses = _losses(points)
    worst, best = losses.max(axis=0), losses.min(axis=0)
    cost, latency, failure = worst + margin * np.maximum(worst - best, 1e-9)
    return float(cost), float(latency), float(-failure)


def hypervolume(points: Floats, reference: tuple[float, float, float]) -> float:
    """The volume that ``points`` [n, 3] dominate, up to ``reference``; in USD · ms · share. Exact.

    Slices along the third axis (as in Beume et al., *On the Complexity of Computing the Hypervolume Indicator*, 2009,
    without its tree): between two neighbouring successes the points up to there dominate a staircase of cost and
    latency, whose area is kept up as points come in. O(n²).
    """
    bound = _losses(np.array([reference]))[0]
    losses = _losses(points)
    inside = losses[(losses < bound).all(axis=1)]
    inside = inside[np.argsort(inside[:, 2], kind="stable")]
    stairs: list[tuple[float, float]] = []  # cost rising, latency falling
    area = volume = 0.0
    for place, (cost, latency, failure) in enumerate(inside.tolist()):
        if not any(left <= cost and low <= latency for left, low in stairs):
            kept = [(left, low) for left, low in stairs if left < cost or low < latency]
            stairs = sorted([*kept, (cost, latency)])
            area = _area(stairs, bound[0], bound[1])
        up_to = inside[place + 1, 2] if place + 1 < len(inside) else bound[2]
        volume += area * (up_to - failure)
    return float(volume)


def box(points: Floats, reference: tuple[float, float, float]) -> float:
    """The volume between ``reference`` and the best of ``points`` on each axis; no front covers more than 1 of it."""
    return float(np.prod(np.maximum(_losses(np.array([reference]))[0] - _losses(points).min(axis=0), 0.0)))


def _area(stairs: list[tuple[float, float]], cost: float, latency: float) -> float:
    area, right = 0.0, cost
    for left, low in reversed(stairs):
        area += (right - left) * (latency - low)
        right = left
    return area


def _losses(points: Floats) -> Floats:
    losses: Floats = points * np.array([1.0, 1.0, -1.0])
    return losses
