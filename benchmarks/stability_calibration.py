"""How often the stability field is surprised by what is stationary: PE above 0.7 on 1 %, above 1.5 on 0.01 %.

python benchmarks/stability_calibration.py [--steps 200000] [--seed 1] [--write PAGE]

Seven kinds of series, each with 1, 4, 16 and 64 signals. The first 10,000 steps of each are left out of the rates, and
the first 1,000 are counted apart: while the past is short, its tail is partly assumed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from wargame_page import machine_words, write_between

from amaru.stability import field_kernels as k
from amaru.stability.field import StabilityField
from amaru.stability.field_settings import FieldSettings
from amaru.stability.surprise_kernels import ALARM, NOTICE

Floats = npt.NDArray[np.float64]
DIMENSIONS = (1, 4, 16, 64)
EARLY, LATE = 1000, 10_000


def autoregressive(follows: float) -> Callable[[np.random.Generator, int, int], Floats]:
    """First order, with normal noise."""

    def made(rng: np.random.Generator, steps: int, dimension: int) -> Floats:
        values = rng.normal(size=(steps, dimension))
        for i in range(1, steps):
            values[i] += follows * values[i - 1]
        return values

    return made


def alike(rng: np.random.Generator, steps: int, dimension: int) -> Floats:
    """Signals with a correlation of 0.94."""
    return 2.0 * rng.normal(size=(steps, 1)) + 0.5 * rng.normal(size=(steps, dimension))


SERIES: dict[str, Callable[[np.random.Generator, int, int], Floats]] = {
    "normal": lambda rng, steps, dimension: rng.normal(size=(steps, dimension)),
    "Student t, 5 degrees": lambda rng, steps, dimension: rng.standard_t(5, (steps, dimension)),
    "Student t, 4 degrees": lambda rng, steps, dimension: rng.standard_t(4, (steps, dimension)),
    "Student t, 3 degrees": lambda rng, steps, dimension: rng.standard_t(3, (steps, dimension)),
    "AR(1), 0.5": autoregressive(0.5),
    "AR(1), 0.95": autoregressive(0.95),
    "correlated, 0.94": alike,
}


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="replace the table in this page")
    arguments = parser.parse_args()
    lines = [
        "| series | signals | above 0.7 | above 1.5 | of the first 1,000 |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, series in SERIES.items():
        for dimension in DIMENSIONS:
            errors = errors_of(series(np.random.default_rng(arguments.seed), arguments.steps, dimension))
            late, early = errors[LATE:], errors[:EARLY]
            shares = f"{100 * (late > NOTICE).mean():.2f} % | {100 * (late > ALARM).mean():.4f} %"
            lines.append(f"| {name} | {dimension} | {shares} | {(early > NOTICE).sum()}, {(early > ALARM).sum()} |")
    table = f"{arguments.steps:,} steps each, seed {arguments.seed}; {machine_words()}.\n\n" + "\n".join(lines)
    print(table)
    if arguments.write:
        write_between(arguments.write, "calibration", table)
    return 0


def errors_of(rows: Floats) -> Floats:
    """PE of every step."""
    rows = np.ascontiguousarray(rows)
    field = StabilityField(FieldSettings(dimension=rows.shape[1]))
    errors = np.empty(len(rows))
    for i, row in enumerate(rows):
        # The kernel itself: of a reading only PE is wanted.
        k.step(
            row, math.nan, field._signals, field._whole, field._past, field._calm, field._ranked, field._knobs,
            field._surprises, field._figures,
        )  # fmt: skip
        errors[i] = field._figures[k.PE]
    return errors


if __name__ == "__main__":
    raise SystemExit(main())
