"""What is deleted from the accounts' store, and when: what is 400 days old, and never what something stands on.

Of the directory and of prices ``retention_directory`` tells.

A charge stands on its counters, and so does a lease. Counters of minutes go after a day: each key that has a limit
leaves one every minute. Recalls go as soon as nobody can wait for their answers: every turn reads those that are there.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import ColumnElement, Table, and_, delete, exists, literal, not_, or_, select, tuple_
from sqlalchemy.engine import Connection

from amaru.accounts.bank import RECALL_S
from amaru.accounts.books_sql import insert_into, read_now
from amaru.accounts.charges import ChargeStatus
from amaru.accounts.retention_directory import prune_directory
from amaru.accounts.schema import audit, charges, counters, holders, keys, leases, meta, outbox, recalls
from amaru.accounts.store import Store

RETENTION_S = 400 * 86_400.0
MINUTES_S = 86_400.0
"""How long counters of minutes are kept: a clock that is set back by less reopens none of them."""
_SOUGHT_S = 7 * 86_400.0
"""How long they are looked for after that, so that not every counter of the last 400 days is looked at each time."""
STEP_S = 600.0
"""How far time goes from one call to the next at most, by which is deleted."""
DAY_S = 86_400.0
_CLOCK, _DAY = "retention.at", "retention.day"
AT_ONCE = 10_000
"""Rows of a table in one transaction: what is left goes the next time, and no turn waits long."""

_END = counters.c.period_end
_MINUTE = counters.c.period_start == _END - 60
_LEASED = exists().where(leases.c.allowance == counters.c.allowance, leases.c.period_start == counters.c.period_start)
_HOLDS = exists().where(leases.c.holder == holders.c.name)


def prune(store: Store, *, clock: Callable[[], float] = time.time) -> int:
    """Delete what is too old; how many rows. ``clock`` as of ``SqlBank``. Raises StorageError."""
    with store.writing() as connection:
        bank_now = read_now(connection, clock())
        now = _believed(connection, clock())
        daily = _is_new_day(connection, now)
    done = sum(_delete(store, table, old) for table, old in _old(now, bank_now))
    return done + (prune_directory(store, now - RETENTION_S) if daily else 0)


def _believed(connection: Connection, now: float) -> float:
    """The instant by which is deleted: a clock that jumps ahead must go wrong for weeks before anything is lost."""
    found = connection.execute(select(meta.c.value).where(meta.c.key == _CLOCK)).scalar()
    if found is not None:
        now = min(now, float(found) + STEP_S)
    _keep(connection, _CLOCK, now)
    return now


def _is_new_day(connection: Connection, now: float) -> bool:
    """Whether nobody has looked for a day at what is looked at once a day; then it is this one's to do."""
    found = connection.execute(select(meta.c.value).where(meta.c.key == _DAY)).scalar()
    if found is not None and abs(now - float(found)) < DAY_S:
        return False
    _keep(connection, _DAY, now)
    return True


def _keep(connection: Connection, key: str, at: float) -> None:
    made = insert_into(connection, meta).values(key=key, value=repr(at))
    connection.execute(made.on_conflict_do_update(index_elements=[meta.c.key], set_={"value": made.excluded.value}))


def _old(now: float, bank_now: float) -> tuple[tuple[Table, ColumnElement[bool]], ...]:
    before = now - RETENTION_S
    unused = and_(counters.c.leased == 0, not_(_LEASED))
    minutes = and_(_END.between(now - MINUTES_S - _SOUGHT_S, now - MINUTES_S), _MINUTE)
    return (
        (audit, audit.c.at < before),
        (keys, or_(keys.c.revoked_at < before, keys.c.expires_at < before)),
        (charges, and_(charges.c.at < before, charges.c.status != ChargeStatus.STANDING)),
        # What a budget that never renews was told of stays known.
        (outbox, and_(outbox.c.at < before, outbox.c.once.not_like("0:%"))),
        (counters, and_(unused, or_(_END.between(0, before), minutes))),
        # Its `through` keeps a journal that turns up late from being counted twice.
        (holders, and_(holders.c.heartbeat_at < before, not_(_HOLDS))),
        (recalls, not_(recalls.c.at.between(bank_now - 30 * RECALL_S, bank_now + 30 * RECALL_S))),
    )


def _delete(store: Store, table: Table, old: ColumnElement[bool]) -> int:
    """Rows that a turn has locked are left for the next time: so neither waits for the other."""
    row = tuple_(*table.primary_key)
    some = select(*table.primary_key).where(old).limit(AT_ONCE).with_for_update(skip_locked=True, of=table)
    with store.reading() as connection:
        if connection.execute(select(literal(1)).select_from(table).where(old).limit(1)).first() is None:
            return 0
    with store.writing() as connection:
        return connection.execute(delete(table).where(row.in_(some))).rowcount
