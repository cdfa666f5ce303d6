"""Metrics as a scraper wants them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The exposition and its content type: OpenMetrics where the ``Accept`` header asks for it, else Prometheus."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
