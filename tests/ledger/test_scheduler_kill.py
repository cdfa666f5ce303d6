"""kill -9 at any instant neither skips an anchor nor doubles one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from killing import kills_of

killed = partial(kills_of, "kill_scheduler.py")


def test_schedulers_killed_at_some_of_their_calls_to_the_system(tmp_path: Path) -> None:
    assert killed("instants", str(tmp_path), "7") >= 6


@pytest.mark.slow
def test_schedulers_killed_at_every_call_to_the_system(tmp_path: Path) -> None:
    assert killed("instants", str(tmp_path), "1") >= 40


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_schedulers_killed_at_random_moments(tmp_path: Path, seed: str) -> None:
    assert killed("random", str(tmp_path), "40", seed) >= 40
