"""What a caller is told of budgets and limits: the words of a refusal, and what is left."""

from __future__ import annotations

import datetime
from typing import NamedTuple

from amaru.accounts.allowances import Metric, Scope
from amaru.accounts.money import format_usd
from amaru.accounts.periods import Period
from amaru.domain import Offer
from amaru.errors import AllowanceExceeded, AmaruError, BankGone, JournalError, RequestError, TillBusy
from amaru.protocols.surcharges import SURCHARGES
from amaru.routing.kernels import FIGURE, Code
from amaru.routing.ranking import Ranking

REFUSALS = (AllowanceExceeded, BankGone, JournalError, TillBusy)
"""By which a till says that it reserves nothing."""
RETRY_S = 1.0
"""After which it may be otherwise, where nobody knows when."""

_A_PERIOD = {Period.DAY: " a day", Period.WEEK: " a week", Period.MONTH: " a month", Period.TOTAL: " in total"}
_MONEY = "insufficient_quota"


class Left(NamedTuple):
    """What a caller has left of what bounds it most."""

    metric: Metric
    amount: int
    """All of it: nano-USD, requests or tokens."""
    left: int
    period_end: int | None
    """When it renews, Unix seconds; ``None``: never."""


def names_of(allowance: str) -> tuple[Scope, str, Metric, Period]:
    """What the id of an allowance says."""
    scope, _, rest = allowance.partition(":")
    subject, metric, period = rest.rsplit(":", 2)
    return Scope(scope), subject, Metric(metric), Period(period)


def is_of_offer(error: AmaruError) -> bool:
    """Whether it is a budget of a model or a provider that refuses: another offer may do."""
    return isinstance(error, AllowanceExceeded) and names_of(error.allowance)[0] in (Scope.MODEL, Scope.PROVIDER)


def unpriced_refusal(offer: Offer, field: str) -> RequestError:
    """An offer's price does not say what a field of the request costs, and a budget binds it."""
    return RequestError(
        400,
        f"{offer.id} is not asked: a budget binds this request, and the offer's price does not say what `{field}` may "
        f"cost. Leave it out, or have the operator price it or write price_covers: [{field}] for the offer.",
        param=field,
        code="unpriced_request",
    )


def over_budget(ranking: Ranking, row: int, refused: RequestError) -> None:
    """Rule an offer out that a budget does, with the field, if any, that no price tells of."""
    ranking.rule_out(row, Code.BUDGET)
    field = refused.param if refused.param in SURCHARGES else None
    ranking.table[ranking.rows == row, FIGURE] = 0 if field is None else 1 + SURCHARGES.index(field)


def refusal(error: AmaruError, at: float) -> RequestError:
    """What the caller is told of one of ``REFUSALS``, at that instant (Unix seconds)."""
    if isinstance(error, AllowanceExceeded):
        return _exceeded(error, at)
    busy = isinstance(error, TillBusy)
    return RequestError(
        503,
        "Too many requests wait for their budgets; try again shortly."
        if busy
        else "The accounts' store is not available now, and a budget or a limit binds this request; try again shortly.",
        type="api_error",
        code="accounts_busy" if busy else "accounts_unavailable",
        retry_after_s=RETRY_S,
    )


def _exceeded(error: AllowanceExceeded, at: float) -> RequestError:
    scope, subject, metric, _ = names_of(error.allowance)
    whose, left = f"{scope} {subject}", max(error.left, 0)
    never = error.needed > error.amount
    if metric is Metric.USD:
        said = _short(error, "this request may cost up to")
        return _of_money(f"{said} A lower max_tokens lowers what a request may cost.")
    if metric is Metric.CONCURRENCY:
        said, wait_s = f"The limit of {whose}, {error.amount:,} requests at once, is reached.", RETRY_S
    else:
        wait_s = RETRY_S if error.period_end is None else max(error.period_end - at, 0.0)
        said = (
            f"The limit of {whose}, {error.amount:,} {metric} a minute, has {left:,} left, and this request needs "
            f"{'up to ' if metric is Metric.TOKENS else ''}{error.needed:,}. It renews in {wait_s:.0f} s."
        )
    if never and metric is Metric.TOKENS:
        said += " It is more than the whole limit: a lower max_tokens or a shorter prompt needs less."
    return RequestError(
        429,
        said,
        type="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_s=None if never else wait_s,
        should_retry=not never,
    )


def work_refusal(error: AllowanceExceeded) -> RequestError:
    """What a caller is told of a budget that does not cover work which it would place itself."""
    return _of_money(_short(error, "this work is expected to cost"))


def _short(error: AllowanceExceeded, costs: str) -> str:
    scope, subject, _, period = names_of(error.allowance)
    renews = "" if error.period_end is None else f" It renews at {instant(error.period_end)}."
    return (
        f"The budget of {scope} {subject}, {format_usd(error.amount)}{_A_PERIOD[period]}, has "
        f"{format_usd(max(error.left, 0))} left, and {costs} {format_usd(error.needed)}.{renews}"
    )


def _of_money(said: str) -> RequestError:
    return RequestError(429, said, type=_MONEY, code=_MONEY, should_retry=False)


def instant(at: float) -> str:
    """RFC 3339, in UTC, to the second."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
