"""What a prompt cache that is warm for a request did to a rank, in words."""

from __future__ import annotations

from collections.abc import Iterable

from amaru.routing import kernels as k

LEAST = 0.0005
"""A share that would read as 0.0 % is not told."""


def is_warm(rows: Iterable[list[float]]) -> bool:
    """Whether any of the feasible offers is expected to have the request's prompt in its cache."""
    return any(row[k.SAVES_PRICE] > 0.0 or row[k.SAVES_TIME] > 0.0 for row in rows)


def warmed(row: list[float]) -> tuple[float, float]:
    """Its unit price and latency (ms) with what the cache saves, as they were scored."""
    return row[k.UNIT_PRICE] * (1.0 - row[k.SAVES_PRICE]), row[k.LATENCY] * (1.0 - row[k.SAVES_TIME])


def warm_words(row: list[float]) -> str:
    """What is to be added to the reason of a feasible offer; empty where nothing is expected of its cache."""
    saves = [
        f"{share * 100.0:.1f} % {gain}"
        for share, gain in ((row[k.SAVES_PRICE], "of its price"), (row[k.SAVES_TIME], "of its latency"))
        if share >= LEAST
    ]
    return f"; its prompt cache is warm for this conversation, which saves {' and '.join(saves)}" if saves else ""
