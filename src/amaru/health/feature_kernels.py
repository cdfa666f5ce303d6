"""The columns that patterns and prediction read, and how they follow from what is kept of an offer.

``features`` is where others take the columns from.
"""

from __future__ import annotations

import math

from amaru.compiling import compiled, inlined
from amaru.health import coherence_kernels as c
from amaru.health import row_kernels as r

MOST_SINCE_S = 3600.0
"""``SINCE_SUCCESS_S`` is at most this; also where there never was a success."""
MOST_IN_A_ROW = 1000.0

(
    ERRORS_FAST,  # share of attempts that failed, FAST_S: errors / (attempts + 1), throttled ones in neither
    ERRORS_MID,
    ERRORS_SLOW,
    LATENCY_SHIFT_FAST,  # mean log-latency of successes at that pace minus the usual one, in its robust sd
    LATENCY_SHIFT_MID,
    FIRST_TOKEN_SHIFT_FAST,  # the same of the time to the first token
    FIRST_TOKEN_SHIFT_MID,
    COHERENCE,  # in [0, 1]
    SHAPE_CHANGE,  # share of recent answers of a shape that was not usual, or with required fields missing: 0 to 1
    THROTTLES,  # share of attempts that were throttled, MID_S: throttled / (all + 1)
    FAILURES_IN_A_ROW,  # consecutive failures, at most 1000
    SINCE_SUCCESS_S,  # seconds, at most MOST_SINCE_S
    OUTCOMES_FAST,  # attempts behind ERRORS_FAST, after forgetting
    OUTCOMES_SLOW,
    SPEED_SHIFT,  # log of (output tokens a second lately / usual), MID_S; negative is slower
    STABILITY,  # in [0, 1]
) = range(16)
N_FEATURES = 16

ORDINARY_SHIFT = 0.5
"""Of latency, in sd: what the chance of some answers makes, and no trend."""
ERRATIC_SD = 1.0
"""Standard deviation of log-latency above which an offer is not steady, though it is as usual."""


@inlined
def errors_at(slot: int, pace: int, now: float, figures: r.Floats) -> float:
    """Share of attempts that failed, drawn towards 0 as if one more had not; throttled ones in neither."""
    left = r.left_by(slot, now, pace, figures)
    attempts = left * (figures[slot, r.ATTEMPTS + pace] - figures[slot, r.THROTTLES + pace])
    return float(min(left * figures[slot, r.ERRORS + pace] / (max(attempts, 0.0) + 1.0), 1.0))


@inlined
def stability(slot: int, now: float, figures: r.Floats, tracks: r.Floats) -> float:
    """Steadiness of success and latency, in [0, 1]."""
    left = r.left_by(slot, now, r.MID, figures)
    steady = 1.0 - errors_at(slot, r.MID, now, figures)
    worst = 1.0
    for track in (r.LATENCY, r.FIRST_TOKEN):
        level = 1.0 / (1.0 + 2.0 * max(r.timed_rms(slot, track, left, tracks) - r.STEADY_RMS, 0.0) ** 2)
        level /= max(r.usual_sd(slot, track, tracks) / ERRATIC_SD, 1.0)
        worst = min(worst, level)
    return steady * worst


@inlined
def _level(slot: int, pace: int, now: float, figures: r.Floats, tracks: r.Floats) -> float:
    left = r.left_by(slot, now, pace, figures)
    slower = max(
        r.timed_shift(slot, r.LATENCY, pace, left, tracks), r.timed_shift(slot, r.FIRST_TOKEN, pace, left, tracks)
    )
    return (1.0 - errors_at(slot, pace, now, figures)) * math.exp(-0.25 * max(slower - ORDINARY_SHIFT, 0.0))


@inlined
def trend(slot: int, now: float, figures: r.Floats, tracks: r.Floats) -> float:
    """In [-1, 1]: how success and speed of the last seconds compare with minutes, and minutes with what is usual."""
    mid = _level(slot, r.MID, now, figures, tracks)
    attempts = r.left_by(slot, now, r.FAST, figures) * figures[slot, r.ATTEMPTS + r.FAST]
    sudden = (_level(slot, r.FAST, now, figures, tracks) - mid) * attempts / (attempts + 2.0)
    attempts = r.left_by(slot, now, r.MID, figures) * figures[slot, r.ATTEMPTS + r.MID]
    lasting = (mid - (1.0 - errors_at(slot, r.SLOW, now, figures))) * attempts / (attempts + 2.0)
    stronger = sudden if abs(sudden) > abs(lasting) else lasting
    return float(min(max(2.0 * stronger, -1.0), 1.0))


@compiled("void(int64, float64, float64[:, ::1], float64[:, :, ::1], float64[::1])")
def write_features(slot: int, now: float, figures: r.Floats, tracks: r.Floats, out: r.Floats) -> None:
    """One offer's row at ``now`` into ``out`` [N_FEATURES]."""
    for pace in range(r.N_PACES):
        out[ERRORS_FAST + pace] = errors_at(slot, pace, now, figures)
    for pace in range(2):
        left = r.left_by(slot, now, pace, figures)
        out[LATENCY_SHIFT_FAST + pace] = r.timed_shift(slot, r.LATENCY, pace, left, tracks)
        out[FIRST_TOKEN_SHIFT_FAST + pace] = r.timed_shift(slot, r.FIRST_TOKEN, pace, left, tracks)
    out[COHERENCE] = c.relaxed(slot, now, figures)
    since_answer_s = now - figures[slot, r.LAST_ANSWER]
    weight = tracks[slot, r.CHANGED, r.R_WEIGHT] * r.kept(since_answer_s, r.RELAX_S) if since_answer_s < 1e300 else 0.0
    out[SHAPE_CHANGE] = tracks[slot, r.CHANGED, r.R_MEAN] * weight / (weight + 1.0)
    left = r.left_by(slot, now, r.MID, figures)
    out[THROTTLES] = left * figures[slot, r.THROTTLES + r.MID] / (left * figures[slot, r.ATTEMPTS + r.MID] + 1.0)
    out[FAILURES_IN_A_ROW] = min(figures[slot, r.IN_A_ROW], MOST_IN_A_ROW)
    out[SINCE_SUCCESS_S] = min(max(now - figures[slot, r.LAST_SUCCESS], 0.0), MOST_SINCE_S)
    out[OUTCOMES_FAST] = r.left_by(slot, now, r.FAST, figures) * figures[slot, r.ATTEMPTS + r.FAST]
    out[OUTCOMES_SLOW] = r.left_by(slot, now, r.SLOW, figures) * figures[slot, r.ATTEMPTS + r.SLOW]
    shift = r.timed_shift(slot, r.SPEED, r.MID, left, tracks)
    out[SPEED_SHIFT] = shift * r.usual_sd(slot, r.SPEED, tracks)
    out[STABILITY] = stability(slot, now, figures, tracks)
