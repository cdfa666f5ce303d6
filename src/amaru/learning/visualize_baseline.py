"""The standings of an evaluation, as far as a training's pictures show them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from amaru.errors import ReportError
from amaru.learning.evaluation_report import SCHEMA
from amaru.learning.intervals import Interval
from amaru.learning.visualize import Standing


class _Figure(msgspec.Struct, frozen=True):
    value: float | None
    """``None``: undefined, such as the cost where nothing was served."""
    interval: Interval | None = None


class _Row(msgspec.Struct, frozen=True):
    policy: str
    role: str
    origin: str
    fill_rate: _Figure
    avg_cost_usd: _Figure
    avg_latency_ms: _Figure
    mean_utility: _Figure
    over_baseline: _Figure


class _Evaluation(msgspec.Struct, frozen=True):
    schema: str
    baseline: str
    standings: tuple[_Row, ...]


def read_standings(path: Path) -> tuple[Standing, ...]:
    """Every policy of the ``evaluation.json`` that ``amaru evaluate`` wrote.

    Raises
    ------
    ReportError
        The file cannot be read, or is no evaluation; with the path in it where that is known.
    """
    remedy = "name the evaluation.json that `amaru evaluate` wrote"
    try:
        read = msgspec.json.decode(path.read_bytes(), type=_Evaluation)
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror or error}; {remedy}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: {error}; {remedy}") from error
    if read.schema != SCHEMA:
        raise ReportError(f"{path}: schema: {read.schema[:40]!r} is not {SCHEMA}; {remedy}")
    standings = (_standing(row, read.baseline) for row in read.standings)
    return tuple(standing for standing in standings if standing is not None)


def _standing(row: _Row, baseline: str) -> Standing | None:
    """``None`` where nothing was asked for, so that nothing is known."""
    utility, gain, interval = row.mean_utility.value, row.over_baseline.value, row.over_baseline.interval
    if utility is None or gain is None:
        return None
    return Standing(
        name=row.policy,
        role=row.role,
        origin=row.origin,
        is_baseline=row.policy == baseline,
        utility=utility,
        gain=gain,
        gain_low=interval.low if interval is not None else None,
        gain_high=interval.high if interval is not None else None,
        fill_rate=row.fill_rate.value,
        avg_cost_usd=row.avg_cost_usd.value,
        avg_latency_ms=row.avg_latency_ms.value,
    )
