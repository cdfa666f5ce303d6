"""Coefficients of the prediction of hard failures; see ``prediction``.

Not by hand: ``python benchmarks/fit_prediction.py --write src/amaru/health/prediction_table.py`` writes it.
"""

from __future__ import annotations

BIAS = -6.363
"""Log-odds where nothing is the matter."""
TERMS: tuple[tuple[str, float, float, float], ...] = (
    ("errors_fast", 0.0, 0.1, 1.462),
    ("errors_fast", 0.1, 0.25, 2.36),
    ("errors_fast", 0.25, 0.45, 2.102),
    ("errors_fast", 0.45, 0.7, 1.274),
    ("errors_mid", 0.03, 0.08, 0.413),
    ("errors_mid", 0.08, 0.16, 1.005),
    ("latency_shift_fast", 0.5, 1.2, 1.668),
    ("latency_shift_fast", 1.2, 2.0, 0.706),
    ("latency_shift_fast", 2.0, 4.0, 0.125),
    ("latency_shift_mid", 1.5, 3.0, 0.132),
    ("first_token_shift_fast", 0.5, 1.2, 0.738),
    ("first_token_shift_fast", 1.2, 2.0, 1.483),
    ("first_token_shift_fast", 2.0, 4.0, 0.752),
    ("first_token_shift_mid", 0.5, 1.5, 0.317),
    ("coherence", 1.0, 0.9, 1.69),
    ("coherence", 0.7, 0.4, 0.438),
    ("coherence", 0.4, 0.0, 4.697),
    ("failures_in_a_row", 0.0, 1.0, 0.444),
    ("failures_in_a_row", 1.0, 2.0, 2.231),
    ("since_success_s", 10.0, 30.0, 0.582),
    ("since_success_s", 30.0, 90.0, 0.281),
    ("stability", 1.0, 0.8, 0.432),
)
"""Feature, where its effect begins, where it is full, and the log-odds that it then adds."""
CALIBRATION: tuple[tuple[float, float], ...] = (
    (-6.285, 0.0020),
    (-5.153, 0.0060),
    (-3.490, 0.0436),
    (-1.792, 0.1810),
    (-0.036, 0.5842),
    (1.685, 0.8721),
    (3.012, 0.9413),
    (5.127, 0.9856),
    (6.207, 0.9881),
    (8.536, 0.9913),
)
"""Log-odds, and the share of such moments before or in a hard failure."""
OFTEN = 0.0210
"""Share of all moments before or in a hard failure, in the worlds that it was calibrated on."""
