"""What scripts/check_tree.py must catch, and what it must let through."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_tree.py"


def check(root: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, str(SCRIPT), str(root)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.fixture(params=["checkout", "archive"])
def tree(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A git checkout, and a folder that is none, as a source archive unpacks."""
    if request.param == "checkout":
        if shutil.which("git") is None:
            pytest.skip("needs git")
        subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "text", "what"),
    [
        ("docs/install.md", "see https://pypi" + ".org/p\n", "docs/install.md:1: names a package registry's host"),
        ("notes.md", "a\nrun /ro" + "ot/x/run.sh\n", "notes.md:2: names a path of one machine"),
        ("requirements/dev.txt", "--extra-index-url file:x\n", "requirements/dev.txt:1: names a package index"),
        ("src/a/b.py", "# TO" + "DO\n", "src/a/b.py:1: leaves something open"),
        ("src/a/long.py", "x = 1\n" * 401, "src/a/long.py:401: longer than 400 lines"),
        ("uv.lock", "", "uv.lock:1: a lock file that names an index"),
    ],
)
def test_a_fault_is_named_with_its_path_and_line(tree: Path, path: str, text: str, what: str) -> None:
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).write_text(text)

    code, output = check(tree)

    assert code == 1
    assert output.startswith(what)


def test_a_clean_tree_passes_and_ignored_files_are_not_read(tree: Path) -> None:
    (tree / ".gitignore").write_text(".venv/\n*.log\n")
    (tree / "a.log").write_text("/ro" + "ot/x\n")
    (tree / ".venv").mkdir()
    (tree / ".venv" / "pyvenv.cfg").write_text("home = /ro" + "ot/python\n")
    (tree / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    (tree / "README.md").write_text("GET /v1/models, docs/work/here, https://example.com/home/page/\n")

    assert check(tree) == (0, "")
