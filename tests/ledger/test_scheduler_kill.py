"""kill -9 at any instant neither skips an anchor nor doubles one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "kill_scheduler.py"


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


def test_schedulers_killed_at_some_of_their_calls_to_the_system(tmp_path: Path) -> None:
    assert killed("instants", str(tmp_path), "7") >= 6


@pytest.mark.slow
def test_schedulers_killed_at_every_call_to_the_system(tmp_path: Path) -> None:
    assert killed("instants", str(tmp_path), "1") >= 40


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_schedulers_killed_at_random_moments(tmp_path: Path, seed: str) -> None:
    assert killed("random", str(tmp_path), "80", seed) >= 40
