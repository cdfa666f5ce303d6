"""Adaptive limits: they follow an offer's own waits, know that long prompts take longer, and shut no slow world out."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amaru.routing.patience import BACKED_OFF_S, ENOUGH, HALF_LIFE_S, IN_A_ROW, Patience

FLOOR_S, MOST_S = 0.01, 30.0
"""A floor so low that it hides nothing, where a test does not ask for another."""
SHORT = 800
"""Tokens of a usual prompt."""


def log_normal(median_s: float, sigma: float, seed: int = 1) -> Callable[[], float]:
    rng = random.Random(seed)
    return lambda: median_s * math.exp(rng.gauss(0.0, sigma))


def learned(
    wait_s: Callable[[], float], count: int = 1_000, *, floor_s: float = FLOOR_S, most_s: float = MOST_S
) -> tuple[Patience, float]:
    """Patience after ``count`` answers, one a second, and the instant after the last."""
    patience = Patience(floor_s, most_s)
    for second in range(count):
        patience.answered(wait_s(), SHORT, float(second))
    return patience, float(count)


def ask(patience: Patience, takes_s: float, now_s: float, tokens: int = SHORT) -> bool:
    """One request to an offer that would answer after ``takes_s``; whether it was waited for."""
    limit_s = patience.limit_s(tokens, now_s)
    if takes_s <= limit_s:
        patience.answered(takes_s, tokens, now_s + takes_s)
        return True
    patience.unanswered(limit_s, tokens, now_s + limit_s)
    return False


# ---- what usual waits teach -----------------------------------------------------------------------------------------


def test_until_enough_answers_came_the_configured_limit_holds() -> None:
    patience = Patience(FLOOR_S, MOST_S)
    for second in range(int(ENOUGH)):
        patience.answered(0.5, SHORT, float(second))
        assert patience.limit_s(SHORT, second + 0.5) == MOST_S
    for second in range(20, 23):
        patience.answered(0.5, SHORT, float(second))
    assert patience.limit_s(SHORT, 23.0) < MOST_S


@pytest.mark.parametrize("sigma", [0.05, 0.3, 0.6, 0.9])
def test_hardly_any_usual_wait_is_cut_off_and_the_limit_is_far_below_the_configured_one(sigma: float) -> None:
    wait_s = log_normal(0.3, sigma)
    patience, now = learned(wait_s, most_s=600.0)
    cut_off = sum(not ask(patience, wait_s(), now + second) for second in range(20_000))
    assert cut_off <= 10
    limit_s = patience.limit_s(SHORT, now + 20_000.0)
    assert 0.3 * math.exp(3.1 * sigma) < limit_s < 0.3 * math.exp(8.0 * sigma + 1.5)


def test_an_offer_that_hardly_varies_may_still_take_some_times_its_mean() -> None:
    patience, now = learned(lambda: 1.0)
    assert patience.limit_s(SHORT, now) == pytest.approx(4.0)


def test_a_level_that_rises_tenfold_over_an_hour_is_followed_without_cutting_anything_off() -> None:
    wait_s = log_normal(0.4, 0.4)
    patience, now = learned(wait_s)
    assert all(ask(patience, wait_s() * 10.0 ** (second / 3600.0), now + second) for second in range(3600))


def test_the_limit_falls_again_once_the_offer_is_fast_again() -> None:
    slow, fast = log_normal(5.0, 0.2), log_normal(0.5, 0.2)
    patience, now = learned(slow)
    for second in range(3_000):
        patience.answered(fast(), SHORT, now + second)
    assert patience.limit_s(SHORT, now + 3_000.0) < 5.0


def test_one_straggler_widens_the_limit_for_a_while() -> None:
    patience, now = learned(lambda: 0.5)
    patience.answered(12.0, SHORT, now)
    assert patience.limit_s(SHORT, now + 1.0) == pytest.approx(24.0, rel=0.01)
    for second in range(5_000):
        patience.answered(0.5, SHORT, now + second)
    assert patience.limit_s(SHORT, now + 5_000.0) < 4.0


def test_after_a_long_silence_the_configured_limit_holds_again() -> None:
    patience, now = learned(lambda: 0.5)
    assert patience.limit_s(SHORT, now + HALF_LIFE_S) < 3.0
    assert patience.limit_s(SHORT, now + 4.0 * HALF_LIFE_S) == MOST_S
    assert patience.limit_s(100_000, now + 4.0 * HALF_LIFE_S) == MOST_S


def test_at_ten_thousand_answers_a_second_the_limit_is_the_same() -> None:
    wait_s = log_normal(0.4, 0.4)
    patience = Patience(FLOOR_S, MOST_S)
    for answer in range(100_000):
        patience.answered(wait_s(), SHORT, answer * 1e-4)
    slowly, now = learned(log_normal(0.4, 0.4, seed=2))
    assert patience.limit_s(SHORT, 10.0) == pytest.approx(slowly.limit_s(SHORT, now), rel=0.4)


def test_among_ten_thousand_answers_a_second_no_straggler_is_missed() -> None:
    patience = Patience(FLOOR_S, MOST_S)
    for answer in range(1_000):
        patience.answered(0.5, SHORT, answer * 1e-4)
    patience.answered(9.0, SHORT, 0.1)
    assert patience.limit_s(SHORT, 0.1) == pytest.approx(18.0)


def test_one_answer_in_half_an_hour_is_too_little_to_go_by() -> None:
    patience = Patience(FLOOR_S, MOST_S)
    for answer in range(200):
        patience.answered(0.5, SHORT, answer * 1800.0)
        assert patience.limit_s(SHORT, answer * 1800.0) == MOST_S


# ---- the size of the prompt -----------------------------------------------------------------------------------------


def prefill_s(tokens: int) -> float:
    """A server that reads 8,000 tokens a second, and more slowly the longer the prompt (attention is quadratic)."""
    return 0.2 + tokens / 8_000.0 * (1.0 + tokens / 200_000.0)


@pytest.mark.parametrize("tokens", [3_000, 10_000, 30_000, 100_000, 200_000])
def test_a_long_prompt_is_not_cut_off_because_usual_ones_are_short(tokens: int) -> None:
    rng = random.Random(3)
    patience = Patience(FLOOR_S, 600.0)
    for second in range(2_000):
        usual = rng.randrange(100, 2_000)
        patience.answered(prefill_s(usual) * math.exp(rng.gauss(0.0, 0.1)), usual, float(second))
    assert patience.limit_s(usual, 2_000.0) < 5.0
    assert patience.limit_s(tokens, 2_000.0) > 2.0 * prefill_s(tokens)


def test_each_size_is_learned_by_itself() -> None:
    rng = random.Random(3)
    patience = Patience(FLOOR_S, 600.0)
    for second in range(6_000):
        tokens = int(math.exp(rng.uniform(math.log(200), math.log(150_000))))
        assert ask(patience, prefill_s(tokens) * math.exp(rng.gauss(0.0, 0.2)), float(second), tokens)
    for tokens in (300, 3_000, 30_000, 130_000):
        assert 2.0 * prefill_s(tokens) < patience.limit_s(tokens, 6_000.0) < 20.0 * prefill_s(tokens)


def test_long_prompts_that_were_cached_do_not_cut_off_one_that_was_not() -> None:
    """Chats that grow: of the long prompts, all but one in a hundred find their beginning in the provider's cache."""
    patience = Patience(FLOOR_S, MOST_S)
    cut_off = []
    for request in range(6_000):
        takes_s = 9.0 if request % 100 == 99 else 0.3
        if not ask(patience, takes_s, request * 2.0, 60_000):
            cut_off.append(request)
    assert len(cut_off) <= 8
    assert all(request < 3_000 for request in cut_off)


def test_a_short_prompt_of_an_unknown_size_gets_the_limit_of_a_longer_one() -> None:
    patience = Patience(FLOOR_S, MOST_S)
    for second in range(100):
        patience.answered(1.0, 40_000, float(second))
    assert patience.limit_s(10, 100.0) == patience.limit_s(40_000, 100.0) == pytest.approx(4.0)
    assert patience.limit_s(80_000, 100.0) == pytest.approx(8.0)


# ---- waits in vain --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slower", [3.0, 10.0, 30.0])
def test_a_world_that_slows_down_at_once_is_waited_for_after_a_few_requests(slower: float) -> None:
    wait_s = log_normal(0.5, 0.3)
    patience, now = learned(wait_s, floor_s=2.0)
    answered = [ask(patience, slower * wait_s(), now + second) for second in range(100)]
    assert answered.index(True) <= 5
    assert all(answered[10:])


def test_what_one_size_was_refused_holds_for_all() -> None:
    patience, now = learned(lambda: 0.5)
    before_s = patience.limit_s(20_000, now)
    patience.unanswered(patience.limit_s(SHORT, now), SHORT, now)
    assert patience.limit_s(SHORT, now) == pytest.approx(4.0)
    assert patience.limit_s(20_000, now) == pytest.approx(min(2.0 * before_s, MOST_S))


def test_requests_that_were_under_way_together_back_off_once() -> None:
    patience, now = learned(lambda: 0.5)
    limit_s = patience.limit_s(SHORT, now)
    for _ in range(50):
        patience.unanswered(limit_s, SHORT, now + limit_s)
    assert patience.limit_s(SHORT, now + limit_s) == pytest.approx(2.0 * limit_s)


def test_a_wait_that_ended_long_before_the_limit_does_not_back_off() -> None:
    """A connection that was not taken within its own limit is no answer either, but no limit of ours cut it off."""
    patience, now = learned(lambda: 0.5)
    patience.unanswered(1.5, SHORT, now)
    assert patience.limit_s(SHORT, now) == pytest.approx(2.0)


def test_probes_in_vain_back_off_gently() -> None:
    """In an outage of a minute or two their callers wait little; a world that stays slow is found all the same."""
    patience, now = learned(lambda: 0.5)
    limits_s = []
    for _ in range(14):
        limits_s.append(patience.limit_s(SHORT, now))
        patience.unanswered(limits_s[-1], SHORT, now, probed=True)
    assert limits_s[:4] == pytest.approx([2.0, 2.5, 3.125, 3.90625])
    assert limits_s[12] > 0.95 * MOST_S


def test_a_back_off_ends_after_a_while() -> None:
    patience, now = learned(lambda: 0.5)
    patience.unanswered(2.0, SHORT, now)
    for second in range(int(BACKED_OFF_S) + 1):
        patience.answered(0.5, SHORT, now + second)
    assert patience.limit_s(SHORT, now + BACKED_OFF_S + 1.0) == pytest.approx(2.0)


def test_after_an_outage_the_limit_is_what_it_was() -> None:
    patience, now = learned(lambda: 0.5)
    for probe in range(12):
        ask(patience, math.inf, now + probe * 30.0)
    assert ask(patience, 0.5, now + 400.0)
    assert patience.limit_s(SHORT, now + 401.0) == pytest.approx(2.0, rel=0.1)


def test_some_requests_that_hang_whatever_they_are_granted_do_not_open_the_limit() -> None:
    """A tenth hangs for good, the others are as fast as ever: waiting longer is tried, found useless, and let be."""
    rng = random.Random(5)
    wait_s = log_normal(0.4, 0.3)
    patience, now = learned(wait_s, floor_s=2.0)
    usual_s = patience.limit_s(SHORT, now)
    waited = []
    for second in range(3_600):
        hangs = rng.random() < 0.1
        limit_s = patience.limit_s(SHORT, now + second)
        ask(patience, math.inf if hangs else wait_s(), now + second)
        if hangs:
            waited.append(limit_s)
    assert MOST_S in waited
    assert sum(waited) / len(waited) < 2.5 * usual_s
    assert sorted(waited)[len(waited) // 2] < 1.5 * usual_s


def test_even_then_a_row_of_failures_backs_off() -> None:
    wait_s = log_normal(0.5, 0.2)
    patience, now = learned(wait_s, floor_s=2.0)
    patience.unanswered(MOST_S, SHORT, now)
    ask(patience, 0.5, now)
    answered = [ask(patience, 10.0 * wait_s(), now + second) for second in range(20)]
    assert answered.index(True) <= IN_A_ROW + 3
    assert all(answered[10:])


# ---- bounds ---------------------------------------------------------------------------------------------------------

SECONDS = st.one_of(st.floats(0.0, 1e3), st.floats(allow_nan=False, min_value=0.0))
TOKENS = st.one_of(st.integers(0, 300_000), st.integers())
EVENTS = st.lists(st.tuples(st.booleans(), SECONDS, TOKENS, st.floats(-5.0, 2_000.0)), max_size=80)


@settings(max_examples=300, deadline=None)
@given(EVENTS, st.floats(0.001, 100.0), st.floats(0.001, 100.0), TOKENS)
def test_no_history_leads_out_of_the_bounds(
    events: list[tuple[bool, float, int, float]], floor_s: float, most_s: float, tokens: int
) -> None:
    patience = Patience(floor_s, most_s)
    now = 0.0
    for answered, seconds, size, passed_s in events:
        now += passed_s  # a clock that runs backwards must do no harm either
        (patience.answered if answered else patience.unanswered)(seconds, size, now)
        for asked in (size, tokens):
            assert min(floor_s, most_s) <= patience.limit_s(asked, now) <= most_s


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-4, 100.0), st.integers(0, 1_000_000))
def test_the_limit_is_above_every_recent_wait(wait_s: float, tokens: int) -> None:
    patience = Patience(0.001, 1_000.0)
    for second in range(60):
        patience.answered(wait_s, tokens, float(second))
    assert patience.limit_s(tokens, 60.0) >= 3.9 * wait_s


@settings(max_examples=60, deadline=None)
@given(st.floats(0.0, 1.5), st.floats(0.01, 1.0), st.integers(0, 2**31))
def test_a_hurried_wait_is_within_the_learned_one_and_never_below_twice_the_longest(
    sigma: float, share: float, seed: int
) -> None:
    rng, patience = random.Random(seed), Patience(0.05, 300.0)
    longest = 0.0
    for number in range(100):
        wait = rng.lognormvariate(-1.0, sigma)
        patience.answered(wait, 100, number * 0.1)
        longest = max(longest, wait)
    usual, hurried = patience.limit_s(100, 10.0), patience.hurried_s(share, 100, 10.0)
    assert hurried <= usual
    assert hurried >= min(1.7 * longest, usual)  # the longest fades a little with each answer
    assert hurried <= max(share * usual, 2.01 * longest, 0.05)


def test_where_nothing_is_known_nobody_is_hurried() -> None:
    assert Patience(2.0, 30.0).hurried_s(0.5, 100, 10.0) == 30.0
