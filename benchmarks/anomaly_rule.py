"""The scoring rule of the Numenta Anomaly Benchmark, standard profile.

Lavin and Ahmad, *Evaluating Real-time Anomaly Detection Algorithms - the Numenta Anomaly Benchmark*, ICMLA 2015
(arXiv:1510.03336), sections II.B to II.D. A detector gives each row a score; a row at or above one threshold is a
detection. Within an anomaly's window only the earliest counts, by a sigmoid of where it stands: 1 at the window's
begin, 0 at its end. Outside, each costs ``FALSE_ALARM`` times a sigmoid of its distance behind the window before it, in
widths of that window: just behind it next to nothing. A window without detection costs ``MISS``. The first 15 % of a
series, and at most 750 rows, are for learning and do not count. The threshold is one for all series of a corpus, the
one that is best for the detector: that is the benchmark's own rule, applied to every contender alike. What comes out is
normalised: 0 is who detects nothing, 100 who detects every anomaly at its begin and nothing else.

Where the paper leaves it open, its published scorer decides: the sigmoid is taken as flat beyond three widths.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FALSE_ALARM = 0.11
MISS = 1.0
STEEPNESS = 5.0
FAR = 3.0
"""Widths behind a window from which on a false alarm costs all."""
PROBATION_SHARE, PROBATION_MOST = 0.15, 750


@dataclass(frozen=True)
class Series:
    """One labelled file: instants in Unix s, values, and windows as first and last row."""

    name: str
    at: Floats
    values: Floats
    windows: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        """Rows at the begin that do not count."""
        return min(int(PROBATION_SHARE * len(self.values)), PROBATION_MOST)

    @property
    def group(self) -> str:
        """The folder that it lies in."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Gains:
    """What detections are worth: lowering the threshold to ``scores[i]`` adds ``gains[i]``."""

    scores: Floats
    gains: Floats
    windows: int
    """To be found."""

    def at(self, threshold: float) -> float:
        """The normalised score with a threshold that was fixed before."""
        return self._normalised(float(self.gains[self.scores >= threshold].sum()))

    def best(self) -> tuple[float, float]:
        """The threshold that gains most, and the normalised score with it; (inf, 0) where no detection helps."""
        order = np.argsort(-self.scores, kind="stable")
        scores, totals = self.scores[order], np.cumsum(self.gains[order])
        last = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
        totals, scores = totals[last], scores[last]
        if not len(totals) or totals.max() <= 0.0:
            return float("inf"), 0.0
        most = int(np.argmax(totals))
        return float(scores[most]), self._normalised(float(totals[most]))

    def _normalised(self, gained: float) -> float:
        """Raw scores run from -MISS a window (nothing detected) to 1 a window (all, at once)."""
        return 100.0 * gained / ((1.0 + MISS) * self.windows) if self.windows else 0.0


def sigmoid(place: Floats) -> Floats:
    """The worth of a detection at ``place``: in widths of the window, -1 its begin, 0 its end, positive behind it."""
    near = np.minimum(place, FAR)
    return np.where(place > FAR, -1.0, 2.0 / (1.0 + np.exp(STEEPNESS * near)) - 1.0)


def gains_of(scored: Iterable[tuple[Series, Floats]]) -> Gains:
    """What every threshold gains on these series together."""
    scores: list[Floats] = []
    gains: list[Floats] = []
    windows = 0
    for series, given in scored:
        windows += len(series.windows)
        for rows, worth in _worth(series, given):
            scores.append(given[rows])
            gains.append(worth)
    if not scores:
        return Gains(np.empty(0), np.empty(0), windows)
    return Gains(np.concatenate(scores), np.concatenate(gains), windows)


def _worth(series: Series, given: Floats) -> Iterable[tuple[npt.NDArray[np.intp], Floats]]:
    """Per window, and per stretch between windows: its rows, and what detecting each adds as the threshold falls."""
    begin, end = series.probation, len(series.values)
    before: tuple[int, int] | None = None
    for window in (*series.windows, (end, end)):
        first, last = window
        between = np.arange(begin, max(first, begin))
        if before is None:
            yield between, np.full(len(between), -FALSE_ALARM)
        else:
            width = max(before[1] - before[0], 1)
            yield between, FALSE_ALARM * sigmoid((between - before[1]) / width)
        if first == end:
            return
        inside = np.arange(max(first, begin), last + 1)
        inside = inside[np.argsort(-given[inside], kind="stable")]
        worth = sigmoid(-(last - inside + 1.0) / (last - first + 1.0)) / sigmoid(np.array([-1.0]))
        # The earliest detection counts: what another row adds is what it is earlier than all that scored higher.
        earliest = np.maximum.accumulate(worth)
        added = np.diff(earliest, prepend=-MISS)
        yield inside, added
        before, begin = window, max(last + 1, begin)


def read(folder: Path, groups: Sequence[str] | None = None) -> list[Series]:
    """The series of ``folder`` (``data/<group>/*.csv`` and ``labels/combined_windows.json``), sorted by name."""
    labels: Mapping[str, list[list[str]]] = json.loads((folder / "labels/combined_windows.json").read_text("utf-8"))
    return [
        _series(folder / "data" / name, name, windows)
        for name, windows in sorted(labels.items())
        if (folder / "data" / name).is_file() and (groups is None or name.startswith(tuple(groups)))
    ]


def coarser(series: Series, rows: int) -> Series:
    """The same as if it had been sampled that many times more rarely: means of ``rows`` rows; a rest is left out."""
    count = len(series.values) // rows
    return Series(
        series.name,
        series.at[: count * rows : rows],
        series.values[: count * rows].reshape(count, rows).mean(axis=1),
        tuple((first // rows, last // rows) for first, last in series.windows if last // rows < count),
    )


def _series(path: Path, name: str, windows: Sequence[Sequence[str]]) -> Series:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    at = np.array([_unix_s(row["timestamp"]) for row in rows])
    places = [
        (int(np.searchsorted(at, _unix_s(begin))), int(np.searchsorted(at, _unix_s(end), "right")) - 1)
        for begin, end in windows
    ]
    return Series(name, at, np.array([float(row["value"]) for row in rows]), tuple(sorted(places)))


def _unix_s(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
