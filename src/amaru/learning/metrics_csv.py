"""``training_metrics.csv``: a row per episode.

The rows of earlier episodes are kept as text (some 200 bytes each), so that a resumed training writes them as they
were.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from amaru.errors import CheckpointError
from amaru.files.whole import write_whole
from amaru.learning.psi_field import FIGURES, Reading

NAME = "training_metrics.csv"
COLUMNS = (
    "episode",
    "q_table_size",
    "avg_reward",
    "best_reward",
    "worst_reward",
    "epsilon",
    "fill_rate",
    "avg_cost",
    "avg_latency",
    "utility",
    "requests",
    "seconds",
)
FIELD_COLUMNS = (*FIGURES, "intervention")


class EpisodeMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """One episode, over all agents."""

    episode: int
    """From 1."""
    q_table_size: float
    """Cells (or beliefs) with evidence, of the mean agent."""
    avg_reward: float
    """``compute_reward``; the agents' mean, and the best and the worst of them in this episode."""
    best_reward: float
    worst_reward: float
    epsilon: float
    fill_rate: float
    avg_cost: float
    """USD per served request; NaN where none was served."""
    avg_latency: float
    """Milliseconds per served request; NaN where none was served."""
    utility: float
    """Mean of a request; NaN where there was none."""
    requests: int
    seconds: float
    """From the training's beginning to the episode's end, pauses between runs left out."""
    field: Reading | None = None


class MetricsLog:
    """The rows so far."""

    def __init__(self, *, with_field: bool) -> None:
        self.with_field = with_field
        self._rows: list[str] = []

    def add(self, metrics: EpisodeMetrics) -> None:
        """Take in the next episode."""
        cells = [_cell(getattr(metrics, name)) for name in COLUMNS]
        if self.with_field:
            figures = {} if metrics.field is None else metrics.field.figures
            cells += [_cell(figures.get(name, math.nan)) for name in FIGURES]
            cells.append("" if metrics.field is None else metrics.field.intervention or "")
        self._rows.append(",".join(cells))

    def write(self, path: Path) -> None:
        """Write all rows. Raises OSError."""
        head = COLUMNS + (FIELD_COLUMNS if self.with_field else ())
        write_whole(path, ("\n".join([",".join(head), *self._rows]) + "\n").encode())

    def take_over(self, path: Path, episodes: int) -> None:
        """Begin with the rows of the first ``episodes`` episodes of a file that was written earlier.

        Raises
        ------
        CheckpointError
            The file cannot be read, or is not such a file.
        """
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}; it belongs to the checkpoint beside it") from None
        head = tuple(lines[0].split(",")) if lines else ()
        if head not in (COLUMNS, COLUMNS + FIELD_COLUMNS):
            raise CheckpointError(f"{path}:1: other columns than a training writes; it belongs to the checkpoint")
        if len(lines) <= episodes:
            raise CheckpointError(
                f"{path}:{len(lines)}: ends before episode {episodes}, where the checkpoint beside it is"
            )
        had_field = len(head) > len(COLUMNS)
        missing = "," * len(FIELD_COLUMNS) if self.with_field and not had_field else ""
        self.with_field = self.with_field or had_field
        for number, line in enumerate(lines[1 : episodes + 1], 1):
            if line.count(",") != len(head) - 1 or not line.startswith(f"{number},"):
                raise CheckpointError(f"{path}:{number + 1}: is not the row of episode {number}")
            self._rows.append(line + missing)


def _cell(value: float) -> str:
    """An exact figure, and nothing for one that there is not."""
    return "" if math.isnan(value) else repr(value)
