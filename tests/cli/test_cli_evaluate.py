"""``amaru evaluate`` and ``amaru pareto`` as they are typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amaru.cli.main import build
from amaru.errors import AmaruError, CheckpointError, ScenarioError

RUN = CliRunner()
SHORT = ["--worlds", "3", "--steps", "20", "--processes", "1", "--policy", "thompson"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def test_evaluate_writes_what_it_prints() -> None:
    result = RUN.invoke(build(), ["evaluate", *SHORT, "--out", "report"])
    assert result.exit_code == 0, result.output
    text = Path("report/evaluation.md").read_text("utf-8")
    assert text in result.output
    data = json.loads(Path("report/evaluation.json").read_text("utf-8"))
    assert data["schema"] == "amaru-evaluation-1"
    assert data["setup"]["scenario"] == "hidden-eval-v1"
    assert data["setup"]["seeds"] == [10_000, 10_001, 10_002]
    assert {row["policy"] for row in data["standings"]} >= {"rules", "thompson", "informed", "oracle"}


def test_evaluate_takes_a_shipped_name_and_repeats_an_episode_that_is_too_short() -> None:
    result = RUN.invoke(build(), ["evaluate", "--family", "classic", *SHORT[:2], "--steps", "130", *SHORT[4:]])
    assert result.exit_code == 0, result.output
    assert "An episode has 120 steps; in a longer run its events repeat." in result.output
    assert "Claims outside this are impossible" in result.output


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--family", "hidden-evil-v1"], ScenarioError, "hidden-e"),
        (["--baseline-config", "nowhere.json"], ScenarioError, r"nowhere\.json"),
        (["--baseline-config", "a.yaml", "--family", "classic"], AmaruError, "give one of them"),
        (["--ai-agents", "nowhere.json"], CheckpointError, r"nowhere\.json"),
        (["--policy", "clever"], AmaruError, "qlearning, thompson, hybrid"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_played(
    arguments: list[str], error: type[Exception], words: str
) -> None:
    result = RUN.invoke(build(), ["evaluate", *arguments])
    assert isinstance(result.exception, error)
    with pytest.raises(error, match=words):
        raise result.exception
    assert not list(Path().iterdir())


def test_a_place_that_cannot_be_written_is_told_before_the_run() -> None:
    Path("taken").write_text("")
    for command in ("evaluate", "pareto"):
        result = RUN.invoke(build(), [command, "--out", "taken/report"])
        assert isinstance(result.exception, AmaruError)
        assert "is not a directory" in str(result.exception)


@pytest.mark.slow
def test_ctrl_c_reports_the_worlds_that_were_played() -> None:
    command = [sys.executable, "-c", "from amaru.cli.main import main; main()", "evaluate", "--worlds", "100000"]
    run = subprocess.Popen(
        [*command, "--steps", "50", "--processes", "2", "--policy", "thompson"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert run.stdout is not None
    line = next(line for line in run.stdout if ": 0 of 100000 worlds" not in line)  # one comes every ten seconds
    assert "ETA" in line
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 130, output
    assert "It was stopped after" in output
    assert "Traceback" not in output
    report = json.loads(Path("evaluation-report/evaluation.json").read_text("utf-8"))
    assert report["complete"] is False
    assert 0 < len(report["setup"]["seeds"]) < 100_000


def test_pareto_writes_table_picture_and_figures() -> None:
    arguments = ["pareto", "--weights", "3", "--worlds", "2", "--learn-steps", "10", "--steps", "10", "--out", "front"]
    result = RUN.invoke(build(), arguments)
    assert result.exit_code == 0, result.output
    assert Path("front/pareto.md").read_text("utf-8") in result.output
    assert Path("front/pareto.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads(Path("front/pareto.json").read_text("utf-8"))
    assert [front["policy"] for front in data["fronts"]] == ["thompson", "rules"]
    assert len(data["fronts"][0]["points"]) == 3


def test_pareto_refuses_a_reference_that_is_no_point() -> None:
    result = RUN.invoke(build(), ["pareto", "--reference", "6,500"])
    assert isinstance(result.exception, AmaruError)
    assert "three numbers" in str(result.exception)
