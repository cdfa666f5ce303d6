"""GCRA, the retry budget and the back-off."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.routing.kernels import gcra_free_at
from amaru.routing.limits import interval_s, spend
from amaru.routing.retries import RetryBudget, backoff_s


class Bucket:
    """A token bucket, the textbook way: what GCRA must equal."""

    def __init__(self, per_s: float, size: float) -> None:
        self.per_s, self.size, self.level, self.at = per_s, size, size, 0.0

    def take(self, units: float, now: float) -> bool:
        self.level = min(self.size, self.level + (now - self.at) * self.per_s)
        self.at = now
        if self.level < units:
            return False
        self.level -= units
        return True


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 60)), max_size=60), st.sampled_from([15.0, 60.0, 240.0]))
def test_gcra_equals_a_token_bucket(arrivals: list[tuple[int, int]], per_min: float) -> None:
    cost_s = interval_s(per_min)
    bucket = Bucket(per_min / 60.0, per_min)
    tat, now = -math.inf, 0.0
    for wait_s, asked in arrivals:
        now += wait_s
        units = min(asked, per_min)
        conforms = gcra_free_at(tat, units * cost_s, 60.0) <= now
        assert conforms == bucket.take(units, now)
        if conforms:
            tat = spend(tat, units * cost_s, now)


def test_gcra_tells_when_a_refused_request_conforms() -> None:
    cost_s = interval_s(60.0)
    tat = -math.inf
    for _ in range(60):
        assert gcra_free_at(tat, cost_s, 60.0) <= 5.0
        tat = spend(tat, cost_s, 5.0)
    assert gcra_free_at(tat, cost_s, 60.0) == pytest.approx(6.0)


def test_a_request_larger_than_the_burst_passes_on_a_full_bucket_and_pays_its_debt() -> None:
    cost_s = 3_000 * interval_s(1_000.0)
    assert gcra_free_at(-math.inf, cost_s, 60.0) <= 0.0
    tat = spend(-math.inf, cost_s, 0.0)
    assert gcra_free_at(tat, interval_s(1_000.0), 60.0) == pytest.approx(120.06)


@pytest.mark.parametrize("per_min", [0.0, -1.0, math.inf, math.nan])
def test_a_limit_that_could_never_be_met_is_refused(per_min: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        interval_s(per_min)


def test_retries_stay_a_share_of_requests_under_a_storm() -> None:
    budget = RetryBudget(0.2, min_per_s=1.0)
    granted = 0
    for i in range(100_000):  # 1,000 requests a second, each of which would retry three times
        now = i / 1_000.0
        budget.request(now)
        granted += sum(budget.try_retry(now) for _ in range(3))
    assert granted <= 0.2 * 100_000 + 1.0 * 100 + 10
    assert granted >= 0.19 * 100_000


def test_a_quiet_service_may_retry() -> None:
    budget = RetryBudget(0.2, min_per_s=1.0, window_s=10.0)
    budget.request(0.0)
    assert sum(budget.try_retry(0.0) for _ in range(50)) == 10
    assert budget.try_retry(60.0)


def test_no_floor_and_no_requests_mean_no_retries() -> None:
    assert not RetryBudget(0.2, min_per_s=0.0).try_retry(0.0)


@given(st.integers(0, 2_000), st.integers(0, 10**6))
def test_backoff_is_bounded_and_full_jitter(attempt: int, seed: int) -> None:
    assert 0.0 <= backoff_s(attempt, random.Random(seed)) <= min(2.0, 0.1 * 2.0 ** min(attempt, 30))


def test_backoff_spreads_from_zero_and_grows() -> None:
    rng = random.Random(5)
    means = [sum(backoff_s(attempt, rng) for _ in range(4_000)) / 4_000 for attempt in range(7)]
    for mean, longest in zip(means, (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0), strict=True):
        assert mean == pytest.approx(longest / 2.0, rel=0.05)
