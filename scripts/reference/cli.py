"""The command line, in its own words: what each command's ``--help`` prints."""

from __future__ import annotations

import os
import subprocess
import sys

from amaru.cli.main import COMMANDS, load_command
from reference.markdown import fence

INTRO = """# Command line

Exit status: 0 fine, 1 refused or failed, 2 wrong usage.
"""

_RUN = "import sys; sys.argv[0] = 'amaru'; from amaru.cli.main import main; main()"
_COLUMNS = 120


def page() -> str:
    """The page's Markdown."""
    parts = [INTRO, fence("text", _help())]
    for name in COMMANDS:
        parts += [f"## amaru {name}\n", fence("text", _help(name))]
        for child in getattr(load_command(name), "commands", {}):
            parts += [f"### amaru {name} {child}\n", fence("text", _help(name, child))]
    return "\n".join(parts)


def _help(*command: str) -> str:
    # In a process of its own, since that is what a user sees: Rich looks at the terminal when it is imported.
    environment = os.environ | {"COLUMNS": str(_COLUMNS), "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *command, "--help"], env=environment, capture_output=True, text=True, check=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()).strip("\n")
