"""How unlike the past the last few rows are, compiled: nearest likeness in memory, and how rare such a distance is.

Distances are kept by lag, not by place: ``apart[scale, lag]`` is the exponentially weighted sum of absolute differences
between the rows up to now and the rows that many earlier. Each new row decays it and adds one difference, so every
window of every scale is compared with all of memory in one pass, with no subtraction that could lose digits.
``docs/explanation/anomaly.md`` says why each step is there.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from amaru.compiling import compiled, inlined

Floats = npt.NDArray[np.float64]
Lags = npt.NDArray[np.int64]

# Entries of `whole`.
(
    ROWS,  # kept ever
    SLOT,  # where the next one goes
    FIRST_AT,  # earliest instant known; NaN: none
    ALARM_ROW,  # row of the last alarm
    ALARM,  # its surprise
    SURPRISE,  # of the last row: -log10 of its probability
) = range(6)
N_WHOLE = 6

# Columns of `signals` [dimension, N_SIGNAL].
(WEIGHT, MEAN, VARIANCE) = range(3)
N_SIGNAL = 3

# Entries of `knobs`.
(
    SEASON_S,
    SEASON_WITHIN_S,
    SEASON_SHARE,  # weight of the season's view
    ALARM_FROM,  # surprise, where _LEVEL_ROWS rows are known
    ALARM_FALL,
    REST_ROWS,
    REST_SHARE,
    REST_MARGIN,
    FORGET_ROWS,
    GROWTH,  # of the weight of each row over the one before
) = range(10)
N_KNOBS = 10

BINS = 1024
"""Of a tail's histogram: one for zero, the others by the logarithm."""
PER_OCTAVE = 8
# What follows the bins in a row of `tails`.
(UNIT, TOP, COUNT, TOTAL, NEW) = range(BINS, BINS + 5)
N_TAIL = BINS + 5

HUGE = 1e100
_FEW = 10
"""Windows in memory before any distance counts."""
_WARM = 20.0
"""Distances before one of them can be rare."""
_LEVEL_ROWS, _LEVEL_LEAST = 1000.0, 100.0
"""Rows at which the probability that alarms is what was set, and from which on it falls."""
_BY_CHANCE = 2.0 / math.sqrt(math.pi)
"""Mean distance of two independent normal values, in standard deviations."""
_TAIL_SHARE, _TAIL_LEAST = 0.02, 5.0
_SPREAD, _SPREAD_COUNTS = 0.4, 30.0
"""Mean log-excess of a tail before it is known, and the exceedances that this counts as."""
_DAYS = 2.0
"""Seasons that must have begun before they are compared."""
_MOST_WEIGHT = 1e100
_ROUNDING_S = 1e-3
_OCTAVE = math.log10(2.0)


@inlined
def guard(half_life: float) -> int:
    """Rows that a neighbour must lie back: nearer ones are the same event."""
    return max(2, int(2.0 * half_life))


@inlined
def depth(half_life: float) -> int:
    """Rows that a window must have behind it: one cut off by the beginning of memory is too easily alike."""
    return int(2.5 * guard(half_life))


@compiled()
def step(
    x: Floats,
    at: float,
    values: Floats,
    clock: Floats,
    apart: Floats,
    gaps: Floats,
    mates: Lags,
    half_lives: Floats,
    tails: Floats,
    signals: Floats,
    whole: Floats,
    knobs: Floats,
) -> float:
    """Take in a row ``x`` (NaN: missing) at ``at`` (Unix s, NaN: unknown); its score."""
    if math.isnan(whole[FIRST_AT]):
        whole[FIRST_AT] = at
    _compare(x, values, gaps, signals, whole, knobs[GROWTH])
    scales, memory, ever = len(half_lives), len(clock), int(whole[ROWS])
    found = 0
    if at - whole[FIRST_AT] >= _DAYS * knobs[SEASON_S]:
        found = _same_time(at, clock, mates, whole, knobs)
    # Weighted harmonic mean of all probabilities (Wilson, 2019), on logarithms.
    joined, weight = -math.inf, 0.0
    for scale in range(scales):
        least = guard(half_lives[scale])
        most = ever - depth(half_lives[scale]) if ever < memory else memory - 1
        _fade(apart[scale], gaps, 0.5 ** (1.0 / half_lives[scale]), min(ever, memory - 1))
        if most - least >= _FEW:
            rarity = _rarity(tails[scale], _closest(apart[scale], least, most), knobs[GROWTH])
            joined = _joined(joined, rarity + math.log10(1.0 - knobs[SEASON_SHARE]))
            weight += 1.0 - knobs[SEASON_SHARE]
        nearest = _nearest(apart[scale], mates, found, least, most)
        if nearest < math.inf and knobs[SEASON_SHARE] > 0.0:
            rarity = _rarity(tails[scales + scale], nearest, knobs[GROWTH])
            joined = _joined(joined, rarity + math.log10(knobs[SEASON_SHARE]))
            weight += knobs[SEASON_SHARE]
    whole[SURPRISE] = max(joined - math.log10(weight), 0.0) if weight > 0.0 else 0.0
    _keep(x, at, values, clock, whole)
    return _score(whole, knobs)


@inlined
def _joined(one: float, other: float) -> float:
    """log10(10^one + 10^other)."""
    highest = max(one, other)
    return highest + math.log10(1.0 + 10.0 ** (min(one, other) - highest))


@inlined
def _fade(apart: Floats, gaps: Floats, decay: float, most: int) -> None:
    for lag in range(1, most + 1):
        apart[lag] = decay * apart[lag] + gaps[lag]


@inlined
def _compare(x: Floats, values: Floats, gaps: Floats, signals: Floats, whole: Floats, growth: float) -> None:
    """``gaps[lag]``: absolute difference to the row ``lag`` back, over what both have.

    Where that is nothing, they count as far apart as two rows by chance.
    """
    memory, dimension = values.shape
    slot = int(whole[SLOT])
    for signal in range(dimension):
        if dimension > 1 and not math.isnan(x[signal]):
            _spread(signals[signal], x[signal], growth)
    for lag in range(1, min(int(whole[ROWS]), memory - 1) + 1):
        row = slot - lag if lag <= slot else slot - lag + memory
        total, known = 0.0, 0
        for signal in range(dimension):
            difference = x[signal] - values[row, signal]
            if math.isnan(difference):
                continue
            known += 1
            if dimension == 1:
                total = abs(difference)
            elif signals[signal, VARIANCE] > 0.0:
                total += abs(difference) / math.sqrt(signals[signal, VARIANCE])
        gaps[lag] = total * dimension / known if known > 0 else _BY_CHANCE * dimension


@inlined
def _spread(signal: Floats, x: float, growth: float) -> None:
    """Decayed variance of one of several signals, which makes them comparable."""
    signal[WEIGHT] = signal[WEIGHT] / growth + 1.0
    off = x - signal[MEAN]
    signal[MEAN] += off / signal[WEIGHT]
    signal[VARIANCE] += (off * (x - signal[MEAN]) - signal[VARIANCE]) / signal[WEIGHT]


@inlined
def _same_time(at: float, clock: Floats, mates: Lags, whole: Floats, knobs: Floats) -> int:
    """How many lags lead to this time of other seasons, and in ``mates`` which."""
    memory, slot, found = len(clock), int(whole[SLOT]), 0
    per_s, within = 1.0 / knobs[SEASON_S], (knobs[SEASON_WITHIN_S] + _ROUNDING_S) / knobs[SEASON_S]
    for lag in range(1, min(int(whole[ROWS]), memory - 1) + 1):
        seasons = (at - clock[slot - lag if lag <= slot else slot - lag + memory]) * per_s
        if abs(seasons - math.floor(seasons + 0.5)) <= within and seasons > 0.5:
            mates[found] = lag
            found += 1
    return found


@inlined
def _closest(apart: Floats, least: int, most: int) -> float:
    """The smallest of the distances at these lags; four at a time, since each comparison waits for the one before."""
    first = second = third = fourth = math.inf
    lag = least
    while lag + 3 <= most:
        first = min(first, apart[lag])
        second = min(second, apart[lag + 1])
        third = min(third, apart[lag + 2])
        fourth = min(fourth, apart[lag + 3])
        lag += 4
    while lag <= most:
        first = min(first, apart[lag])
        lag += 1
    return min(first, second, third, fourth)


@inlined
def _nearest(apart: Floats, mates: Lags, found: int, least: int, most: int) -> float:
    """The smallest of the distances at the lags in ``mates``."""
    nearest = math.inf
    for place in range(found):
        if least <= mates[place] <= most:
            nearest = min(nearest, apart[mates[place]])
    return nearest


@inlined
def _rarity(tail: Floats, distance: float, growth: float) -> float:
    """-log10 of how often the stream is at least so far from its past; then counts this one too.

    By rank among all before, and beyond their 98 % point by a Pareto tail with Hill's estimate (Hill, 1975).
    """
    place = 0.0
    if distance > 0.0:
        octaves = math.log2(distance)
        if math.isnan(tail[UNIT]):
            tail[UNIT] = octaves
        place = min(max(PER_OCTAVE * (octaves - tail[UNIT]) + BINS // 2, 1.0), BINS - 1.0)
    rarity = _looked_up(tail, place) if tail[COUNT] >= _WARM else 0.0
    tail[int(place)] += tail[NEW]
    tail[TOTAL] += tail[NEW]
    tail[COUNT] += 1.0
    tail[TOP] = max(tail[TOP], math.floor(place))
    tail[NEW] *= growth
    if tail[NEW] > _MOST_WEIGHT:
        for entry in range(BINS):
            tail[entry] /= tail[NEW]
        tail[TOTAL] /= tail[NEW]
        tail[NEW] = 1.0
    return rarity


@inlined
def _looked_up(tail: Floats, place: float) -> float:
    total = tail[TOTAL]
    own, needed, one = int(place), max(_TAIL_SHARE * total, _TAIL_LEAST * total / tail[COUNT]), total / tail[COUNT]
    mass, moment, above, entry = 0.0, 0.0, 0.0, int(tail[TOP])
    while True:
        if entry > own:
            above += tail[entry]
        mass += tail[entry]
        moment += tail[entry] * (entry + 0.5)
        if entry == 0 or mass >= needed:
            break
        entry -= 1
    if entry > 0 and place > entry:
        known = mass / one
        excess = (moment / mass - entry) * math.log(2.0) / PER_OCTAVE
        spread = (excess * known + _SPREAD * _SPREAD_COUNTS) / (known + _SPREAD_COUNTS)
        beyond: float = (place - entry) * _OCTAVE / PER_OCTAVE / spread
        return beyond - math.log10(mass / total)
    for farther in range(entry - 1, own, -1):
        above += tail[farther]
    return -math.log10((above + 0.5 * tail[own] + 0.5 * one) / (total + one))


@inlined
def _keep(x: Floats, at: float, values: Floats, clock: Floats, whole: Floats) -> None:
    slot = int(whole[SLOT])
    for signal in range(len(x)):
        values[slot, signal] = x[signal]
    clock[slot] = at
    whole[SLOT] = (slot + 1) % len(clock)
    whole[ROWS] += 1.0


@inlined
def _score(whole: Floats, knobs: Floats) -> float:
    """0.5 where the surprise reaches its level; after an alarm, for a while, 0 unless it is clearly more surprising."""
    surprise, row = whole[SURPRISE], whole[ROWS] - 1.0
    known = max(min(row, knobs[FORGET_ROWS]), _LEVEL_LEAST)
    # Half is the most that is called improbable: below, the level could be nothing, and any row alarm.
    level = max(knobs[ALARM_FROM] + knobs[ALARM_FALL] * math.log10(known / _LEVEL_ROWS), _OCTAVE)
    if surprise >= level:
        rest = min(knobs[REST_ROWS], knobs[REST_SHARE] * row)
        if row - whole[ALARM_ROW] < rest and surprise <= whole[ALARM] + knobs[REST_MARGIN]:
            return 0.0
        whole[ALARM_ROW] = row
        whole[ALARM] = surprise
    score: float = surprise / (surprise + level)
    return score
