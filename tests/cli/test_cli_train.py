"""``amaru train`` as a command: what it refuses, what it says, and Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from amaru.cli.main import build
from amaru.cli.train import _interrupts
from amaru.errors import AmaruError, CheckpointError
from amaru.learning.checkpoints import load_checkpoint
from amaru.learning.pace import Progress
from amaru.learning.swarm_files import load_swarm_file
from amaru.learning.training import Training

SMALL = ["--agents", "2", "--steps", "4", "--processes", "1"]


def amaru(*arguments: str, code: int = 0) -> str:
    """What the command prints. Raises what it raises on purpose."""
    outcome = CliRunner().invoke(build(), ["train", *arguments])
    if isinstance(outcome.exception, AmaruError):
        raise outcome.exception
    assert outcome.exit_code == code, outcome.output
    return outcome.output


def test_a_training_in_one_go(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    said = amaru(*SMALL, "--episodes", "6", "--out", str(out), "--learning-rate", "0.1", "--epsilon", "0.3")
    assert "2 qlearning agents on hidden-train-v1: 6 episodes of 4 steps; 1 process" in said
    assert f"amaru evaluate --ai-agents {out}/swarm_final.json" in said
    assert load_swarm_file(out / "swarm_final.json").agents[0].knobs["learning_rate"] == 0.1
    assert pl.read_csv(out / "training_metrics.csv")["epsilon"][0] == 0.3


def test_a_directory_with_a_training_is_not_written_to_unasked(tmp_path: Path) -> None:
    where = ["--out", str(tmp_path)]
    amaru(*SMALL, "--episodes", "2", *where)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(AmaruError, match=r"holds a training already \(checkpoint.bin, .*--overwrite"):
        amaru(*SMALL, "--episodes", "2", *where)
    with pytest.raises(AmaruError, match="leave one of them out"):
        amaru("--load", str(tmp_path / "checkpoint.bin"), "--overwrite", *where)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    amaru(*SMALL, "--episodes", "1", "--overwrite", *where)
    assert load_checkpoint(tmp_path / "checkpoint.bin").episode == 1


def test_loading_goes_on_with_the_checkpoints_settings(tmp_path: Path) -> None:
    where = ["--out", str(tmp_path), "--load", str(tmp_path / "checkpoint.bin")]
    amaru(*SMALL, "--episodes", "2", "--out", str(tmp_path), "--seed", "5", "--policy", "thompson")
    said = amaru("--episodes", "5", "--agents", "2", *where)
    assert "going on after 2" in said
    checkpoint = load_checkpoint(tmp_path / "checkpoint.bin")
    assert (checkpoint.episode, checkpoint.settings.seed, checkpoint.settings.policy) == (5, 5, "thompson")
    with pytest.raises(AmaruError, match="--agents 3: the checkpoint was trained with 2"):
        amaru("--agents", "3", *where)
    with pytest.raises(AmaruError, match="--from x: the checkpoint was trained with none"):
        amaru("--from", "x", *where)
    with pytest.raises(CheckpointError, match="has played 5 episodes already"):
        amaru("--episodes", "4", *where)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--worlds", "hidden-eval-v1"], "for evaluation only"),
        (["--worlds", "nowhere-v1"], "nowhere-v1"),
        (["--policy", "cheapest"], "choose one that learns"),
        (["--policy", "hybrid", "--learning-rate", "0.1"], "hybrid has none"),
        (["--psi-field", "nonsense"], "is not the URL"),
        (["--load", "nowhere.bin"], r"nowhere\.bin: cannot be read"),
        (["--from", "nowhere.parquet"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: list[str], reason: str
) -> None:
    with pytest.raises(AmaruError, match=reason):
        amaru(*SMALL, "--out", str(tmp_path / "out"), *arguments)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(AmaruError, match="file is not a directory"):
        amaru(*SMALL, "--out", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_the_field_that_is_away_is_mentioned_once(tmp_path: Path) -> None:
    said = amaru(*SMALL, "--episodes", "3", "--out", str(tmp_path), "--psi-field", "http://127.0.0.1:9")
    assert said.count("is away") == 1
    assert "was away for 3 episodes" in said
    assert "Psi" in (tmp_path / "training_metrics.csv").read_text().splitlines()[0]


def test_a_field_in_this_process_needs_no_service(tmp_path: Path) -> None:
    said = amaru(*SMALL, "--episodes", "3", "--out", str(tmp_path), "--psi-field", "local")
    assert "away" not in said
    rows = pl.read_csv(tmp_path / "training_metrics.csv")
    assert rows["Psi"].is_between(0.0, 1.0).all()
    amaru("--episodes", "4", "--load", str(tmp_path / "checkpoint.bin"), "--out", str(tmp_path), "--psi-field", "local")
    assert len(pl.read_csv(tmp_path / "training_metrics.csv")) == 4


def started(out: Path, *arguments: str) -> subprocess.Popen[str]:
    """A training that would take hours, past its first line."""
    command = [sys.executable, "-c", "from amaru.cli.main import main; main()", "train", "--out", str(out)]
    command += ["--agents", "4", "--episodes", "1000000", "--steps", "4", *arguments]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert "1,000,000 episodes" in running.stdout.readline()
    return running


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_ctrl_c_finishes_the_episode_and_saves(tmp_path: Path, processes: str) -> None:
    out = tmp_path / "out"
    running = started(out, "--processes", processes, "--checkpoint-every", "0.1")
    while not (out / "checkpoint.bin").exists():  # it trains
        assert running.poll() is None
    os.kill(running.pid, signal.SIGINT)
    said, complaints = running.communicate(timeout=300)
    assert running.returncode == 130, complaints
    assert "Ctrl-C again" in complaints
    assert "Traceback" not in complaints
    assert "Stopped after episode" in said
    assert f"amaru train --load {out}/checkpoint.bin --out {out}" in said
    checkpoint = load_checkpoint(out / "checkpoint.bin")
    assert 0 < checkpoint.episode < 1_000_000
    assert load_swarm_file(out / "swarm_final.json").episodes == checkpoint.episode
    said = amaru("--load", str(out / "checkpoint.bin"), "--out", str(out), "--episodes", str(checkpoint.episode + 2))
    assert "going on after" in said


def test_the_first_ctrl_c_is_answered_and_the_second_ends_everything(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    now = 0.0
    with _interrupts(lambda: now) as interrupts:
        stopped = [interrupts.stopped]
        signal.raise_signal(signal.SIGINT)
        assert [*stopped, interrupts.stopped] == [False, True]
        assert "Ctrl-C again" in capfd.readouterr().err
        now = 0.4
        signal.raise_signal(signal.SIGINT)  # the same press, passed on by a wrapper
        assert capfd.readouterr().err == ""
        now = 0.6
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_training_ended_at_once_leaves_the_last_checkpoint_and_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    amaru(*SMALL, "--episodes", "2", "--out", str(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted(training: Training, *_: object) -> None:
        def show(_: Progress) -> None:
            assert multiprocessing.active_children()
            raise KeyboardInterrupt

        training.run(show=show)

    monkeypatch.setattr("amaru.cli.train._run", interrupted)
    arguments = ["train", "--load", str(tmp_path / "checkpoint.bin"), "--out", str(tmp_path), "--episodes", "9"]
    outcome = CliRunner().invoke(build(), [*arguments, "--processes", "2"])
    assert outcome.exit_code == 130
    assert f"Stopped at once; {tmp_path}/checkpoint.bin holds what was saved last" in outcome.output
    assert multiprocessing.active_children() == []
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert after == before
