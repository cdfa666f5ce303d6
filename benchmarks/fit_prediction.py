"""Fits the prediction of hard failures to generated incidents, and writes its table of coefficients.

python benchmarks/fit_prediction.py [--write src/amaru/health/prediction_table.py]

Twelve worlds fit the weights (ridge logistic regression, no weight negative: SciPy's L-BFGS-B), six others calibrate
them (isotonic regression by pooling adjacent violators). Their seeds are below 1000; `incident_patterns.py` judges on
seeds from 1000 on. About four minutes.
"""

from __future__ import annotations

import argparse
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
from incident_moments import Moments, joined, moments
from scipy.optimize import minimize

from amaru.health.features import NAMES
from amaru.health.incident_types import mesh_of
from amaru.health.incidents import World, troubled_times

FIT_SEEDS, CALIBRATION_SEEDS = range(100, 112), range(112, 118)
HOURS = 20.0
EVERY_S = 1500.0
RATES = (0.5, 0.2, 1.5, 0.8)
"""Attempts per second and offer, in turns."""
RIDGE = 1.0
POINTS = 14
"""Of the calibration, at most."""

RISES: dict[str, tuple[float, ...]] = {
    "errors_fast": (0.0, 0.1, 0.25, 0.45, 0.7, 0.9),
    "errors_mid": (0.0, 0.03, 0.08, 0.16, 0.3, 0.6),
    "latency_shift_fast": (0.5, 1.2, 2.0, 4.0, 8.0),
    "latency_shift_mid": (0.5, 1.5, 3.0, 5.0, 8.0),
    "first_token_shift_fast": (0.5, 1.2, 2.0, 4.0, 8.0),
    "first_token_shift_mid": (0.5, 1.5, 3.0, 5.0, 8.0),
    "coherence": (1.0, 0.9, 0.7, 0.4, 0.0),
    "shape_change": (0.0, 0.2, 1.0),
    "failures_in_a_row": (0.0, 1.0, 2.0, 4.0, 10.0),
    "since_success_s": (10.0, 30.0, 90.0, 300.0),
    "speed_shift": (0.0, -0.5, -1.0, -2.0),
    "stability": (1.0, 0.8, 0.6, 0.3, 0.0),
}
"""Figures of each feature between which its effect may rise, from harmless to bad."""
TERMS = [(name, a, b) for name, at in RISES.items() for a, b in pairwise(at)]


def drawn(seeds: range) -> Moments:
    """The moments of these worlds."""
    parts = []
    for seed in seeds:
        mesh = mesh_of(rate_per_s=RATES[seed % len(RATES)])
        world = World(mesh, troubled_times(mesh, seed, HOURS, every_s=EVERY_S), seed)
        parts.append(moments(world, 3600.0 * HOURS))
        print(f"seed {seed}: {len(parts[-1].fails)} moments, {parts[-1].fails.mean():.2%} before or in a hard failure")
    return joined(parts)


def basis(features: np.ndarray) -> np.ndarray:
    """float64 [rows, terms]: how far each term has risen, 0 to 1."""
    return np.stack([np.clip((features[:, NAMES.index(n)] - a) / (b - a), 0.0, 1.0) for n, a, b in TERMS], axis=1)


def fitted(rows: np.ndarray, fails: np.ndarray) -> tuple[float, np.ndarray]:
    """Bias and weights."""

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        log_odds = rows @ at[1:] + at[0]
        off = 1.0 / (1.0 + np.exp(-log_odds)) - fails
        value = np.logaddexp(0.0, log_odds).sum() - log_odds[fails].sum() + RIDGE * (at[1:] ** 2).sum()
        return float(value), np.r_[off.sum(), rows.T @ off + 2.0 * RIDGE * at[1:]]

    n = rows.shape[1]
    start, bounds = np.r_[-5.0, np.full(n, 0.1)], [(None, None)] + [(0.0, None)] * n
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
    return float(found.x[0]), found.x[1:]


def calibrated(log_odds: np.ndarray, fails: np.ndarray) -> list[tuple[float, float]]:
    """Points of the isotonic map: pooled bins, each with one success and one failure added for its size's sake."""
    order = np.argsort(log_odds, kind="stable")
    log_odds, fails = log_odds[order], fails[order]
    # Bins that are equal in log-odds beyond the bulk, which lies at the bias and is one bin of its own.
    low, high = float(np.quantile(log_odds, 0.9)), float(log_odds[-1])
    edges = [-math.inf, *np.linspace(low, high, POINTS), math.inf]
    pools: list[list[float]] = []  # sum of log-odds, fails, n
    for a, b in pairwise(edges):
        inside = (log_odds >= a) & (log_odds < b)
        if inside.sum() < 30:
            continue
        pools.append([float(log_odds[inside].sum()), float(fails[inside].sum()), float(inside.sum())])
        while len(pools) > 1 and pools[-2][1] / pools[-2][2] >= pools[-1][1] / pools[-1][2]:
            last = pools.pop()
            pools[-1] = [x + y for x, y in zip(pools[-1], last, strict=True)]
    return [(total / n, min(max(failed / n, 1e-4), 0.995)) for total, failed, n in pools]


def main() -> int:
    """Fit, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="the table")
    arguments = parser.parse_args()
    first = drawn(FIT_SEEDS)
    bias, weights = fitted(basis(first.features), first.fails)
    kept = [(name, a, b, round(float(w), 3)) for (name, a, b), w in zip(TERMS, weights, strict=True) if w >= 0.05]
    second = drawn(CALIBRATION_SEEDS)
    ours = np.array([w if w >= 0.05 else 0.0 for w in weights])
    points = calibrated(basis(second.features) @ ours + bias, second.fails)
    lines = [
        '"""Coefficients of the prediction of hard failures; see ``prediction``.',
        "",
        "Not by hand: ``python benchmarks/fit_prediction.py --write src/amaru/health/prediction_table.py`` writes it.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        f"BIAS = {bias:.3f}",
        '"""Log-odds where nothing is the matter."""',
        "TERMS: tuple[tuple[str, float, float, float], ...] = (",
        *(f'    ("{name}", {a}, {b}, {w}),' for name, a, b, w in kept),
        ")",
        '"""Feature, where its effect begins, where it is full, and the log-odds that it then adds."""',
        "CALIBRATION: tuple[tuple[float, float], ...] = (",
        *(f"    ({log_odds:.3f}, {probability:.4f})," for log_odds, probability in points),
        ")",
        '"""Log-odds, and the share of such moments before or in a hard failure."""',
        f"OFTEN = {second.fails.mean():.4f}",
        '"""Share of all moments before or in a hard failure, in the worlds that it was calibrated on."""',
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
