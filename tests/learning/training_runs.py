"""Small trainings, and how to compare what came of them."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl

from amaru.learning.checkpoints import Checkpoint, TrainingSettings, load_checkpoint
from amaru.learning.pace import Trained
from amaru.learning.psi_field import TrainingField
from amaru.learning.training import Training
from amaru.simulation.scenario import Scenario

FAMILY = "hidden-train-v1"


def settings(**changed: object) -> TrainingSettings:
    given: dict[str, object] = {
        "policy": "qlearning",
        "agents": 6,
        "worlds": FAMILY,
        "steps": 6,
        "seed": 7,
        "learning_rate": None,
        "epsilon": 0.2,
        "epsilon_kept": 0.9,
        "epsilon_least": 0.01,
        "share_every": 1,
        "decisions": 5,
    }
    return msgspec.convert({**given, **changed}, TrainingSettings)


def run(
    scenario: Scenario,
    out: Path,
    episodes: int,
    *,
    how: TrainingSettings | None = None,
    load: Path | None = None,
    field: TrainingField | None = None,
    processes: int = 1,
    stopped: Callable[[], bool] = lambda: False,
    every_s: float = 1e9,
) -> Trained:
    out.mkdir(exist_ok=True)
    loaded = None if load is None else load_checkpoint(load)
    training = Training(
        loaded.settings if loaded else how or settings(),
        scenario,
        out,
        episodes=episodes,
        processes=processes,
        loaded=loaded,
        loaded_from=None if load is None else load.parent,
        field=field,
        checkpoint_every_s=every_s,
        clock=itertools.count(0.0, 1.0).__next__,  # a second passes between two looks at the clock
        now=lambda: datetime(2026, 1, 2, tzinfo=UTC),
    )
    return training.run(stopped)


def result(out: Path) -> tuple[list[dict[str, str]], pl.DataFrame, bytes, Checkpoint]:
    """Everything in ``out``, apart from seconds."""
    rows = list(csv.DictReader((out / "training_metrics.csv").open()))
    for row in rows:
        row.pop("seconds")
    checkpoint = msgspec.structs.replace(load_checkpoint(out / "checkpoint.bin"), seconds=0.0)
    return rows, pl.read_parquet(out / "decisions.parquet"), (out / "swarm_final.json").read_bytes(), checkpoint


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = result(one), result(other)
    assert ours[0] == theirs[0]
    assert ours[1].equals(theirs[1])
    assert ours[2] == theirs[2]
    assert ours[3] == theirs[3]
