"""One process's life, as its session analysis tells it."""

from __future__ import annotations

import collections
from typing import Any

from amaru.health.history import recurring
from amaru.health.memory import Memory
from amaru.health.report import HealthReport

Json = dict[str, Any]  # Any: a JSON document


class Session:
    """What the reports of one process showed.

    Parameters
    ----------
    began_at
        Unix seconds.
    """

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self._least: dict[str, dict[str, float]] = {}
        self._psi: list[float] = []

    def saw(self, report: HealthReport) -> None:
        """Take in a report."""
        for one in report.providers:
            if one.signature.total:
                least = self._least.setdefault(one.provider, {"coherence": 1.0, "stability": 1.0, "highest_risk": 0.0})
                least["coherence"] = min(least["coherence"], one.coherence)
                least["stability"] = min(least["stability"], one.stability)
                least["highest_risk"] = max(least["highest_risk"], one.failure_probability)
        if report.stability is not None:
            psi = report.stability.Psi
            self._psi = [min([*self._psi[:1], psi]), max([*self._psi[1:], psi])] if self._psi else [psi, psi]

    def analysis(self, report: HealthReport, memory: Memory) -> Json:
        """What happened since the beginning, and what helped."""
        patterns = [one for one in memory.patterns.values() if one.at >= self.began_at]
        healings = [one for one in memory.healings.values() if one.at >= self.began_at]
        effects: dict[str, list[float]] = collections.defaultdict(list)
        for healing in healings:
            if healing.effect is not None:
                effects[healing.kind.value].append(healing.effect)
        return {
            "began_at": self.began_at,
            "at": report.at,
            "attempts": {"observed": report.observed, "dropped": report.dropped},
            "status": report.status,
            "providers": {
                one.provider: {"status": one.status, "now": one.coherence, "worst": self._least.get(one.provider)}
                for one in report.providers
            },
            "patterns": dict(collections.Counter(f"{one.kind.value}: {one.cause}" for one in patterns)),
            "healings": dict(collections.Counter(one.kind.value for one in healings)),
            "effects": {kind: sum(values) / len(values) for kind, values in effects.items()},
            "stability": {"least": self._psi[0], "most": self._psi[1]} if self._psi else None,
            "recurring": [one.words for one in recurring(memory.patterns.values(), since=0.0)],
            "insights": list(report.insights),
        }
