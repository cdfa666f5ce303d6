"""What Prometheus sees of budgets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from amaru.accounts.alerting import Alerting
from amaru.accounts.allowances import Scope

MOST_BUDGETS = 200
"""Those that are used furthest are shown."""
_SHOWN = frozenset((Scope.TENANT, Scope.PROVIDER))


class AlertCollector(Collector):
    """How far budgets are used, by whichever process; of tenants and providers alone: of keys and teams there may be
    many."""

    def __init__(self, alerting: Alerting) -> None:
        self._alerting = alerting

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is shown is known at scrape time only."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The family."""
        # In the order of their periods: of two the later one stays.
        newest = {fill.allowance.id: fill for fill in self._alerting.fills if fill.allowance.scope in _SHOWN}
        used = GaugeMetricFamily(
            "amaru_budget_used_ratio",
            f"Settled and standing, by the budget's amount; of the {MOST_BUDGETS} used furthest.",
            labels=("scope", "subject", "period"),
        )
        for fill in sorted(newest.values(), key=lambda fill: fill.ratio, reverse=True)[:MOST_BUDGETS]:
            allowance = fill.allowance
            used.add_metric((str(allowance.scope), allowance.subject, str(allowance.period)), fill.ratio)
        yield used
