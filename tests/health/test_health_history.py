"""History: what comes again is found by provider, cause and hour, and chance is not called a habit."""

from __future__ import annotations

import random

import msgspec

from amaru.health.history import HOUR_S, recurring
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind

DAY_S = 24 * HOUR_S
FIRST = 20_000 * DAY_S


def pattern(at: float, **fields: object) -> InfrastructurePattern:
    usual = InfrastructurePattern(
        id=repr(at), kind=PatternKind.DEGRADATION, at=at, confidence=0.9, offers=("a/m",), providers=("a",),
        impact=Impact.MINOR, cause="latency", suggested=None, detail="", ended_at=at + 60.0,
    )  # fmt: skip
    return msgspec.structs.replace(usual, **fields)


def test_what_comes_every_day_at_one_hour_is_named_with_it() -> None:
    daily = [pattern(FIRST + day * DAY_S + 14 * HOUR_S + 600.0) for day in range(10)]
    (found,) = recurring(daily, since=0.0)
    assert (found.provider, found.cause, found.count, found.days) == ("a", "latency", 10, 10)
    assert found.hour in (13, 14)
    assert found.in_window == 10
    assert found.hours[14] == 10
    assert found.mean_length_s == 60.0
    assert "10 times on 10 days, 10 of them from 1" in found.words


def test_what_comes_at_any_hour_has_none() -> None:
    draws = random.Random(5)
    (found,) = recurring([pattern(FIRST + draws.random() * 30 * DAY_S) for _ in range(60)], since=0.0)
    assert found.hour is None
    assert found.count == 60


def test_chance_is_seldom_called_a_habit() -> None:
    named = 0
    for seed in range(300):
        draws = random.Random(seed)
        (found,) = recurring([pattern(FIRST + draws.random() * 30 * DAY_S) for _ in range(12)], since=0.0)
        named += found.hour is not None
    assert named <= 9, "1 % of 300, and what chance adds to that"


def test_an_hour_may_lie_over_midnight() -> None:
    nightly = [pattern(FIRST + day * DAY_S + (23.5 if day % 2 else 0.2) * HOUR_S) for day in range(12)]
    (found,) = recurring(nightly, since=0.0)
    assert found.hour == 23


def test_once_is_no_habit_and_what_is_older_does_not_count() -> None:
    assert recurring([pattern(FIRST)], since=0.0) == []
    assert recurring([pattern(FIRST), pattern(FIRST + 5.0)], since=FIRST + 1.0) == []


def test_causes_kinds_and_providers_are_told_apart_and_the_worst_impact_is_kept() -> None:
    found = recurring(
        [
            pattern(FIRST), pattern(FIRST + 1.0, impact=Impact.CRITICAL), pattern(FIRST + 2.0),
            pattern(FIRST, cause="errors"), pattern(FIRST + 1.0, cause="errors"),
            pattern(FIRST, kind=PatternKind.RESONANCE, providers=("b", "c"), cause="region:eu"),
            pattern(FIRST + 9.0, kind=PatternKind.RESONANCE, providers=("c", "b"), cause="region:eu", ended_at=None),
            pattern(FIRST, kind=PatternKind.RECOVERY), pattern(FIRST + 1.0, kind=PatternKind.RECOVERY),
        ],
        since=0.0,
    )  # fmt: skip
    assert [(one.provider, one.cause, one.count) for one in found] == [
        ("a", "latency", 3), ("a", "errors", 2), ("b", "region:eu", 2), ("c", "region:eu", 2),
    ]  # fmt: skip
    assert found[0].impact is Impact.CRITICAL


def test_thousands_are_no_trouble() -> None:
    (found,) = recurring([pattern(FIRST + number * 600.0) for number in range(5000)], since=0.0)
    assert found.hour is None
