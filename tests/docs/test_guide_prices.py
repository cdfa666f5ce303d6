"""The guide of prices: its configuration is taken, and its worked example comes out as it says."""

from __future__ import annotations

from pathlib import Path

from shell_lessons import Lesson, blocks

from amaru.accounts import estimate, estimate_media

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "prices.md"


def test_the_worked_example_is_right(tmp_path: Path) -> None:
    lesson = Lesson(tmp_path, {"HOME": str(tmp_path)}, {})
    found = blocks(GUIDE.read_text())
    assert [block.directive for block in found] == ["file: amaru.yaml", "run", "expect"]
    for block in found:
        lesson.take(block)


def test_the_bounds_are_those_of_the_code() -> None:
    told = GUIDE.read_text()
    for bound in (
        estimate.PROMPT_TOKENS, estimate.TOOLS_TOKENS, estimate.MAX_WINDOW_TOKENS, estimate.MAX_OUTPUT_TOKENS,
        estimate_media.MAX_IMAGE_TOKENS, estimate_media.AUDIO_BYTES_PER_TOKEN,
    ):  # fmt: skip
        assert f" {bound:,}" in told
