"""The metrics, from the collector that a scrape asks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from amaru.mesh import WorkersCollector
from amaru.mesh.ledger_metrics import LedgerCollector
from amaru.mesh.sensing_metrics import SensingCollector
from amaru.mesh.sharing_metrics import SharingCollector
from amaru.stability.field_settings import FieldReading
from amaru.stability.guardian import Guardian
from amaru.telemetry.exposition import MetricsCollector
from amaru.telemetry.metrics import Metrics
from reference.markdown import code, table

INTRO = """# Metrics

`GET /metrics` answers in Prometheus' text format, or in OpenMetrics where the scraper asks for that. It is for
operators: see [security](../explanation/security.md).

Labels hold few values: an unknown model has no series of its own, and beyond 500 names of one label further ones are
counted as `other`. Beside these there are prometheus_client's standard `process_*` and `python_*` metrics;
of several workers they are of the one that owns the figures.
"""


def page() -> str:
    """The page's Markdown."""
    store = SimpleNamespace(healthy=True, queue_depth=0, written=0, dropped=0, deleted=0, file_bytes=0, wal_bytes=0)
    metrics = Metrics()
    metrics.watch(in_flight=lambda: 0.0, offers=list, store=lambda: store, log_lines_dropped=lambda: 0)
    rows = []
    collectors = (
        MetricsCollector(metrics),
        LedgerCollector(_ledger()),
        SensingCollector(_sensing()),
        WorkersCollector(_owner()),
        SharingCollector(_sharing()),
    )
    for family in (family for collector in collectors for family in collector.collect()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(code(label) for label in getattr(family, "_labelnames", ()))
        rows.append((code(name), family.type, labels, family.documentation))
    return INTRO + "\n" + table(("metric", "type", "labels", "what it counts"), rows)


def _owner() -> Any:  # Any: as much of an Owner as the collector asks
    return SimpleNamespace(live=lambda: 2, dropped=dict)


def _sharing() -> Any:  # Any: as much of a Sharing as the collector asks
    counts = dict.fromkeys(("up", "machines", "said", "heard", "junk_total", "lost"), 0)
    return SimpleNamespace(learning=SimpleNamespace(origins=1), hearsay=SimpleNamespace(doubted=0), **counts)


def _ledger() -> Any:  # Any: as much of a MeshLedger as the collector asks
    fields = ("healthy", "entries", "published", "queued_bytes", "lag_s", "dropped", "lost")
    return SimpleNamespace(status=lambda: SimpleNamespace(**dict.fromkeys(fields, 0)))


def _sensing() -> Any:  # Any: as much of a Sensing as the collector asks
    figures = dict.fromkeys(("PE", "C", "U", "Phi", "H", "M", "dt_eff", "Psi"), 0.0)
    return SimpleNamespace(
        enabled=True,
        latest=None,
        chronicle=SimpleNamespace(patterns_seen={}, healings_taken={}),
        probing=SimpleNamespace(sent={}, refused={}, cost_usd=0.0),
        observed=0,
        lost=0,
        intake=SimpleNamespace(dropped=0, skipped=0),
        feed=SimpleNamespace(dropped=0),
        steadiness=SimpleNamespace(reading=FieldReading(**figures, surprises=(), step=1, at=None), guardian=Guardian()),
        memory_failure="",
    )
