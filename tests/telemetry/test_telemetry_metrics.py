"""What is counted, how it is shown, and that labels stay few."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from amaru.domain import Attempt, FailureKind, Kind, Provenance, Usage
from amaru.telemetry import metrics as metrics_module
from amaru.telemetry.histogram import SECONDS, Histogram, merged
from amaru.telemetry.metrics import OTHER, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = parse(metrics.render()[0].decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def attempt(offer: str, failure: FailureKind | None = None, **fields: object) -> Attempt:
    base: dict[str, object] = {"started_ms": 0.0, "latency_ms": 250.0, "detail": "why" if failure else ""}
    return Attempt(offer=offer, provider="p", failure=failure, **{**base, **fields})  # type: ignore[arg-type]


def test_a_request_is_counted_by_its_labels() -> None:
    metrics = Metrics()
    for duration_s in (0.05, 0.2, 70.0):
        metrics.observe_request("team", Kind.CHAT, "gpt", "ok", duration_s, 0.04)
    metrics.observe_request("team", Kind.CHAT, "gpt", "reset", 1.0, None)
    labels = {"kind": "chat", "resource": "gpt"}
    assert value(metrics, "amaru_requests_total", tenant="team", outcome="ok", **labels) == 3
    assert value(metrics, "amaru_requests_total", tenant="team", outcome="reset", **labels) == 1
    buckets = {le: value(metrics, "amaru_request_duration_seconds_bucket", outcome="ok", le=le, **labels) for le in
               ("0.05", "0.1", "0.25", "60.0", "120.0", "+Inf")}  # fmt: skip
    assert buckets == {"0.05": 1, "0.1": 1, "0.25": 2, "60.0": 2, "120.0": 3, "+Inf": 3}
    assert value(metrics, "amaru_request_duration_seconds_sum", outcome="ok", **labels) == pytest.approx(70.25)
    assert value(metrics, "amaru_time_to_first_token_seconds_count", **labels) == 3


def test_attempts_failovers_and_their_cost() -> None:
    metrics = Metrics()
    metrics.observe_attempts(
        [
            attempt("a", FailureKind.RESET),
            attempt("a", FailureKind.STREAM_CUT, cost_usd=0.25),
            attempt("b", first_token_ms=30.0, cost_usd=1.0),
        ]
    )
    metrics.observe_attempts([attempt("b", detail="the caller went away")])
    metrics.observe_retry("a")
    assert value(metrics, "amaru_attempts_total", offer="a", outcome="reset") == 1
    assert value(metrics, "amaru_attempts_total", offer="b", outcome="ok") == 1
    assert value(metrics, "amaru_attempts_total", offer="b", outcome="abandoned") == 1
    assert value(metrics, "amaru_failovers_total") == 1  # twice at a, then b
    assert value(metrics, "amaru_retries_total", offer="a") == 1
    assert value(metrics, "amaru_failed_attempts_cost_usd_total", offer="a") == 0.25
    assert value(metrics, "amaru_attempt_duration_seconds_count", offer="a") == 2


def test_tokens_add_up_and_keep_their_provenance() -> None:
    metrics = Metrics()
    metrics.observe_usage("team", "a", Usage(100, 20, cached_input_tokens=30), 0.5)
    metrics.observe_usage("other-team", "a", Usage(7, 1, source=Provenance.ESTIMATED), 0.25)
    directions = ("input", "cached_input", "output")
    by_direction = {
        d: value(metrics, "amaru_tokens_total", offer="a", direction=d, source="provider") for d in directions
    }
    assert by_direction == {"input": 70, "cached_input": 30, "output": 20}
    assert value(metrics, "amaru_tokens_total", offer="a", direction="input", source="estimated") == 7
    assert value(metrics, "amaru_cost_usd_total", tenant="team", offer="a", source="provider") == 0.5


def test_states_are_asked_for_at_scrape_time() -> None:
    metrics = Metrics()
    store = SimpleNamespace(
        healthy=True, queue_depth=3, written=10, dropped=2, deleted=1, file_bytes=4096, wal_bytes=100
    )
    offers = [
        SimpleNamespace(offer=name, state=state, in_flight=2.0)
        for name, state in (("a", "closed"), ("b", "half_open"), ("c", "open"))
    ]
    metrics.watch(lambda: 7, lambda: offers, lambda: store)
    metrics.watch(log_lines_dropped=lambda: 5)
    assert value(metrics, "amaru_in_flight") == 7
    assert [value(metrics, "amaru_breaker_state", offer=name) for name in "abc"] == [0, 1, 2]
    assert value(metrics, "amaru_decisions_recorded_total") == 10
    assert value(metrics, "amaru_decisions_dropped_total") == 2
    assert value(metrics, "amaru_store_size_bytes") == 4196
    assert value(metrics, "amaru_log_lines_dropped_total") == 5
    store.healthy = False
    assert value(metrics, "amaru_store_healthy") == 0


def test_a_state_that_cannot_be_asked_for_hides_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    metrics.watch(lambda: 1, lambda: 1 / 0)  # type: ignore[arg-type,return-value]  # the fault
    assert value(metrics, "amaru_in_flight") == 1
    assert not any(name == "amaru_breaker_state" for name, _ in samples(metrics))
    assert "metric_unavailable" in caplog.text


def test_labels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "MAX_REQUEST_SERIES", 50)
    metrics = Metrics()
    for n in range(2_000):
        metrics.observe_request(f"tenant-{n}", "chat", f"model-{n}", "ok", 0.1, 0.1)
        metrics.observe_attempts([attempt(f"offer-{n}")])
        metrics.observe_usage(f"tenant-{n}", f"offer-{n}", Usage(1, 1), 0.1)
        metrics.observe_retry(f"offer-{n}")
    assert len(metrics.requests) <= 51
    assert len(metrics.attempts) <= metrics_module.MAX_NAMES + 1
    assert len(metrics.retries) <= metrics_module.MAX_NAMES + 1
    assert len(metrics.usage) <= metrics_module.MAX_NAMES + 1
    assert value(metrics, "amaru_requests_total", tenant=OTHER, kind="chat", resource=OTHER, outcome="ok") == 1_950
    assert metrics.summary()["requests"] == 2_000


def test_openmetrics_where_asked_for() -> None:
    metrics = Metrics()
    metrics.observe_request("t", "chat", "gpt", "ok", 0.1, None)
    metrics.observe_decision(3e-5)
    body, content_type = metrics.render("application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in parse_openmetrics(body.decode())}
    assert {"amaru_requests", "amaru_decision_duration_seconds", "amaru_build_info", "process_cpu_seconds"} <= names
    assert metrics.render("*/*")[1].startswith("text/plain; version=0.0.4")


def test_instances_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.observe_request("t", "chat", "gpt", "ok", 0.1, None)
    one.observe_refusal("chat", 401)
    assert one.summary()["requests"] == 1
    assert value(one, "amaru_refusals_total", kind="chat", status="401") == 1
    assert other.summary()["requests"] == 0


def test_summary_in_plain_figures() -> None:
    metrics = Metrics()
    empty = metrics.summary()
    assert empty["duration_ms"] == {"p50": None, "p95": None, "p99": None}
    for _ in range(99):
        metrics.observe_request("t", "chat", "gpt", "ok", 0.08, 0.02)
    metrics.observe_request("t", "chat", "gpt", "no_answer", 15.0, None)
    metrics.observe_recommendation("t", "chat", 1e-4)
    metrics.observe_usage("t", "a", Usage(10, 5, 4), 0.125)
    summary = metrics.summary()
    assert summary["outcomes"] == {"ok": 99, "no_answer": 1}
    assert 50 <= summary["duration_ms"]["p50"] <= 100
    assert (summary["input_tokens"], summary["cached_input_tokens"], summary["output_tokens"]) == (10, 4, 5)
    assert summary["cost_usd"] == 0.125
    assert summary["recommendations"] == 1


seconds = st.lists(st.floats(0.0, 400.0), min_size=1, max_size=60)


@given(seconds)
def test_a_histogram_counts_as_prometheus_defines_it(values: list[float]) -> None:
    histogram = Histogram(SECONDS)
    for one in values:
        histogram.observe(one)
    for le, count in histogram.cumulative():
        assert count == sum(one <= float(le.replace("+Inf", "inf")) for one in values)
    assert histogram.total == pytest.approx(math.fsum(values))


@given(seconds, seconds)
def test_merging_is_observing_together(left: list[float], right: list[float]) -> None:
    parts = [Histogram(SECONDS), Histogram(SECONDS)]
    for histogram, values in zip(parts, (left, right), strict=True):
        for one in values:
            histogram.observe(one)
    together = Histogram(SECONDS)
    for one in left + right:
        together.observe(one)
    whole = merged(parts, SECONDS)
    assert whole.counts == together.counts


@given(seconds, st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    histogram = Histogram(SECONDS)
    for one in values:
        histogram.observe(one)
    true = sorted(values)[math.ceil(q * len(values)) - 1]
    found = histogram.quantile(q)
    assert found is not None
    bounds = (0.0, *SECONDS, math.inf)
    low, high = next((a, b) for a, b in itertools.pairwise(bounds) if true <= b)
    assert low <= found <= high
