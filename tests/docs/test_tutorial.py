"""The tutorial does what it says."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from shell_lessons import Lesson, blocks

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
PROVIDERS = 3
TOOLS = ("bash", "curl", "awk")
"""What the lesson's commands need; a slim image may have none of them."""


def free_ports() -> tuple[int, int]:
    """The gateway's port, and the first of the consecutive ones that the simulated providers take."""
    with ExitStack() as stack:

        def bound(port: int = 0) -> int:
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", port))
            return int(sock.getsockname()[1])

        gateway = bound()
        for _ in range(100):
            first = bound()
            try:
                for port in range(first + 1, first + PROVIDERS):
                    bound(port)
            except (OSError, OverflowError):
                continue
            return gateway, first
    raise AssertionError("no consecutive ports are free")


@pytest.fixture
def lesson(tmp_path: Path) -> Iterator[Lesson]:
    gateway, first = free_ports()
    replacements = {"8080": str(gateway), "amaru simulate": f"amaru simulate --port-base {first}"}
    replacements |= {str(9000 + place): str(first + place) for place in range(PROVIDERS)}
    lesson = Lesson(tmp_path, {"HOME": str(tmp_path), "AMARU_SERVER__PORT": str(gateway)}, replacements)
    try:
        yield lesson
    finally:
        lesson.end()


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}")
def test_the_tutorial_does_what_it_says(lesson: Lesson) -> None:
    found = blocks(TUTORIAL.read_text())
    assert len(found) > 15

    for block in found:
        lesson.take(block)

    assert set(lesson.end().values()) == {0}
