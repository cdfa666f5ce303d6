"""kill -9 at any instant: no settled record is lost or counted twice, no reservation leaks or is forgotten, no budget
is exceeded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def killed(*arguments: str) -> int:
    run = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "kill_till.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def sqlite(folder: Path) -> str:
    return str(folder / "accounts-{}.db")


def test_processes_killed_at_a_random_moment(tmp_path: Path) -> None:
    assert killed("random", str(tmp_path), sqlite(tmp_path), "20", "1") == 20


def test_processes_killed_at_some_of_their_calls_to_the_system(tmp_path: Path) -> None:
    assert killed("instants", str(tmp_path), sqlite(tmp_path), "9") > 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["100", "1000"])
def test_processes_killed_hundreds_of_times(tmp_path: Path, seed: str) -> None:
    assert killed("random", str(tmp_path), sqlite(tmp_path), "200", seed) == 200


@pytest.mark.slow
def test_processes_killed_on_postgresql(tmp_path: Path, postgresql_store_url: str) -> None:
    assert killed("random", str(tmp_path), postgresql_store_url, "60", "7") == 60


@pytest.mark.slow
def test_processes_killed_whose_leases_are_in_redis(tmp_path: Path, redis_url: str, redis_prefix: str) -> None:
    store = str(tmp_path / "accounts.db")
    assert killed("random", str(tmp_path), store, "60", "9", redis_url, redis_prefix) == 60


@pytest.mark.slow
def test_processes_killed_at_every_call_to_the_system(tmp_path: Path) -> None:
    assert killed("instants", str(tmp_path), sqlite(tmp_path), "1") > 60
