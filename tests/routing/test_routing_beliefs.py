"""Beliefs are numbers, whatever happens: far apart or all at once, back in time, all good or all bad."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_samples import OFFERS, STREAM, WHOLE, Lesson, believer, failed, lessons, served, tables, teach, times

from amaru.domain import Experience
from amaru.routing import belief_kernels as b
from amaru.routing import kernels as k
from amaru.routing.evidence import SlotSums
from amaru.routing.learned import BeliefPolicy
from amaru.routing.policies import make_policy

YEAR = 3.2e7
PROBABILITIES = [b.SUCCESS, b.AS_USUAL, b.IF_DEGRADED, b.IF_DOWN, b.P_DEGRADED, b.P_DOWN]


def assert_sane(policy: BeliefPolicy, *nows: float) -> None:
    for now in nows:
        for workload, table in zip((STREAM, WHOLE), tables(policy, now), strict=True):
            assert np.isfinite(table).all()
            assert (table[:, [k.PREDICTED_MS, k.PREDICTED_PRICE]] > 0.0).all()
            slots, groups = policy.mind.slots(OFFERS, whole=workload is WHOLE)
            beliefs = policy.mind.beliefs[slots]
            assert np.isfinite(np.delete(beliefs, [b.SUMS_AT, b.SENSED_AT], axis=1)).all()
            assert (beliefs[:, PROBABILITIES] >= 0.0).all()
            assert (beliefs[:, PROBABILITIES] <= 1.0 + 1e-9).all()
            assert (beliefs[:, b.P_DEGRADED] + beliefs[:, b.P_DOWN] <= 1.0 + 1e-9).all()
            assert (beliefs[:, [b.AS_USUAL_SD, b.LOG_MS_SD, b.LOG_MS_NOISE]] > 0.0).all()
            assert (beliefs[:, [b.LOG_MS_SLOPE, b.EVIDENCE]] >= 0.0).all()
            sensed = policy.mind.beliefs[np.concatenate([slots, groups])][:, b.MILD : b.FALLEN + 1]
            assert (sensed >= 0.0).all()
            assert (sensed.sum(axis=1) <= 1.0 + 1e-9).all()
    for slot in policy.evidence().slots.values():
        slot.array()  # checks itself


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["thompson", "hybrid"]), lessons(40, times(YEAR)), times(YEAR), st.sampled_from([0.0, 1.0]),
    st.sampled_from([{}, {"fast_s": 1.0, "relax_s": 1.0, "price_s": 1.0}, {"siblings": 1.0}, {"siblings": 0.0}]),
    st.sampled_from([{}, {"degraded": 0.0, "down": 0.9}, {"prior_success": 0.999}, {"prior_success": 0.01}]),
    st.sampled_from([{}, {"prior_tries": 0.01, "latency_tries": 0.01, "price_tries": 0.01, "confidence": 0.01}]),
)  # fmt: skip
def test_any_experiences_leave_numbers(
    name: str,
    log: list[Lesson],
    now: float,
    boldness: float,
    some: dict[str, float],
    others: dict[str, float],
    more: dict[str, float],
) -> None:
    policy = make_policy(name, **{"boldness": boldness} | some | others | more)
    assert isinstance(policy, BeliefPolicy)
    for lesson in log:
        teach(policy, [lesson])
        if lesson[2].load < 0.5:  # asked in between, now and then
            assert_sane(policy, now)
    assert_sane(policy, 0.0, now, YEAR, 10 * YEAR)


MANY = 20_000


@pytest.mark.parametrize("every_s", [0.0, 0.01, 10.0])
@pytest.mark.parametrize(
    "lesson",
    [
        served(200.0),
        served(1e-3),
        served(1e9, load=1.0),
        served(None),
        failed(),
        served(200.0, cost_usd=1.0, expected_cost_usd=1e-9),
    ],
)
def test_very_many_alike_leave_numbers_and_so_does_the_surprise_after_them(lesson: Experience, every_s: float) -> None:
    policy = believer(boldness=1.0)
    own, group = policy.mind.pair(OFFERS[0])
    mind = policy.mind
    log_ms = math.nan if lesson.latency_ms is None else math.log(lesson.latency_ms / 200.0)
    for i in range(MANY):
        b.learn(
            own, group, i * every_s, True, lesson.ok, lesson.load, log_ms, 0.0, mind.sums, mind.beliefs, mind.knobs
        )  # fmt: skip
    end = MANY * every_s
    assert_sane(policy, end)
    for surprise in (served(500.0, end), failed(end), served(1e9, end), served(1e-9, end), served(200.0, end)):
        teach(policy, [(OFFERS[0], STREAM, surprise)])
        assert_sane(policy, end, end + 1.0, end + 1e6)


@pytest.mark.parametrize("days", [0.1, 1.0, 2.5, 3.6, 3.65, 3.7, 4.0, 30.0, 130.0, 135.0, 400.0])
def test_figures_that_have_all_but_faded_away_leave_numbers(days: float) -> None:
    """Sums run through the smallest numbers there are on their way to 0."""
    policy = believer(boldness=1.0)
    at = days * 86_400.0
    teach(policy, [(OFFERS[0], STREAM, served(700.0, 0.0, load=0.3)), (OFFERS[1], STREAM, served(100.0, 0.0))])
    teach(policy, [(OFFERS[0], STREAM, failed(at)), (OFFERS[1], STREAM, served(None, at))])
    assert_sane(policy, 0.0, at, 2.0 * at)
    teach(policy, [(OFFERS[0], STREAM, served(1e6, at)), (OFFERS[2], STREAM, served(100.0, 0.0))])
    assert_sane(policy, at)


def test_a_load_beyond_the_capacity_counts_as_full() -> None:
    full, beyond = believer(), believer()
    teach(full, [(OFFERS[0], STREAM, served(load=1.0)), (OFFERS[0], STREAM, served(load=0.0))])
    teach(beyond, [(OFFERS[0], STREAM, served(load=1e9)), (OFFERS[0], STREAM, served(load=-3.0))])
    assert full.state() == beyond.state()


@pytest.mark.parametrize("latency_ms", [0.0, None])
def test_a_latency_that_nobody_measured_teaches_no_latency(latency_ms: float | None) -> None:
    policy = believer()
    teach(policy, [(OFFERS[0], STREAM, served(latency_ms))])
    slot: SlotSums = policy.evidence().slots["first offer a/one"]
    assert slot.array()[b.SLOW, b.TRIES] == 1.0
    assert slot.array()[b.SLOW, b.N_Y] == 0.0


def test_asking_changes_nothing_of_what_is_known() -> None:
    asked, left_alone = believer(), believer()
    for i in range(40):
        lesson = (OFFERS[i % 3], STREAM, served(300.0 + i, 7.0 * i) if i % 4 else failed(7.0 * i))
        teach(asked, [lesson])
        teach(left_alone, [lesson])
        tables(asked, 7.0 * i + 3.0)
        tables(asked, 1e6)
    assert asked.state() == left_alone.state()
