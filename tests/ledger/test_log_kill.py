"""kill -9 at any instant loses nothing acknowledged, and leaves a log that passes its audit as it lies there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "kill_writer.py"


def killed(*arguments: str) -> int:
    run = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def test_writers_killed_at_a_random_moment(tmp_path: Path) -> None:
    assert killed("random", str(tmp_path / "log"), "20", "1") == 20


def test_writers_killed_at_some_of_their_calls_to_the_system(tmp_path: Path) -> None:
    assert killed("instants", str(tmp_path / "log"), "23") > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["100", "1000", "2000"])
def test_writers_killed_hundreds_of_times(tmp_path: Path, seed: str) -> None:
    assert killed("random", str(tmp_path / "log"), "120", seed) == 120


@pytest.mark.slow
def test_writers_killed_at_every_other_call_to_the_system(tmp_path: Path) -> None:
    assert killed("instants", str(tmp_path / "log"), "2") > 200
