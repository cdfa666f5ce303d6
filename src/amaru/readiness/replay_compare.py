"""Compares two replays from what was stored of them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from amaru import __version__
from amaru.errors import ReportError
from amaru.readiness.replay_bootstrap import Differences
from amaru.readiness.replay_compare_markdown import markdown
from amaru.readiness.replay_compare_plots import PLOTS, draw
from amaru.readiness.replay_comparison import Comparison, Row, SetupRow, Side, comparison
from amaru.readiness.replay_data import DATA as REPORT_DATA
from amaru.readiness.replay_data import read_report

SCHEMA = "amaru.replay.compare/1"
DATA = "compare.json"
TEXT = "compare.md"


def compare(a: Path, b: Path, directory: Path | None = None, *, seed: int = 0) -> str:
    """Compare two replays; each of ``a`` and ``b`` is a report's directory or its ``replay.json``.

    Parameters
    ----------
    directory
        Where ``compare.md``, ``compare.json`` and the plots go; ``None``: nothing is written.
    seed
        Of the resampling from which the intervals of confidence come.

    Returns
    -------
    str
        The comparison in Markdown, as ``compare.md`` holds it.

    Raises
    ------
    ReportError
        One of them is missing, or is no report of a replay; or ``directory`` cannot be written to.
    """
    names = _names(a, b)
    compared = comparison(Side(f"A: {names[0]}", read_report(a)), Side(f"B: {names[1]}", read_report(b)), seed=seed)
    if directory is None:
        return markdown(compared)
    text = markdown(compared, PLOTS)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / DATA).write_bytes(msgspec.json.format(msgspec.json.encode(_stored(compared)), indent=2) + b"\n")
        (directory / TEXT).write_text(text, encoding="utf-8")
        draw(compared, directory)
    except OSError as error:
        raise ReportError(f"cannot write the comparison into {directory}: {error.strerror or error}") from error
    return text


class _Figure(msgspec.Struct, frozen=True):
    figure: str
    unit: str
    a: float | None
    b: float | None
    difference: float | None
    ratio: float | None


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = SCHEMA
    version: str = __version__
    a: str
    b: str
    comparable: bool
    warnings: tuple[str, ...]
    setup: tuple[SetupRow, ...]
    figures: tuple[_Figure, ...]
    intervals: Differences


def _stored(compared: Comparison) -> _Stored:
    def figure(row: Row) -> _Figure:
        return _Figure(row.figure, row.unit, row.a, row.b, row.difference, row.ratio)

    return _Stored(
        a=compared.a.name,
        b=compared.b.name,
        comparable=compared.comparable,
        warnings=compared.warnings,
        setup=compared.setup,
        figures=tuple(map(figure, compared.rows)),
        intervals=compared.differences,
    )


def _names(a: Path, b: Path) -> tuple[str, str]:
    """What to call them: the directory's name, or the whole path where that is the same."""
    one, two = (path.parent if path.name == REPORT_DATA else path for path in (a, b))
    first, second = one.resolve().name, two.resolve().name
    return (first, second) if first != second else (str(a), str(b))
