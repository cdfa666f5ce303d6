"""``amaru train --from``: a swarm that begins with what the gateway has seen."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from logged_samples import logged_store
from typer.testing import CliRunner

from amaru.cli.main import build as command
from amaru.learning.crew import learner
from amaru.learning.dataset import build
from amaru.learning.history import warm_start
from amaru.learning.swarm_files import load_swarm_file
from amaru.routing import q_kernels as q
from amaru.routing.learned import BeliefPolicy


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("history")
    build(logged_store(directory / "amaru.db", 300), directory / "out")
    return directory / "out"


def train(dataset: Path, out: Path, policy: str, episodes: int) -> str:
    arguments = ["--agents", "5", "--steps", "3", "--processes", "1", "--policy", policy, "--episodes", str(episodes)]
    outcome = CliRunner().invoke(command(), ["train", *arguments, "--from", str(dataset), "--out", str(out)])
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


@pytest.mark.parametrize("policy", ["qlearning", "thompson"])
def test_without_an_episode_it_is_what_the_history_teaches(dataset: Path, tmp_path: Path, policy: str) -> None:
    said = train(dataset, tmp_path / "out", policy, 0)
    assert "attempts of 300 decisions" in said
    warm = learner(policy, {}, None)
    warm_start(warm, dataset)
    first = load_swarm_file(tmp_path / "out" / "swarm_final.json").agents[0].make()
    assert first.table_size() == warm.table_size() > 0
    assert (first.mind.values == warm.mind.values).all()
    if isinstance(first, BeliefPolicy) and isinstance(warm, BeliefPolicy):
        assert first.evidence() == warm.evidence()


def test_evidence_of_real_offers_outlasts_the_war_game_and_only_knobs_are_turned(dataset: Path, tmp_path: Path) -> None:
    train(dataset, tmp_path / "out", "thompson", 50)
    warm = learner("thompson", {}, None)
    warm_start(warm, dataset)
    agents = load_swarm_file(tmp_path / "out" / "swarm_final.json").agents
    for agent in agents:
        policy = agent.make()
        assert isinstance(policy, BeliefPolicy)
        assert isinstance(warm, BeliefPolicy)
        assert policy.evidence().slots == warm.evidence().slots
        assert msgspec.structs.asdict(policy.mind.settings).items() >= agent.knobs.items()
    assert len({tuple(agent.knobs.items()) for agent in agents}) > 1


def test_history_counts_once_however_many_agents_bring_it(dataset: Path, tmp_path: Path) -> None:
    train(dataset, tmp_path / "out", "qlearning", 10)
    warm = learner("qlearning", {}, None)
    warm_start(warm, dataset)
    state = load_swarm_file(tmp_path / "out" / "swarm_final.json").agents[0].make().mind.values
    lonely = warm.mind.values[:, q.VISITS] > 0
    assert (state[lonely, q.VISITS] >= warm.mind.values[lonely, q.VISITS]).all()
    # GPU jobs of the war-game hardly meet the states of chat: most are as the history left them.
    same = (state[lonely] == warm.mind.values[lonely]).all(axis=1)
    assert same.any()
