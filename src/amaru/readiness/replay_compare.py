"""Two replays side by side."""

from __future__ import annotations

from pathlib import Path

from amaru.errors import ReportError


def compare(a: Path, b: Path, directory: Path | None = None) -> str:
    """Compare two reports; each path is a report's directory or its ``replay.json``. Returns Markdown.

    Raises
    ------
    ReportError
        One of them is missing or is no report of a replay.
    """
    texts = []
    for path in (a, b):
        file = path / "replay.json" if path.is_dir() else path
        try:
            texts.append(file.read_text("utf-8"))
        except OSError as error:
            raise ReportError(f"cannot read {file}: {error.strerror or error}") from error
    words = "```json\n" + "\n```\n\n```json\n".join(text.rstrip() for text in texts) + "\n```\n"
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "compare.md").write_text(words, encoding="utf-8")
    return words
