"""How rare a step is: the signals' innovations as one figure, and its probability by its own past. Compiled.

The tail is that of Siffer, Fouque, Termier and Largouet, *Anomaly Detection in Streams with Extreme Value Theory*
(KDD 2017): exceedances over a high threshold follow a generalised Pareto distribution.
"""

from __future__ import annotations

import math

from amaru.compiling import inlined
from amaru.stability.signal_kernels import Floats, clip

# Entries of `past`.
(
    HELD,  # values in `calm`
    NEXT,  # where the next one goes
    SINCE,  # steps since a rare one
    TAKEN,  # steps since a rare one was taken into it
) = range(4)
N_PAST = 4

NOTICE, ALARM = 0.7, 1.5
"""PE at a probability of 1 % and of 0.01 %."""
_PER_NINE, _PER_RARER_NINE = 0.35, 0.4
MOST_NINES = 16.0
_EXCEEDING, _LEAST_EXCEEDING = 0.03, 15
"""Share of the past that the tail is fitted to, and how many these must be."""
_SHAPE, _SHAPE_COUNTS = 0.0, 30.0
"""The tail's shape before it is known (exponential), and the exceedances that this counts as."""
_HEAVIER = 0.5
"""Standard errors by which the shape is taken as heavier: with the likeliest one, too much would exceed on average."""
_MEDIANS = 16.0
"""Exceedances count as no larger than so many of their medians: one outlier must not make a tail."""
_OFTEN = 3
"""What was reached so many times is not rarer than that, whatever the tail is like. An incident has a begin and an end,
so the first one alone does not make the second less of a surprise."""
_ABOUT = 0.8
"""What is beyond all of them has been seen before where something about as far beyond has."""
_PRIOR_STEPS = 300.0
"""Past at which its own tail counts as much as the nominal one."""
_LEAST_PAST = 15.0
_UNSURE = 2.0
"""The nominal tail is taken as wider by so much over the square root of the past, as scales are new too."""
_USUAL_90 = math.sqrt(2.0 * math.log(15.0))
"""The joint surprise that is exceeded on 10 % of steps, if signals are independent and normal."""
_LEARNS_ALL = 256.0
"""Values up to which the past takes in everything."""
_RARE, _APART, _LASTING = 1.1, 64.0, 256.0
"""Of steps above this PE (0.1 %) with fewer than so many between them only the first is taken into the past, and then
one in so many: an incident must not teach that it is usual, unless it is."""


@inlined
def _log_upper(z: float) -> float:
    """-ln P(Z > z) of a standard normal Z."""
    if z < 5.0:
        return -math.log(0.5 * math.erfc(z / math.sqrt(2.0)))
    return 0.5 * z * z + math.log(z * math.sqrt(2.0 * math.pi)) + math.log1p(1.0 / (z * z))


@inlined
def joint_surprise(squares: float, largest: float, count: int) -> float:
    """How far out ``count`` innovations are: sqrt(-2 ln p) of the rarer of their sum of squares and their largest.

    p is what it is if they are independent and normal (Wilson and Hilferty, 1931; Šidák, 1967). They need not be: what
    follows only compares this figure with its own past.
    """
    width = 2.0 / (9.0 * count)
    together = _log_upper(((squares / count) ** (1.0 / 3.0) - (1.0 - width)) / math.sqrt(width))
    alone = math.erfc(largest / math.sqrt(2.0))
    if alone < 1e-9:
        farthest = _log_upper(largest) - math.log(2.0 * count)
    elif alone < 0.999999:
        farthest = -math.log(-math.expm1(count * math.log1p(-alone)))
    else:
        farthest = 0.0
    return math.sqrt(2.0 * max(together, farthest, 0.0))


@inlined
def _below(ranked: Floats, held: int, value: float) -> int:
    """How many of the first ``held`` values, ascending, are smaller."""
    low, high = 0, held
    while low < high:
        middle = (low + high) // 2
        if ranked[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def _most_excess(threshold: float, ranked: Floats, first: int, held: int) -> float:
    """The largest exceedance that counts as it is."""
    most: float = _MEDIANS * (ranked[first + (held - first) // 2] - threshold)
    return most


@inlined
def _log_tail(joint: float, threshold: float, ranked: Floats, first: int, held: int) -> float:
    """-ln P(joint surprise > ``joint``), given that it is above the threshold; fitted to ``ranked[first:held]``.

    By moments (Hosking and Wallis, 1987), the shape drawn to an exponential one's while the exceedances are few.
    """
    count = held - first
    most = _most_excess(threshold, ranked, first, held)
    mean = 0.0
    square = 0.0
    for i in range(first, held):
        excess = min(ranked[i] - threshold, most)
        mean += excess / count
        square += excess * excess / count
    if mean <= 0.0:
        return 0.0
    variance = square - mean * mean
    shape = 0.0 if variance <= 0.0 else clip(0.5 * (1.0 - mean * mean / variance), 0.4)
    counts = count + _SHAPE_COUNTS
    shape = (count * shape + _SHAPE_COUNTS * _SHAPE) / counts + _HEAVIER / math.sqrt(counts)
    excess = (joint - threshold) / (mean * (1.0 - shape))
    if abs(shape) < 1e-6:
        return excess
    return math.log(max(1.0 + shape * excess, 1e-12)) / shape


@inlined
def nines(joint: float, ranked: Floats, past: Floats) -> float:
    """-log10 of the probability of so large a joint surprise, in [0, MOST_NINES]."""
    held = int(past[HELD])
    wider = 1.0 + _UNSURE / math.sqrt(held + 1.0)
    if held >= _LEAST_PAST:
        wider *= max(ranked[int(0.9 * held)] / _USUAL_90, 1.0)
    rare = max(0.5 * (joint / wider) ** 2 - math.log(1.5), 0.0)
    exceeding = int(_EXCEEDING * held)
    first = held - exceeding
    if exceeding >= _LEAST_EXCEEDING:
        threshold = ranked[first - 1]
        if joint <= threshold:
            own = -math.log((held - _below(ranked, held, joint) + 0.5) / (held + 1.0))
        else:
            own = math.log(held / exceeding) + _log_tail(joint, threshold, ranked, first, held)
        prior = 1.0 / (1.0 + (held / _PRIOR_STEPS) ** 2)
        rare = prior * rare + (1.0 - prior) * own
    about = joint
    if exceeding >= 1:
        beyond = _most_excess(ranked[first - 1], ranked, first, held) + ranked[first - 1]
        about = min(joint, beyond + _ABOUT * (joint - beyond))
    again = held - _below(ranked, held, about)
    if again >= _OFTEN:  # whatever the tail is like, this has been seen
        rare = min(rare, math.log((held + 1.0) / (again - 1.0)))
    figure: float = min(max(rare / math.log(10.0), 0.0), MOST_NINES)
    return figure


@inlined
def prediction_error(rarity: float) -> float:
    """PE of a step that is so many nines rare: ``NOTICE`` at 1 %, ``ALARM`` at 0.01 %."""
    return _PER_NINE * rarity if rarity <= 2.0 else NOTICE + _PER_RARER_NINE * (rarity - 2.0)


@inlined
def remember(joint: float, surprise: float, past: Floats, calm: Floats, ranked: Floats) -> None:
    """Put one joint surprise, of that PE, in the place of the oldest of ``calm``; ``ranked`` stays sorted."""
    past[SINCE] += 1.0
    past[TAKEN] += 1.0
    if surprise > _RARE and past[HELD] >= _LEARNS_ALL:
        lone = past[SINCE] >= _APART
        past[SINCE] = 0.0
        if not lone and past[TAKEN] < _LASTING:
            return
        past[TAKEN] = 0.0
    held, place = int(past[HELD]), int(past[NEXT])
    gap = held
    if held < len(calm):
        held += 1
        past[HELD] = held
    else:
        gap = _below(ranked, held, calm[place])
    calm[place] = joint
    past[NEXT] = (place + 1) % len(calm)
    while gap > 0 and ranked[gap - 1] > joint:
        ranked[gap] = ranked[gap - 1]
        gap -= 1
    while gap < held - 1 and ranked[gap + 1] < joint:
        ranked[gap] = ranked[gap + 1]
        gap += 1
    ranked[gap] = joint
