"""What Prometheus sees of a scheduler: five families, by namespace, cadence and target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from amaru.ledger.anchoring_state import LineName
from amaru.telemetry.histogram import Histogram
from amaru.telemetry.scraping import exposition

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0)
_LABELS = LineName._fields


class LineFigures:
    """Those of one line. Only its own thread changes them; tries that failed, and those that did not, were begun."""

    def __init__(self) -> None:
        self.attempted = 0
        self.succeeded = 0
        self.failed = 0
        self.backoff = 0
        """Tries of the anchor in hand that failed; as many as there may be: it was given up until its next slot."""
        self.seconds = Histogram(SECONDS)


class AnchoringMetrics(Collector):
    """The families, with a registry of their own. Counters begin at 0 with each start, as Prometheus expects."""

    def __init__(self) -> None:
        self._lines: dict[LineName, LineFigures] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def of(self, name: LineName) -> LineFigures:
        """A line's figures, shown from now on."""
        return self._lines.setdefault(name, LineFigures())

    def forget(self, name: LineName) -> None:
        """A line that is gone."""
        self._lines.pop(name, None)

    def render(self, accept: str) -> tuple[bytes, str]:
        """See ``scraping.exposition``."""
        return exposition(self.registry, accept)

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is shown is known at scrape time only."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        lines = list(self._lines.items())
        for name, help in (
            ("attempted", "Tries to anchor a checkpoint that were begun."),
            ("succeeded", "Tries that ended with an anchor, kept."),
            ("failed", "Tries that failed; also those that found a log which must not be anchored."),
        ):
            family = CounterMetricFamily(f"anchors_{name}", help, labels=_LABELS)
            for line, figures in lines:
                family.add_metric(line, getattr(figures, name))
            yield family
        durations = HistogramMetricFamily("anchor_duration_seconds", "How long a try took.", labels=_LABELS)
        backoff = GaugeMetricFamily(
            "anchor_backoff_state",
            "Tries that failed of the anchor in hand: 0, none; 7, given up until the next slot.",
            labels=_LABELS,
        )
        for line, figures in lines:
            durations.add_metric(line, figures.seconds.cumulative(), figures.seconds.total)
            backoff.add_metric(line, figures.backoff)
        yield durations
        yield backoff
