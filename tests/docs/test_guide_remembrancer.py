"""The guide of the Remembrancer does what it says."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from shell_lessons import Lesson, blocks

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "remembrancer.md"


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("bash") is None
    or not (shutil.which("remembrancer") or (Path(sys.executable).parent / "remembrancer").exists()),
    reason="needs bash, and amaru installed anew since the command was added",
)
def test_the_guide_does_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "gateway.tar.gz").write_bytes(b"a gateway")
    environment = {"HOME": str(tmp_path), "VERSION": "1.4.3", "IMAGE_DIGEST": "sha256:" + "ab" * 32}
    lesson = Lesson(tmp_path, environment, {})
    found = blocks(GUIDE.read_text())
    assert len(found) == 3

    for block in found:
        lesson.take(block)

    assert (tmp_path / "receipt.json").stat().st_size > 500
