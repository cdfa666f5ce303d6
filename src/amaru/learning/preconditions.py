"""What is looked at before a training begins."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from amaru.errors import AmaruError
from amaru.learning import checkpoints, decision_samples, metrics_csv, swarm_files
from amaru.simulation.scenario import Scenario


def family_digest(scenario: Scenario) -> str:
    """Tells whether two scenarios are the same."""
    return hashlib.blake2b(msgspec.json.encode(scenario), digest_size=16).hexdigest()


def check_family(scenario: Scenario) -> None:
    """Raises AmaruError where its worlds must not be trained on."""
    if scenario.purpose == "evaluate":
        raise AmaruError(
            f"--worlds {scenario.name}: these worlds are for evaluation only; a policy that had trained on them would"
            " be judged by what it remembers. Train on another family, such as hidden-train-v1, and judge with"
            " `amaru evaluate`"
        )


def files_of_a_training(directory: Path) -> list[Path]:
    """What an earlier training has left in ``directory``."""
    names = (
        checkpoints.NAME,
        metrics_csv.NAME,
        decision_samples.NAME,
        decision_samples.PARTS,
        f"{swarm_files.NAME}.json",
    )
    return [directory / name for name in names if (directory / name).exists()]
