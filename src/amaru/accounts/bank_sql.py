"""A bank in the accounts' store: SQLite for the processes of one machine, PostgreSQL for those of many.

A turn is one transaction. In SQLite it is the only writer, and durable when committed (``synchronous=FULL``), so that a
lease that was granted is known after a loss of power too. In PostgreSQL it locks the counters that it names, in order.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

import msgspec
from sqlalchemy import ColumnElement, and_, bindparam, delete, func, select, update
from sqlalchemy.engine import Connection

from amaru.accounts.bank import LIVE_S, RECALL_S, Answer, Decision, Held, Key, Position, Recall, Turn
from amaru.accounts.books_sql import (
    CounterRows,
    MissingCounters,
    directory_version,
    insert_into,
    lock_holder,
    mark_holder,
    read_now,
)
from amaru.accounts.charges import Charge, ChargeStatus, counted_text, row_of
from amaru.accounts.grants import EVERYBODY, answer_asks, answer_wants
from amaru.accounts.schema import charges, counters, holders, leases, recalls, versions
from amaru.accounts.store import Store
from amaru.errors import StaleTurn

HEARTBEAT_S = 0.5
"""So often a holder that has nothing to tell says that it lives."""

_THIS_LEASE = and_(
    leases.c.holder == bindparam("holder_"),
    leases.c.allowance == bindparam("allowance_"),
    leases.c.period_start == bindparam("period_start_"),
)
_SAME_COUNTER = and_(recalls.c.allowance == counters.c.allowance, recalls.c.period_start == counters.c.period_start)


class SqlBank:
    """Counters and leases of one store. Called from one thread.

    Parameters
    ----------
    store
        Open.
    clock
        Unix seconds; asked in SQLite alone, PostgreSQL has its own.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._host = socket.gethostname()
        self._beats: dict[str, float] = {}
        """When each holder that turns here said last that it lives."""

    def position(self, holder: str) -> Position:
        """As ``Bank.position``."""
        with self._store.reading() as connection:
            query = select(holders.c.turn, holders.c.through).where(holders.c.name == holder)
            return Position(*(connection.execute(query).first() or ()))

    def turn(self, turn: Turn) -> Answer:
        """As ``Bank.turn``."""
        if not (turn.ended or turn.leases or turn.whole or turn.asks or turn.wants):
            with self._store.reading() as connection:
                now = read_now(connection, self._clock())
                if abs(now - self._beats.get(turn.holder, -HEARTBEAT_S)) < HEARTBEAT_S:
                    return _answer(connection, now)
        try:
            return self._take(turn)
        except MissingCounters as error:
            with self._store.writing() as connection:
                error.make(connection)
            return self._take(turn)

    def _take(self, turn: Turn) -> Answer:
        with self._store.writing() as connection:
            now = read_now(connection, self._clock())
            position = lock_holder(connection, turn.holder, now, host=self._host, pid=os.getpid())
            if turn.number <= position.turn:
                raise StaleTurn(f"{self._store.name}: turn {turn.number} of {turn.holder} came after {position.turn}")
            answer = _TurnOfBank(connection, turn, now).take(position)
        self._beats = {turn.holder: now}
        return answer

    def resolve(self, charge: Charge, used: Mapping[Key, int]) -> bool:
        """As ``Bank.resolve``."""
        return resolve_at(self._store, charge, used)


def resolve_at(store: Store, charge: Charge, used: Mapping[Key, int]) -> bool:
    """As ``Bank.resolve``, at a store."""
    try:
        with store.writing() as connection:
            return _resolve(connection, charge, used)
    except MissingCounters as error:  # nothing was reserved of them, so that retention has deleted them
        with store.writing() as connection:
            error.make(connection)
        with store.writing() as connection:
            return _resolve(connection, charge, used)


def _resolve(connection: Connection, charge: Charge, used: Mapping[Key, int]) -> bool:
    query = select(charges.c.status, charges.c.reserved, charges.c.holder).where(charges.c.id == charge.id)
    found = connection.execute(query.with_for_update()).first()
    if found is None or found.status != ChargeStatus.STANDING:
        return False
    reserved = msgspec.json.decode(found.reserved or "[]", type=list[tuple[str, int, int]])
    counted = CounterRows(connection, [*((name, start) for name, start, _ in reserved), *used], {})
    for name, start, amount in reserved:
        counted.rows[name, start].leased -= amount
    for key, amount in used.items():
        counted.rows[key].settled += amount
    counted.overruns()
    counted.write()
    counts = counted_text(used)
    connection.execute(update(charges).where(charges.c.id == charge.id), row_of(charge, found.holder, counts))
    return True


class _TurnOfBank:
    """One turn, inside its transaction."""

    def __init__(self, connection: Connection, turn: Turn, now: float) -> None:
        self._connection = connection
        self._turn = turn
        self._now = now
        self._had = self._leases_had()
        keys = {part.key for ended in turn.ended for part in ended.parts}
        keys.update(turn.leases, turn.wants, (need.key for needs in turn.asks for need in needs))
        if turn.whole:
            keys.update(self._had)
        self._counted = CounterRows(connection, keys, turn.counters)
        self._acknowledged: dict[Key, int] = {}

    def take(self, position: Position) -> Answer:
        turn, rows = self._turn, self._counted.rows
        through = self._counted.take_in(turn.ended, position.through, turn.holder, taken_over=turn.taken_over)
        kept = dict(turn.leases)
        if turn.whole:
            kept = {key: Held(0, 0) for key in self._had} | kept
        for key, held in kept.items():
            rows[key].leased += held.amount - self._had.get(key, Held(0, 0)).amount
        overruns = self._counted.overruns()
        granted: dict[Key, int] = {}
        decisions: list[Decision] = []
        if turn.asks or turn.wants:
            self._load_recalls()
            decisions = answer_asks(
                turn.asks,
                rows,
                granted,
                acknowledged=self._acknowledged_by_others,
                new_generation=self._new_generation,
            )
            answer_wants(turn.wants, rows, granted, holders=self._holders())
            self._write_recalls()
        for key, amount in granted.items():
            held = kept.get(key) or self._had.get(key, Held(0, 0))
            kept[key] = Held(held.amount + amount, held.acknowledged)
        self._write_leases(kept)
        self._counted.write()
        mark_holder(self._connection, turn.holder, Position(turn.number, through), self._now)
        free = {key: row.free for key, row in rows.items()}
        return _answer(self._connection, self._now, decisions=decisions, granted=granted, overruns=overruns, free=free)

    def _leases_had(self) -> dict[Key, Held]:
        query = select(leases.c.allowance, leases.c.period_start, leases.c.amount, leases.c.acknowledged)
        found = self._connection.execute(query.where(leases.c.holder == self._turn.holder))
        return {(name, start): Held(amount, acknowledged) for name, start, amount, acknowledged in found}

    def _load_recalls(self) -> None:
        for key, recall in _recalls(self._connection, self._now).items():
            if key in self._counted.rows:
                self._counted.rows[key].generation = recall.generation

    def _new_generation(self) -> int:
        raised = update(versions).where(versions.c.name == "recalls").values(version=versions.c.version + 1)
        return int(self._connection.execute(raised.returning(versions.c.version)).scalar_one())

    def _acknowledged_by_others(self, key: Key) -> int:
        """Of live holders alone: a dead one's lease stands, but nobody waits for it."""
        if key not in self._acknowledged:
            query = (
                select(func.min(leases.c.acknowledged))
                .join(holders, holders.c.name == leases.c.holder)
                .where(leases.c.allowance == key[0], leases.c.period_start == key[1], leases.c.amount > 0)
                .where(leases.c.holder != self._turn.holder, self._lives())
            )
            lowest = self._connection.execute(query).scalar()
            self._acknowledged[key] = EVERYBODY if lowest is None else lowest
        return self._acknowledged[key]

    def _holders(self) -> int:
        query = select(func.count()).select_from(holders).where(holders.c.name != self._turn.holder, self._lives())
        return 1 + self._connection.execute(query).scalar_one()

    def _lives(self) -> ColumnElement[bool]:
        # Between: one that was heard of by a clock that has been set back since is not alive for ever.
        return holders.c.heartbeat_at.between(self._now - LIVE_S, self._now + LIVE_S)

    def _write_recalls(self) -> None:
        rows = [
            {"allowance": key[0], "period_start": key[1], "generation": row.generation, "at": self._now}
            for key, row in self._counted.rows.items()
            if row.recalled
        ]
        if rows:
            made = insert_into(self._connection, recalls)
            same = {"generation": made.excluded.generation, "at": made.excluded.at}
            on = [recalls.c.allowance, recalls.c.period_start]
            self._connection.execute(made.on_conflict_do_update(index_elements=on, set_=same), rows)

    def _write_leases(self, kept: Mapping[Key, Held]) -> None:
        gone, written = [], []
        for key, held in kept.items():
            if held == self._had.get(key):
                continue
            if held.amount:
                columns = {"allowance": key[0], "period_start": key[1], **held._asdict()}
                written.append({"holder": self._turn.holder, **columns})
            elif key in self._had:
                gone.append({"holder_": self._turn.holder, "allowance_": key[0], "period_start_": key[1]})
        if gone:
            self._connection.execute(delete(leases).where(_THIS_LEASE), gone)
        if written:
            made = insert_into(self._connection, leases)
            same = {"amount": made.excluded.amount, "acknowledged": made.excluded.acknowledged}
            on = [leases.c.holder, leases.c.allowance, leases.c.period_start]
            self._connection.execute(made.on_conflict_do_update(index_elements=on, set_=same), written)


def _recalls(connection: Connection, now: float) -> dict[Key, Recall]:
    """Those that go on."""
    free = counters.c.amount - counters.c.settled - counters.c.leased
    query = (
        select(recalls.c.allowance, recalls.c.period_start, recalls.c.generation, free)
        .join(counters, _SAME_COUNTER)
        .where(recalls.c.at.between(now - RECALL_S, now + RECALL_S))
    )
    return {(name, start): Recall(made, left) for name, start, made, left in connection.execute(query)}


def _answer(
    connection: Connection,
    now: float,
    *,
    decisions: list[Decision] | None = None,
    granted: Mapping[Key, int] | None = None,
    overruns: Mapping[Key, int] | None = None,
    free: Mapping[Key, int] | None = None,
) -> Answer:
    return Answer(
        now=now,
        directory=directory_version(connection),
        decisions=decisions or (),
        granted=granted or {},
        free=free or {},
        recalls=_recalls(connection, now),
        overruns=overruns or {},
    )
