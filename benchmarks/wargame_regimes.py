"""How many decisions of a class it takes a policy to regain 90 % of the utility that a change of regime cost it.

python benchmarks/wargame_regimes.py [--worlds 40] [--steps 1000] [--ai-agents swarm_final.json] [--write PAGE]

The definition is in ``amaru.learning.regained``. The worlds are held out; all policies play the same ones.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from wargame_page import machine_words, write_between

from amaru.learning.evaluation import SEED, Player, players
from amaru.learning.intervals import Estimate
from amaru.learning.regained import AFTER, BEFORE, RESAMPLES, WANTED, Curves, Regained, regained
from amaru.learning.regained_play import WARM_STEPS, strikes
from amaru.simulation.scenario import Scenario
from amaru.simulation.scenario_files import load_scenario

SKIPPED = ("rules_classic", "cheapest", "fastest", "random", "oracle")
GOAL = 200


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="hidden-eval-v1")
    parser.add_argument("--worlds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--ai-agents", type=Path)
    parser.add_argument("--write", type=Path, help="replace the table in this page")
    parser.add_argument("--curves", type=Path, help="write the mean curves there, as CSV")
    arguments = parser.parse_args()
    scenario = load_scenario(arguments.scenario)
    who = tuple(player for player in players(arguments.ai_agents) if player.name not in SKIPPED)
    seeds = range(arguments.seed, arguments.seed + arguments.worlds)
    worlds = []
    one = partial(_one, scenario, who, arguments.steps)
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        for found in pool.map(one, seeds):
            worlds.append(found)
            if len(worlds) % 10 == 0:
                print(f"{len(worlds)} of {len(seeds)} worlds", file=sys.stderr, flush=True)
    text = table(arguments, who, worlds)
    print(text)
    if arguments.write:
        write_between(arguments.write, "regimes", text)
    if arguments.curves:
        arguments.curves.write_text(csv(who, worlds), "utf-8")
    return 0


def _one(scenario: Scenario, who: tuple[Player, ...], steps: int, seed: int) -> dict[str, tuple[Curves, Curves]]:
    return strikes(scenario, seed, who, steps)


def table(
    arguments: argparse.Namespace, who: tuple[Player, ...], worlds: list[dict[str, tuple[Curves, Curves]]]
) -> str:
    """Markdown."""
    head = (
        f"{arguments.scenario}, {arguments.worlds} held-out worlds of {arguments.steps} steps, changes from step "
        f"{WARM_STEPS} on. Utility is per request, beside the oracle's. Decisions until {WANTED * 100:.0f} % of the "
        f"loss is regained, goal {GOAL}; 95 % intervals over worlds (BCa, {RESAMPLES:,} resamples, seed 0). "
        f"Machine: {machine_words()}."
    )
    lines = [head]
    for place, kind in enumerate(("for the worse", "for the better")):
        lines += [
            "",
            f"| after a change {kind} | changes | shortfall before | lost | decisions until regained |",
            "|---|---:|---:|---:|---:|",
        ]
        for player in who:
            found = regained([world[player.name][place] for world in worlds], seed=0)
            lines.append(
                f"| {player.name} | {found.changes:,} | {found.before:.4f} | {words(found.lost, '.4f')} "
                f"| {until(found)} |"
            )
    return "\n".join(lines)


def words(found: Estimate, form: str) -> str:
    """With its interval."""
    if found.interval is None:
        return f"{found.value:{form}}"
    return f"{found.value:{form}} [{found.interval.low:{form}}, {found.interval.high:{form}}]"


def until(found: Regained) -> str:
    """Decisions; AFTER means not within what was looked at."""
    if found.lost.value <= 0 or (found.lost.interval is not None and found.lost.interval.low <= 0):
        return "nothing was lost"
    text = words(found.decisions, ".0f")
    return text.replace(str(AFTER), f">{AFTER}")


def csv(who: tuple[Player, ...], worlds: list[dict[str, tuple[Curves, Curves]]]) -> str:
    """Mean shortfall by decisions since the change."""
    found = {
        f"{player.name}_{kind}": regained([world[player.name][place] for world in worlds], seed=0).curve
        for player in who
        for place, kind in enumerate(("worse", "better"))
    }
    width = (BEFORE + AFTER) // len(next(iter(found.values())))
    rows = [",".join(("decisions", *found))]
    for place, figures in enumerate(zip(*found.values(), strict=True)):
        rows.append(",".join([str(place * width - BEFORE), *(f"{figure:.6f}" for figure in figures)]))
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
