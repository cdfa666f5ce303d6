"""The page of commands has all of them, however deep they lie."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_every_command_has_a_heading_and_its_own_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from reference import cli

    monkeypatch.setattr(cli, "_help", lambda *command: " ".join(command))
    page = cli.page()
    found = re.findall(r"^(#+) amaru (.+)\n+```text\n(.*)\n```", page, re.M)
    assert len({command for _, command, _ in found}) == len(found) > 40
    for level, command, text in found:
        assert (len(level), text) == (command.count(" ") + 2, command)
    assert {"serve", "scheduler", "remembrancer sign", "remembrancer record deploy", "remembrancer keys rotate"} <= {
        command for _, command, _ in found
    }
