"""What Prometheus sees of the accounts' store, as one process does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from amaru.mesh.accounts_trust import KeyTrust


class TrustCollector(Collector):
    """Whether keys of the store can be checked."""

    def __init__(self, trust: KeyTrust) -> None:
        self._trust = trust

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is shown is known at scrape time only."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        trust = self._trust
        yield GaugeMetricFamily(
            "amaru_accounts_silent_seconds",
            "For how long the accounts' store has not answered; about a second at most while it does.",
            trust.silent_s,
        )
        yield GaugeMetricFamily(
            "amaru_accounts_keys_trusted", "1: keys of the store open; 0: it was silent too long.", not trust.is_over
        )
        yield CounterMetricFamily(
            "amaru_accounts_keys_unchecked", "Requests refused because their key could not be checked.", trust.refused
        )
