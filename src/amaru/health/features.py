"""The columns of what patterns and prediction read about one offer: ``Signatures.features`` gives one row, float64.

All are finite, whatever was observed; an offer that nothing is known of has the row ``NOTHING_KNOWN``.
"""

from __future__ import annotations

FAST_S, MID_S, SLOW_S = 10.0, 120.0, 1800.0
"""Half-lives, by event time, of what is kept at three paces."""

MOST_SHIFT = 8.0
"""A shift is at most so many standard deviations either way."""
MOST_SINCE_S = 3600.0
"""``SINCE_SUCCESS_S`` is at most this; also where there never was a success."""

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

NAMES = (
    "errors_fast", "errors_mid", "errors_slow", "latency_shift_fast", "latency_shift_mid", "first_token_shift_fast",
    "first_token_shift_mid", "coherence", "shape_change", "throttles", "failures_in_a_row", "since_success_s",
    "outcomes_fast", "outcomes_slow", "speed_shift", "stability",
)  # fmt: skip
"""By column."""

NOTHING_KNOWN = tuple(
    {COHERENCE: 1.0, STABILITY: 1.0, SINCE_SUCCESS_S: MOST_SINCE_S}.get(column, 0.0) for column in range(N_FEATURES)
)
