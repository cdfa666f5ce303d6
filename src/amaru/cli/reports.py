"""What the commands that write a report share."""

from __future__ import annotations

import os
from pathlib import Path


def obstacle_to(directory: Path) -> str:
    """Why no file can be made in ``directory``, or in what there is of it: told before the run, without making it."""
    # Not Path.exists, which fails where a folder on the way may not be entered.
    there = next(path for path in (directory, *directory.absolute().parents) if os.path.exists(path))  # noqa: PTH110
    if not there.is_dir():
        return f"{there} is not a directory"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} is not writable"
