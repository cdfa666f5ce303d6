"""What Prometheus sees of the health of a mesh, beside the traffic's own figures.

Scores are those of the last step of the stability field (every ``stability.every_s``): a scrape computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from amaru.stability.field_settings import FieldReading
from amaru.stability.guardian import Guardian
from amaru.stability.service_metrics import PsiMetrics

if TYPE_CHECKING:
    from amaru.mesh.sensing import Sensing

SCORES = {
    "coherence": "Whether answers keep the shape and the distribution they had, 0 to 1.",
    "stability": "Steadiness of success and latency, 0 to 1.",
    "failure_probability": "Predicted, of a hard failure within the next minute.",
}


class SensingCollector(Collector):
    """The families of one ``Sensing``."""

    def __init__(self, sensing: Sensing) -> None:
        self._sensing = sensing
        self._field = PsiMetrics(_Field(sensing))

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is shown is known at scrape time only."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family; nothing where health is switched off."""
        sensing = self._sensing
        if not sensing.enabled:
            return
        latest = sensing.latest
        offers = [] if latest is None else [offer for one in latest.providers for offer in one.offers if offer.total]
        for name, help in SCORES.items():
            scores = GaugeMetricFamily(f"amaru_health_{name}", help, labels=["offer"])
            for offer in offers:
                scores.add_metric([offer.offer], getattr(offer, name))
            yield scores
        yield _counted(
            "amaru_health_patterns", "Patterns that were recognised.", "kind", sensing.chronicle.patterns_seen
        )
        yield _counted("amaru_health_healings", "Healings that were applied.", "kind", sensing.chronicle.healings_taken)
        yield _counted("amaru_health_probes", "Requests of amaru's own to idle offers.", "offer", sensing.probing.sent)
        refused = "Probes that no budget covered, and that were not sent."
        yield _counted("amaru_health_probes_refused", refused, "offer", sensing.probing.refused)
        yield CounterMetricFamily("amaru_health_probe_cost_usd", "What these cost.", sensing.probing.cost_usd)
        yield CounterMetricFamily("amaru_health_observations", "Attempts that were taken in.", sensing.observed)
        yield CounterMetricFamily(
            "amaru_health_observations_dropped",
            "Attempts that were not, or not by all: the queue was full, they could not be read, or an observer failed.",
            sensing.intake.dropped + sensing.lost,
        )
        yield CounterMetricFamily(
            "amaru_health_observations_skipped",
            "Attempts beyond those of one offer that are taken in per second; nothing is lost by it.",
            sensing.intake.skipped,
        )
        yield CounterMetricFamily(
            "amaru_health_listeners_dropped", "Listeners to events who read too slowly.", sensing.feed.dropped
        )
        yield from self._field.collect()


class _Field:
    """What ``PsiMetrics`` asks of a service."""

    def __init__(self, sensing: Sensing) -> None:
        self._sensing = sensing

    @property
    def reading(self) -> FieldReading | None:
        return self._sensing.steadiness.reading

    @property
    def guardian(self) -> Guardian:
        return self._sensing.steadiness.guardian

    @property
    def state_problem(self) -> str | None:
        return self._sensing.memory_failure or None


def _counted(name: str, help: str, label: str, counts: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help, labels=[label])
    for key, count in list(counts.items()):
        family.add_metric([key], count)
    return family
