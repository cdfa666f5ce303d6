"""The classic war-game: whether ours gives what is published, and what is possible in it at all.

python benchmarks/wargame_classic.py [--seeds 100] [--write PAGE]

``rules_classic`` over 100 seeds of 120 steps, beside the published means (standard errors in brackets): fill 0.9964
(0.0001), 3.437 USD (0.010) and 320.5 ms (0.06) a served request; and the envelope, beside the published ends of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from wargame_page import machine_words, write_between

from amaru.learning.envelope import PUBLISHED, Envelope, Mean, envelope, play_corners
from amaru.simulation.scenario_files import load_scenario

PUBLISHED_ENDS = {"cheapest": (3.413, 326.2), "fastest": (3.947, 282.6)}
WITHIN = 2.0
"""Standard errors of both means together."""


def main() -> int:
    """Run and print; exit status 1 where a figure is outside sampling error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--write", type=Path, help="replace the table in this page")
    arguments = parser.parse_args()
    scenario = load_scenario("classic")
    found = envelope(play_corners(scenario, steps=scenario.steps, seeds=range(arguments.seeds)))
    assert found is not None
    text, fine = page(found, arguments.seeds)
    print(text)
    if arguments.write:
        write_between(arguments.write, "classic", text)
    return 0 if fine else 1


def page(found: Envelope, seeds: int) -> tuple[str, bool]:
    """The tables as Markdown, and whether every figure is within sampling error."""
    lines = [
        f"rules_classic on classic, {seeds} seeds of 120 steps, means per served request. Machine: {machine_words()}.",
        "",
        "| | measured | published | z | within sampling error |",
        "|---|---:|---:|---:|---|",
    ]
    fine = True
    measured = (found.classic.fill_rate, found.classic.avg_cost_usd, found.classic.avg_latency_ms)
    for (what, value, error, digits), mean in zip(PUBLISHED, measured, strict=True):
        z = mean.z(value, error)
        fine &= abs(z) <= WITHIN
        lines.append(
            f"| {what} | {shown(mean, digits)} | {value:.{digits}f} ± {error:g} | {z:+.2f} "
            f"| {'yes' if abs(z) <= WITHIN else 'NO'} |"
        )
    lines += [
        "",
        "| choice, request by request | fill | cost, USD | published | latency, ms | published |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for corner in (found.classic, found.cheapest, found.fastest):
        cost, latency = PUBLISHED_ENDS.get(corner.policy, (PUBLISHED[1][1], PUBLISHED[2][1]))
        lines.append(
            f"| {corner.policy} | {shown(corner.fill_rate, 4)} | {shown(corner.avg_cost_usd, 3)} | {cost:.3f} "
            f"| {shown(corner.avg_latency_ms, 1)} | {latency:.1f} |"
        )
    lines.append("")
    lines.append(
        f"So at most {found.cost_saving * 100:.1f} % of the cost or {found.latency_saving * 100:.1f} % of the latency "
        "of rules_classic can be saved, and never both at once: claims outside this are impossible."
    )
    return "\n".join(lines), fine


def shown(mean: Mean, digits: int) -> str:
    """With its standard error."""
    return f"{mean.value:.{digits}f} ± {mean.error:.{digits + 1}f}"


if __name__ == "__main__":
    sys.exit(main())
