"""One step of the stability field, compiled: every figure of a reading from one vector of signals.

Nothing here is in the signals' own units: a signal multiplied or shifted gives the same reading. What follows is kept
per signal, in a row of ``signals``; of the whole, in ``whole``; and the past of the joint surprise, in ``calm`` (a
ring) and ``ranked`` (the same values, ascending). ``docs/explanation/stability.md`` derives each figure.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from amaru.compiling import compiled, inlined

Floats = npt.NDArray[np.float64]

FIRST = 8
"""Values that a signal's units are first taken from, and taken anew from after so many surprises in a row."""
REACH = 7
"""Steps that a phase needs on either side: a Hilbert transformer of 15 taps."""
WAVE = 2 * REACH + 1
PATTERNS = 6
"""Orders that three values can stand in."""

# Columns of `signals` [dimension, N_COLUMNS]; units are the signal's own where it says "own".
(
    SEEN,  # steps since its first value
    KNOWN,  # values ever
    USED,  # values in use: what the rates of learning follow from
    LOCATION,  # own
    SCALE,  # own, of values; 0: constant
    LEVEL,  # own: the filter's state
    DOUBT,  # the state's variance to that of the observation
    LOG_DRIFT,  # logarithm of the drift's variance in one step to that of the observation
    SPREAD,  # own: standard deviation of innovations; 0: none so far
    LAST,  # the innovation before, in standard units, bounded
    ROW,  # surprises in a row
    LOG_TAIL,  # logarithm of the 98 % point of |innovation| in standard units
    PAST,  # exponentially weighted past, in standard units
    TURNS,  # values behind the next three
    MEAN,  # rolling mean of the value in standard units
    VARIANCE,  # rolling variance
    ERROR,  # rolling mean of the squared one-step forecast error
    BEFORE,  # own: the last value, and the one before it
    BEFORE_THAT,
    ORDERS,  # decayed counts of PATTERNS
) = range(20)
RECENT = ORDERS + PATTERNS  # own: the last FIRST values, a ring
WAVES = RECENT + FIRST  # the last WAVE values in standard units, a ring
N_COLUMNS = WAVES + WAVE

# Entries of `whole`.
(
    STEPS,  # taken ever
    AT,  # instant of the last one; NaN: unknown
    SPACING_S,  # usual time between two
    PACE,  # share of it that the next step should take
    HELD,  # values in `calm`
    NEXT,  # where the next one goes
    SINCE,  # steps since an alarm was taken into it
    COHERENCE,  # smoothed order parameter
    COHERENT_FOR,  # steps behind it
    SPACED,  # times between two steps behind SPACING_S
    OFFSET,  # what centring has learned
    CENTRED,  # steps behind it
) = range(12)
N_WHOLE = 12

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

# Figures of a reading.
(PE, C, U, PHI, H, M, DT_EFF, PSI) = range(8)
N_FIGURES = 8

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
_MOST = 40.0
_OF_CONSTANT = 8.0
"""Standard deviations that the first move of a constant counts as."""
_MOST_NORMAL = 12.0
_NEW_VALUES = 6.0
_DRIFT_RATE, _DRIFT_DOWN, _LEAST_DRIFT, _MOST_DRIFT = 0.1, 0.02, -9.0, 4.0
_FIRST_DRIFT = -3.0
_TAIL_SHARE, _TAIL_RATE, _TAIL_STEPS = 0.02, 8.0, 2000.0
_LOG_TAIL_NORMAL = math.log(2.3263478740408408)
_LEAST_POWER, _MOST_POWER = 0.4, 1.6
_SURPRISING, _FORGETS = 3.0, 0.9
_MOST_UNITS = 6.0
_WIDTH = 2.0
"""Of the similarity's kernel, in standard units."""
_MOST_WAVE = 3.0
_STILL = 1e-6
_TAPS = tuple(2.0 / (math.pi * n) * (0.54 + 0.46 * math.cos(math.pi * n / (REACH + 1))) for n in range(1, REACH + 1, 2))
"""Ideal Hilbert transformer at odd lags, under Hamming's window (Oppenheim and Schafer, 2010, section 12.4)."""
_T1, _T3, _T5, _T7 = _TAPS

ALARM, NOTICE = 1.5, 0.7
"""PE at a probability of 0.01 % and of 1 %."""
_EXCEEDING, _LEAST_EXCEEDING = 0.03, 15
_XI, _XI_COUNTS = -0.1, 60.0
"""The tail's shape before it is known (that of a normal one), and the exceedances that this counts as."""
_PRIOR_STEPS = 300.0
_UNSURE = 2.0
_USUAL_90 = math.sqrt(2.0 * math.log(15.0))
"""The joint surprise that is exceeded on 10 % of steps, if signals are independent and normal."""
_LEARNS_ALL = 1024.0
"""Values of the past up to which it takes in everything."""
_APART = 64
"""Of alarms closer together only the first is taken into the past: an incident must not teach that it is usual."""
_MOST_NINES = 16.0

CALM_C, CALM_U, CALM_H, CALM_PE = 0.891, 0.0, 0.992, 0.152
"""What independent normal noise reads, on average."""
LOGIT = math.log(4.0)
"""Logit of 0.8, where a calm signal is centred."""
_CENTRE_PRIOR, _CENTRE_MOST, _CENTRE_REACH, _CENTRE_PULL = 128.0, 8192.0, 1.0, 0.5
_SPACINGS = 16.0
_SAFETY, _SLOWER, _FASTER, _LEAST_PACE = 0.9, 1.25, 0.5, 0.125


@inlined
def _clip(value: float, most: float) -> float:
    return min(max(value, -most), most)


@inlined
def _settle(row: Floats) -> None:
    """Take location, scale and level from the median and the median deviation of the last ``FIRST`` values."""
    # The ring is sorted where it stands: whatever comes next, it is asked again only once all of it is newer.
    for i in range(1, FIRST):
        value = row[RECENT + i]
        j = i - 1
        while j >= 0 and row[RECENT + j] > value:
            row[RECENT + j + 1] = row[RECENT + j]
            j -= 1
        row[RECENT + j + 1] = value
    middle = 0.5 * (row[RECENT + FIRST // 2 - 1] + row[RECENT + FIRST // 2])
    mean_deviation = 0.0
    for i in range(FIRST):
        mean_deviation += abs(row[RECENT + i] - middle) / FIRST
    # The middle half of them lies within the median deviation; of eight, between the 2nd and 3rd and 6th and 7th.
    deviation = 0.25 * (row[RECENT + 6] + row[RECENT + 5] - row[RECENT + 2] - row[RECENT + 1])
    deviation = max(deviation, 0.25 * mean_deviation)
    scale = 1.4826 * deviation
    if scale <= max(_RESOLUTION * abs(middle), _TINY):
        scale = 0.0
    row[LOCATION] = middle
    row[SCALE] = scale
    row[LEVEL] = middle
    row[SPREAD] = scale
    row[DOUBT] = 1.0
    row[LOG_DRIFT] = _FIRST_DRIFT
    row[LAST] = 0.0
    row[ROW] = 0.0
    row[USED] = FIRST
    row[PAST] = 0.0
    row[TURNS] = 0.0
    row[MEAN] = 0.0
    row[VARIANCE] = 0.0
    row[ERROR] = 0.0


@inlined
def _order(row: Floats, value: float, resolution: float, steps: float) -> None:
    """Count the order that the last three values stand in; equal ones stand as they came."""
    first, second = row[BEFORE_THAT], row[BEFORE]
    a = second < first - resolution
    b = value < second - resolution
    c = value < first - resolution
    which = 0
    if a and b:
        which = 5
    elif a:
        which = 2 if c else 1
    elif b:
        which = 4 if c else 3
    kept = 1.0 - 1.0 / steps
    for i in range(PATTERNS):
        row[ORDERS + i] *= kept
    row[ORDERS + which] += 1.0


@inlined
def _entropy(row: Floats) -> float:
    """Normalised permutation entropy of the counts; 0 while there are none."""
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
def _observe(row: Floats, value: float, ratio: float, knobs: Floats) -> float:
    """Take one value in; its innovation as a normal one would be, in standard deviations and ≥ 0; -1: too early."""
    row[RECENT + int(row[KNOWN]) % FIRST] = value
    row[KNOWN] += 1.0
    known = row[KNOWN]
    resolution = max(_RESOLUTION * max(abs(value), abs(row[BEFORE])), _TINY)
    if known > 2.0:
        _order(row, value, resolution, knobs[ORDER_STEPS])
    row[BEFORE_THAT] = row[BEFORE]
    row[BEFORE] = value
    if known < FIRST:
        row[USED] = known
        return -1.0
    if known == FIRST:
        _settle(row)
        return -1.0

    used = row[USED]
    rate = 1.0 / min(used + 1.0, knobs[MEMORY])

    # Where it stands among the signal's own values.
    deviation = value - row[LOCATION]
    if abs(deviation) <= resolution:
        deviation = 0.0
    if row[SCALE] <= resolution and deviation != 0.0:
        row[SCALE] = abs(deviation) / _OF_CONSTANT
    units = 0.0 if row[SCALE] <= 0.0 else _clip(deviation / row[SCALE], _MOST)

    # The filter: a level that drifts, observed with noise.
    innovation = value - row[LEVEL]
    if abs(innovation) <= resolution:
        innovation = 0.0
    drift = math.exp(row[LOG_DRIFT])
    usual = 0.5 * (drift + math.sqrt(drift * drift + 4.0 * drift))
    doubt = row[DOUBT] + drift * ratio
    if row[SPREAD] <= resolution and innovation != 0.0:
        row[SPREAD] = abs(innovation) / _OF_CONSTANT
    expected = row[SPREAD] * math.sqrt((1.0 + doubt) / (1.0 + usual))
    raw = 0.0 if expected <= 0.0 else _clip(innovation / expected, _MOST)
    standard = raw * math.sqrt(used / (used + _NEW_VALUES))

    # Its size as a normal one would be: a power law above one standard deviation, through the 98 % point.
    size = abs(standard)
    normal = size
    if size > 1.0:
        power = _LOG_TAIL_NORMAL / max(row[LOG_TAIL], 1e-3)
        normal = min(size ** min(max(power, _LEAST_POWER), _MOST_POWER), _MOST_NORMAL)
    if size > 0.0:
        exceeds = 1.0 if math.log(size) > row[LOG_TAIL] else 0.0
        row[LOG_TAIL] += _TAIL_RATE / min(known, _TAIL_STEPS) * (exceeds - _TAIL_SHARE) * (0.0 if known < 50.0 else 1.0)

    # Is the near future predictable?
    turns = min(row[TURNS] + 1.0, knobs[HORIZON])
    row[TURNS] = turns
    error = 0.0 if row[SCALE] <= 0.0 else _clip(innovation / row[SCALE], _MOST_UNITS)
    change = _clip(units, _MOST_UNITS) - row[MEAN]
    row[MEAN] += change / turns
    row[VARIANCE] = (1.0 - 1.0 / turns) * (row[VARIANCE] + change * change / turns)
    row[ERROR] += (error * error - row[ERROR]) / turns

    # Learn.
    bounded = _clip(standard, _BOUND)
    gain = doubt / (1.0 + doubt)
    row[LEVEL] += gain * _clip(raw, _PULL) * expected
    row[DOUBT] = gain
    drift_change = _DRIFT_RATE * (bounded * row[LAST] - _DRIFT_DOWN)
    row[LOG_DRIFT] = min(max(row[LOG_DRIFT] + drift_change, _LEAST_DRIFT), _MOST_DRIFT)
    row[LAST] = bounded
    row[SPREAD] *= math.sqrt(1.0 + rate * (min(raw * raw, _BOUND * _BOUND) / _BOUNDED - 1.0))
    row[LOCATION] += rate * _clip(units, _PULL) * row[SCALE]
    row[SCALE] *= math.sqrt(1.0 + rate * (min(units * units, _BOUND * _BOUND) / _BOUNDED - 1.0))
    if row[SCALE] <= resolution:
        row[SCALE] = 0.0
    if row[SPREAD] <= resolution:
        row[SPREAD] = 0.0
    row[USED] = min(used + 1.0, knobs[MEMORY])
    if normal > _SURPRISING:
        row[USED] = max(row[USED] * _FORGETS, float(FIRST))
    row[ROW] = row[ROW] + 1.0 if abs(raw) > _SURPRISING else 0.0
    if row[ROW] >= FIRST:
        _settle(row)
    return normal


@inlined
def _log_upper(z: float) -> float:
    """-ln P(Z > z) of a standard normal Z."""
    if z < 5.0:
        return -math.log(0.5 * math.erfc(z / math.sqrt(2.0)))
    return 0.5 * z * z + math.log(z * math.sqrt(2.0 * math.pi)) + math.log1p(1.0 / (z * z))


@inlined
def _joint(squares: float, largest: float, count: int) -> float:
    """How far out all signals are together, or the one that is farthest: sqrt(-2 ln p) of the rarer of both."""
    degrees = float(count)
    width = 2.0 / (9.0 * degrees)
    together = _log_upper(((squares / degrees) ** (1.0 / 3.0) - (1.0 - width)) / math.sqrt(width))
    alone = math.erfc(largest / math.sqrt(2.0))
    farthest = 0.0
    if alone < 0.999999:
        farthest = -math.log(-math.expm1(degrees * math.log1p(-alone)))
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
def _nines(joint: float, ranked: Floats, held: int) -> float:
    """-log10 of the probability of so large a joint surprise, by its own past; at most ``_MOST_NINES``."""
    wider = 1.0 + _UNSURE / math.sqrt(held + 1.0)
    if held >= WAVE:
        wider *= max(ranked[int(0.9 * held)] / _USUAL_90, 1.0)
    prior = max(0.5 * (joint / wider) ** 2 - math.log(1.5), 0.0)
    exceeding = int(_EXCEEDING * held)
    own = prior
    if exceeding >= _LEAST_EXCEEDING:
        threshold = ranked[held - exceeding - 1]
        if joint <= threshold:
            own = -math.log((held - _below(ranked, held, joint) + 0.5) / (held + 1.0))
        else:
            mean = 0.0
            square = 0.0
            for i in range(held - exceeding, held):
                excess = ranked[i] - threshold
                mean += excess
                square += excess * excess
            mean /= exceeding
            variance = square / exceeding - mean * mean
            own = -math.log(exceeding / held)
            if mean > 0.0:
                shape = 0.0 if variance <= 0.0 else _clip(0.5 * (1.0 - mean * mean / variance), 0.4)
                shape = (exceeding * shape + _XI_COUNTS * _XI) / (exceeding + _XI_COUNTS)
                scale = mean * (1.0 - shape)
                excess = joint - threshold
                if abs(shape) < 1e-6:
                    own += excess / scale
                else:
                    own += math.log(max(1.0 + shape * excess / scale, 1e-12)) / shape
        weight = 1.0 / (1.0 + (held / _PRIOR_STEPS) ** 2)
        own = weight * prior + (1.0 - weight) * own
    nines: float = min(max(own / math.log(10.0), 0.0), _MOST_NINES)
    return nines


@inlined
def _remember(joint: float, whole: Floats, calm: Floats, ranked: Floats) -> None:
    """Put one joint surprise in the place of the oldest."""
    most = len(calm)
    held = int(whole[HELD])
    place = int(whole[NEXT])
    if held < most:
        gap = held
        whole[HELD] = held + 1
    else:
        gap = _below(ranked, held, calm[place])
    calm[place] = joint
    whole[NEXT] = (place + 1) % most
    while gap > 0 and ranked[gap - 1] > joint:
        ranked[gap] = ranked[gap - 1]
        gap -= 1
    last = int(whole[HELD]) - 1
    while gap < last and ranked[gap + 1] < joint:
        ranked[gap] = ranked[gap + 1]
        gap += 1
    ranked[gap] = joint


@inlined
def _reference(active: int, knobs: Floats) -> float:
    """What the weighted sum is when ``active`` signals are independent noise."""
    alike = 0.0
    if active == 1:
        alike = 1.0
    elif active == 2:
        alike = 2.0 / math.pi
    elif active > 2:
        alike = math.sqrt(math.pi / (4.0 * active))
    return (
        knobs[WEIGHT_M]
        + knobs[WEIGHT_C] * CALM_C
        + knobs[WEIGHT_U] * CALM_U
        + knobs[WEIGHT_PHI] * alike
        - knobs[WEIGHT_H] * CALM_H
        - knobs[WEIGHT_PE] * CALM_PE
    )


@compiled("void(f8[::1], f8, f8[:, ::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1])")
def step(
    x: Floats,
    at: float,
    signals: Floats,
    whole: Floats,
    calm: Floats,
    ranked: Floats,
    knobs: Floats,
    surprises: Floats,
    figures: Floats,
) -> None:
    """Take in ``x`` [dimension] (NaN: missing) of instant ``at`` (s; NaN: unknown), and write the reading.

    ``surprises`` [dimension] gets each signal's innovation in standard deviations of a normal one (0: none, or too
    early to tell), ``figures`` [N_FIGURES] the rest.
    """
    dimension = len(x)
    ratio = 1.0
    if not math.isnan(at):
        elapsed_s = at - whole[AT]
        if elapsed_s > 0.0:
            whole[SPACED] = min(whole[SPACED] + 1.0, _SPACINGS)
            spacing_s = whole[SPACING_S] if whole[SPACED] > 1.0 else elapsed_s
            within = min(max(elapsed_s, 0.5 * spacing_s), 2.0 * spacing_s)
            whole[SPACING_S] = spacing_s + (within - spacing_s) / whole[SPACED]
            ratio = min(max(elapsed_s / whole[SPACING_S], 0.1), 10.0)
        whole[AT] = at
    now = int(whole[STEPS]) % WAVE
    whole[STEPS] += 1.0

    counted = 0
    squares = 0.0
    largest = 0.0
    known = 0
    similar = 0.0
    compared = 0
    foreseen = 0.0
    disorder = 0.0
    in_use = 0.0
    active = 0
    cosines = 0.0
    sines = 0.0
    for i in range(dimension):
        row = signals[i]
        value = x[i]
        surprises[i] = 0.0
        if math.isfinite(value):
            value = _clip(value, HUGE)
            row[SEEN] += 1.0
            normal = _observe(row, value, ratio, knobs)
            if normal >= 0.0:
                surprises[i] = normal
                counted += 1
                squares += normal * normal
                largest = max(largest, normal)
            units = 0.0 if row[SCALE] <= 0.0 else _clip((value - row[LOCATION]) / row[SCALE], _MOST_UNITS)
            if row[KNOWN] > FIRST:
                away = units - row[PAST]
                similar += math.exp(-away * away / (2.0 * _WIDTH * _WIDTH))
                compared += 1
                row[PAST] += away / knobs[PAST_STEPS]
        elif row[SEEN] > 0.0:
            row[SEEN] += 1.0
            row[DOUBT] += math.exp(row[LOG_DRIFT]) * ratio
            units = 0.0 if row[SCALE] <= 0.0 else _clip((row[LEVEL] - row[LOCATION]) / row[SCALE], _MOST_UNITS)
        else:
            continue
        known += 1
        disorder += _entropy(row)
        in_use += min(row[USED] / min(row[SEEN], knobs[MEMORY]), 1.0)
        if row[ERROR] <= 1e-12:
            foreseen += 1.0
        elif row[VARIANCE] > row[ERROR]:
            foreseen += 1.0 - row[ERROR] / row[VARIANCE]

        # Its phase, REACH steps ago: the value then beside its Hilbert transform.
        row[WAVES + now] = _clip(units, _MOST_WAVE)
        if row[SEEN] >= WAVE:
            centre = (now + WAVE - REACH) % WAVE
            mean = 0.0
            for j in range(WAVE):
                mean += row[WAVES + j]
            mean /= WAVE
            real = row[WAVES + centre] - mean
            imaginary = (
                _T1 * (row[WAVES + (centre + WAVE - 1) % WAVE] - row[WAVES + (centre + 1) % WAVE])
                + _T3 * (row[WAVES + (centre + WAVE - 3) % WAVE] - row[WAVES + (centre + 3) % WAVE])
                + _T5 * (row[WAVES + (centre + WAVE - 5) % WAVE] - row[WAVES + (centre + 5) % WAVE])
                + _T7 * (row[WAVES + (centre + WAVE - 7) % WAVE] - row[WAVES + (centre + 7) % WAVE])
            )
            size = math.sqrt(real * real + imaginary * imaginary)
            if size > _STILL:
                active += 1
                cosines += real / size
                sines += imaginary / size

    surprise = 0.0
    if counted > 0:
        joint = _joint(squares, largest, counted)
        nines = _nines(joint, ranked, int(whole[HELD]))
        surprise = 0.35 * nines if nines <= 2.0 else NOTICE + 0.4 * (nines - 2.0)
        whole[SINCE] += 1.0
        if surprise <= ALARM or whole[SINCE] >= _APART or whole[HELD] < _LEARNS_ALL:
            if surprise > ALARM:
                whole[SINCE] = 0.0
            _remember(joint, whole, calm, ranked)

    together = 0.0
    if active > 0:
        together = min(math.sqrt(cosines * cosines + sines * sines) / active, 1.0)
    turns = min(whole[COHERENT_FOR] + 1.0, knobs[WAVE_STEPS])
    whole[COHERENT_FOR] = turns
    whole[COHERENCE] += (together - whole[COHERENCE]) / turns

    error = max(surprise / NOTICE, 1e-6)
    faster = min(max(_SAFETY / math.sqrt(error), _FASTER), _SLOWER)
    whole[PACE] = min(max(whole[PACE] * faster, _LEAST_PACE), 1.0)

    figures[PE] = surprise
    figures[C] = similar / compared if compared > 0 else 1.0
    figures[U] = min(foreseen / known, 1.0) if known > 0 else 1.0
    figures[PHI] = min(max(whole[COHERENCE], 0.0), 1.0)
    figures[H] = disorder / known if known > 0 else 0.0
    figures[M] = in_use / known if known > 0 else 1.0
    figures[DT_EFF] = whole[SPACING_S] * whole[PACE]
    weighted = (
        knobs[WEIGHT_M] * figures[M]
        + knobs[WEIGHT_C] * figures[C]
        + knobs[WEIGHT_U] * figures[U]
        + knobs[WEIGHT_PHI] * figures[PHI]
        - knobs[WEIGHT_H] * figures[H]
        - knobs[WEIGHT_PE] * figures[PE]
    )
    bias = knobs[BIAS]
    if math.isnan(bias):
        centre_of = _reference(active, knobs) + whole[OFFSET]
        bias = centre_of - LOGIT
        if counted > 0 and surprise <= NOTICE and whole[HELD] > WAVE:
            whole[CENTRED] = min(whole[CENTRED] + 1.0, _CENTRE_MOST)
            pull = _clip(weighted - centre_of, _CENTRE_PULL) / (whole[CENTRED] + _CENTRE_PRIOR)
            whole[OFFSET] = _clip(whole[OFFSET] + pull, _CENTRE_REACH)
    figures[PSI] = 1.0 / (1.0 + math.exp(bias - weighted))
