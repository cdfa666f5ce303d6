"""What the stability field knows of one signal, and how it takes in one value: compiled.

Nothing here depends on the signal's own unit: each is brought to standard units by its own location and scale, which
are Huber's estimates (1981, chapter 6: a value moves them by no more than a bounded one would), with the past forgotten
exponentially. A constant has no scale until it first moves. ``docs/explanation/stability.md`` derives the figures.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from amaru.compiling import inlined

Floats = npt.NDArray[np.float64]

FIRST = 8
"""Values that a signal's units are first taken from. They are taken anew after so many surprises in a row, or twice as
many innovations that are far too small: what was known is of no use then."""
REACH = 7
"""Steps that a phase needs on either side: a Hilbert transformer of 15 taps."""
WAVE = 2 * REACH + 1
PATTERNS = 6
"""Orders that three values can stand in."""

# Columns of `signals` [dimension, N_COLUMNS]; units are the signal's own where it says "own".
(
    SEEN,  # steps since its first value; 0: nothing is known
    KNOWN,  # values ever
    ABSENT,  # steps since its last value
    USED,  # values in use: what the rates of learning follow from
    LOCATION,  # own
    SCALE,  # own, of values; 0: constant
    LEVEL,  # own: the filter's state
    DOUBT,  # the state's variance to that of the observation
    LOG_DRIFT,  # logarithm of the variance of the level's drift in one step to that of the observation
    SPREAD,  # own: standard deviation of innovations; 0: there were none
    LAST,  # the innovation before, in standard deviations, bounded
    SURPRISED,  # surprises in a row
    TINY,  # innovations in a row that are far too small, of values that do change
    LOG_TAIL,  # logarithm of the point that |innovation| exceeds on 2 % of steps, in standard deviations
    PAST,  # exponentially weighted past, in standard units
    TURNS,  # values behind the next three
    MEAN,  # own: rolling mean
    VARIANCE,  # rolling variance, in standard units
    ERROR,  # rolling mean of the squared forecast error, in standard units
    BEFORE,  # own: the last value, and the one before it
    BEFORE_THAT,
    ORDERS,  # decayed counts of PATTERNS
) = range(22)
RECENT = ORDERS + PATTERNS  # own: the last FIRST values, a ring
WAVES = RECENT + FIRST  # the last WAVE values in standard units, a ring
N_COLUMNS = WAVES + WAVE

# Entries of `knobs`.
(
    MEMORY,  # values in use at most
    PAST_STEPS,
    HORIZON,
    ORDER_STEPS,
    WAVE_STEPS,
    WEIGHT_M,
    WEIGHT_C,
    WEIGHT_U,
    WEIGHT_PHI,  # with its sign
    WEIGHT_H,
    WEIGHT_PE,
    BIAS,  # NaN: centred
) = range(12)
N_KNOBS = 12

HUGE = 1e100
"""Values are taken as no larger, so that squares stay finite."""
_TINY = 1e-150
_RESOLUTION = 1e-12
"""A difference that is a smaller share of the values is rounding."""
_BOUND = 2.5
_BOUNDED = 0.977563
"""E[min(z², _BOUND²)] of a standard normal z: makes the bounded scale that of a normal one."""
_PULL = 3.0
"""Standard deviations by which one value moves a location or a level at most."""
_MOST = 1e6
_OF_CONSTANT = 8.0
"""Standard deviations that the first move of a constant counts as."""
_FEW = 6.0
"""An innovation counts for less while its scale is known from few values only."""
_FIRST_DRIFT, _LEAST_DRIFT, _MOST_DRIFT = -3.0, -9.0, 4.0
_DRIFT_RATE, _DRIFT_DOWN = 0.1, 0.02
_TAIL_SHARE, _TAIL_RATE, _TAIL_FROM, _TAIL_STEPS = 0.02, 8.0, 50.0, 2000.0
"""The rate is about the inverse of a normal density there, on a logarithmic axis: Newton's step."""
_TAIL_NORMAL = 2.3263478740408408
_LOG_TAIL_NORMAL = math.log(_TAIL_NORMAL)
_LEAST_POWER, _MOST_POWER, _MOST_NORMAL = 0.4, 1.6, 1e3
_SURPRISING, _TOO_SMALL = 3.0, 0.1
_KEPT = 0.9
"""Share of its values that a signal still uses after a surprise."""
_MOST_UNITS = 6.0
_WIDTH = 2.0
"""Of the similarity's kernel, in standard units."""
_MOST_WAVE = 3.0
_NOTHING = 1e-12
"""A mean squared forecast error that is none."""

_T1, _T3, _T5, _T7 = (
    2.0 / (math.pi * lag) * (0.54 + 0.46 * math.cos(math.pi * lag / REACH)) for lag in range(1, REACH + 1, 2)
)
"""An ideal Hilbert transformer under Hamming's window; even lags are 0."""


@inlined
def clip(value: float, most: float) -> float:
    within: float = min(max(value, -most), most)
    return within


@inlined
def _settle(row: Floats) -> None:
    """Take location, scale and level anew, from the median of the last ``FIRST`` values and their spread about it."""
    # The ring is sorted where it stands: whatever comes next, it is asked again only once all of it is newer.
    for i in range(1, FIRST):
        value = row[RECENT + i]
        j = i - 1
        while j >= 0 and row[RECENT + j] > value:
            row[RECENT + j + 1] = row[RECENT + j]
            j -= 1
        row[RECENT + j + 1] = value
    middle = 0.5 * (row[RECENT + 3] + row[RECENT + 4])
    about = 0.0
    for i in range(FIRST):
        about += abs(row[RECENT + i] - middle) / FIRST
    half = 0.25 * (row[RECENT + 5] + row[RECENT + 6] - row[RECENT + 1] - row[RECENT + 2])
    scale = 1.4826 * max(half, 0.25 * about)
    if scale <= max(_RESOLUTION * abs(middle), _TINY):
        scale = 0.0
    row[LOCATION] = middle
    row[SCALE] = scale
    row[LEVEL] = middle
    row[SPREAD] = scale
    row[DOUBT] = 1.0
    row[LOG_DRIFT] = _FIRST_DRIFT
    row[USED] = FIRST
    row[MEAN] = middle
    for column in (LAST, SURPRISED, TINY, PAST, TURNS, VARIANCE, ERROR):
        row[column] = 0.0


@inlined
def _order(row: Floats, value: float, resolution: float, steps: float) -> None:
    """Count the order that the last three values stand in; equal ones stand as they came."""
    falls = row[BEFORE] < row[BEFORE_THAT] - resolution
    falls_again = value < row[BEFORE] - resolution
    below = value < row[BEFORE_THAT] - resolution
    which = 0
    if falls and falls_again:
        which = 5
    elif falls:
        which = 2 if below else 1
    elif falls_again:
        which = 4 if below else 3
    for i in range(PATTERNS):
        row[ORDERS + i] *= 1.0 - 1.0 / steps
    row[ORDERS + which] += 1.0


@inlined
def entropy(row: Floats) -> float:
    """Permutation entropy of the signal's recent values, in [0, 1]; 0 while too few are known."""
    total = 0.0
    inside = 0.0
    for i in range(PATTERNS):
        count = row[ORDERS + i]
        if count > 0.0:
            total += count
            inside += count * math.log(count)
    if total <= 0.0:
        return 0.0
    return min(max((math.log(total) - inside / total) / math.log(PATTERNS), 0.0), 1.0)


@inlined
def foreseen(row: Floats) -> float:
    """Share of the signal's rolling variance that its forecasts explained, in [0, 1]; 1 where they were exact."""
    if row[ERROR] <= _NOTHING:
        return 1.0
    share: float = max(1.0 - row[ERROR] / max(row[VARIANCE], _NOTHING), 0.0)
    return share


@inlined
def _as_normal(row: Floats, size: float) -> float:
    """``size`` ≥ 0 as a normal innovation would be: above 1 a power law, through the point exceeded on 2 % of steps."""
    normal: float = size
    if size > 1.0:
        power = _LOG_TAIL_NORMAL / max(row[LOG_TAIL], 1e-3)
        normal = min(size ** min(max(power, _LEAST_POWER), _MOST_POWER), _MOST_NORMAL)
    known = row[KNOWN]
    if size > 0.0 and known >= _TAIL_FROM:  # Robbins and Monro, 1951
        exceeds = 1.0 if math.log(size) > row[LOG_TAIL] else 0.0
        row[LOG_TAIL] += _TAIL_RATE / min(known, _TAIL_STEPS) * (exceeds - _TAIL_SHARE)
    return normal


@inlined
def _rescaled(scale: float, size: float, rate: float, resolution: float) -> float:
    """The scale after a value ``size`` times as large."""
    scale *= math.sqrt(1.0 + rate * (min(size * size, _BOUND * _BOUND) / _BOUNDED - 1.0))
    return scale if scale > resolution else 0.0


@inlined
def observe(row: Floats, value: float, ratio: float, knobs: Floats) -> float:
    """Take in one finite value, ``ratio`` usual steps after the one before.

    Gives how far it is from what was expected, in standard deviations of a normal one and ≥ 0; -1: too early to tell.
    """
    value = clip(value, HUGE)
    if row[SEEN] == 0.0:
        row[LOG_TAIL] = _LOG_TAIL_NORMAL
    row[SEEN] += 1.0
    row[ABSENT] = 0.0
    row[RECENT + int(row[KNOWN]) % FIRST] = value
    row[KNOWN] += 1.0
    resolution = max(_RESOLUTION * max(abs(value), abs(row[BEFORE])), _TINY)
    if row[KNOWN] > 2.0:
        _order(row, value, resolution, knobs[ORDER_STEPS])
    changed = value != row[BEFORE]
    row[BEFORE_THAT] = row[BEFORE]
    row[BEFORE] = value
    if row[KNOWN] <= FIRST:
        row[USED] = row[KNOWN]
        if row[KNOWN] == FIRST:
            _settle(row)
        return -1.0

    # Where it stands among the signal's own values.
    deviation = value - row[LOCATION]
    if abs(deviation) <= resolution:
        deviation = 0.0
    elif row[SCALE] <= resolution:
        row[SCALE] = abs(deviation) / _OF_CONSTANT
    units = 0.0 if row[SCALE] <= 0.0 else clip(deviation / row[SCALE], _MOST)

    # The filter: a level that drifts, observed with noise (Harvey, 1989, section 4.1).
    innovation = value - row[LEVEL]
    if abs(innovation) <= resolution:
        innovation = 0.0
    elif row[SPREAD] <= resolution:
        row[SPREAD] = abs(innovation) / _OF_CONSTANT
    drift = math.exp(row[LOG_DRIFT])
    settled = 0.5 * (drift + math.sqrt(drift * drift + 4.0 * drift))
    doubt = row[DOUBT] + drift * ratio
    expected = row[SPREAD] * math.sqrt((1.0 + doubt) / (1.0 + settled))
    raw = 0.0 if expected <= 0.0 else clip(innovation / expected, _MOST)
    standard = raw * math.sqrt(row[USED] / (row[USED] + _FEW))
    normal = _as_normal(row, abs(standard))

    # Is the near future predictable?
    turns = min(row[TURNS] + 1.0, knobs[HORIZON])
    error = 0.0 if row[SCALE] <= 0.0 else clip(innovation / row[SCALE], _MOST_UNITS)
    change = 0.0 if row[SCALE] <= 0.0 else clip((value - row[MEAN]) / row[SCALE], _MOST_UNITS)
    row[TURNS] = turns
    row[MEAN] += change * row[SCALE] / turns
    row[VARIANCE] = (1.0 - 1.0 / turns) * (row[VARIANCE] + change * change / turns)
    row[ERROR] += (error * error - row[ERROR]) / turns

    # Learn: the level by the filter's gain; its drift so that innovations are white; location and scales slowly.
    gain = doubt / (1.0 + doubt)
    row[LEVEL] += gain * clip(raw, _PULL) * expected
    row[DOUBT] = gain
    bounded = clip(standard, _BOUND)
    follows = row[LOG_DRIFT] + _DRIFT_RATE * (bounded * row[LAST] - _DRIFT_DOWN)
    row[LOG_DRIFT] = min(max(follows, _LEAST_DRIFT), _MOST_DRIFT)
    row[LAST] = bounded
    rate = 1.0 / min(row[USED] + 1.0, knobs[MEMORY])
    row[LOCATION] += rate * clip(units, _PULL) * row[SCALE]
    row[SPREAD] = _rescaled(row[SPREAD], raw, rate, resolution)
    row[SCALE] = _rescaled(row[SCALE], units, rate, resolution)
    row[USED] = min(row[USED] + 1.0, knobs[MEMORY])
    if normal > _SURPRISING:
        row[USED] = max(row[USED] * _KEPT, float(FIRST))
    row[SURPRISED] = row[SURPRISED] + 1.0 if abs(raw) > _SURPRISING else 0.0
    if abs(raw) >= _TOO_SMALL:
        row[TINY] = 0.0
    elif changed:
        row[TINY] += 1.0
    if row[SURPRISED] >= FIRST or row[TINY] >= 2 * FIRST:
        _settle(row)
    return normal


@inlined
def miss(row: Floats, ratio: float, knobs: Floats) -> None:
    """Take in that there was no value. A signal away for as long as the memory is forgotten."""
    if row[SEEN] == 0.0:
        return
    row[SEEN] += 1.0
    row[ABSENT] += 1.0
    row[USED] -= row[USED] / knobs[MEMORY]
    row[DOUBT] += math.exp(row[LOG_DRIFT]) * ratio
    if row[ABSENT] > knobs[MEMORY]:
        for column in range(N_COLUMNS):
            row[column] = 0.0


@inlined
def in_units(row: Floats, value: float) -> float:
    """``value`` in the signal's standard units, bounded."""
    return 0.0 if row[SCALE] <= 0.0 else clip((value - row[LOCATION]) / row[SCALE], _MOST_UNITS)


@inlined
def similarity(row: Floats, units: float, knobs: Floats) -> float:
    """Gaussian kernel between the value and the exponentially weighted past, in [0, 1]; the past then takes it in."""
    away = units - row[PAST]
    row[PAST] += away / knobs[PAST_STEPS]
    return math.exp(-away * away / (2.0 * _WIDTH * _WIDTH))


@inlined
def phase(row: Floats, units: float, now: int) -> tuple[float, float]:
    """Put one value in place ``now`` of the ring; real and imaginary part of the analytic signal ``REACH`` steps ago.

    Both 0 while the ring is not full.
    """
    row[WAVES + now] = clip(units, _MOST_WAVE)
    if row[SEEN] < WAVE:
        return 0.0, 0.0
    mean = 0.0
    for i in range(WAVE):
        mean += row[WAVES + i]
    centre = now + WAVE - REACH
    imaginary = (
        _T1 * (row[WAVES + (centre - 1) % WAVE] - row[WAVES + (centre + 1) % WAVE])
        + _T3 * (row[WAVES + (centre - 3) % WAVE] - row[WAVES + (centre + 3) % WAVE])
        + _T5 * (row[WAVES + (centre - 5) % WAVE] - row[WAVES + (centre + 5) % WAVE])
        + _T7 * (row[WAVES + (centre - 7) % WAVE] - row[WAVES + (centre + 7) % WAVE])
    )
    return row[WAVES + centre % WAVE] - mean / WAVE, imaginary
