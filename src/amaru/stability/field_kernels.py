"""One step of the stability field, compiled: every figure of a reading from one vector of signals.

What is known of each signal is a row of ``signals``; of the whole, ``whole``; of past surprises, ``past``, ``calm`` (a
ring) and ``ranked`` (the same values, ascending). ``docs/explanation/stability.md`` derives each figure.
"""

from __future__ import annotations

import math

from amaru.compiling import compiled, inlined
from amaru.stability import signal_kernels as s
from amaru.stability.signal_kernels import Floats, clip
from amaru.stability.surprise_kernels import HELD, NOTICE, joint_surprise, nines, prediction_error, remember

# Entries of `whole`.
(
    STEPS,  # taken ever
    AT,  # instant of the last one; NaN: unknown
    SPACING_S,  # usual time between two
    SPACED,  # times behind it
    PACE,  # share of it that the next step should take
    COHERENCE,  # smoothed order parameter
    COHERENT_FOR,  # steps behind it
    OFFSET,  # what centring has learned
    CENTRED,  # steps behind it
) = range(9)
N_WHOLE = 9

# Figures of a reading.
(PE, C, U, PHI, H, M, DT_EFF, PSI) = range(8)
N_FIGURES = 8

CALM_C, CALM_H, CALM_PE = 0.891, 0.992, 0.152
"""What independent normal noise reads on average; of U it reads 0."""
LOGIT = math.log(4.0)
"""Logit of 0.8, where a calm signal is centred."""
_CENTRE_PRIOR, _CENTRE_MOST, _CENTRE_REACH, _CENTRE_PULL = 128.0, 8192.0, 1.0, 0.5
_CENTRE_FROM = 16.0
_STILL = 1e-6
"""In standard units: what moves less has no phase."""
_SPACINGS = 16.0
_LEAST_RATIO, _MOST_RATIO = 0.1, 10.0
_SAFETY, _LEAST_FACTOR, _MOST_FACTOR, _LEAST_PACE = 0.9, 0.5, 1.25, 0.125


@inlined
def _spaced(at: float, whole: Floats) -> float:
    """Take in the instant of a step; the time since the last one in units of the usual one, 1 where it is unknown."""
    if math.isnan(at):
        return 1.0
    elapsed_s = at - whole[AT]
    whole[AT] = at
    if not elapsed_s > 0.0:
        return 1.0
    whole[SPACED] = min(whole[SPACED] + 1.0, _SPACINGS)
    usual_s = whole[SPACING_S] if whole[SPACED] > 1.0 else elapsed_s
    within_s = min(max(elapsed_s, 0.5 * usual_s), 2.0 * usual_s)
    whole[SPACING_S] = usual_s + (within_s - usual_s) / whole[SPACED]
    ratio: float = min(max(elapsed_s / whole[SPACING_S], _LEAST_RATIO), _MOST_RATIO)
    return ratio


@inlined
def _paced(surprise: float, whole: Floats) -> float:
    """Seconds until the next step: as an integrator chooses them by its error (Hairer, Nørsett and Wanner, 1993)."""
    factor = _SAFETY * math.sqrt(NOTICE / max(surprise, 1e-6))
    pace: float = min(max(whole[PACE] * min(max(factor, _LEAST_FACTOR), _MOST_FACTOR), _LEAST_PACE), 1.0)
    whole[PACE] = pace
    spacing_s: float = whole[SPACING_S]
    return spacing_s * pace


@inlined
def _coherence(cosines: float, sines: float, active: int, whole: Floats, knobs: Floats) -> float:
    """Kuramoto's order parameter of the ``active`` signals' phases, smoothed."""
    together = 0.0 if active == 0 else math.sqrt(cosines * cosines + sines * sines) / active
    turns = min(whole[COHERENT_FOR] + 1.0, knobs[s.WAVE_STEPS])
    whole[COHERENT_FOR] = turns
    whole[COHERENCE] += (together - whole[COHERENCE]) / turns
    coherence: float = min(max(whole[COHERENCE], 0.0), 1.0)
    return coherence


@inlined
def _reference(active: int, knobs: Floats) -> float:
    """What the weighted sum is on average where ``active`` signals are independent noise."""
    if active == 0:
        alike = 0.0
    elif active <= 2:
        alike = 1.0 if active == 1 else 2.0 / math.pi
    else:
        alike = math.sqrt(math.pi / (4.0 * active))  # mean length of a random walk's end, per step
    calm: float = (
        knobs[s.WEIGHT_M]
        + knobs[s.WEIGHT_C] * CALM_C
        + knobs[s.WEIGHT_PHI] * alike
        - knobs[s.WEIGHT_H] * CALM_H
        - knobs[s.WEIGHT_PE] * CALM_PE
    )
    return calm


@inlined
def _centred(weighted: float, active: int, learns: bool, whole: Floats, knobs: Floats) -> float:
    """The bias: the configured one, or the one that centres a calm signal, which then learns from this step."""
    bias: float = knobs[s.BIAS]
    if not math.isnan(bias):
        return bias
    centre: float = _reference(active, knobs) + whole[OFFSET]
    if learns:
        whole[CENTRED] = min(whole[CENTRED] + 1.0, _CENTRE_MOST)
        pull = clip(weighted - centre, _CENTRE_PULL) / (whole[CENTRED] + _CENTRE_PRIOR)
        whole[OFFSET] = clip(whole[OFFSET] + pull, _CENTRE_REACH)
    return centre - LOGIT


@compiled("void(f8[::1], f8, f8[:, ::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1])")
def step(
    x: Floats,
    at: float,
    signals: Floats,
    whole: Floats,
    past: Floats,
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
    ratio = _spaced(at, whole)
    now = int(whole[STEPS]) % s.WAVE
    whole[STEPS] += 1.0

    counted, compared, known, active = 0, 0, 0, 0
    squares, largest, similar, foreseen, disorder, in_use, cosines, sines = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(x)):
        row = signals[i]
        value = x[i]
        surprises[i] = 0.0
        if math.isfinite(value):
            innovation = s.observe(row, value, ratio, knobs)
            units = s.in_units(row, value)
            if innovation >= 0.0:
                surprises[i] = innovation
                counted += 1
                squares += innovation * innovation
                largest = max(largest, innovation)
                similar += s.similarity(row, units, knobs)
                compared += 1
        else:
            s.miss(row, ratio, knobs)
            units = s.in_units(row, row[s.LEVEL])
        if row[s.SEEN] == 0.0:
            continue
        known += 1
        foreseen += s.foreseen(row)
        disorder += s.entropy(row)
        in_use += min(row[s.USED] / min(row[s.SEEN], knobs[s.MEMORY]), 1.0)
        real, imaginary = s.phase(row, units, now)
        size = math.sqrt(real * real + imaginary * imaginary)
        if size > _STILL:
            active += 1
            cosines += real / size
            sines += imaginary / size

    surprise = 0.0
    if counted > 0:
        joint = joint_surprise(squares, largest, counted)
        surprise = prediction_error(nines(joint, ranked, past))
        remember(joint, surprise, past, calm, ranked)
    figures[PE] = surprise
    figures[C] = min(similar / compared, 1.0) if compared > 0 else 1.0
    figures[U] = min(foreseen / known, 1.0) if known > 0 else 1.0
    figures[PHI] = _coherence(cosines, sines, active, whole, knobs)
    figures[H] = min(disorder / known, 1.0) if known > 0 else 0.0
    figures[M] = min(in_use / known, 1.0) if known > 0 else 1.0
    figures[DT_EFF] = _paced(surprise, whole)
    weighted = (
        knobs[s.WEIGHT_M] * figures[M]
        + knobs[s.WEIGHT_C] * figures[C]
        + knobs[s.WEIGHT_U] * figures[U]
        + knobs[s.WEIGHT_PHI] * figures[PHI]
        - knobs[s.WEIGHT_H] * figures[H]
        - knobs[s.WEIGHT_PE] * surprise
    )
    learns = counted > 0 and surprise <= NOTICE and past[HELD] > _CENTRE_FROM
    bias = _centred(weighted, active, learns, whole, knobs)
    figures[PSI] = 1.0 / (1.0 + math.exp(clip(bias - weighted, 700.0)))
