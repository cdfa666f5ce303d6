"""Samples into figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.readiness.measuring import TRUNCATED, UNFINISHED, Sample, quantile, quantiles, summarize


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_a_value_with_enough_below_it(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = quantile(ordered, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


def test_quantiles_of_a_hundred() -> None:
    figures = quantiles(float(value) for value in range(1, 101))
    assert (figures.p50, figures.p95, figures.p99) == (50, 95, 99)
    assert quantiles([]).p50 is None


def test_a_summary_counts_each_request_once() -> None:
    samples = [
        Sample(at_s=0, first_token_s=0.2, latency_s=1.0, output_tokens=10, attempts=2, cost_usd=0.5, provider="a"),
        Sample(at_s=1, first_token_s=3.0, latency_s=4.0, output_tokens=30, cost_usd=0.25, provider="b"),
        Sample(at_s=2, first_token_s=0.1, latency_s=0.5, error=TRUNCATED, attempts=2, client_retries=1),
        Sample(at_s=3, latency_s=0.5, error="http_503"),
        Sample(at_s=4, latency_s=9.0, error=UNFINISHED, first_token_s=0.1),
    ]
    summary = summarize(samples, duration_s=10, slo_first_token_s=1.0, dropped=2)
    assert (summary.sent, summary.served, summary.failed, summary.unfinished, summary.dropped) == (5, 2, 2, 1, 2)
    assert summary.success_share == pytest.approx(2 / 6)  # what is unfinished is neither; what was dropped is failed
    assert summary.errors == {TRUNCATED: 1, "http_503": 1}
    assert summary.broken_streams == 1
    assert (summary.good, summary.goodput_per_s) == (1, 0.1)
    assert summary.saved_by_failover == 1
    assert summary.cost_usd == 0.75
    assert summary.output_tokens == 40
    assert summary.by_provider == {"a": 1, "b": 1}
    assert summary.client_retries == 1
    assert summary.latency.count == 2


def test_nothing_measured_is_no_success_and_no_failure() -> None:
    summary = summarize([], duration_s=0, slo_first_token_s=1)
    assert summary.success_share is None
    assert summary.first_token.count == 0
