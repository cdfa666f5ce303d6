"""Time of one step of the stability field, on one core, beside what it may take: 20 µs at 16 signals, 200 µs at 256.

python benchmarks/stability_speed.py [--rounds 15] [--write PAGE]

A step is all of ``StabilityField.step``: a list of floats in, a ``FieldReading`` out. The field is in the state that it
is in for ever after: all of its memory is full, so that each step pays for the oldest value that goes. A round is 400
steps; the median round is printed with the least and the most. Times are the processor's, so what else runs on the
machine counts only by the caches that it takes. Exits 1 where the median is over the limit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
from wargame_page import machine_words, write_between

from amaru.stability.field import StabilityField
from amaru.stability.field_settings import FieldSettings

LIMITS_US = {1: 20.0, 16: 20.0, 64: 200.0, 256: 200.0}
STEPS = 400


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", type=Path, help="replace the table in this page")
    arguments = parser.parse_args()
    machine = machine_words()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    lines = ["| signals | µs a step | least to most | may take | state |", "| ---: | ---: | ---: | ---: | ---: |"]
    over = False
    for dimension, limit_us in LIMITS_US.items():
        rounds, state_bytes = measured(dimension, arguments.rounds)
        median = statistics.median(rounds)
        over |= median > limit_us
        span = f"{min(rounds):.1f} to {max(rounds):.1f}"
        lines.append(f"| {dimension} | {median:.1f} | {span} | {limit_us:.0f} | {state_bytes / 1024:.0f} KiB |")
    table = f"{machine}; one core.\n\n" + "\n".join(lines)
    print(table)
    if arguments.write:
        write_between(arguments.write, "speed", table)
    return 1 if over else 0


def measured(dimension: int, rounds: int) -> tuple[list[float], int]:
    """µs a step in each round, and the bytes of the state."""
    rng = np.random.default_rng(dimension)
    field = StabilityField(FieldSettings(dimension=dimension))
    for row in rng.normal(size=(field.settings.calm_steps + 100, dimension)).tolist():
        field.step(row)
    spent = []
    for _ in range(rounds):
        rows = rng.normal(size=(STEPS, dimension)).tolist()
        begun = time.process_time()
        for row in rows:
            field.step(row)
        spent.append((time.process_time() - begun) / STEPS * 1e6)
    return spent, len(field.state())


if __name__ == "__main__":
    raise SystemExit(main())
