"""Spending: no more than a day's limit, whatever is under way, and across restarts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.mesh.spending import DAY_S, MOST_SLOTS, SLOT_S, Spending

NOW = 1_800_000_000.0


def test_what_is_reserved_counts_until_it_is_settled() -> None:
    spending = Spending()
    assert spending.reserve(0.4, NOW, most_usd=1.0)
    assert spending.reserve(0.4, NOW, most_usd=1.0)
    assert not spending.reserve(0.4, NOW, most_usd=1.0)
    spending.settle(0.4, 0.1, NOW)
    assert spending.usd(NOW) == pytest.approx(0.5)
    assert spending.reserve(0.4, NOW, most_usd=1.0)


def test_it_is_forgotten_after_a_day() -> None:
    spending = Spending()
    spending.settle(0.0, 1.0, NOW)
    assert spending.usd(NOW + DAY_S - 1.0) == 1.0
    assert spending.usd(NOW + DAY_S + SLOT_S) == 0.0


def test_what_is_spent_and_what_is_reserved_survives_a_restart() -> None:
    spending = Spending()
    spending.settle(0.0, 0.3, NOW - 3600.0)
    assert spending.reserve(0.2, NOW, most_usd=1.0)
    again = Spending()
    assert again.load(spending.state(NOW), NOW) == []
    assert again.usd(NOW + 60.0) == pytest.approx(0.5)
    assert again.usd(NOW + DAY_S - 1800.0) == pytest.approx(0.2)
    assert again.load(None, NOW) == []


def test_what_was_spent_before_the_clock_was_set_back_counts_from_now() -> None:
    spending = Spending()
    spending.settle(0.0, 0.3, NOW + 30 * DAY_S)
    again = Spending()
    assert again.load(spending.state(NOW), NOW) == []
    assert again.usd(NOW) == 0.3
    assert again.usd(NOW + DAY_S + SLOT_S) == 0.0


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"no state",
        msgspec.msgpack.encode({"spent": {1: "much"}}),
        msgspec.msgpack.encode({"spent": {1: -1.0}}),
        msgspec.msgpack.encode({"spent": {1: float("nan")}}),
        msgspec.msgpack.encode({"spent": dict.fromkeys(range(MOST_SLOTS + 1), 0.1)}),
        msgspec.msgpack.encode({"spent": {}, "more": 1}),
    ],
)
def test_a_damaged_state_is_said_and_changes_nothing(state: bytes) -> None:
    spending = Spending()
    spending.settle(0.0, 0.3, NOW)
    (note,) = spending.load(state, NOW)
    assert note.startswith("what probes cost today is not known")
    assert spending.usd(NOW) == 0.3


@given(
    st.lists(
        st.tuples(st.floats(0.0, 4.0 * 3600.0), st.floats(0.001, 0.3), st.floats(0.0, 1.0), st.booleans()), max_size=60
    )
)
def test_no_day_costs_more_than_its_limit(probes: list[tuple[float, float, float, bool]]) -> None:
    """Each probe costs at most what was reserved, and some end only after later ones began."""
    spending, now, spent, open_usd = Spending(), NOW, list[tuple[float, float]](), list[tuple[float, float]]()
    for passed_s, usd, share, waits in probes:
        now += passed_s
        if spending.reserve(usd, now, most_usd=1.0):
            open_usd.append((usd, usd * share))
        while open_usd and not waits:
            reserved, cost = open_usd.pop()
            spending.settle(reserved, cost, now)
            spent.append((now, cost))
        last_day = sum(cost for at, cost in spent if at > now - DAY_S) + sum(usd for usd, _ in open_usd)
        assert last_day <= 1.0 + 1e-9
        assert spending.usd(now) >= last_day - 1e-9
