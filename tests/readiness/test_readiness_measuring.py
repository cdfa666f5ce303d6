"""Samples into figures."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replay_runs import answer, any_sample, failure

from amaru.readiness.measuring import (
    TRUNCATED,
    UNFINISHED,
    Quantiles,
    Sample,
    distributions,
    quantile,
    quantiles,
    summarize,
)


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
    assert (summary.cost_usd, summary.cost_reported) == (0.75, 2)
    assert (summary.cached_input_tokens, summary.cached_share) == (None, None)
    assert summary.output_tokens == 40
    assert summary.by_provider == {"a": 1, "b": 1}
    assert summary.client_retries == 1
    assert summary.latency.count == 2


def test_a_cost_of_nothing_is_a_cost_and_what_is_not_told_is_none() -> None:
    summary = summarize([answer(cost_usd=0.0), answer(cost_usd=None)], duration_s=1, slo_first_token_s=1)
    assert (summary.cost_usd, summary.cost_reported) == (0.0, 1)


def test_cached_tokens_are_counted_as_far_as_they_are_told() -> None:
    told = [answer(cached_input_tokens=6), answer(cached_input_tokens=0), answer(), failure(cached_input_tokens=9)]
    summary = summarize(told, duration_s=1, slo_first_token_s=1)
    assert (summary.cached_input_tokens, summary.cached_share) == (6, 6 / 30)


def test_nothing_measured_is_no_success_and_no_failure() -> None:
    summary = summarize([], duration_s=0, slo_first_token_s=1)
    assert summary.success_share is None
    assert summary.first_token.count == 0


def naive(values: list[float], share: float) -> float | None:
    """Percentile by nearest rank, as the textbook has it, in whole numbers."""
    return sorted(values)[max(0, -(-int(share * 100) * len(values) // 100) - 1)] if values else None


@given(st.lists(any_sample(), max_size=40), st.integers(0, 5), st.floats(0, 50))
def test_every_figure_is_what_counting_by_hand_gives(samples: list[Sample], dropped: int, slo_s: float) -> None:
    summary = summarize(samples, duration_s=60, slo_first_token_s=slo_s, dropped=dropped)
    whole = [sample for sample in samples if sample.error == ""]
    good = [sample for sample in whole if sample.first_token_s is not None and sample.first_token_s <= slo_s]
    by_token = [
        sum(sample.gaps_s) / (sample.output_tokens - 1)
        for sample in whole
        if len(sample.gaps_s) > 0 and sample.output_tokens >= 2
    ]
    timed = {
        "first_token": [sample.first_token_s for sample in whole if sample.first_token_s is not None],
        "inter_token": [gap_s for sample in whole for gap_s in sample.gaps_s],
        "time_per_output_token": by_token,
        "latency": [sample.latency_s for sample in whole],
        "lag": [sample.lag_s for sample in samples],
    }
    for name, values in timed.items():
        figures = getattr(summary, name)
        assert figures.count == len(values)
        assert (figures.p50, figures.p95, figures.p99) == tuple(naive(values, share) for share in (0.5, 0.95, 0.99))
    lasted_s = max([60.0, *(sample.at_s + sample.latency_s for sample in whole)])
    assert summary.measured_s == lasted_s
    assert summary.goodput_per_s == pytest.approx(len(good) / 60)
    offered = len(samples) + dropped
    assert summary.goodput_share == (len(good) / offered if offered else None)
    assert summary.offered_per_s == pytest.approx(offered / 60)
    assert summary.served + summary.failed + summary.unfinished + summary.dropped == offered
    tokens = sum(sample.output_tokens for sample in whole)
    assert summary.output_tokens_per_s == pytest.approx(tokens / lasted_s)
    both = tokens + sum(sample.input_tokens for sample in whole)
    assert summary.total_tokens_per_s == pytest.approx(both / lasted_s)
    assert summary.joined == {
        how: count for how in ("continued", "unseen") if (count := sum(sample.joined == how for sample in whole))
    }
    assert sum(summary.by_provider.values()) == sum(summary.token_counts_by.values()) == len(whole)


def test_failures_are_in_no_latency_and_against_goodput() -> None:
    quick = [answer(first_token_s=0.1) for _ in range(3)]
    slow_failure = failure(first_token_s=50.0, latency_s=50.0, gaps_s=array("f", [9.0]), output_tokens=2)
    summary = summarize([*quick, slow_failure], duration_s=1, slo_first_token_s=0.1)
    assert summary.first_token.p99 == 0.1
    assert summary.inter_token.p99 < 1
    assert summary.time_per_output_token.count == 3
    assert summary.goodput_share == 0.75
    assert summary.measured_s == 1  # a failure that took long does not lengthen the run


def test_time_per_output_token_is_of_tokens_and_the_gap_of_events() -> None:
    bundled = answer(tokens=3, gap_s=0.5, output_tokens=11)  # three events a second apart in all, eleven tokens
    summary = summarize([bundled, answer(tokens=1)], duration_s=1, slo_first_token_s=1)
    assert summary.inter_token == Quantiles(2, 0.5, 0.5, 0.5)
    assert summary.time_per_output_token.p50 == pytest.approx(0.1)
    assert summary.time_per_output_token.count == 1  # one token takes no time after itself
    assert summary.tokens_per_event == pytest.approx(12 / 4)


def test_gaps_of_a_long_run_stay_small_in_memory() -> None:
    samples = [answer(tokens=1001) for _ in range(1000)]
    timed = distributions(samples)
    assert len(timed.inter_token_s) == 1_000_000
    assert timed.inter_token_s.nbytes == 4_000_000


def test_rates_of_tokens_are_taken_until_the_last_answer_ended_and_those_of_requests_while_they_were_due() -> None:
    summary = summarize([answer(latency_s=20.0, tokens=100)], duration_s=2, slo_first_token_s=1)
    assert summary.output_tokens_per_s == pytest.approx(5)
    assert summary.offered_per_s == summary.served_per_s == summary.goodput_per_s == pytest.approx(0.5)


def test_a_share_that_is_no_binary_fraction_has_its_own_rank() -> None:
    assert quantile(range(1, 101), 0.07) == 7  # 0.07 * 100 is 7.000000000000001
