"""Counts of several workers add up to what one would have counted."""

from __future__ import annotations

import msgspec

from amaru.domain import Attempt, FailureKind, Provenance, Usage
from amaru.telemetry.counts import Tally, tally_of
from amaru.telemetry.metrics import Metrics


def attempt(offer: str, failure: FailureKind | None = None) -> Attempt:
    return Attempt(offer=offer, provider="p", started_ms=0.0, latency_ms=250.0, failure=failure, cost_usd=0.25)


def observe(metrics: Metrics, number: int) -> None:
    metrics.observe_request("team", "chat", "m", "ok", 0.25 * number, 0.125)  # sums of these are exact
    metrics.observe_attempts([attempt("a", FailureKind.CONNECT), attempt("b")])
    metrics.observe_usage("team", "b", Usage(10, number, source=Provenance.PROVIDER), 0.5)
    metrics.observe_retry("a")
    metrics.observe_decision(2**-17)
    metrics.observe_recommendation("team", "chat", 2**-17)
    metrics.observe_rescue("continued")
    metrics.observe_refusal("chat", 401)
    metrics.observe_charge_lost()
    metrics.observe_webhook("failed" if number % 2 else "delivered")
    metrics.observe_bill_above_estimate("a")


def test_what_workers_counted_adds_up_to_what_one_would_have() -> None:
    one, first, second = Metrics(), Metrics(), Metrics()
    for number in range(1, 7):
        observe(one, number)
        observe(first if number % 2 else second, number)
    travelled = msgspec.msgpack.decode(msgspec.msgpack.encode(tally_of(second)), type=Tally)
    first.watch(others=lambda: [travelled])
    assert first.summary() == one.summary()
    assert samples(first) == samples(one)
    assert first.requests["team", "chat", "m", "ok"].count == 3  # its own stay its own


def samples(metrics: Metrics) -> set[str]:
    """The lines of the exposition that tell of traffic."""
    text, _ = metrics.render()
    return {line for line in text.decode().splitlines() if line.startswith("amaru_")}
