"""What a manifest says of training and score, taken from what ``amaru train`` and ``amaru evaluate`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from amaru.errors import ArtifactError, ScenarioError
from amaru.learning.artifact_manifest import Score, Trained, digest_of
from amaru.simulation.scenario_files import read_scenario_file


class _Swarm(Protocol):
    @property
    def worlds(self) -> str: ...
    @property
    def episodes(self) -> int: ...
    @property
    def seed(self) -> int: ...


class _Interval(msgspec.Struct):
    low: float
    high: float


class _Estimate(msgspec.Struct):
    value: float
    interval: _Interval | None = None


class _Standing(msgspec.Struct):
    policy: str
    origin: str
    mean_utility: _Estimate


class _Setup(msgspec.Struct):
    scenario: str
    command: str


class _Evaluation(msgspec.Struct):
    """Of the report only what is needed here: other figures may be undefined."""

    setup: _Setup
    standings: tuple[_Standing, ...]


def trained_in_worlds(swarm: _Swarm) -> Trained:
    """What a swarm was trained on. The digest is of the scenario as it is read, with all that it extends; it is empty
    where the scenario cannot be found any more."""
    try:
        digest = digest_of(read_scenario_file(swarm.worlds).model_dump_json().encode())
    except ScenarioError:
        digest = ""
    return Trained(worlds=swarm.worlds, digest=digest, episodes=swarm.episodes, seed=swarm.seed)


def score_in_training(value: float, worlds: str) -> Score:
    """The score that training gave to an agent: in worlds that it learned from, so it proves nothing."""
    return Score(metric="mean utility in training", value=value, worlds=worlds)


def score_in_evaluation(report: Path, *, policy: str, agent: int, swarm: Path) -> Score:
    """The mean utility in held-out worlds of one agent of a swarm, from the report of ``amaru evaluate``.

    Raises ``ArtifactError`` where the file is no such report, or is one of other agents.
    """
    try:
        evaluation = msgspec.json.decode(report.read_bytes(), type=_Evaluation)
    except OSError as error:
        raise ArtifactError(f"{report}: cannot be read: {error.strerror or error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{report}: not a report of amaru evaluate: {error} — give its evaluation.json") from None
    remedy = f"run amaru evaluate --ai-agents {swarm}, and give its evaluation.json"
    for place, standing in enumerate(evaluation.standings):
        if standing.policy != policy:
            continue
        if standing.origin != f"agent {agent} of {swarm.name}":
            raise ArtifactError(
                f"{report}: standings[{place}].origin: that {policy} is {standing.origin or 'no trained one'},"
                f" not agent {agent} of {swarm.name} — {remedy}"
            )
        interval = standing.mean_utility.interval
        return Score(
            metric="mean utility",
            value=standing.mean_utility.value,
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            worlds=evaluation.setup.scenario,
            command=evaluation.setup.command,
        )
    played = ", ".join(standing.policy for standing in evaluation.standings) or "nobody"
    raise ArtifactError(f"{report}: standings: {policy} did not play there, {played} did — {remedy}")
