"""Programs that kill themselves at chosen instants, run as the processes that they must be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def kills_of(program: str, *arguments: str) -> int:
    """Run a program of this folder, which must end well; how often it was killed, as it says."""
    run = subprocess.run(
        [sys.executable, str(Path(__file__).parent / program), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return int(run.stdout)
