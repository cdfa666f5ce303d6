"""The columns of what patterns and prediction read about one offer: ``Signatures.features`` gives one row, float64.

All are finite, whatever was observed; an offer that nothing is known of has the row ``NOTHING_KNOWN``. What each holds
is said where it is named, in ``feature_kernels``.
"""

from __future__ import annotations

from amaru.health.feature_kernels import (
    COHERENCE,
    ERRORS_FAST,
    ERRORS_MID,
    ERRORS_SLOW,
    FAILURES_IN_A_ROW,
    FIRST_TOKEN_SHIFT_FAST,
    FIRST_TOKEN_SHIFT_MID,
    LATENCY_SHIFT_FAST,
    LATENCY_SHIFT_MID,
    MOST_SINCE_S,
    N_FEATURES,
    OUTCOMES_FAST,
    OUTCOMES_SLOW,
    SHAPE_CHANGE,
    SINCE_SUCCESS_S,
    SPEED_SHIFT,
    STABILITY,
    THROTTLES,
)
from amaru.health.row_kernels import FAST_S, MID_S, MOST_SHIFT, SLOW_S

__all__ = [
    "COHERENCE", "ERRORS_FAST", "ERRORS_MID", "ERRORS_SLOW", "FAILURES_IN_A_ROW", "FAST_S", "FIRST_TOKEN_SHIFT_FAST",
    "FIRST_TOKEN_SHIFT_MID", "LATENCY_SHIFT_FAST", "LATENCY_SHIFT_MID", "MID_S", "MOST_SHIFT", "MOST_SINCE_S", "NAMES",
    "NOTHING_KNOWN", "N_FEATURES", "OUTCOMES_FAST", "OUTCOMES_SLOW", "SHAPE_CHANGE", "SINCE_SUCCESS_S", "SLOW_S",
    "SPEED_SHIFT", "STABILITY", "THROTTLES",
]  # fmt: skip

NAMES = (
    "errors_fast", "errors_mid", "errors_slow", "latency_shift_fast", "latency_shift_mid", "first_token_shift_fast",
    "first_token_shift_mid", "coherence", "shape_change", "throttles", "failures_in_a_row", "since_success_s",
    "outcomes_fast", "outcomes_slow", "speed_shift", "stability",
)  # fmt: skip
"""By column."""

NOTHING_KNOWN = tuple(
    {COHERENCE: 1.0, STABILITY: 1.0, SINCE_SUCCESS_S: MOST_SINCE_S}.get(column, 0.0) for column in range(N_FEATURES)
)
