"""What Prometheus sees of the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from amaru.mesh.ledger import MeshLedger


class LedgerCollector(Collector):
    """The families of one ledger."""

    def __init__(self, ledger: MeshLedger) -> None:
        self._ledger = ledger

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is shown is known at scrape time only."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        now = self._ledger.status()
        yield GaugeMetricFamily(
            "amaru_ledger_healthy", "1: receipts are logged; 0: they wait, or are lost.", now.healthy
        )
        yield GaugeMetricFamily("amaru_ledger_entries", "Receipts that are durable in the log.", now.entries)
        yield GaugeMetricFamily("amaru_ledger_published", "Receipts under the last checkpoint.", now.published)
        yield GaugeMetricFamily("amaru_ledger_queue_bytes", "Of receipts that wait to be logged.", now.queued_bytes)
        yield GaugeMetricFamily("amaru_ledger_lag_seconds", "How long what waits has been waiting.", now.lag_s)
        yield CounterMetricFamily(
            "amaru_ledger_dropped", "Receipts dropped since the queue was made; each gap is logged.", now.dropped
        )
        yield CounterMetricFamily("amaru_ledger_lost", "Receipts that could not be made.", now.lost)
