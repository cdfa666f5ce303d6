"""Every policy in held-out hidden worlds, beside the best rule and the best that was possible: the table of the docs.

python benchmarks/wargame_heldout.py [--worlds 100] [--steps 1000] [--ai-agents swarm_final.json] [--write PAGE]

It trains nothing: without ``--ai-agents`` the learned policies begin each world with nothing, and learn in it. The
worlds are of ``hidden-eval-v1``, which nothing is trained or tuned on. It is what ``amaru evaluate`` does, with more
worlds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from wargame_page import machine_words, write_between

from amaru.learning.evaluation import SEED, Progress, evaluate, players
from amaru.learning.evaluation_report import EvaluationReport, encoded, report, write
from amaru.readiness.evaluation_markdown import (
    GAPS,
    STANDINGS,
    contrast_rows,
    gap_rows,
    gap_words,
    standing_rows,
    verdict,
)
from amaru.readiness.markdown import table
from amaru.simulation.scenario_files import load_scenario

GOAL = 0.9
"""Of what informed gains over the best rule."""


def main() -> int:
    """Run and print; exit status 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="hidden-eval-v1")
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--ai-agents", type=Path)
    parser.add_argument("--out", type=Path, help="write the whole report's JSON there")
    parser.add_argument("--write", type=Path, help="replace the tables in this page")
    arguments = parser.parse_args()
    began, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    games = evaluate(
        load_scenario(arguments.family),
        players(arguments.ai_agents),
        steps=arguments.steps,
        seeds=range(arguments.seed, arguments.seed + arguments.worlds),
        processes=arguments.processes,
        on_progress=told,
    )
    found = report(
        games,
        version=version("amaru"),
        seed=0,
        started_at=started_at,
        seconds=round(time.monotonic() - began, 1),
        command=f"python {' '.join(sys.argv)}",
        machine=machine_words(),
    )
    text, fine = page(found)
    print(text)
    if arguments.out:
        write([(arguments.out, encoded(found))])
    if arguments.write:
        write_between(arguments.write, "heldout", text)
    return 0 if fine and found.complete else 1


def told(now: Progress) -> None:
    """A line at every tenth of the games."""
    if now.games % max(1, now.of // 10) == 0:
        print(f"{now.games} of {now.of} games", file=sys.stderr, flush=True)


def page(found: EvaluationReport) -> tuple[str, bool]:
    """The tables as Markdown, and whether every goal is met."""
    setup = found.setup
    goals = list(judged(found))
    head = (
        f"{setup.scenario}, {len(setup.seeds)} held-out worlds (seeds {setup.seeds[0]} to {setup.seeds[-1]}) of "
        f"{setup.steps:,} steps; 95 % intervals ({setup.method}, {setup.resamples:,} resamples). {setup.machine}."
    )
    parts = [
        head,
        verdict(found),
        table(STANDINGS, standing_rows(found)),
        gap_words(found),
        table(GAPS, gap_rows(found)),
        table(("", "more utility per request", "sure?"), contrast_rows(found)),
        table(("goal", "met?", "measured"), [(goal, "yes" if met else "NO", words) for goal, met, words in goals]),
        *(f"Mind: {words}" for words in found.warnings),
    ]
    return "\n\n".join(parts), all(met for _, met, _ in goals)


def judged(found: EvaluationReport) -> list[tuple[str, bool, str]]:
    """What must hold: goal, whether it does, and the figure."""
    standings = {standing.policy: standing for standing in found.standings}
    shares = {
        name: standings[name].of_informed_gap.value
        for name in ("thompson", "hybrid")
        if name in standings and standings[name].of_informed_gap is not None
    }
    best = max(shares, key=lambda name: shares[name], default="")
    goals = [
        (
            f"thompson or hybrid closes at least {GOAL * 100:.0f} % of what informed closes",
            bool(best) and shares[best] >= GOAL,
            f"{best} {shares[best] * 100:.1f} %" if best else "-",
        )
    ]
    more = {(contrast.policy, contrast.than): contrast.utility for contrast in found.contrasts}
    for policy, than in ((best, "qlearning"), ("qlearning", found.baseline)):
        difference = more.get((policy, than))
        if difference is not None:
            sure = difference.interval is not None and difference.interval.low > 0
            goals.append((f"{policy} beats {than}, surely", sure, f"{difference.value:+.4f}"))
    return goals


if __name__ == "__main__":
    sys.exit(main())
