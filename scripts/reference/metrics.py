"""The metrics, from the collector that a scrape asks."""

from __future__ import annotations

from types import SimpleNamespace

from amaru.telemetry.exposition import MetricsCollector
from amaru.telemetry.metrics import Metrics
from reference.markdown import code, table

INTRO = """# Metrics

`GET /metrics` answers in Prometheus' text format, or in OpenMetrics where the scraper asks for that. It is for
operators: see [security](../explanation/security.md).

Labels hold few values: an unknown model has no series of its own, and beyond 500 names of one label further ones are
counted as `other`. Beside these there are prometheus_client's standard `process_*` and `python_*` metrics.
"""


def page() -> str:
    """The page's Markdown."""
    store = SimpleNamespace(healthy=True, queue_depth=0, written=0, dropped=0, deleted=0, file_bytes=0, wal_bytes=0)
    metrics = Metrics()
    metrics.watch(in_flight=lambda: 0.0, offers=list, store=lambda: store, log_lines_dropped=lambda: 0)
    rows = []
    for family in MetricsCollector(metrics).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(code(label) for label in getattr(family, "_labelnames", ()))
        rows.append((code(name), family.type, labels, family.documentation))
    return INTRO + "\n" + table(("metric", "type", "labels", "what it counts"), rows)
