"""Makes a trace in the Azure format, from a seed: arrivals that swing and burst, sizes that are log-normal.

Arrivals are a Poisson process whose rate is the mean rate, times a slow swing (the day, compressed into the trace),
times bursts: at random moments the rate jumps and decays exponentially, as in a Hawkes process whose excitement comes
from outside. Prompt and answer lengths are log-normal with the medians and spreads of the 2023 conversation trace
(medians 1,020 and 129 tokens), cut at what its model could take.

The bundled trace is made by

    python -m amaru.simulation.trace_generator src/amaru/simulation/data/generated_conv.csv
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from amaru.simulation.traces import TraceRequest, write_azure

START = datetime(2026, 1, 1, 9, 0, 0, tzinfo=UTC)


class TraceShape(msgspec.Struct, frozen=True):
    """What a generated trace looks like; the defaults are those of the bundled one."""

    duration_s: float = 720.0
    rate_per_s: float = 5.4
    """Mean, without the bursts."""
    swing: float = 0.45
    """Half the height of the slow wave, as a share of the mean rate."""
    burst_every_s: float = 60.0
    burst_height: float = 2.0
    """Jump of the rate at a burst, as a share of the mean rate."""
    burst_decay_s: float = 6.0
    input_median: float = 1020.0
    input_sigma: float = 0.8
    input_max: int = 8000
    output_median: float = 129.0
    output_sigma: float = 0.85
    output_max: int = 1000


def generate(shape: TraceShape, seed: int) -> Iterator[TraceRequest]:
    """The requests of a trace, in order; the same for the same seed. Ogata's thinning draws the arrivals."""
    rng = random.Random(seed)  # noqa: S311 -- reproducible, not secret
    excitement, at_s = 0.0, 0.0
    next_burst_s = rng.expovariate(1 / shape.burst_every_s)
    first_s: float | None = None
    while True:
        ceiling = shape.rate_per_s * (1 + shape.swing + excitement + shape.burst_height)
        step_s = rng.expovariate(ceiling)
        at_s += step_s
        if at_s >= shape.duration_s:
            return
        excitement *= math.exp(-step_s / shape.burst_decay_s)
        if at_s >= next_burst_s:
            excitement += shape.burst_height
            next_burst_s = at_s + rng.expovariate(1 / shape.burst_every_s)
        wave = shape.swing * math.sin(2 * math.pi * at_s / shape.duration_s)
        if rng.random() * ceiling > shape.rate_per_s * (1 + wave + excitement):
            continue
        if first_s is None:
            first_s = at_s
        yield TraceRequest(
            round(at_s - first_s, 7),
            _drawn(rng, shape.input_median, shape.input_sigma, shape.input_max),
            _drawn(rng, shape.output_median, shape.output_sigma, shape.output_max),
        )


def _drawn(rng: random.Random, median: float, sigma: float, most: int) -> int:
    return max(2, min(most, round(median * rng.lognormvariate(0.0, sigma))))


def main(arguments: list[str] | None = None) -> None:
    """Write a trace to a file."""
    parser = argparse.ArgumentParser(prog="python -m amaru.simulation.trace_generator", description=main.__doc__)
    parser.add_argument("path", type=Path, help="the file to write")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--duration-s", type=float, default=TraceShape().duration_s)
    parser.add_argument("--rate-per-s", type=float, default=TraceShape().rate_per_s)
    options = parser.parse_args(arguments)
    shape = TraceShape(duration_s=options.duration_s, rate_per_s=options.rate_per_s)
    with options.path.open("w", encoding="utf-8", newline="") as out:
        write_azure(out, generate(shape, options.seed), START)


if __name__ == "__main__":
    main()
