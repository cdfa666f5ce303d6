"""``amaru evaluate --logged``: the rules and the learned policies, judged by what a gateway stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from logged_samples import logged_store
from typer.testing import CliRunner

from amaru.cli.main import build
from amaru.errors import AmaruError
from amaru.learning.swarm_files import SwarmFile, TrainedAgent, save_swarm_file
from amaru.routing.policies import make_policy

RUN = CliRunner()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_judges_rules_learned_and_trained_policies(tmp_path: Path) -> None:
    store = logged_store(tmp_path / "amaru.db", 1500)
    agent = TrainedAgent(id=4, policy="thompson", knobs={}, score=0.9, state=make_policy("thompson").state())
    swarm = SwarmFile(
        source=tmp_path / "swarm_final.json",
        created="then",
        seed=0,
        worlds="hidden-train-v1",
        episodes=1,
        best=0,
        agents=(agent,),
    )
    save_swarm_file(swarm)
    result = RUN.invoke(
        build(), ["evaluate", "--logged", str(store), "--ai-agents", "swarm_final.json", "--policy", "thompson"]
    )
    assert result.exit_code == 0, result.output
    assert Path("evaluation-report/logged.md").read_text("utf-8") in result.output
    judged = [
        verdict["target"] for verdict in json.loads(Path("evaluation-report/logged.json").read_bytes())["verdicts"]
    ]
    assert "rules" in judged
    assert "thompson (agent 4 of swarm_final.json)" in judged
    assert not {"informed", "oracle"} & set(judged)


def test_a_store_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = RUN.invoke(build(), ["evaluate", "--logged", str(tmp_path / "none.db")])
    assert isinstance(result.exception, AmaruError)
    assert "none.db" in str(result.exception)
    assert not (tmp_path / "evaluation-report").exists()
