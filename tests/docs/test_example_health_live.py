"""The demonstration of health, as a user starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "health_live.py"


@pytest.mark.slow
def test_the_demonstration_breaks_a_provider_and_shows_what_amaru_makes_of_it(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE), "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    begun, broken, ended = (ran.stdout.index(words) for words in ("all is well", "anvil answers nothing", "in the end"))
    assert begun < broken < ended
    for name in ("anvil", "birch", "cobalt"):
        assert name in ran.stdout[begun:broken]
        assert name in ran.stdout[broken:ended]
    assert "% served" in ran.stdout[ended:]
    assert list(tmp_path.iterdir()) == []  # all of its files lie in a folder of its own
