"""Counters and charges in the accounts' store: what a turn locks, takes in and writes.

Locks are taken in one order, so that no two turns wait for each other: the holder's row, counters by their keys, the
version of recalls. Whatever else a turn writes belongs to one of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from sqlalchemy import Double, Insert, Table, bindparam, cast, extract, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from amaru.accounts.bank import Counter, Ended, Key, Position
from amaru.accounts.charges import Charge, counted_text, row_of
from amaru.accounts.charges_insert import insert_charges
from amaru.accounts.grants import Row, note_overrun
from amaru.accounts.schema import charges, counters, holders, versions

KEYS_PER_STATEMENT = 500
_LOADED = (counters.c.amount, counters.c.settled, counters.c.leased, counters.c.overrun, counters.c.version)
_KEY = (counters.c.allowance, counters.c.period_start)
_UPDATE_COUNTER = (
    counters.update()
    .where(counters.c.allowance == bindparam("allowance_"), counters.c.period_start == bindparam("period_start_"))
    .values({c.name: bindparam(c.name) for c in _LOADED})
)


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that may say what to do on a conflict."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def ignoring(connection: Connection, table: Table) -> Insert:
    """An INSERT that leaves rows that are there as they are."""
    return insert_into(connection, table).on_conflict_do_nothing()


def read_now(connection: Connection, clock: float) -> float:
    """Unix seconds by the one clock of all who use this database: the server's, or in SQLite the machine's."""
    if connection.dialect.name == "sqlite":
        return clock
    return float(connection.execute(select(cast(extract("epoch", func.clock_timestamp()), Double))).scalar_one())


def lock_holder(connection: Connection, name: str, now: float, *, host: str, pid: int) -> Position:
    """How far the holder is; nobody else changes what it holds until the transaction ends."""
    query = select(holders.c.turn, holders.c.through).where(holders.c.name == name).with_for_update()
    found = connection.execute(query).first()
    if found is None:
        row = {"name": name, "turn": 0, "through": 0, "host": host, "pid": pid, "started_at": now, "heartbeat_at": now}
        connection.execute(ignoring(connection, holders), row)
        found = connection.execute(query).one()
    return Position(*found)


def mark_holder(connection: Connection, name: str, position: Position, now: float) -> None:
    """Write how far the holder is, and that it lives."""
    connection.execute(
        holders.update().where(holders.c.name == name),
        {"turn": position.turn, "through": position.through, "heartbeat_at": now},
    )


def directory_version(connection: Connection) -> int:
    """Of tenants, keys and allowances."""
    return int(connection.execute(select(versions.c.version).where(versions.c.name == "directory")).scalar_one())


class MissingCounters(Exception):
    """Counters that are not there: they are made in a transaction of their own, since an INSERT that waits for another
    one, while locks are held, might be waited for in turn."""

    def __init__(self, missing: Sequence[Counter]) -> None:
        super().__init__()
        self.missing = missing

    def make(self, connection: Connection) -> None:
        """Make them, at nothing."""
        nothing = {"settled": 0, "leased": 0, "alerted": 0.0, "overrun": 0, "version": 0}
        rows = [
            {
                "allowance": counter.key[0],
                "period_start": counter.key[1],
                "period_end": counter.period_end,
                "amount": counter.amount,
                **nothing,
            }
            for counter in self.missing
        ]
        connection.execute(ignoring(connection, counters), rows)


class CounterRows:
    """The counters that a transaction changes, locked from the first to the last until it ends.

    Raises MissingCounters where some are not there; nothing has been written then.
    """

    def __init__(self, connection: Connection, keys: Iterable[Key], named: Mapping[Key, Counter]) -> None:
        self._connection = connection
        self.rows: dict[Key, Row] = {}
        self.versions: dict[Key, int] = {}
        """Of each, as found; one higher once it is written."""
        wanted = sorted(set(keys))
        self._load(wanted)
        missing = [key for key in wanted if key not in self.rows]
        if missing:
            raise MissingCounters([named.get(key, Counter(key, 0)) for key in missing])
        self._before = {key: msgspec.structs.astuple(row) for key, row in self.rows.items()}
        for key, counter in named.items():
            if key in self.rows:
                self.rows[key].amount = counter.amount
        self._over = {key: row.settled + row.leased - row.amount for key, row in self.rows.items()}

    def _load(self, wanted: Sequence[Key]) -> None:
        for at in range(0, len(wanted), KEYS_PER_STATEMENT):
            some = wanted[at : at + KEYS_PER_STATEMENT]
            query = select(*_KEY, *_LOADED).where(tuple_(*_KEY).in_(some)).order_by(*_KEY).with_for_update()
            for allowance, start, amount, settled, leased, overrun, version in self._connection.execute(query):
                self.rows[allowance, start] = Row(amount=amount, settled=settled, leased=leased, overrun=overrun)
                self.versions[allowance, start] = version

    def take_in(self, ended: Sequence[Ended], through: int, holder: str, *, taken_over: bool) -> int:
        """Count what ended, and write its charges, but for what was taken in before; gives the new ``through``.

        Known by their numbers; those that another process makes stand for a dead holder, which may do so twice, by the
        ids of their charges: these are looked for from its first turn on (``taken_over``).
        """
        fresh = [one for one in ended if one.number > through]
        known = self._known([one.charge.id for one in fresh if one.charge is not None]) if taken_over else ()
        made: list[tuple[Charge, str | None]] = []
        for one in fresh:
            charge = one.charge
            if charge is not None and charge.id in known:
                continue
            for part in one.parts:
                row = self.rows[part.key]
                if part.used is None:
                    row.leased += part.reserved
                else:
                    row.settled += part.used
            if charge is not None:
                counted = {part.key: part.reserved if part.used is None else part.used for part in one.parts}
                made.append((charge, counted_text(counted)))
        if made and self._connection.dialect.name == "sqlite":
            insert_charges(self._connection, made, holder)
        elif made:
            rows = [row_of(charge, holder, counted) for charge, counted in made]
            self._connection.execute(ignoring(self._connection, charges), rows)
        return fresh[-1].number if fresh else through

    def _known(self, ids: Sequence[str]) -> set[str]:
        known: set[str] = set()
        for at in range(0, len(ids), KEYS_PER_STATEMENT):
            query = select(charges.c.id).where(charges.c.id.in_(ids[at : at + KEYS_PER_STATEMENT]))
            known.update(self._connection.execute(query).scalars())
        return known

    def overruns(self) -> dict[Key, int]:
        """Counters that are settled beyond their amount by more than before, noted as such; by how much."""
        found = {}
        for key, row in self.rows.items():
            if row.settled != self._before[key][1] and note_overrun(row, self._over[key]):
                found[key] = row.settled + row.leased - row.amount
        return found

    def write(self) -> None:
        """Write those that have changed."""
        changed = []
        for key, row in self.rows.items():
            if msgspec.structs.astuple(row)[:4] != self._before[key][:4]:
                self.versions[key] += 1
                changed.append(
                    {
                        "allowance_": key[0],
                        "period_start_": key[1],
                        "amount": row.amount,
                        "settled": row.settled,
                        "leased": row.leased,
                        "overrun": row.overrun,
                        "version": self.versions[key],
                    }
                )
        if changed:
            self._connection.execute(_UPDATE_COUNTER, changed)
