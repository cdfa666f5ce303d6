"""What is kept of one offer: arrays of fixed size, and how time passes in them.

Four arrays, C-contiguous, one row for each offer (``slot``): ``figures`` float64 [slots, N_FIGURES]; ``tracks`` float64
[slots, N_TRACKS, N_TRACK], one for each quantity; ``bins`` float64 [slots, 2, N_BINS], the histograms of
``quantile_kernels``; ``marks`` int64 [slots, N_MARKS], hashes. Instants are Unix seconds of the observations.

A *track* keeps one quantity twice: its *usual* value, a slow and robust mean and variance that learn little from what
is odd (innovations are cut off at ``MOST_INNOVATION`` standard deviations, Huber 1964), and how it is *lately*, by
count over the last answers and by time at two paces.

The usual figures forget by the offer's *own time*: event time of which no more than ``OWN_STEP_S`` passes between two
observations, so that an offer asked once an hour has a past too. An observation that comes late counts as old as it is;
one more than ``BACK_S`` older than the last says that the clock was set back, and all instants move with it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from amaru.compiling import inlined

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FAST, MID, SLOW = range(3)
N_PACES = 3
FAST_S, MID_S, SLOW_S = 10.0, 120.0, 1800.0
"""Half-lives of what is kept at three paces."""
_HALF_LIVES = (FAST_S, MID_S, SLOW_S)

N_KINDS = 17
"""Kinds of failure, in the order of ``FailureKind``, and last those of no kind."""
N_SHAPES = 12
N_TEXTS = 16
N_CATEGORIES = 6
"""Of finish reasons: stop, length, tools, filter, none, others."""

# Columns of `figures`.
(
    AT,  # the latest observation
    LAST_SUCCESS,
    LAST_ANSWER,  # that coherence was last judged by
    FIRST_AT,
    OWN_S,  # own time
    LANDMARK_S,  # own time at which the histograms' weight is 1
    IN_A_ROW,  # failures since the last success
    REACHED,  # 1: the last attempt came through to the provider
    OUTCOMES,  # ever, as the next three; the caller's own faults not among them
    SUCCESSES,
    THROTTLED,
    HEALINGS,
    FAILURE_PROBABILITY,  # as was predicted last
    COHERENCE,  # as of LAST_ANSWER
    RING,  # texts ever written to the ring of `marks`
    ATTEMPTS,  # by pace, as the next two
) = range(16)
ERRORS = ATTEMPTS + N_PACES
THROTTLES = ERRORS + N_PACES
KINDS = THROTTLES + N_PACES  # errors by kind at the slow pace, then ever
KINDS_EVER = KINDS + N_KINDS
SHAPE_SINCE = KINDS_EVER + N_KINDS  # by place of a shape in `marks`: own time that it was first seen, and last
SHAPE_SEEN = SHAPE_SINCE + N_SHAPES
N_FIGURES = SHAPE_SEEN + N_SHAPES
N_INSTANTS = 4
"""The first columns of ``figures``."""

# Tracks: logarithms of ms, tokens a second and tokens; shares; and 0 or 1 for each answer.
(
    LATENCY,
    FIRST_TOKEN,
    SPEED,
    LENGTH,
    REPETITION,
    EMPTY,
    SAME,  # a long text that was given to another prompt before
    SAME_SHORT,  # the same of a short one
    CHANGED,  # of a new shape, without a required field, or malformed
    FINISH,  # the first of N_CATEGORIES
) = range(10)
N_TRACKS = FINISH + N_CATEGORIES
N_TIMED = 3
"""The first tracks are also kept by time."""

# Columns of a track.
(
    R_WEIGHT,  # answers lately, at most RECENT
    R_MEAN,
    U_WEIGHT,  # usual: answers, after forgetting
    U_MEAN,
    U_SUM,  # of squared innovations
    U_AT,  # own time
    T_WEIGHT,  # by time at the fast pace, then at MID; as the next
    T_WEIGHT_MID,
    T_SUM,
    T_SUM_MID,
    T_SQUARES,  # at MID: of departures from the usual, in its sd
) = range(11)
N_TRACK = 11

SHAPES = 0  # columns of `marks`: shapes, then texts and their prompts in a ring
TEXTS = SHAPES + N_SHAPES
PROMPTS = TEXTS + N_TEXTS
N_MARKS = PROMPTS + N_TEXTS

RECENT = 8.0
"""Answers that "lately" is about, by count: the weight of the past is at most one less."""
RELAX_S = 600.0
"""Half-life, without a new answer, of what was found incoherent lately."""
USUAL_S, ACCEPTED_S = 1800.0, 3600.0
"""Half-lives of the usual figures, in own time: of answers like those before, and of answers unlike them."""
OWN_STEP_S = 20.0
BACK_S = 60.0
MOST_AT = 1e12
MOST_INNOVATION = 3.0
_SETTLED = 8.0
"""Answers from which on innovations are cut off."""
_PRIOR_TRIES = 4.0
_PRIOR_SD = (0.5, 0.5, 0.5, 0.7, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
_LEAST_SD = (0.15, 0.15, 0.15, 0.35, 0.12, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05)
"""A provider that never varies is not out of order because it varies a little."""
MOST_SHIFT = 8.0
STEADY_RMS = 1.25
"""Departures from the usual, in its sd, that are steady still (root of the mean square)."""
_LN2 = math.log(2.0)


@inlined
def kept(elapsed_s: float, half_life_s: float) -> float:
    """What is left after ``elapsed_s``; all of it where that is negative."""
    return math.exp(-_LN2 * max(elapsed_s, 0.0) / half_life_s)


@inlined
def begin(slot: int, figures: Floats, tracks: Floats, bins: Floats, marks: Ints) -> None:
    """Nothing is known."""
    figures[slot, :] = 0.0
    tracks[slot, :, :] = 0.0
    bins[slot, :, :] = 0.0
    marks[slot, :] = 0
    for column in range(N_INSTANTS):
        figures[slot, column] = -math.inf
    figures[slot, COHERENCE] = 1.0


@inlined
def pass_time(slot: int, at: float, figures: Floats, tracks: Floats) -> float:
    """Let time pass up to ``at``; returns by how much the observation is late, in seconds ≥ 0."""
    last = figures[slot, AT]
    if last == -math.inf:
        figures[slot, AT] = at
        figures[slot, FIRST_AT] = at
        return 0.0
    if at < last - BACK_S:
        for column in range(N_INSTANTS):
            figures[slot, column] += at - last
        figures[slot, AT] = at
        return 0.0
    elapsed_s = at - last
    if elapsed_s <= 0.0:
        return float(-elapsed_s)
    for pace in range(N_PACES):
        left = kept(elapsed_s, _HALF_LIVES[pace])
        figures[slot, ATTEMPTS + pace] *= left
        figures[slot, ERRORS + pace] *= left
        figures[slot, THROTTLES + pace] *= left
        if pace == SLOW:
            for kind in range(N_KINDS):
                figures[slot, KINDS + kind] *= left
        else:
            for track in range(N_TIMED):
                tracks[slot, track, T_WEIGHT + pace] *= left
                tracks[slot, track, T_SUM + pace] *= left
                if pace == MID:
                    tracks[slot, track, T_SQUARES] *= left
    figures[slot, AT] = at
    figures[slot, OWN_S] += min(elapsed_s, OWN_STEP_S)
    return 0.0


@inlined
def weight_of(late_s: float, pace: int) -> float:
    """Of an observation that comes so late."""
    return float(kept(late_s, _HALF_LIVES[pace]))


@inlined
def left_by(slot: int, now: float, pace: int, figures: Floats) -> float:
    """What is left at ``now`` of what is kept at that pace."""
    return float(kept(now - figures[slot, AT], _HALF_LIVES[pace]))


@inlined
def usual_sd(slot: int, track: int, tracks: Floats) -> float:
    """Robust standard deviation of one answer about the usual."""
    squares = tracks[slot, track, U_SUM] + _PRIOR_TRIES * _PRIOR_SD[track] ** 2
    return float(max(math.sqrt(squares / (tracks[slot, track, U_WEIGHT] + _PRIOR_TRIES)), _LEAST_SD[track]))


@inlined
def add_recent(slot: int, track: int, x: float, tracks: Floats) -> None:
    """Take an answer into what is lately, by count."""
    weight = min(tracks[slot, track, R_WEIGHT], RECENT - 1.0) + 1.0
    tracks[slot, track, R_WEIGHT] = weight
    tracks[slot, track, R_MEAN] += (x - tracks[slot, track, R_MEAN]) / weight


@inlined
def add_timed(slot: int, track: int, x: float, late_s: float, tracks: Floats) -> None:
    """Take an answer into what is lately, by time; before it is taken into what is usual."""
    for pace in range(2):
        weight = weight_of(late_s, pace)
        tracks[slot, track, T_WEIGHT + pace] += weight
        tracks[slot, track, T_SUM + pace] += weight * x
    if tracks[slot, track, U_WEIGHT] > 0.0:
        off = (x - tracks[slot, track, U_MEAN]) / usual_sd(slot, track, tracks)
        off = min(max(off, -MOST_SHIFT), MOST_SHIFT)
    else:
        off = 1.0
    tracks[slot, track, T_SQUARES] += weight_of(late_s, MID) * off * off


@inlined
def learn_usual(slot: int, track: int, x: float, trust: float, own_s: float, tracks: Floats) -> None:
    """Take an answer into what is usual.

    ``trust`` in [0, 1]: whether it looks like those before. At 0 it counts only so much that what came last replaces
    what was usual within ``ACCEPTED_S``, by half, however many answers there are.
    """
    elapsed_s = max(own_s - tracks[slot, track, U_AT], 0.0)
    before = tracks[slot, track, U_WEIGHT]
    off = x - tracks[slot, track, U_MEAN]
    left = rate = 1.0
    if before >= _SETTLED:
        left = kept((0.5 + 0.5 * trust) * elapsed_s, USUAL_S)
        rate = trust + (1.0 - trust) * min(before * _LN2 * elapsed_s / ACCEPTED_S, 1.0)
        most = MOST_INNOVATION * usual_sd(slot, track, tracks)
        off = min(max(off, -most), most)
    weight = before * left + rate
    step = off * rate / weight
    tracks[slot, track, U_WEIGHT] = weight
    tracks[slot, track, U_MEAN] += step
    tracks[slot, track, U_SUM] = tracks[slot, track, U_SUM] * left + rate * off * (off - step)
    tracks[slot, track, U_AT] = own_s


@inlined
def timed_shift(slot: int, track: int, pace: int, left: float, tracks: Floats) -> float:
    """Mean lately minus the usual one in its sd, drawn towards 0 as if the usual had been seen once; ±MOST_SHIFT."""
    weight = tracks[slot, track, T_WEIGHT + pace]
    if weight <= 1e-9 or tracks[slot, track, U_WEIGHT] <= 0.0:
        return 0.0
    off = tracks[slot, track, T_SUM + pace] / weight - tracks[slot, track, U_MEAN]
    shift = off / usual_sd(slot, track, tracks) * weight * left / (weight * left + 1.0)
    return float(min(max(shift, -MOST_SHIFT), MOST_SHIFT))


@inlined
def timed_rms(slot: int, track: int, left: float, tracks: Floats) -> float:
    """Departures from the usual at MID, in its sd: root of the mean square, drawn towards 1."""
    squares, weight = left * tracks[slot, track, T_SQUARES], left * tracks[slot, track, T_WEIGHT_MID]
    return math.sqrt((squares + 2.0 * _PRIOR_TRIES) / (weight + 2.0 * _PRIOR_TRIES))
