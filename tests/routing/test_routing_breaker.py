"""The breaker: opens, half-opens with one probe, closes, and never shortens a cool-down."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from amaru.routing.breaker import Breaker, BreakerSettings, State

SETTINGS = BreakerSettings()


def breaker(**changes: float) -> Breaker:
    return Breaker(BreakerSettings(**changes), random.Random(3))  # type: ignore[arg-type]  # test shorthand


def attempt(b: Breaker, now: float, *, ok: bool, broken: bool = False) -> None:
    ticket = b.admit(now)
    assert ticket is not None
    b.record(ticket, now, ok=ok, broken=broken)


def opened(now: float = 0.0) -> Breaker:
    b = breaker()
    for _ in range(5):
        attempt(b, now, ok=False)
    assert b.state is State.OPEN
    return b


def test_opens_on_consecutive_failures_however_far_apart() -> None:
    b = breaker()
    for hour in range(4):
        attempt(b, hour * 3600.0, ok=False)
        assert b.state is State.CLOSED
    attempt(b, 4 * 3600.0, ok=False)
    assert b.state is State.OPEN


def test_opens_on_the_rate_of_the_last_minute() -> None:
    b = breaker()
    for second in range(20):
        attempt(b, float(second), ok=True)
    outcomes = 0
    while b.state is State.CLOSED:
        attempt(b, 20.0 + outcomes, ok=outcomes % 3 == 2)  # two of three fail, never five in a row
        outcomes += 1
        assert outcomes < 20
    assert outcomes > 5


def test_opens_on_the_rate_at_one_request_a_minute() -> None:
    b = breaker()
    for minute, ok in enumerate((True, False, True, False)):
        attempt(b, minute * 61.0, ok=ok)
    assert b.state is State.CLOSED
    attempt(b, 4 * 61.0, ok=False)
    assert b.state is State.OPEN


def test_failures_of_an_hour_ago_do_not_count_towards_the_rate() -> None:
    b = breaker()
    for ok in (False, False, True, False, True):
        attempt(b, 0.0, ok=ok)
    attempt(b, 3600.0, ok=False)
    assert b.state is State.CLOSED


def test_few_failures_among_many_successes_do_not_open() -> None:
    b = breaker()
    for i in range(400):
        attempt(b, i * 0.1, ok=i % 4 != 0)
    assert b.state is State.CLOSED


def test_half_opens_with_exactly_one_probe_and_closes_on_success() -> None:
    b = opened()
    assert b.admit(b.until - 0.001) is None
    probe = b.admit(b.until)
    assert probe is not None
    assert b.refuses_until == math.inf
    assert b.admit(b.until + 100.0) is None
    assert b.record(probe, b.until + 1.0, ok=True)
    assert b.state is State.CLOSED
    assert b.admit(b.until + 1.0) is not None


def test_failed_probes_double_the_cool_down_up_to_its_maximum() -> None:
    b = opened()
    lengths = [b.until]
    for _ in range(6):
        now = b.until
        attempt(b, now, ok=False)
        lengths.append(b.until - now)
    for length, base in zip(lengths, (5.0, 10.0, 20.0, 25.0, 25.0, 25.0, 25.0), strict=True):
        assert base <= length <= min(base * 1.2, 25.0)


def test_a_probe_that_hung_has_been_a_cool_down_itself() -> None:
    b = opened()
    probe = b.admit(b.until)
    assert probe is not None
    began_at = b.until
    b.record(probe, began_at + 8.0, ok=False)
    assert 10.0 <= b.until - began_at <= 12.0
    probe = b.admit(b.until)
    assert probe is not None
    b.record(probe, b.until + 60.0, ok=False)
    assert b.due_at < began_at + 72.0


def test_falling_again_soon_after_closing_goes_on_doubling() -> None:
    b = opened()
    lengths = []
    for healthy_s in (10.0, 10.0, 300.0):
        now = b.until
        attempt(b, now, ok=True)
        assert b.state is State.CLOSED
        for _ in range(5):
            attempt(b, now + healthy_s, ok=False)
        lengths.append(b.until - now - healthy_s)
    for length, base in zip(lengths, (10.0, 20.0, 5.0), strict=True):
        assert base <= length <= min(base * 1.2, 25.0)


def test_a_reload_forgets_how_often_it_fell() -> None:
    b = opened()
    now = b.until
    b.reset()
    for _ in range(5):
        attempt(b, now, ok=False)
    assert b.until - now <= 6.0


def test_due_when_the_cool_down_is_over_and_until_somebody_probes() -> None:
    b = opened()
    assert b.due_at == b.until
    probe = b.admit(b.until)
    assert probe is not None
    assert b.due_at == math.inf
    b.forget(probe)
    assert b.due_at == b.until
    attempt(b, b.until, ok=False)
    assert b.due_at == b.until
    attempt(b, b.until, ok=True)
    assert b.due_at == math.inf


def test_due_when_it_failed_and_nobody_asked_it_for_a_cool_down() -> None:
    b = breaker()
    assert b.due_at == math.inf
    attempt(b, 10.0, ok=False)
    assert b.due_at == 15.0
    ticket = b.admit(14.0)  # it is asked all the same
    assert b.due_at == 19.0
    assert not b.record(ticket or 0, 14.5, ok=True)
    assert b.due_at == math.inf
    attempt(b, 20.0, ok=False)
    probe = b.admit(25.0)
    assert b.due_at == 30.0  # one at a time goes first
    assert b.record(probe or 0, 25.5, ok=True)
    assert b.due_at == math.inf


def test_probes_of_a_closed_breaker_that_fail_open_it() -> None:
    b = breaker()
    now = 0.0
    for _ in range(5):
        assert b.state is State.CLOSED
        attempt(b, now, ok=False)
        now = b.due_at
    assert b.state is State.OPEN


def test_late_failures_neither_move_nor_double_the_cool_down() -> None:
    b = breaker()
    tickets = [b.admit(0.0) for _ in range(100)]
    for ticket in tickets[:5]:
        assert ticket is not None
        b.record(ticket, 1.0, ok=False)
    until = b.until
    for late, ticket in enumerate(tickets[5:]):
        assert ticket is not None
        b.record(ticket, 1.0 + late * 0.01, ok=False)
        assert b.until == until
    probe = b.admit(until)
    assert probe is not None
    b.record(tickets[99] or 0, until, ok=False)
    assert b.state is State.HALF_OPEN
    b.record(probe, until + 1.0, ok=False)
    assert 10.0 <= b.until - (until + 1.0) <= 12.0


def test_late_successes_do_not_close_it() -> None:
    b = breaker()
    tickets = [b.admit(0.0) for _ in range(6)]
    for ticket in tickets[:5]:
        b.record(ticket or 0, 1.0, ok=False)
    b.record(tickets[5] or 0, 2.0, ok=True)
    assert b.state is State.OPEN


def test_a_probe_whose_caller_left_frees_its_place_at_once() -> None:
    b = opened()
    now = b.until
    probe = b.admit(now)
    assert probe is not None
    assert b.forget(probe)
    assert b.admit(now) is not None
    b.record(probe, now, ok=True)  # its outcome, arriving after all, is not the new probe's
    assert b.state is State.HALF_OPEN


def test_broken_opens_at_once_for_long_and_heals_on_success() -> None:
    b = breaker()
    attempt(b, 0.0, ok=False, broken=True)
    assert b.broken
    assert 60.0 <= b.until <= 72.0
    lengths = []
    for _ in range(5):
        now = b.until
        attempt(b, now, ok=False, broken=True)
        lengths.append(b.until - now)
    assert lengths[0] >= 120.0
    assert lengths[-1] == 600.0
    attempt(b, b.until, ok=True)
    assert b.state is State.CLOSED
    assert not b.broken


def test_new_settings_keep_the_cool_down_under_way() -> None:
    b = opened()
    until = b.until
    b.configure(BreakerSettings(cool_down_s=1.0, last_outcomes=7))
    assert b.until == until


class BreakerMachine(RuleBasedStateMachine):
    """Any interleaving of admissions, outcomes, departures and waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.b = Breaker(SETTINGS, random.Random(0))
        self.now = 0.0
        self.open_tickets: list[int] = []
        self.probe: int | None = None
        self.probed_at = 0.0

    @rule(seconds=st.floats(0.0, 30.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def admit(self) -> None:
        state, until = self.b.state, self.b.until
        ticket = self.b.admit(self.now)
        expected = state is State.CLOSED or (state is State.OPEN and self.now >= until)
        assert (ticket is not None) == expected
        if ticket is not None:
            if state is State.OPEN:
                assert self.probe is None
                self.probe = ticket
                self.probed_at = self.now
            self.open_tickets.append(ticket)

    @precondition(lambda self: self.open_tickets)
    @rule(ok=st.booleans(), broken=st.booleans(), data=st.data())
    def outcome(self, ok: bool, broken: bool, data: st.DataObject) -> None:
        ticket = self.open_tickets.pop(data.draw(st.integers(0, len(self.open_tickets) - 1)))
        state, until = self.b.state, self.b.until
        is_probe = state is State.HALF_OPEN and ticket == self.probe
        self.b.record(ticket, self.now, ok=ok, broken=broken and not ok)
        if state is State.OPEN or (state is State.HALF_OPEN and not is_probe):
            assert (self.b.state, self.b.until) == (state, until)  # never cut short, never prolonged
        if is_probe:
            assert self.b.state is (State.CLOSED if ok else State.OPEN)
            self.probe = None
        if self.b.state is State.OPEN and state is not State.OPEN:
            longest = SETTINGS.max_broken_s if self.b.broken else SETTINGS.max_cool_down_s
            shortest = SETTINGS.broken_s if self.b.broken else SETTINGS.cool_down_s
            since = self.probed_at if is_probe else self.now
            assert shortest - 1e-9 <= self.b.until - since <= longest + 1e-9

    @precondition(lambda self: self.open_tickets)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = self.open_tickets.pop(data.draw(st.integers(0, len(self.open_tickets) - 1)))
        was_probe = self.b.forget(ticket)
        assert was_probe == (ticket == self.probe)
        if was_probe:
            self.probe = None
            assert self.b.state is State.OPEN

    @invariant()
    def half_open_means_one_probe(self) -> None:
        assert (self.b.state is State.HALF_OPEN) == (self.probe is not None)


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase


@pytest.mark.parametrize("ok", [True, False])
def test_an_outcome_recorded_twice_counts_once_for_a_probe(ok: bool) -> None:
    b = opened()
    probe = b.admit(b.until)
    assert probe is not None
    b.record(probe, b.until, ok=ok)
    state, until = b.state, b.until
    b.record(probe, b.until, ok=not ok)
    assert (b.state, b.until) == (state, until)
