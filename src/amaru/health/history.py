"""What comes again: patterns of the past by provider and cause, and the hour of the day at which they gather."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind

HOUR_S = 3600.0
WINDOW_H = 2
"""Hours of the day that count as one time of the day."""
CHANCE = 0.01
"""A gathering at some time of the day is named where chance alone would do as much with less than this probability,
at any of the 24 times."""
_IMPACTS = list(Impact)


class Recurrence(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of pattern that one provider showed, for one cause, more than once."""

    kind: PatternKind
    provider: str
    cause: str
    count: int
    days: int
    """Different days (UTC) on which it began."""
    first_at: float
    """Unix seconds, as ``last_at``."""
    last_at: float
    impact: Impact
    """The worst."""
    hours: tuple[int, ...]
    """How often it began in each hour of the day, UTC: 24 figures."""
    hour: int | None
    """Where ``WINDOW_H`` hours begin in which it gathers, beyond chance; ``None``: it comes at any hour."""
    in_window: int = 0
    """How often it began in these."""
    mean_length_s: float | None = None
    """Of those that have ended."""

    @property
    def words(self) -> str:
        """It in one sentence."""
        said = f"{self.provider}: {self.kind.value.replace('_', ' ')} ({self.cause}) {self.count} times"
        said += f" on {self.days} day{'s' if self.days > 1 else ''}"
        if self.hour is not None:
            said += f", {self.in_window} of them from {self.hour:02d}:00 to {(self.hour + WINDOW_H) % 24:02d}:00 UTC"
        return said


def recurring(patterns: Iterable[InfrastructurePattern], *, since: float, least: int = 2) -> list[Recurrence]:
    """What began at least ``least`` times at or after ``since``, most often first.

    A pattern of several providers counts for each of them.
    """
    groups: dict[tuple[PatternKind, str, str], list[InfrastructurePattern]] = defaultdict(list)
    for pattern in patterns:
        if pattern.at >= since and pattern.kind is not PatternKind.RECOVERY:
            for provider in pattern.providers:
                groups[pattern.kind, provider, pattern.cause].append(pattern)
    found = [_recurrence(*key, group) for key, group in groups.items() if len(group) >= least]
    return sorted(found, key=lambda one: (-one.count, one.provider, one.cause, one.kind))


def _recurrence(kind: PatternKind, provider: str, cause: str, group: list[InfrastructurePattern]) -> Recurrence:
    hours = [0] * 24
    for pattern in group:
        hours[int(pattern.at // HOUR_S) % 24] += 1
    lengths = [pattern.ended_at - pattern.at for pattern in group if pattern.ended_at is not None]
    hour, in_window = _gathering(hours)
    return Recurrence(
        kind=kind,
        provider=provider,
        cause=cause,
        count=len(group),
        days=len({int(pattern.at // (24 * HOUR_S)) for pattern in group}),
        first_at=min(pattern.at for pattern in group),
        last_at=max(pattern.at for pattern in group),
        impact=max((pattern.impact for pattern in group), key=_IMPACTS.index),
        hours=tuple(hours),
        hour=hour,
        in_window=in_window,
        mean_length_s=math.fsum(lengths) / len(lengths) if lengths else None,
    )


def _gathering(hours: list[int]) -> tuple[int | None, int]:
    """Where the fullest window begins and how many it holds, if that is beyond chance; else ``None``, 0."""
    total = sum(hours)
    sums = [sum(hours[(start + ahead) % 24] for ahead in range(WINDOW_H)) for start in range(24)]
    most = max(sums)
    if total < 3 or _at_least(most, total, WINDOW_H / 24.0) * 24.0 > CHANCE:  # Bonferroni: one window out of 24
        return None, 0
    return sums.index(most), most


def _at_least(least: int, total: int, share: float) -> float:
    """Probability of at least ``least`` out of ``total``, each with probability ``share`` (binomial tail)."""
    logs = (
        math.lgamma(total + 1)
        - math.lgamma(k + 1)
        - math.lgamma(total - k + 1)
        + k * math.log(share)
        + (total - k) * math.log1p(-share)
        for k in range(least, total + 1)
    )
    return math.fsum(map(math.exp, logs))
