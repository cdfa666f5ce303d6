"""The command line, in its own words: what each command's ``--help`` prints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from amaru.cli.main import COMMANDS, load_command
from reference.markdown import fence

INTRO = """# Command line

Exit status: 0 fine, 1 refused or failed, 2 wrong usage; what has more says so.
"""

_RUN = "import sys; sys.argv[0] = 'amaru'; from amaru.cli.main import main; main()"
_COLUMNS = 120


def page() -> str:
    """The page's Markdown."""
    commands = [path for name in COMMANDS for path in _with_children((name,), load_command(name))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        helps = pool.map(lambda path: _help(*path), commands)
    parts = [INTRO, fence("text", _help())]
    for path, text in zip(commands, helps, strict=True):
        parts += [f"{'#' * min(len(path) + 1, 6)} amaru {' '.join(path)}\n", fence("text", text)]
    return "\n".join(parts)


def _with_children(path: tuple[str, ...], command: object) -> Iterator[tuple[str, ...]]:
    """The path to a command, and to each below it, however deep."""
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from _with_children((*path, name), child)


def _help(*command: str) -> str:
    # In a process of its own, since that is what a user sees: Rich looks at the terminal when it is imported.
    environment = os.environ | {"COLUMNS": str(_COLUMNS), "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *command, "--help"], env=environment, capture_output=True, text=True, check=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()).strip("\n")
