"""The periods of allowances: from when until when one counts. UTC; weeks as ISO 8601 has them, from Monday."""

from __future__ import annotations

import calendar
import datetime
import enum
import math

_DAY_S = 86_400
_CYCLE_DAYS = 146_097
"""The Gregorian calendar repeats every 400 years: so far a clock may jump and still be in a month."""
_EPOCH = datetime.date(1970, 1, 1).toordinal()


class Period(enum.StrEnum):
    """How long an allowance counts before it renews."""

    MINUTE = "minute"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"
    """All time: it never renews."""
    NONE = "none"
    """It counts what is under way now."""


def span(period: Period, at: float) -> tuple[int, int | None]:
    """Start and end of the period that an instant lies in, as Unix seconds: ``start <= at < end``.

    ``(0, None)`` where it does not renew. Unix time has no leap seconds, so every day is as long.

    Examples
    --------
    >>> span(Period.WEEK, 1_700_000_000)  # Tuesday, 2023-11-14
    (1699833600, 1700438400)
    """
    if period is Period.TOTAL or period is Period.NONE:
        return 0, None
    second = math.floor(at)
    if period is Period.MINUTE:
        start = second - second % 60
        return start, start + 60
    days = second // _DAY_S
    if period is Period.DAY:
        first, length = days, 1
    elif period is Period.WEEK:
        first, length = days - (days + 3) % 7, 7  # 1970-01-01 was a Thursday
    else:
        first, length = _month(days)
    return first * _DAY_S, (first + length) * _DAY_S


def _month(days: int) -> tuple[int, int]:
    """First day, since 1970-01-01, and length in days of the month that a day lies in."""
    date = datetime.date.fromordinal(_EPOCH + days % _CYCLE_DAYS)
    return days - date.day + 1, calendar.monthrange(date.year, date.month)[1]
