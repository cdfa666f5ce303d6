"""Health and traffic in one report: how the infrastructure fares, beside what its users got."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from amaru.health.report import LOW_COHERENCE, HealthReport

Figures = Mapping[str, Any]  # Any: JSON
"""Plain figures, such as ``Metrics.summary`` and ``GET /status`` (its ``traffic``) give them."""


class Watching(Protocol):
    """What reports on the infrastructure; an ``InfrastructureConsciousness`` does."""

    async def generate_consciousness_report(self) -> HealthReport: ...


class Summing(Protocol):
    """What sums up traffic; ``telemetry``'s Metrics does."""

    def summary(self) -> Figures: ...


class UnifiedReport(msgspec.Struct, frozen=True, kw_only=True):
    """Both, at one moment."""

    at: float
    """Unix seconds."""
    infrastructure: HealthReport
    traffic: dict[str, Any]  # Any: JSON
    served: float | None
    """Share of requests whose callers got a whole answer, those that callers gave up left out; ``None``: no requests,
    or the collector does not tell."""
    insights: tuple[str, ...]
    """What the one says of the other, and then the infrastructure's own."""


class InfrastructureMetricsBridge:
    """Joins what watches with what counts.

    Parameters
    ----------
    infrastructure
        What reports on health.
    metrics_collector
        What sums up traffic: an object with ``summary()``, or a function, which may be asynchronous.
    """

    def __init__(
        self,
        *,
        infrastructure: Watching,
        metrics_collector: Summing | Callable[[], Figures | Awaitable[Figures]],
    ) -> None:
        self._infrastructure = infrastructure
        self._collect = metrics_collector if callable(metrics_collector) else metrics_collector.summary

    async def generate_unified_report(self) -> UnifiedReport:
        """The report of this moment. Passes on what either raises."""
        report = await self._infrastructure.generate_consciousness_report()
        collected = self._collect()
        traffic = dict(await collected if inspect.isawaitable(collected) else collected)
        served = _served(traffic)
        return UnifiedReport(
            at=report.at,
            infrastructure=report,
            traffic=traffic,
            served=served,
            insights=(*_insights(report, traffic, served), *report.insights),
        )


def _served(traffic: Figures) -> float | None:
    outcomes = traffic.get("outcomes")
    if not isinstance(outcomes, Mapping):
        return None
    asked = sum(count for outcome, count in outcomes.items() if outcome != "cancelled")
    return outcomes.get("ok", 0) / asked if asked else None


def _insights(report: HealthReport, traffic: Figures, served: float | None) -> Iterator[str]:
    ill = [one for one in report.providers if one.status in ("failing", "degraded", "drained")]
    ailing = [one.provider for one in ill]
    names = ", ".join(ailing)
    unseen = all(one.coherence >= LOW_COHERENCE for one in ill)  # else answers were served that were of no use
    if served is not None and ailing and unseen and served >= 0.99:
        yield f"users hardly notice that {names} {'ails' if len(ailing) == 1 else 'ail'}: {served:.1%} were served"
    elif served is not None and served < 0.99:
        yield f"{1.0 - served:.1%} of requests were not served" + (f", while {names} ailed" if ailing else "")
    failovers = traffic.get("failovers")
    if failovers:
        yield f"{failovers} times another offer took over within a request"
    wasted = traffic.get("failed_attempts_cost_usd")
    if wasted:
        yield f"attempts that delivered nothing cost {wasted:.4f} USD"
