"""Allowances: how much of something a subject may use in a period; budgets (of money) and limits alike.

Which of them apply to a request or to an attempt is found in an ``AllowanceBook``, in memory.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

from amaru.accounts.money import MAX_AMOUNT_USD, NANO_PER_USD, format_usd
from amaru.accounts.periods import Period

MAX_AMOUNT = MAX_AMOUNT_USD * NANO_PER_USD
"""Below 2^53, up to which Redis' doubles are exact."""
MAX_ALERTS = 10


class Scope(enum.StrEnum):
    """What an allowance is for."""

    KEY = "key"
    """With every key that it is rotated to; the subject is the first one's id."""
    TEAM = "team"
    """The subject is ``tenant/team``."""
    TENANT = "tenant"
    MODEL = "model"
    """A resource, as callers ask for it."""
    PROVIDER = "provider"


class Metric(enum.StrEnum):
    """What is counted."""

    USD = "usd"
    """In nano-USD."""
    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"
    """Requests under way."""


PERIODS: dict[Metric, frozenset[Period]] = {
    Metric.USD: frozenset({Period.DAY, Period.WEEK, Period.MONTH, Period.TOTAL}),
    Metric.REQUESTS: frozenset({Period.MINUTE}),
    Metric.TOKENS: frozenset({Period.MINUTE}),
    Metric.CONCURRENCY: frozenset({Period.NONE}),
}
"""Over which periods each metric is counted."""


class Allowance(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A bound on a metric, for a subject, over a period."""

    scope: Scope
    subject: str
    metric: Metric
    period: Period
    amount: int
    """Of nano-USD, requests or tokens."""
    hard: bool = True
    """Refuses what would exceed it; else it only alerts."""
    alerts: tuple[float, ...] = ()
    """Shares of the amount, in (0, 1], at which somebody is told; ascending."""
    from_file: bool = False
    """It stands in the configuration, and is changed there."""
    id: str = ""
    """``scope:subject:metric:period``; set by itself."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "id", allowance_id(self.scope, self.subject, self.metric, self.period))


def allowance_id(scope: Scope, subject: str, metric: Metric, period: Period) -> str:
    """By which an allowance and its counters are known. One of each kind for a subject, so it names it for ever."""
    return f"{scope}:{subject}:{metric}:{period}"


def shown_amount(allowance: Allowance) -> str:
    """How much it is, for people."""
    return format_amount(allowance.metric, allowance.amount)


def format_amount(metric: Metric, amount: int) -> str:
    """An amount of a metric, for people: dollars, or how many."""
    return format_usd(amount) if metric is Metric.USD else f"{amount:,}"


def mistakes(allowance: Allowance) -> list[str]:
    """What is wrong with one that somebody asks for; none: it can be kept."""
    found = []
    if allowance.period not in PERIODS[allowance.metric]:
        known = " or ".join(sorted(PERIODS[allowance.metric]))
        found.append(f"{allowance.metric} counts per {known}, not per {allowance.period}")
    if allowance.scope in (Scope.MODEL, Scope.PROVIDER) and allowance.metric is not Metric.USD:
        found.append(f"a {allowance.scope} has budgets alone, in usd; limits are of who asks")
    if not 0 <= allowance.amount <= MAX_AMOUNT:
        found.append(f"the amount must be at least 0 and at most {MAX_AMOUNT}, not {allowance.amount}")
    if len(allowance.alerts) > MAX_ALERTS:
        found.append(f"at most {MAX_ALERTS} alerts")
    if not all(0 < share <= 1 for share in allowance.alerts):
        found.append("alerts are shares above 0 and up to 1, like 0.8")
    if sorted(set(allowance.alerts)) != list(allowance.alerts):
        found.append("alerts stand in ascending order, each once")
    return found


class AllowanceBook:
    """Finds the allowances that bind a request, or an attempt; immutable, so that a change swaps the whole book."""

    __slots__ = ("_by_subject", "all")

    def __init__(self, allowances: Iterable[Allowance]) -> None:
        self.all: tuple[Allowance, ...] = tuple(allowances)
        by_subject: dict[tuple[Scope, str], tuple[Allowance, ...]] = {}
        for allowance in self.all:
            place = allowance.scope, allowance.subject
            by_subject[place] = (*by_subject.get(place, ()), allowance)
        self._by_subject = by_subject

    def of_caller(self, tenant: str, team: str | None = None, key: str | None = None) -> tuple[Allowance, ...]:
        """Those of who asks: its key's (by lineage), its team's, its tenant's. One that is broken refuses."""
        find = self._by_subject.get
        found = find((Scope.TENANT, tenant), ())
        if team is not None:
            found = find((Scope.TEAM, f"{tenant}/{team}"), ()) + found
        return find((Scope.KEY, key), ()) + found if key is not None else found

    def of_offer(self, model: str, provider: str) -> tuple[Allowance, ...]:
        """Those of what is asked: an offer that would break one is no choice, and the next is tried."""
        find = self._by_subject.get
        return find((Scope.MODEL, model), ()) + find((Scope.PROVIDER, provider), ())
