"""Checks what git tracks, or is about to: nothing that ties the tree to one machine or one registry, nothing left open.

In a source archive, or where there is no git, it checks all files but those that .gitignore names.

Prints one line per finding, ``path:line: what``, and exits 1 if there is any.
"""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_SOURCE_LINES = 400
"""A longer file is telling you about a missing word."""

# Written in two halves, so that this file passes its own check.
_REGISTRY_HOSTS = ("pypi" + ".org", "python" + "hosted.org", "registry.npm" + "js", "deb.debian" + ".org")

# Each rule: what is wrong, where it looks (a prefix and a suffix of a path), and the pattern.
_RULES: tuple[tuple[str, str, str, re.Pattern[str]], ...] = (
    ("names a package registry's host", "", "", re.compile("|".join(map(re.escape, _REGISTRY_HOSTS)))),
    ("names a path of one machine", "", "", re.compile(r"(?<![\w.\-/])/(?:work|farm|root|Users|home/\w+)/")),
    ("names a package index", "requirements/", ".txt", re.compile(r"^\s*-(?:i|f|-(?:extra-)?index-url|-find-links)\b")),
    ("leaves something open", "src/", ".py", re.compile(r"\bTODO\b|\bFIXME\b|\bXXX\b|NotImplementedError")),
)

_FORBIDDEN_NAMES = {"uv.lock": "names an index", "poetry.lock": "names an index"}


def findings(root: Path, paths: list[str]) -> Iterator[str]:
    """Yield one line per finding in ``paths``, which are relative to ``root``."""
    for path in paths:
        name = path.rsplit("/", 1)[-1]
        if name in _FORBIDDEN_NAMES:
            yield f"{path}:1: a lock file that {_FORBIDDEN_NAMES[name]}"
            continue
        try:
            lines = (root / path).read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a picture or an archive
        for what, prefix, suffix, pattern in _RULES:
            if not (path.startswith(prefix) and path.endswith(suffix)):
                continue
            for number, line in enumerate(lines, 1):
                if pattern.search(line):
                    yield f"{path}:{number}: {what}"
        if path.startswith("src/") and path.endswith(".py") and len(lines) > MAX_SOURCE_LINES:
            yield f"{path}:{len(lines)}: longer than {MAX_SOURCE_LINES} lines; split it by the word that is missing"


def tracked(root: Path) -> list[str]:
    """The files that git tracks or would add, relative to ``root``; those already deleted are left out."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git; no checkout
        return sorted(walked(root))
    return sorted(path for path in set(listed.stdout.split("\0")) if path and (root / path).is_file())


def walked(root: Path) -> Iterator[str]:
    """All files, relative to ``root``, but those that .gitignore names; of its syntax, names and wildcards are read."""
    file = root / ".gitignore"
    ignored = [line.strip("/") for line in file.read_text("utf-8").split()] if file.exists() else []
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)

        def kept(name: str, here: Path = here) -> bool:
            path = (here / name).as_posix()
            return not any(fnmatch.fnmatch(name, pattern) or path == pattern for pattern in ignored)

        folders[:] = [name for name in folders if name != ".git" and kept(name)]
        yield from ((here / name).as_posix() for name in files if kept(name))


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    found = list(findings(root, tracked(root)))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
