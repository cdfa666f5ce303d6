"""What Prometheus sees of what machines share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from amaru.mesh.sharing import Sharing


class SharingCollector(Collector):
    """The families of one machine."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is shown is known at scrape time only."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        now = self._sharing
        yield GaugeMetricFamily(
            "amaru_sharing_up", "1: other machines can be heard; 0: this one goes on alone.", now.up
        )
        yield GaugeMetricFamily("amaru_sharing_machines", "Machines that share and live, this one too.", now.machines)
        yield GaugeMetricFamily(
            "amaru_sharing_origins", "Whose learning counts here, its own included.", now.learning.origins
        )
        yield CounterMetricFamily("amaru_sharing_said", "What was told of offers.", now.said)
        yield CounterMetricFamily("amaru_sharing_heard", "What others told that changed something here.", now.heard)
        yield CounterMetricFamily(
            "amaru_sharing_doubted", "What others told that was not believed.", now.hearsay.doubted
        )
        yield CounterMetricFamily("amaru_sharing_junk", "What could not be read, or cannot be true.", now.junk_total)
        yield CounterMetricFamily("amaru_sharing_lost", "What was not told, since Redis was away for long.", now.lost)
