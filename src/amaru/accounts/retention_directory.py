"""What is deleted of the directory and of prices: what was archived or replaced long ago, and nothing kept names.

Looked for once a day. What charges name is looked for in a transaction that holds up nobody; the thing is then deleted
in another, under the directory's lock.

| | goes long after | unless it is named by |
|---|---|---|
| allowance | it was archived | (its counters stay: one that is set again goes on with what was used) |
| team | it was archived | a key, an allowance, a charge |
| tenant | it was archived | a key, a team, an allowance, a charge: a new one of its name must not get its keys |
| price | it was valid, or the next one of its offer came | a charge, however old |

A price that a gateway still has and charges again is kept again, the same, when that gateway starts or reloads.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Table, and_, delete, exists, or_, select, true, tuple_

from amaru.accounts.allowances import Scope
from amaru.accounts.changes import lock
from amaru.accounts.schema import allowances, charges, keys, prices, teams, tenants
from amaru.accounts.store import Store

AT_ONCE = 1_000
"""Rows of a table in one transaction; the next ones go a day later."""

_newer = prices.alias()


def _unnamed(*named: ColumnElement[bool]) -> ColumnElement[bool]:
    return and_(*(~exists().where(one) for one in named))


def _old(before: float) -> Iterable[tuple[Table, ColumnElement[bool], ColumnElement[bool]]]:
    """Tables, what of each is old and may be asked under a lock, and what keeps it, which may take long to find."""
    replaced = exists().where(
        _newer.c.offer == prices.c.offer, _newer.c.created_at > prices.c.created_at, _newer.c.created_at < before
    )
    of_team = and_(allowances.c.scope == Scope.TEAM, allowances.c.subject == teams.c.tenant + "/" + teams.c.id)
    of_tenant = and_(allowances.c.scope == Scope.TENANT, allowances.c.subject == tenants.c.id)
    yield allowances, allowances.c.archived_at < before, true()
    yield (
        teams,
        and_(
            teams.c.archived_at < before,
            _unnamed(and_(keys.c.tenant == teams.c.tenant, keys.c.team == teams.c.id), of_team),
        ),
        _unnamed(and_(charges.c.tenant == teams.c.tenant, charges.c.team == teams.c.id)),
    )
    yield (
        tenants,
        and_(
            tenants.c.archived_at < before,
            _unnamed(keys.c.tenant == tenants.c.id, teams.c.tenant == tenants.c.id, of_tenant),
        ),
        _unnamed(charges.c.tenant == tenants.c.id),
    )
    yield (
        prices,
        or_(prices.c.valid_until < before, and_(prices.c.valid_until.is_(None), replaced)),
        _unnamed(charges.c.price == prices.c.id),
    )


def prune_directory(store: Store, before: float) -> int:
    """Delete what has been over since ``before`` (Unix seconds); how many rows. Raises StorageError."""
    return sum(_delete(store, *old) for old in _old(before))


def _delete(store: Store, table: Table, old: ColumnElement[bool], unnamed: ColumnElement[bool]) -> int:
    row = tuple_(*table.primary_key)
    with store.reading() as connection:
        found = connection.execute(select(*table.primary_key).where(old, unnamed).limit(AT_ONCE)).all()
    if not found:
        return 0
    with store.writing() as connection:
        lock(connection)  # nobody restores it meanwhile, or makes it a key
        return connection.execute(delete(table).where(row.in_([tuple(one) for one in found]), old)).rowcount
