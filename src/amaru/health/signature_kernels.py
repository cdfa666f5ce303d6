"""What one observation changes, and the figures that people read, in one compiled call each."""

from __future__ import annotations

import math

from amaru.compiling import compiled
from amaru.health import coherence_kernels as c
from amaru.health import feature_kernels as f
from amaru.health import quantile_kernels as q
from amaru.health import row_kernels as r

# Verdicts, as in `observation`.
SUCCESS, ERROR, THROTTLED, NONE = range(4)

MOST_COUNT = 1e15
"""Counters stop here, where adding 1 is exact still."""
LEAST_TOKENS = 8.0
"""An answer with fewer says nothing about tokens a second."""
LONG_CHARS = 160
"""A text of so many characters is not by chance the same as another; the labels of a classifier are shorter."""
UNUSUAL_SHIFT = 1.5
"""Of a duration or speed, in sd at the pace of minutes: above it, or where it is unsteady, the usual one learns by time
alone."""
_MOST_MS = 1e9
_ROWS = "float64[:, ::1], float64[:, :, ::1], float64[:, :, ::1]"

# Entries of what `summarise` writes.
(
    P50,  # of latency, ms; NaN where nothing was observed
    P95,
    P99,
    FIRST_P50,
    FIRST_P95,
    FIRST_P99,
    COHERENCE,
    STABILITY,
    TREND,
    ERROR_RATE,
    THROTTLE_RATE,
    OUTCOMES,  # of the last half hour or so, after forgetting
) = range(12)
N_SUMMARY = 12


@compiled(
    "void(int64, float64, int64, int64, boolean, boolean, boolean, boolean, boolean, float64, float64, float64, int64,"
    f" int64, float64, boolean, int64, boolean, float64, int64, int64, {_ROWS}, int64[:, ::1])"
)
def observe(
    slot: int,
    at: float,
    verdict: int,
    kind: int,
    reached: bool,
    suspect: bool,
    probe: bool,
    stream: bool,
    generated: bool,
    latency_ms: float,
    first_token_ms: float,
    tokens: float,
    chars: int,
    finish: int,
    empty: float,
    sampled: bool,
    shape: int,
    lacking: bool,
    repetition: float,
    text: int,
    prompt: int,
    figures: r.Floats,
    tracks: r.Floats,
    bins: r.Floats,
    marks: r.Ints,
) -> None:
    """Take in one observation. NaN: a figure that is not known; the other arguments are explained where they are used.

    ``kind`` numbers the failure; ``reached``: the provider answered something; ``suspect``: what it answered could not
    be read. From ``shape`` on the entries are those of a sample, if one was taken.
    """
    if not abs(at) < r.MOST_AT:
        at = figures[slot, r.AT] if figures[slot, r.AT] > -math.inf else 0.0
    late_s = r.pass_time(slot, at, figures, tracks)
    at = figures[slot, r.AT]
    figures[slot, r.REACHED] = 1.0 if reached else 0.0
    if verdict == NONE:
        return
    own_s = max(figures[slot, r.OWN_S] - late_s, 0.0)
    figures[slot, r.OUTCOMES] = min(figures[slot, r.OUTCOMES] + 1.0, MOST_COUNT)
    for pace in range(r.N_PACES):
        weight = r.weight_of(late_s, pace)
        figures[slot, r.ATTEMPTS + pace] += weight
        figures[slot, r.ERRORS + pace] += weight if verdict == ERROR else 0.0
        figures[slot, r.THROTTLES + pace] += weight if verdict == THROTTLED else 0.0
    if verdict == THROTTLED:
        figures[slot, r.THROTTLED] = min(figures[slot, r.THROTTLED] + 1.0, MOST_COUNT)
        return
    if verdict == ERROR:
        figures[slot, r.IN_A_ROW] = min(figures[slot, r.IN_A_ROW] + 1.0, MOST_COUNT)
        figures[slot, r.KINDS + kind] += r.weight_of(late_s, r.SLOW)
        figures[slot, r.KINDS_EVER + kind] = min(figures[slot, r.KINDS_EVER + kind] + 1.0, MOST_COUNT)
        if suspect and not probe:
            c.malformed(slot, at, figures, tracks)
        return

    figures[slot, r.IN_A_ROW] = 0.0
    figures[slot, r.SUCCESSES] = min(figures[slot, r.SUCCESSES] + 1.0, MOST_COUNT)
    figures[slot, r.LAST_SUCCESS] = max(figures[slot, r.LAST_SUCCESS], at - late_s)
    landmark_s = q.moved_landmark(slot, figures[slot, r.OWN_S], figures[slot, r.LANDMARK_S], bins)
    figures[slot, r.LANDMARK_S] = landmark_s
    timed = 0.0 < latency_ms < _MOST_MS  # false where it is NaN
    first = 0.0 < first_token_ms < _MOST_MS
    if timed:
        q.add(slot, 0, latency_ms, own_s, landmark_s, bins)
    if first:
        q.add(slot, 1, first_token_ms, own_s, landmark_s, bins)
    if probe:  # of another size than what users ask
        return
    long = chars >= LONG_CHARS
    teaches = c.answered(
        slot, at, generated, empty, tokens, finish, sampled, shape, lacking, repetition, text, prompt, long,
        figures, tracks, marks,
    )  # fmt: skip
    trust = c.trust_in(figures[slot, r.COHERENCE])
    for track in range(r.N_TIMED):
        x = math.nan
        if track == r.LATENCY and timed:
            x = math.log(latency_ms)
        elif track == r.FIRST_TOKEN and first:
            x = math.log(first_token_ms)
        elif track == r.SPEED and timed and tokens >= LEAST_TOKENS:
            taken_ms = latency_ms - first_token_ms if stream and first else latency_ms
            x = math.log(tokens / max(taken_ms, 1.0) * 1e3)
        if x == x:
            r.add_timed(slot, track, x, late_s, tracks)
            unusual = abs(r.timed_shift(slot, track, r.MID, 1.0, tracks)) > UNUSUAL_SHIFT
            unusual = unusual or r.timed_rms(slot, track, 1.0, tracks) > r.STEADY_RMS
            if track == r.SPEED:
                r.add_recent(slot, track, x, tracks)
            if teaches:
                r.learn_usual(slot, track, x, 0.0 if unusual else trust, figures[slot, r.OWN_S], tracks)


@compiled(f"void(int64, float64, {_ROWS}, float64[::1])")
def summarise(slot: int, now: float, figures: r.Floats, tracks: r.Floats, bins: r.Floats, out: r.Floats) -> None:
    """One offer's figures at ``now`` into ``out`` [N_SUMMARY]."""
    for histogram in range(2):
        out[3 * histogram] = q.quantile(bins, slot, histogram, 0.5)
        out[3 * histogram + 1] = q.quantile(bins, slot, histogram, 0.95)
        out[3 * histogram + 2] = q.quantile(bins, slot, histogram, 0.99)
    out[COHERENCE] = c.relaxed(slot, now, figures)
    out[STABILITY] = f.stability(slot, now, figures, tracks)
    out[TREND] = f.trend(slot, now, figures, tracks)
    # The last minutes, and where they hold few attempts the last half hour.
    slow = figures[slot, r.ATTEMPTS + r.SLOW]
    calm = slow - figures[slot, r.THROTTLES + r.SLOW]
    of_errors = figures[slot, r.ERRORS + r.SLOW] / calm if calm > 1e-9 else 0.0
    of_throttles = figures[slot, r.THROTTLES + r.SLOW] / slow if slow > 1e-9 else 0.0
    left = r.left_by(slot, now, r.MID, figures)
    mid = left * figures[slot, r.ATTEMPTS + r.MID]
    throttled = left * figures[slot, r.THROTTLES + r.MID]
    errors = left * figures[slot, r.ERRORS + r.MID]
    out[ERROR_RATE] = min((errors + 3.0 * of_errors) / (max(mid - throttled, 0.0) + 3.0), 1.0)
    out[THROTTLE_RATE] = min((throttled + 3.0 * of_throttles) / (mid + 3.0), 1.0)
    out[OUTCOMES] = r.left_by(slot, now, r.SLOW, figures) * slow
