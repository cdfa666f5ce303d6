"""Which counters bind whom now: found once for each caller and offer, and kept until a period ends or a budget changes.

A till tells its counters apart by identity, so that what did not change stays the same object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from amaru.accounts.allowances import Allowance, AllowanceBook, Metric
from amaru.accounts.bank import Counter
from amaru.accounts.periods import span

MOST_KNOWN = 20_000
"""Callers and offers; then the memory begins anew."""


class Bound(msgspec.Struct, frozen=True):
    """What binds a caller, or an offer, within a span of time (Unix seconds)."""

    since: float = -math.inf
    until: float = math.inf
    limits: tuple[tuple[Metric, Counter], ...] = ()
    """Of requests, tokens and concurrency."""
    budgets: tuple[Counter, ...] = ()
    """Of money."""
    counters: tuple[tuple[Metric, Counter], ...] = ()
    """All of them."""


UNBOUND = Bound()


class Bindings:
    """The counters of every budget and limit there is."""

    def __init__(self) -> None:
        self._book = AllowanceBook(())
        self.empty = True
        """There is no budget and no limit."""
        self._counters: dict[str, Counter] = {}
        self._found: dict[tuple[str | None, ...], Bound] = {}

    def take(self, allowances: Iterable[Allowance]) -> None:
        """From now on there are these."""
        self._book = AllowanceBook(allowances)
        self.empty = not self._book.all
        ids = {allowance.id for allowance in self._book.all}
        self._counters = {id: counter for id, counter in self._counters.items() if id in ids}
        self._found.clear()

    @property
    def all(self) -> tuple[Allowance, ...]:
        """What was taken last."""
        return self._book.all

    def of_caller(self, tenant: str, team: str | None, key: str | None, at: float) -> Bound:
        """What binds who asks; ``key`` is a lineage."""
        return self._bound((tenant, team, key), self._book.of_caller, at)

    def of_offer(self, resource: str, provider: str, at: float) -> Bound:
        """What binds an offer, whoever asks."""
        return self._bound((resource, provider), self._book.of_offer, at)

    def _bound(
        self,
        whose: tuple[Any, ...],  # Any: the arguments of ``allowances``
        allowances: Callable[..., tuple[Allowance, ...]],
        at: float,
    ) -> Bound:
        if self.empty:
            return UNBOUND
        found = self._found.get(whose)
        if found is None or not found.since <= at < found.until:
            found = self._bind(whose, allowances(*whose), at)
        return found

    def _bind(self, whose: tuple[str | None, ...], allowances: tuple[Allowance, ...], at: float) -> Bound:
        if len(self._found) >= MOST_KNOWN:
            self._found.clear()
        counters = tuple((allowance.metric, self._counter(allowance, at)) for allowance in allowances)
        starts = [counter.key[1] for _, counter in counters if counter.period_end is not None]
        bound = self._found[whose] = Bound(
            since=max(starts, default=-math.inf),
            until=min((end for _, counter in counters if (end := counter.period_end) is not None), default=math.inf),
            limits=tuple(one for one in counters if one[0] is not Metric.USD),
            budgets=tuple(counter for metric, counter in counters if metric is Metric.USD),
            counters=counters,
        )
        return bound

    def _counter(self, allowance: Allowance, at: float) -> Counter:
        start, end = span(allowance.period, at)
        counter = Counter(key=(allowance.id, start), amount=allowance.amount, period_end=end, hard=allowance.hard)
        known = self._counters.get(allowance.id)
        if known == counter:
            return known
        self._counters[allowance.id] = counter
        return counter
