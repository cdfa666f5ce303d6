"""Patterns where a router takes the traffic away: after a burst of failures an ill offer is hardly asked any more."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from pattern_samples import BEGINS, sample, seen, traits

from amaru.domain import FailureKind
from amaru.health.observation import Observation
from amaru.health.pattern_types import SIGNALS
from amaru.health.patterns import InfrastructurePattern, PatternKind, Patterns, PatternSettings
from amaru.routing.breaker import BreakerSettings

OFFERS = ("a/m", "b/m", "c/m", "d/m")
PER_S = 7.0
ILL = OFFERS[0]
"""The offer that is asked while it is well."""
LOOK_S = 2.0
"""Between two requests that are let through to an offer that failed."""


class Loop:
    """Four offers, of which the first gets all requests until its latest five fail; then one now and then.

    Parameters
    ----------
    fails
        Share of the first one's attempts that fail from then on.
    looks_s
        Seconds between two attempts once it is avoided; ``None``: those of a breaker's cool-downs.
    """

    def __init__(self, failure: FailureKind, fails: float, looks_s: float | None, seed: int = 1) -> None:
        self.patterns = Patterns(PatternSettings(), [traits(offer, resource="m") for offer in OFFERS])
        self.told: list[InfrastructurePattern] = []
        self.at = 0.0
        self._draws = random.Random(seed)
        self._failure, self._fails, self._looks_s = failure, fails, looks_s
        self._look_at = 0.0

    def _observe(self, offer: str, failure: FailureKind | None) -> None:
        number = self._draws.getrandbits(60)
        ms = 1000.0 * self._draws.lognormvariate(0.0, 0.3)
        status = 500 if failure is FailureKind.SERVER_ERROR else 200
        answer = sample(number) if failure is None else None
        self.patterns.observe(seen(offer, self.at, failure, latency_ms=ms, sample=answer, status=status))
        if self.at >= self._look_at:
            self._look_at = self.at + 1.0
            self.told += self.patterns.look(BEGINS + self.at)

    def calm(self, attempts: int) -> None:
        """All is well."""
        for _ in range(attempts):
            self.at += self._draws.expovariate(PER_S)
            self._observe(ILL, None)

    def go_on(self, attempts: int) -> None:
        """It fails as before, and is asked once every two seconds."""
        for _ in range(attempts):
            self.at += LOOK_S
            self._observe(ILL, self._failure if self._draws.random() < self._fails else None)

    def ill(self, seconds: float) -> float | None:
        """From now on it fails: seconds until a pattern names it; ``None``: none did."""
        begins, in_a_row, next_at, breaker = self.at, 0, self.at, BreakerSettings()
        cool_down_s = breaker.cool_down_s
        while self.at < begins + seconds:
            self.at += self._draws.expovariate(PER_S)
            avoided = in_a_row >= breaker.consecutive_failures
            if avoided and self.at < next_at:
                self._observe(OFFERS[1 + self._draws.randrange(3)], None)
                continue
            failure = self._failure if self._draws.random() < self._fails else None
            self._observe(ILL, failure)
            if any(ILL in pattern.offers for pattern in self.told):
                return self.at - begins
            if failure is not None:
                cool_down_s = min(2.0 * cool_down_s, breaker.max_cool_down_s) if avoided else cool_down_s
                in_a_row += 1
            elif not avoided or self._looks_s is None:  # a probe that went well closes a breaker; looks go on
                in_a_row, cool_down_s = 0, breaker.cool_down_s
            next_at = self.at + (self._looks_s or cool_down_s)
        return None


def delays(failure: FailureKind, fails: float, looks_s: float | None, calm: int, runs: int = 11) -> list[float]:
    """Seconds until it is named, sorted; none later than five minutes are seen."""
    found = []
    for seed in range(runs):
        loop = Loop(failure, fails, looks_s, seed)
        loop.calm(calm)
        assert loop.told == []
        found.append(loop.ill(300.0) or float("inf"))
    return sorted(found)


@pytest.mark.parametrize("calm", [20, 50, 1000])
@pytest.mark.parametrize("fails", [1.0, 0.6, 0.35])
@pytest.mark.parametrize("failure", [FailureKind.MALFORMED_BODY, FailureKind.SERVER_ERROR])
def test_what_falls_ill_is_named_by_a_look_now_and_then(failure: FailureKind, fails: float, calm: int) -> None:
    found = delays(failure, fails, LOOK_S, calm)
    assert found[len(found) // 2] < 20.0
    assert found[-1] < 90.0


@pytest.mark.parametrize("calm", [20, 50, 1000])
@pytest.mark.parametrize("fails", [1.0, 0.6])
def test_unreadable_answers_are_named_by_the_probes_of_a_breaker_alone(fails: float, calm: int) -> None:
    found = delays(FailureKind.MALFORMED_BODY, fails, None, calm)
    assert found[len(found) // 2] < (20.0 if calm == 1000 else 40.0)
    assert found[-1] < 90.0


@pytest.mark.parametrize("calm", [20, 50, 1000])
def test_a_hard_failure_is_named_by_the_probes_of_a_breaker_alone(calm: int) -> None:
    assert delays(FailureKind.SERVER_ERROR, 1.0, None, calm)[-1] < 120.0


def test_an_early_burst_is_not_usual_but_failures_that_stay_rare_are() -> None:
    def rate(attempts: Iterator[Observation]) -> float:
        patterns = Patterns(PatternSettings(), [traits("p/a")])
        for one in attempts:
            patterns.observe(one)
        assert patterns.look(BEGINS + 1e6) == []
        return patterns._changes.rate(0, SIGNALS.index("errors"))

    burst = [seen("p/a", float(i)) for i in range(20)] + [seen("p/a", 20.0, FailureKind.RESET)] * 50
    assert rate(iter(burst)) <= 0.01
    steady = (seen("p/a", float(i), FailureKind.RESET if i % 20 == 9 else None) for i in range(2000))
    assert rate(steady) == pytest.approx(0.05, abs=0.01)


def goods_until_over(fails: float, seed: int) -> int:
    """Outcomes as usual, one every two seconds, until the pattern is over."""
    patterns, draws = Patterns(PatternSettings(), [traits("p/a")]), random.Random(seed)
    at = 0.0

    def ask(fails: float) -> None:
        nonlocal at
        at += 2.0
        patterns.observe(seen("p/a", at, FailureKind.SERVER_ERROR if draws.random() < fails else None))
        patterns.look(BEGINS + at)

    for _ in range(100):
        ask(0.0)
    for _ in range(80):
        ask(fails)
    assert [pattern.cause for pattern in patterns.active.values()] == ["errors"]
    for goods in range(1, 200):
        ask(0.0)
        if not patterns.active:
            return goods
    raise AssertionError("it never ended")


def test_after_a_hard_failure_a_handful_of_outcomes_end_a_pattern_and_after_few_failures_dozens() -> None:
    assert all(4 <= goods_until_over(1.0, seed) <= 8 for seed in range(5))
    after_few = sorted(goods_until_over(0.3, seed) for seed in range(5))
    assert after_few[2] >= 15
    assert after_few[-1] <= 60


def test_a_pattern_does_not_end_while_a_third_of_the_attempts_still_fails() -> None:
    ended = 0
    for seed in range(10):
        loop = Loop(FailureKind.SERVER_ERROR, 0.35, LOOK_S, seed)
        loop.calm(200)
        assert loop.ill(300.0) is not None
        named = len([one for one in loop.told if one.kind is PatternKind.DEGRADATION])
        loop.go_on(600)
        ended += len([one for one in loop.told if one.kind is PatternKind.RECOVERY])
        assert named == 1
    assert ended <= 1
