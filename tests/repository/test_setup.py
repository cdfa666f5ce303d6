"""What scripts/setup.sh must mend."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "setup.sh"


@pytest.mark.slow
def test_an_environment_that_was_left_half_made_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / ".venv")], check=True)

    # A stage that there is not: the environment is made, and nothing is installed from a registry.
    command = ["sh", str(tmp_path / "scripts" / "setup.sh"), "none"]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert "unknown stage none" in done.stderr
    subprocess.run([str(tmp_path / ".venv" / "bin" / "python"), "-c", "import pip"], check=True)
