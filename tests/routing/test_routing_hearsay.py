"""What machines say of offers, and how far one believes the others. Two boards, one clock, no network."""

from __future__ import annotations

import pytest
from routing_samples import board, offer

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.routing import hearsay as module
from amaru.routing.board import Board
from amaru.routing.breaker import BreakerSettings, State
from amaru.routing.hearsay import Hearsay, Word, names_of

SETTINGS = BreakerSettings(cool_down_s=5.0, max_cool_down_s=20.0, jitter=0.0)
NAME = "a/m/a-m"


def make() -> tuple[Board, Hearsay]:
    made = board(offer("a"), offer("b"), breaker=SETTINGS)
    return made, Hearsay(made)


def fail(of: Board, now: float, times: int = 5, row: int = 0, **fields: object) -> None:
    for _ in range(times):
        admission = of.admit(row, 1.0, now)
        assert admission is not None
        of.observe(admission, now, Failure(FailureKind.SERVER_ERROR, "", **fields))  # type: ignore[arg-type]
        of.release(admission)


def serve(of: Board, now: float, row: int = 0) -> None:
    admission = of.admit(row, 1.0, now)
    assert admission is not None
    of.observe(admission, now, None, latency_ms=100.0)
    of.release(admission)


def state(of: Board) -> State:
    return of.states[0].breaker.state


def opened_by(words: list[Word], ear: Hearsay, now: float, origin: str = "one", age_s: float = 0.0) -> bool:
    return sum(ear.hear(origin, word, age_s, now) for word in words) > 0


def test_what_a_machine_hears_it_does_not_say_again() -> None:
    (one, says), (two, hears) = make(), make()
    name = says.names[0]
    fail(one, 100.0)
    (word,) = says.news(100.0)
    assert (word.offer, word.what, word.for_s, word.failing_s) == (name, "open", 5.0, 0.0)
    assert says.news(100.1) == []
    assert hears.hear("one", word, 1.0, 101.0)
    assert state(two) is State.OPEN
    assert two.health(0, 101.0).free_in_s == pytest.approx(4.0)  # what remains
    assert hears.news(101.0) == []
    admission = two.admit(0, 1.0, 105.0)
    assert admission is not None
    assert [word.what for word in hears.news(105.0)] == ["probed"]
    two.observe(admission, 105.5, None, latency_ms=100.0)
    two.release(admission)
    (well,) = hears.news(105.5)
    assert well.what == "well"
    assert says.hear("two", well, 0.0, 105.5)
    assert state(one) is State.CLOSED
    assert says.news(105.6) == []


def test_an_old_word_is_over() -> None:
    two, hears = make()
    assert not hears.hear("one", Word(hears.names[0], "open", 5.0), 5.1, 100.0)
    assert not hears.hear("one", Word(hears.names[0], "paused", 5.0), 5.1, 100.0)
    assert not hears.hear("one", Word("unknown/offer/here", "open", 5.0), 0.0, 100.0)
    assert not hears.hear("one", Word(hears.names[0], "open", float("nan")), 0.0, 100.0)
    assert not hears.hear("one", Word(hears.names[0], "open", float("inf")), float("inf"), 100.0)
    assert state(two) is State.CLOSED


def test_what_was_served_here_since_outweighs_an_opening_elsewhere() -> None:
    (one, says), (two, hears) = make(), make()
    fail(one, 100.0, times=4)
    serve(two, 101.0)
    fail(one, 102.0, times=1)
    (word,) = says.news(102.0)
    assert word.failing_s == 2.0
    assert not hears.hear("one", word, 0.0, 102.0)
    assert (state(two), hears.doubted) == (State.CLOSED, 1)


def test_what_was_served_before_the_failures_began_does_not() -> None:
    (one, says), (two, hears) = make(), make()
    serve(two, 99.0)
    fail(one, 100.0)
    assert opened_by(says.news(100.0), hears, 100.0)
    assert state(two) is State.OPEN


def test_a_request_under_way_that_is_served_after_all_closes_again() -> None:
    (one, says), (two, hears) = make(), make()
    under_way = two.admit(0, 1.0, 99.0)
    assert under_way is not None
    fail(one, 100.0)
    assert opened_by(says.news(100.0), hears, 100.0)
    two.observe(under_way, 101.0, None, latency_ms=2000.0)
    assert hears.news(101.0) == []
    assert state(two) is State.CLOSED


def test_others_keep_an_offer_away_for_one_longest_cool_down_at_most() -> None:
    two, hears = make()
    name, now = hears.names[0], 100.0
    assert hears.hear("one", Word(name, "open", 5.0), 0.0, now)
    while now < 119.0:  # its probes fail, again and again, before this machine's would be due
        now += 1.0
        hears.hear("one", Word(name, "open", 20.0), 0.0, now)
        hears.hear("one", Word(name, "probed", module.PROBE_S), 0.0, now)
    assert two.admit(0, 1.0, 119.9) is None
    assert two.admit(0, 1.0, 120.1) is not None


def test_a_machine_that_was_wrong_twice_is_not_believed_for_a_while() -> None:
    two, hears = make()
    name, now = hears.names[0], 100.0
    for _ in range(module.WRONG_AT_MOST):
        assert hears.hear("broken", Word(name, "open", 5.0), 0.0, now)
        now += 6.0
        serve(two, now)  # the probe
        assert [word.what for word in hears.news(now)] == ["well"]
        now += 1.0
    assert not hears.hear("broken", Word(name, "open", 5.0), 0.0, now)
    assert state(two) is State.CLOSED
    assert hears.hear("another", Word(name, "open", 5.0), 0.0, now)  # another's word still counts
    now += 6.0
    serve(two, now)
    hears.news(now)
    assert hears.hear("broken", Word(name, "open", 5.0), 0.0, now + module.DOUBT_S)


def test_a_machine_that_cannot_reach_what_others_can_goes_by_its_own_failures() -> None:
    one, hears = make()
    name, now = hears.names[0], 100.0
    for _ in range(module.WRONG_AT_MOST):
        fail(one, now)
        assert [word.what for word in hears.news(now)] == ["open"]
        assert hears.hear("well", Word(name, "well"), 0.0, now + 1.0)
        assert state(one) is State.CLOSED
        now += 2.0
    fail(one, now)
    hears.news(now)
    assert not hears.hear("well", Word(name, "well"), 0.0, now + 1.0)
    assert state(one) is State.OPEN


def test_that_it_was_well_before_it_fell_says_nothing() -> None:
    one, hears = make()
    fail(one, 100.0)
    hears.news(100.0)
    assert not hears.hear("two", Word(hears.names[0], "well"), 50.0, 101.0)
    assert state(one) is State.OPEN
    assert hears.hear("two", Word(hears.names[0], "well"), 0.5, 101.0)
    assert hears.hear("two", Word(hears.names[0], "open", 20.0), 5.0, 110.0)
    assert not hears.hear("two", Word(hears.names[0], "well"), 7.0, 111.0)


def test_its_own_probe_under_way_is_left_to_tell() -> None:
    one, hears = make()
    fail(one, 100.0)
    hears.news(100.0)
    probe = one.admit(0, 1.0, 106.0)
    assert probe is not None
    assert not hears.hear("two", Word(hears.names[0], "well"), 0.0, 106.0)
    assert not hears.hear("two", Word(hears.names[0], "open", 20.0), 0.0, 106.0)
    assert state(one) is State.HALF_OPEN
    one.observe(probe, 107.0, Failure(FailureKind.SERVER_ERROR, ""))
    one.release(probe)
    (word,) = hears.news(107.0)
    assert word.what == "open"


def test_a_pause_is_told_where_it_is_long_and_kept_where_it_is_bounded() -> None:
    (one, says), (two, hears) = make(), make()
    fail_with = Failure(FailureKind.RATE_LIMITED, "", retry_after_s=1000.0)
    one.observe(0, 100.0, fail_with)
    (word,) = [word for word in says.news(100.0) if word.what == "paused"]
    assert word.for_s == pytest.approx(1000.0)
    assert hears.hear("one", word, 10.0, 110.0)
    assert two.health(0, 110.0).free_in_s == pytest.approx(module.LONGEST_PAUSE_S)
    assert hears.news(110.0) == []
    one.observe(1, 100.0, Failure(FailureKind.RATE_LIMITED, "", retry_after_s=0.1))
    assert says.news(100.0) == []


def test_offers_of_one_name_are_told_apart_by_their_ids() -> None:
    made = board(offer("a", id="one"), offer("a", id="two"), offer("b"))
    first, second, third = names_of(made)
    assert first != second
    assert first.endswith("#one")
    assert "#" not in third


def test_a_reload_keeps_what_was_heard() -> None:
    two, hears = make()
    assert hears.hear("one", Word(hears.names[0], "open", 5.0), 0.0, 100.0)
    again = board(offer("b"), offer("a"), breaker=SETTINGS, carry=two)
    hears.follow(again)
    assert hears.news(101.0) == []
    assert again.states[1].breaker.state is State.OPEN
    hears.follow(board(offer("b"), breaker=SETTINGS, carry=again))
    assert not hears.hear("one", Word(NAME, "well"), 0.0, 101.0)
