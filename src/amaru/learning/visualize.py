"""What a training wrote down, read for looking at: ``training_metrics.csv``, and the figures of an evaluation.

The pictures themselves are drawn in ``readiness/training_plots.py``.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from amaru.errors import ReportError

Series = NDArray[np.float64]

EPISODE = "episode"
REQUIRED = (EPISODE, "q_table_size", "avg_reward", "epsilon", "fill_rate", "avg_cost", "avg_latency")
"""What every training writes."""
OPTIONAL = ("best_reward", "worst_reward", "utility", "requests", "seconds")
FIELD = ("Psi", "C", "U", "Phi", "H", "PE")
"""What a stability field answers; there only where the training asked one."""
INTERVENTION = "intervention"
"""What the field's guardian asked for in that episode; empty: nothing."""
UNTRAINED = "untrained"
"""Origin of a learned policy that entered an evaluation without a training."""
_NOTHING_ASKED = frozenset({"", "none", "null", "nan", "false", "0"})
_SMOOTHED_PARTS = 20
"""A moving average spans this part of a training."""


class TrainingRun(msgspec.Struct, frozen=True, kw_only=True):
    """A training's metrics, a value per finished episode."""

    source: str
    """The file's name."""
    episodes: Series
    """[n], n at least 1, rising."""
    columns: dict[str, Series]
    """Name → [n]; NaN where the cell is empty. Required columns are always there; others where the file has them."""
    interventions: tuple[tuple[float, str], ...] = ()
    """Episode, and what the guardian asked for."""
    unfinished: bool = False
    """The last line was still being written, and is left out."""

    def has(self, name: str) -> bool:
        """Whether there is a figure in column ``name``."""
        return name in self.columns and bool(np.isfinite(self.columns[name]).any())

    def window(self) -> int:
        """Episodes that a moving average spans."""
        return max(1, len(self.episodes) // _SMOOTHED_PARTS)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's figures in an evaluation, over all its worlds."""

    name: str
    utility: float
    """Of a request."""
    gain: float
    """What it has more than the best rule."""
    gain_low: float | None = None
    """The gain's 95 % interval, world by world against the rule: worlds differ more than policies do."""
    gain_high: float | None = None
    fill_rate: float | None = None
    avg_cost_usd: float | None = None
    avg_latency_ms: float | None = None
    role: str
    """``rule``, ``learned`` or ``reference``."""
    origin: str = ""
    """Of a learned policy: where what it knows comes from, in words; ``untrained``: it began with nothing."""
    is_baseline: bool = False
    """The best rule of the evaluation."""

    @property
    def trained(self) -> bool:
        """Whether it entered with what a training had taught it."""
        return self.role == "learned" and self.origin not in ("", UNTRAINED)


def smoothed(values: Series, window: int) -> Series:
    """The mean of each value and those up to ``window - 1`` before it, [n]; gaps (NaN) do not count.

    >>> smoothed(np.array([1.0, 3.0, 5.0]), 2).tolist()
    [1.0, 2.0, 4.0]
    """
    known = np.isfinite(values)
    sums = np.concatenate(([0.0], np.cumsum(np.where(known, values, 0.0))))
    counts = np.concatenate(([0], np.cumsum(known)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    seen = counts[ends] - counts[starts]
    means = (sums[ends] - sums[starts]) / np.maximum(seen, 1)
    return np.where(seen > 0, means, np.nan)


def read_metrics(path: Path) -> TrainingRun:
    """Read ``training_metrics.csv``, finished or still being written.

    Columns that are not known are passed over. A last line without its line end is still being written: it is left
    out, however whole it looks, since the end of its last figure may be missing.

    Raises
    ------
    ReportError
        The file cannot be read, lacks a column that every training writes, holds no finished episode, or a line of it
        is wrong: with file, line and column.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror or error}; name the training_metrics.csv of a training") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path}: byte {error.start} is not UTF-8; is this a CSV of metrics?") from error
    whole = text[: text.rfind("\n") + 1]
    unfinished = len(whole) < len(text)
    lines = csv.reader(io.StringIO(whole, newline=""), strict=True)
    head: list[str] = []
    rows: list[tuple[int, list[str]]] = []
    try:
        head = [name.strip() for name in next(lines, [])]
        rows = [(lines.line_num, cells) for cells in lines if cells]
    except csv.Error as error:
        raise ReportError(f"{path}:{lines.line_num}: {error}; this is not CSV as a training writes it") from error
    _check_head(path, head)
    if not rows:
        raise ReportError(f"{path}: holds no finished episode yet; look again when the first one has ended")
    for line, cells in rows:
        if len(cells) != len(head):
            raise ReportError(
                f"{path}:{line}: has {len(cells)} cells where the first line names {len(head)} columns;"
                " remove the line, or train anew"
            )
    place = {name: head.index(name) for name in (*REQUIRED, *OPTIONAL, *FIELD) if name in head}
    columns = {
        name: np.array([_figure(path, line, name, cells[at]) for line, cells in rows]) for name, at in place.items()
    }
    episodes = columns.pop(EPISODE)
    _check_episodes(path, [line for line, _ in rows], episodes)
    return TrainingRun(
        source=path.name,
        episodes=episodes,
        columns=columns,
        interventions=_interventions(head, episodes, [cells for _, cells in rows]),
        unfinished=unfinished,
    )


def _check_head(path: Path, head: Sequence[str]) -> None:
    if not head:
        raise ReportError(f"{path}: is empty; look again when the first episode has ended")
    if missing := [name for name in REQUIRED if name not in head]:
        if len(missing) == len(REQUIRED):
            raise ReportError(f"{path}:1: is not the head of a training's metrics; name the training_metrics.csv")
        raise ReportError(
            f"{path}:1: names no column {', '.join(missing)}; the first line of a training's metrics names at least"
            f" {', '.join(REQUIRED)}"
        )
    known = {*REQUIRED, *OPTIONAL, *FIELD, INTERVENTION}
    if twice := sorted({name for name in head if head.count(name) > 1 and name in known}):
        raise ReportError(f"{path}:1: names column {', '.join(twice)} twice; keep one")


def _figure(path: Path, line: int, name: str, cell: str) -> float:
    if not cell.strip() and name != EPISODE:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        raise ReportError(f"{path}:{line}: {name}: {cell[:40]!r} is not a number") from None
    if math.isinf(value) or (math.isnan(value) and name == EPISODE):
        raise ReportError(f"{path}:{line}: {name}: {cell[:40]!r} is not finite")
    return value


def _check_episodes(path: Path, lines: Sequence[int], episodes: Series) -> None:
    wrong = np.flatnonzero(np.diff(episodes) <= 0)
    if len(wrong):
        at = int(wrong[0]) + 1
        raise ReportError(
            f"{path}:{lines[at]}: {EPISODE}: {episodes[at]:g} comes after {episodes[at - 1]:g}; episodes must rise:"
            " are these two trainings in one file?"
        )


def _interventions(
    head: Sequence[str], episodes: Series, rows: Sequence[Sequence[str]]
) -> tuple[tuple[float, str], ...]:
    if INTERVENTION not in head:
        return ()
    at = head.index(INTERVENTION)
    asked = ((float(episode), cells[at].strip()) for episode, cells in zip(episodes, rows, strict=True))
    return tuple((episode, word) for episode, word in asked if word.lower() not in _NOTHING_ASKED)


def last_figures(run: TrainingRun) -> Mapping[str, float]:
    """Where the training has come to: each column's moving average at its last episode, where there is one."""
    ends = {name: float(smoothed(values, run.window())[-1]) for name, values in run.columns.items()}
    return {name: value for name, value in ends.items() if math.isfinite(value)}
