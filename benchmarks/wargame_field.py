"""What the stability field's interventions gain a training: the same trainings with the field on and off.

python benchmarks/wargame_field.py [--trainings 10] [--episodes 300] [--agents 8] [--write PAGE]

Each training is run twice from one seed: alone, and with `--psi-field local` at its defaults. Compared are what the
agents got while they trained, and what the best agent of each gets in held-out worlds, the same for both. Trainings
are what is resampled: they are independent of each other, and the two of a pair are not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from wargame_page import machine_words, write_between

from amaru.learning.checkpoints import TrainingSettings
from amaru.learning.evaluation import Player, play_one
from amaru.learning.intervals import Resampling
from amaru.learning.psi_field import LocalField
from amaru.learning.swarm_files import load_swarm_file
from amaru.learning.training import Training
from amaru.readiness.markdown import table
from amaru.simulation.scenario_files import load_scenario

TRAIN, JUDGE = "hidden-train-v1", "hidden-eval-v1"
FIRST_WORLD = 30_000
"""Seed of the first held-out world."""
COLUMNS = ("training alone", "with the field", "the field gains", "sure?")


class Run(NamedTuple):
    """What one training came to."""

    throughout: float
    """Utility of a request, over all agents and episodes."""
    held_out: float
    """Of the best agent, in the held-out worlds."""
    nigredo: int
    albedo: int


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--worlds", type=int, default=20, help="held-out ones")
    parser.add_argument("--steps", type=int, default=500, help="of a held-out world")
    parser.add_argument("--write", type=Path, help="replace the table in this page")
    arguments = parser.parse_args()
    pairs = []
    for seed in range(arguments.trainings):
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory)
            alone = trained(seed, place / "alone", None, arguments)
            pairs.append((alone, trained(seed, place / "field", LocalField(arguments.agents), arguments)))
        print(f"training {seed}: {pairs[-1]}", file=sys.stderr, flush=True)
    text = page(pairs, arguments)
    print(text)
    if arguments.write:
        write_between(arguments.write, "field", text)


def trained(seed: int, out: Path, field: LocalField | None, arguments: argparse.Namespace) -> Run:
    """One training, and its best agent in the held-out worlds."""
    settings = TrainingSettings(
        policy="qlearning",
        agents=arguments.agents,
        worlds=TRAIN,
        steps=load_scenario(TRAIN).steps,
        seed=seed,
        learning_rate=None,
        epsilon=0.2,
        epsilon_kept=0.999,
        epsilon_least=0.01,
        share_every=10,
        decisions=0,
    )
    out.mkdir()
    Training(
        settings, load_scenario(TRAIN), out, episodes=arguments.episodes, field=field, clock=time.monotonic
    ).run()  # fmt: skip
    rows = pl.read_csv(out / "training_metrics.csv")
    asked = [] if field is None else rows["intervention"].to_list()
    best = max(load_swarm_file(out / "swarm_final.json").agents, key=lambda agent: agent.score)
    player = Player(name=best.policy, role="learned", knobs=best.knobs, state=best.state)
    seeds = range(FIRST_WORLD, FIRST_WORLD + arguments.worlds)
    games = [play_one(load_scenario(JUDGE), world, player, arguments.steps) for world in seeds]
    return Run(
        throughout=float(np.average(rows["utility"].to_numpy(), weights=rows["requests"].to_numpy())),
        held_out=sum(game.utility for game in games) / sum(game.requests for game in games),
        nigredo=asked.count("nigredo"),
        albedo=asked.count("albedo"),
    )


def page(pairs: list[tuple[Run, Run]], arguments: argparse.Namespace) -> str:
    """The table as Markdown, and in words what it says."""
    resampling = Resampling(len(pairs), seed=0)
    rows, verdicts = [], []
    for name, place in (("while it trains, all agents", 0), ("held-out worlds, best agent", 1)):
        columns = np.array([(alone[place], field[place]) for alone, field in pairs])
        gain = resampling.estimate(columns, lambda means: means[..., 1] - means[..., 0])
        interval = gain.interval
        span = "" if interval is None else f" [{interval.low:+.4f}, {interval.high:+.4f}]"
        sure = interval is not None and interval.sure
        alone, field = columns.mean(axis=0)
        rows.append((name, f"{alone:.4f}", f"{field:.4f}", f"{gain.value:+.4f}{span}", "yes" if sure else "no"))
        verdicts.append(("gains" if gain.value > 0 else "costs") if sure else "changes nothing that can be told")
    nigredo = sum(field.nigredo for _, field in pairs) / len(pairs)
    albedo = sum(field.albedo for _, field in pairs) / len(pairs)
    training = f"{arguments.agents} agents (qlearning, {arguments.episodes} episodes of {TRAIN}"
    judged = f"{arguments.worlds} worlds of {JUDGE} of {arguments.steps} steps"
    how = (
        f"{len(pairs)} pairs of trainings of {training}, seeds 0 to {len(pairs) - 1}), judged in {judged}; 95 %"
        f" intervals (paired bootstrap over trainings, BCa). {machine_words()}."
    )
    what = (
        f"Utility of a request. In a training, the field asked for nigredo {nigredo:.1f} times and for albedo"
        f" {albedo:.1f} times. That {verdicts[0]} while agents train, and {verdicts[1]} in what they have learned."
    )
    return "\n\n".join((how, what, table(("", *COLUMNS), rows)))


if __name__ == "__main__":
    main()
