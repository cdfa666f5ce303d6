"""What each charge counts against which budget: kept in its row, so that whoever corrects it moves the same counters.

A counter's ``settled`` is the sum of what the rows of spend that are settled count against it. A row that takes one
back counts less than nothing, so that the sum stays so; by this a correction is seen in the period of the charge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from sqlalchemy import select, tuple_
from sqlalchemy.engine import Connection

from amaru.accounts.allowances import PERIODS, Metric, Scope, allowance_id
from amaru.accounts.bank import Key
from amaru.accounts.books_sql import KEYS_PER_STATEMENT, CounterRows, ignoring
from amaru.accounts.charges import Charge, ChargeStatus, counted_text, row_of
from amaru.accounts.export_lines import model_key
from amaru.accounts.money import nusd_half_even
from amaru.accounts.periods import span
from amaru.accounts.schema import charges, counters
from amaru.accounts.spend import DAY_S, Which
from amaru.accounts.store import Store

Counted = Mapping[Key, int]
"""By counter: nano-USD, requests or tokens."""
_ROWS_AT_ONCE = 1_000


def counted_of(text: str | None) -> dict[Key, int]:
    """What stands in the column ``reserved``."""
    found = msgspec.json.decode(text or "[]", type=list[tuple[str, int, int]])
    return {(name, start): amount for name, start, amount in found}


def used_of(counted: Counted, *, tokens: int, cost_pusd: int) -> dict[Key, int]:
    """What a charge of such figures counts against each of some counters, of which so much was reserved or counted.

    A bill below zero counts nothing.
    """
    usd = max(nusd_half_even(cost_pusd), 0)
    by_metric = {Metric.USD.value: usd, Metric.TOKENS.value: tokens}
    return {key: by_metric.get(key[0].rsplit(":", 2)[1], before) for key, before in counted.items()}


def add_rows(store: Store, rows: Sequence[tuple[Charge, Counted]], *, holder: str) -> None:
    """Write rows of spend that are not there, and count them; in one transaction. Raises StorageError.

    A counter that is not there, or that retention has deleted, is not made. None falls below zero.
    """
    # In one order, so that two who write the same rows do not wait for each other.
    ordered = sorted(rows, key=lambda row: row[0].id)
    with store.writing() as connection:
        there = _there(connection, {key for _, counted in ordered for key in counted})
        kept = [(one, {key: amount for key, amount in by.items() if key in there}) for one, by in ordered]
        made = ignoring(connection, charges).returning(charges.c.id)
        new = set(connection.execute(made, [row_of(one, holder, counted_text(by)) for one, by in kept]).scalars())
        moves: dict[Key, int] = {}
        for one, counted in kept:
            if one.id in new:
                new.discard(one.id)
                for key, amount in counted.items():
                    moves[key] = moves.get(key, 0) + amount
        moved = CounterRows(connection, [key for key, amount in moves.items() if amount], {})
        for key, row in moved.rows.items():
            row.settled = max(row.settled + moves[key], 0)
        moved.overruns()
        moved.write()


def _there(connection: Connection, keys: Iterable[Key]) -> set[Key]:
    """Those of the counters that there are."""
    place, wanted, found = (counters.c.allowance, counters.c.period_start), sorted(keys), set[Key]()
    for at in range(0, len(wanted), KEYS_PER_STATEMENT):
        query = select(*place).where(tuple_(*place).in_(wanted[at : at + KEYS_PER_STATEMENT]))
        found.update((name, start) for name, start in connection.execute(query))
    return found


class ProviderCounted:
    """What rows that name no charge of ours count: against their provider alone, since nobody knows who asked.

    What they take back is no more than charges of the day and the model have counted: a budget that was set later has
    not counted them all.
    """

    def __init__(self, store: Store, provider: str) -> None:
        self._store = store
        self._provider = provider
        self._day = -1
        self._of_day: dict[tuple[Key, str], int] = {}

    def of(self, at: float, model: str, pusd: int) -> dict[Key, int]:
        """For a row of that instant (Unix seconds) and cost. Raises StorageError."""
        nusd, counted = nusd_half_even(pusd), dict[Key, int]()
        for period in sorted(PERIODS[Metric.USD]):
            key = allowance_id(Scope.PROVIDER, self._provider, Metric.USD, period), span(period, at)[0]
            counted[key] = nusd if nusd >= 0 else -self._taken_back(key, at, model_key(model), -nusd)
        return counted

    def _taken_back(self, key: Key, at: float, model: str, nusd: int) -> int:
        day = int(at // DAY_S)
        if day != self._day:
            self._day, self._of_day = day, self._read(day)
        there = max(self._of_day.get((key, model), 0), 0)
        self._of_day[key, model] = there - min(nusd, there)
        return min(nusd, there)

    def _read(self, day: int) -> dict[tuple[Key, str], int]:
        which = Which(since=day * DAY_S, until=(day + 1) * DAY_S, provider=self._provider)
        settled = charges.c.status != ChargeStatus.STANDING
        query = select(charges.c.model, charges.c.reserved).where(
            which.condition(), settled, charges.c.reserved.is_not(None)
        )
        sums: dict[tuple[Key, str], int] = {}
        with self._store.reading() as connection:
            for model, text in connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query):
                for key, amount in counted_of(text).items():
                    if key[0].startswith("provider:"):
                        place = key, model_key(model)
                        sums[place] = sums.get(place, 0) + amount
        return sums
