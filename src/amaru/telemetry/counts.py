"""What is counted on the way of a request: plain cells, which add up over the workers of a machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from amaru.telemetry.exposition import DELIVERED
from amaru.telemetry.histogram import DECISION_SECONDS, FIRST_TOKEN_SECONDS, SECONDS, Histogram, merged

NOT_FAILED = DELIVERED | {"diverged"}
"""Outcomes that are no provider's fault."""
Buckets = tuple[list[int], float]
"""Of a histogram: its counts and its sum."""
K = TypeVar("K")


class RequestCell:
    """Requests of one tenant, kind, resource and outcome; its histograms are shared between tenants."""

    __slots__ = ("count", "duration", "first_token")

    def __init__(self, duration: Histogram, first_token: Histogram) -> None:
        self.count = 0
        self.duration = duration
        self.first_token = first_token


class AttemptCell:
    """Attempts at one offer that ended in one way; its histograms are shared between ways."""

    __slots__ = ("cost_usd", "count", "duration", "first_token", "received_bytes")

    def __init__(self, duration: Histogram, first_token: Histogram) -> None:
        self.count = 0
        self.cost_usd = 0.0
        self.received_bytes = 0
        self.duration = duration
        self.first_token = first_token


class UsageCell:
    """Tokens and cost delivered to one tenant by one offer, of one provenance."""

    __slots__ = ("cached_tokens", "cost_usd", "input_tokens", "output_tokens")

    def __init__(self) -> None:
        self.input_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.cost_usd = 0.0


class Counts:
    """Counters and histograms, by bounded labels."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Count from zero."""
        self.requests: dict[tuple[str, str, str, str], RequestCell] = {}
        self.durations: dict[tuple[str, str, str], Histogram] = {}
        self.first_tokens: dict[tuple[str, str], Histogram] = {}
        self.attempts: dict[tuple[str, str], AttemptCell] = {}
        self.attempt_durations: dict[str, Histogram] = {}
        self.attempt_first_tokens: dict[str, Histogram] = {}
        self.usage: dict[tuple[str, str, str], UsageCell] = {}
        self.refusals: dict[tuple[str, int], int] = {}
        self.recommendations: dict[tuple[str, str], int] = {}
        self.retries: dict[str, int] = {}
        self.bills_above_estimate: dict[str, int] = {}
        self.charges_lost = 0
        self.webhooks = dict.fromkeys(("delivered", "failed", "given_up"), 0)
        self.failovers = 0
        self.rescues: dict[str, int] = {}
        self.conversations: dict[str, int] = {}
        self.decisions = Histogram(DECISION_SECONDS)

    def add(self, tally: Tally) -> None:
        """Add what another process counted."""
        _add_rows(self.durations, tally.durations, SECONDS)
        _add_rows(self.first_tokens, tally.first_tokens, FIRST_TOKEN_SECONDS)
        for key, count in tally.requests:
            _, kind, resource, outcome = key
            duration = self.durations.setdefault((kind, resource, outcome), Histogram(SECONDS))
            first_token = self.first_tokens.setdefault((kind, resource), Histogram(FIRST_TOKEN_SECONDS))
            self.requests.setdefault(key, RequestCell(duration, first_token)).count += count
        _add_rows(self.attempt_durations, tally.attempt_durations, SECONDS)
        _add_rows(self.attempt_first_tokens, tally.attempt_first_tokens, FIRST_TOKEN_SECONDS)
        for at, count, cost_usd, received_bytes in tally.attempts:
            duration = self.attempt_durations.setdefault(at[0], Histogram(SECONDS))
            first_token = self.attempt_first_tokens.setdefault(at[0], Histogram(FIRST_TOKEN_SECONDS))
            attempts = self.attempts.setdefault(at, AttemptCell(duration, first_token))
            attempts.count += count
            attempts.cost_usd += cost_usd
            attempts.received_bytes += received_bytes
        for by, input_tokens, cached_tokens, output_tokens, cost_usd in tally.usage:
            used = self.usage.setdefault(by, UsageCell())
            used.input_tokens += input_tokens
            used.cached_tokens += cached_tokens
            used.output_tokens += output_tokens
            used.cost_usd += cost_usd
        _add_counts(self.refusals, tally.refusals)
        _add_counts(self.recommendations, tally.recommendations)
        _add_counts(self.retries, tally.retries.items())
        _add_counts(self.bills_above_estimate, tally.bills_above_estimate.items())
        self.charges_lost += tally.charges_lost
        _add_counts(self.webhooks, tally.webhooks.items())
        _add_counts(self.rescues, tally.rescues.items())
        _add_counts(self.conversations, tally.conversations.items())
        self.failovers += tally.failovers
        _add(self.decisions, tally.decisions)

    def summary(self) -> dict[str, Any]:  # Any: JSON
        """Plain figures since the start, for ``/status``. Latencies are interpolated inside histogram buckets."""
        outcomes: dict[str, int] = {}
        for (_, _, _, outcome), cell in list(self.requests.items()):
            outcomes[outcome] = outcomes.get(outcome, 0) + cell.count
        served = merged([h for (_, _, outcome), h in list(self.durations.items()) if outcome == "ok"], SECONDS)
        first_token = merged(list(self.first_tokens.values()), FIRST_TOKEN_SECONDS)
        usage = list(self.usage.values())
        attempts = list(self.attempts.items())
        return {
            "requests": sum(outcomes.values()),
            "outcomes": outcomes,
            "refused_before_routing": sum(self.refusals.values()),
            "recommendations": sum(self.recommendations.values()),
            "attempts": sum(cell.count for _, cell in attempts),
            "failed_attempts": sum(cell.count for (_, outcome), cell in attempts if outcome not in NOT_FAILED),
            "failovers": self.failovers,
            "rescues": dict(self.rescues),
            "retries": sum(self.retries.values()),
            "input_tokens": sum(cell.input_tokens + cell.cached_tokens for cell in usage),
            "cached_input_tokens": sum(cell.cached_tokens for cell in usage),
            "output_tokens": sum(cell.output_tokens for cell in usage),
            "cost_usd": sum(cell.cost_usd for cell in usage),
            "failed_attempts_cost_usd": sum(c.cost_usd for (_, outcome), c in attempts if outcome not in DELIVERED),
            "duration_ms": _quantiles_ms(served),
            "first_token_ms": _quantiles_ms(first_token),
        }


class Tally(msgspec.Struct, frozen=True):
    """``Counts`` as they travel from one process to another; rows of key and figures."""

    requests: list[tuple[tuple[str, str, str, str], int]]
    durations: list[tuple[tuple[str, str, str], Buckets]]
    first_tokens: list[tuple[tuple[str, str], Buckets]]
    attempts: list[tuple[tuple[str, str], int, float, int]]
    attempt_durations: list[tuple[str, Buckets]]
    attempt_first_tokens: list[tuple[str, Buckets]]
    usage: list[tuple[tuple[str, str, str], int, int, int, float]]
    refusals: list[tuple[tuple[str, int], int]]
    recommendations: list[tuple[tuple[str, str], int]]
    retries: dict[str, int]
    bills_above_estimate: dict[str, int]
    charges_lost: int
    webhooks: dict[str, int]
    failovers: int
    rescues: dict[str, int]
    conversations: dict[str, int]
    decisions: Buckets


def tally_of(counts: Counts) -> Tally:
    """What was counted so far."""
    return Tally(
        requests=[(key, cell.count) for key, cell in counts.requests.items()],
        durations=_rows(counts.durations),
        first_tokens=_rows(counts.first_tokens),
        attempts=[(key, cell.count, cell.cost_usd, cell.received_bytes) for key, cell in counts.attempts.items()],
        attempt_durations=_rows(counts.attempt_durations),
        attempt_first_tokens=_rows(counts.attempt_first_tokens),
        usage=[
            (key, cell.input_tokens, cell.cached_tokens, cell.output_tokens, cell.cost_usd)
            for key, cell in counts.usage.items()
        ],
        refusals=list(counts.refusals.items()),
        recommendations=list(counts.recommendations.items()),
        retries=counts.retries,
        bills_above_estimate=counts.bills_above_estimate,
        charges_lost=counts.charges_lost,
        webhooks=counts.webhooks,
        failovers=counts.failovers,
        rescues=counts.rescues,
        conversations=counts.conversations,
        decisions=(counts.decisions.counts, counts.decisions.total),
    )


def _rows(histograms: dict[K, Histogram]) -> list[tuple[K, Buckets]]:
    return [(key, (one.counts, one.total)) for key, one in histograms.items()]


def _add_rows(to: dict[K, Histogram], rows: Iterable[tuple[K, Buckets]], bounds: tuple[float, ...]) -> None:
    for key, buckets in rows:
        _add(to.setdefault(key, Histogram(bounds)), buckets)


def _add(to: Histogram, buckets: Buckets) -> None:
    counts, total = buckets
    to.counts = [a + b for a, b in zip(to.counts, counts, strict=True)]
    to.total += total


def _add_counts(to: dict[K, int], counts: Iterable[tuple[K, int]]) -> None:
    for key, count in counts:
        to[key] = to.get(key, 0) + count


def _quantiles_ms(histogram: Histogram) -> dict[str, float | None]:
    found = {name: histogram.quantile(q) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    return {name: None if value is None else round(value * 1e3, 3) for name, value in found.items()}
