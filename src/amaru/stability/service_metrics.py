"""What Prometheus sees of a psi-field service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from amaru.stability.field_settings import FieldReading
from amaru.stability.guardian import Guardian
from amaru.telemetry.scraping import exposition

GAUGES = {
    "psi_field_density": ("Psi", "Stability of the whole, in [0, 1]; high is stable."),
    "psi_field_prediction_error": ("PE", "How surprising the last step was; above 1.5 on 0.01 % of calm steps."),
    "psi_field_continuity": ("C", "How far the last step follows from the recent past, in [0, 1]."),
    "psi_field_futurity": ("U", "How predictable the near future is, in [0, 1]."),
    "psi_field_phase_coherence": ("Phi", "How far the signals move together, in [0, 1]."),
    "psi_field_temporal_entropy": ("H", "How disordered the recent past is, in [0, 1]."),
}


class Shown(Protocol):
    """What is shown of a service."""

    @property
    def reading(self) -> FieldReading | None: ...
    @property
    def guardian(self) -> Guardian: ...
    @property
    def state_problem(self) -> str | None: ...


class PsiMetrics(Collector):
    """The families, with a registry of their own."""

    def __init__(self, service: Shown) -> None:
        self._service = service
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def render(self, accept: str) -> tuple[bytes, str]:
        """See ``scraping.exposition``."""
        return exposition(self.registry, accept)

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is shown is known at scrape time only."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family; figures of the field only once it has taken a step."""
        service = self._service
        reading, guardian = service.reading, service.guardian
        if reading is not None:
            for name, (figure, help) in GAUGES.items():
                yield GaugeMetricFamily(name, help, getattr(reading, figure))
        yield CounterMetricFamily(
            "psi_field_steps", "Steps that the field has taken.", 0 if reading is None else reading.step
        )
        asked = CounterMetricFamily("guardian_interventions", "Interventions that were handed out.", labels=["kind"])
        for kind, count in guardian.counts.items():
            asked.add_metric([kind.value], count)
        yield asked
        yield GaugeMetricFamily("guardian_enabled", "Whether the guardian asks by itself.", float(guardian.enabled))
        yield GaugeMetricFamily(
            "psi_field_state_saved", "Whether the last step was saved.", float(service.state_problem is None)
        )
