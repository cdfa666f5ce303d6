"""Budgets that are used up, and what the outbox says of it."""

from __future__ import annotations

from sqlalchemy import select, update

from amaru.accounts.allowances import Allowance
from amaru.accounts.outbox import Message, Outbox
from amaru.accounts.periods import span
from amaru.accounts.schema import counters
from amaru.accounts.store import Store


def use(store: Store, allowance: Allowance, at: float, settled: int, leased: int = 0) -> None:
    """Have the counter of an instant hold this."""
    start, end = span(allowance.period, at)
    key = {"allowance": allowance.id, "period_start": start}
    with store.writing() as connection:
        same = (counters.c.allowance == allowance.id, counters.c.period_start == start)
        figures = {"settled": settled, "leased": leased}
        if not connection.execute(update(counters).where(*same).values(figures)).rowcount:
            rest = {"period_end": end, "amount": allowance.amount, "alerted": 0.0, "overrun": 0, "version": 0}
            connection.execute(counters.insert(), {**key, **figures, **rest})


def alerted(store: Store, allowance: Allowance) -> list[float]:
    with store.reading() as connection:
        query = select(counters.c.alerted).where(counters.c.allowance == allowance.id)
        return list(connection.execute(query.order_by(counters.c.period_start)).scalars())


def messages(store: Store) -> list[Message]:
    """Oldest first."""
    return Outbox(store).newest(1_000)[::-1]
