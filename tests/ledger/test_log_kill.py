"""kill -9 at any instant loses nothing acknowledged, and leaves a log that passes its audit as it lies there."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from killing import kills_of

killed = partial(kills_of, "kill_writer.py")


def test_writers_killed_at_a_random_moment(tmp_path: Path) -> None:
    assert killed("random", str(tmp_path / "log"), "20", "1") == 20


def test_writers_killed_at_some_of_their_calls_to_the_system(tmp_path: Path) -> None:
    assert killed("instants", str(tmp_path / "log"), "23") > 20


def test_writers_killed_while_they_come_back_from_a_kill(tmp_path: Path) -> None:
    assert killed("reopened", str(tmp_path / "log"), "11") > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["100", "1000", "2000"])
def test_writers_killed_hundreds_of_times(tmp_path: Path, seed: str) -> None:
    assert killed("random", str(tmp_path / "log"), "120", seed) == 120


@pytest.mark.slow
@pytest.mark.parametrize(("how", "kills"), [("instants", 200), ("reopened", 100)])
def test_writers_killed_at_every_other_call_to_the_system(tmp_path: Path, how: str, kills: int) -> None:
    assert killed(how, str(tmp_path / "log"), "2") > kills
