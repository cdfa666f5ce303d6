"""Every instant lies in exactly one period of each kind, wherever the clock jumps."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amaru.accounts.periods import Period, span

RENEWING = [Period.MINUTE, Period.DAY, Period.WEEK, Period.MONTH]
LONGEST_S = {Period.MINUTE: 60, Period.DAY: 86_400, Period.WEEK: 604_800, Period.MONTH: 31 * 86_400}
instants = st.floats(min_value=-1e12, max_value=1e12) | st.integers(min_value=-(10**13), max_value=10**13)


def unix(text: str) -> int:
    return int(datetime.datetime.fromisoformat(f"{text}+00:00").timestamp())


@pytest.mark.parametrize("period", RENEWING)
@given(at=instants)
@example(at=0)
@example(at=-0.5)
@example(at=unix("2024-02-29T23:59:59"))
@example(at=253_402_300_800)  # the year 10,000
def test_an_instant_lies_in_one_period_and_periods_meet(period: Period, at: float) -> None:
    start, end = span(period, at)
    assert end is not None
    assert start <= at < end
    assert end - start <= LONGEST_S[period]
    assert span(period, start) == span(period, end - 1) == (start, end)
    assert span(period, end)[0] == end
    assert span(period, start - 1)[1] == start


@given(day=st.dates(datetime.date(1, 1, 8), datetime.date(9999, 11, 30)), time=st.times())
def test_periods_are_those_of_the_calendar(day: datetime.date, time: datetime.time) -> None:
    at = datetime.datetime.combine(day, time, datetime.UTC)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

    def start(period: Period) -> datetime.datetime:
        return epoch + datetime.timedelta(seconds=span(period, (at - epoch) // datetime.timedelta(seconds=1))[0])

    assert start(Period.MINUTE) == at.replace(second=0, microsecond=0)
    assert start(Period.DAY) == midnight
    year, week, _ = at.isocalendar()
    assert start(Period.WEEK) == datetime.datetime.fromisocalendar(year, week, 1).replace(tzinfo=datetime.UTC)
    assert start(Period.MONTH) == midnight.replace(day=1)


@pytest.mark.parametrize(
    ("period", "at", "start", "end"),
    [
        (Period.MONTH, "2024-02-29T12:00:00", "2024-02-01", "2024-03-01"),
        (Period.MONTH, "2023-02-28T23:59:59", "2023-02-01", "2023-03-01"),
        (Period.MONTH, "2000-02-29T00:00:00", "2000-02-01", "2000-03-01"),
        (Period.MONTH, "2100-02-28T00:00:00", "2100-02-01", "2100-03-01"),  # no leap year
        (Period.MONTH, "2024-12-31T23:59:59", "2024-12-01", "2025-01-01"),
        (Period.WEEK, "2024-12-31T12:00:00", "2024-12-30", "2025-01-06"),  # week 1 of 2025
        (Period.WEEK, "2021-01-03T23:59:59", "2020-12-28", "2021-01-04"),  # week 53 of 2020
        (Period.DAY, "2016-12-31T23:59:59", "2016-12-31", "2017-01-01"),  # a leap second followed
    ],
)
def test_edges_of_the_calendar(period: Period, at: str, start: str, end: str) -> None:
    assert span(period, unix(at)) == (unix(start), unix(end))


@pytest.mark.parametrize("period", [Period.TOTAL, Period.NONE])
@given(at=instants)
def test_what_never_renews_has_one_period(period: Period, at: float) -> None:
    assert span(period, at) == (0, None)


@pytest.mark.parametrize("period", RENEWING)
@given(first=instants, second=instants)
def test_a_clock_that_jumps_back_finds_the_same_period_again(period: Period, first: float, second: float) -> None:
    before = span(period, first)
    span(period, second)
    assert span(period, first) == before
