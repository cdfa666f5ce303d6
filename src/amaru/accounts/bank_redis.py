"""A bank whose leases are in Redis, for the processes of many machines; what is settled stays the SQL store's.

A turn first settles in the store, in one transaction, then exchanges leases in Redis, in one script (``turn.lua``). In
between a settlement counts twice, as used and as leased: too much, never too little. The turn says both in whole
numbers, so that taking it up again heals it.

What Redis' durability means. With ``appendfsync everysec`` a crash may forget the grants of the last second. So Redis
is believed only as long as it runs: the keys carry an epoch of its run, and after a restart, a failover or a flush
nothing is granted until every live process has told what it holds, or for two seconds, after which a process counts as
dead. What a process that is dead by then had leased is forgotten; its journal, once recovered, settles what it spent,
and that shows as an overrun if the budget was used elsewhere meanwhile.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any

import msgspec
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import select, tuple_
from sqlalchemy.engine import Connection

from amaru.accounts.bank import LIVE_S, RECALL_S, Answer, Decision, Key, Position, Recall, Turn, Verdict
from amaru.accounts.bank_sql import HEARTBEAT_S, resolve_at
from amaru.accounts.books_sql import (
    KEYS_PER_STATEMENT,
    CounterRows,
    MissingCounters,
    directory_version,
    lock_holder,
    mark_holder,
    read_now,
)
from amaru.accounts.charges import Charge
from amaru.accounts.schema import counters, holders
from amaru.accounts.store import Store
from amaru.errors import StaleTurn, StorageError

PREFIX = "{amaru}:leases:"
TIMEOUT_S = 3.0
KEEP_S = 30 * 86_400
"""A lease of which nothing was heard for so long is forgotten."""
REGISTERED_S = 10 * HEARTBEAT_S
"""So young a sign of life in the store makes a new Redis wait for a holder."""

_Said = dict[str, dict[str, int]]


def client(url: str) -> Redis:
    """A way to it, not connected yet. Raises StorageError: the URL cannot be read."""
    try:
        made: Redis = Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 1)
        )
    except ValueError:
        raise StorageError("the redis:// URL cannot be read. Write redis://user@host:6379/0.") from None
    return made


def encode(key: Key) -> str:
    """How a counter is named there."""
    return f"{key[1]}:{key[0]}"


def _decode(text: str) -> Key:
    start, _, allowance = text.partition(":")
    return allowance, int(start)


class RedisBank:
    """Leases in Redis, counters and charges in a store. Called from one thread.

    Parameters
    ----------
    store
        Open.
    url
        ``redis://…`` or ``rediss://…``.
    prefix
        Of all keys; its hash tag keeps them on one node of a cluster.

    Raises
    ------
    StorageError
        The URL cannot be read. Nothing is connected yet.
    """

    def __init__(self, store: Store, url: str, *, prefix: str = PREFIX, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._prefix = prefix
        self._clock = clock
        self._host = socket.gethostname()
        self._beats: dict[str, float] = {}
        self._redis = client(url)
        script = resources.files("amaru.accounts").joinpath("turn.lua").read_text()
        self._script = self._redis.register_script(script)

    def position(self, holder: str) -> Position:
        """As ``Bank.position``."""
        with self._store.reading() as connection:
            query = select(holders.c.turn, holders.c.through).where(holders.c.name == holder)
            return Position(*(connection.execute(query).first() or ()))

    def turn(self, turn: Turn) -> Answer:
        """As ``Bank.turn``."""
        try:
            said, overruns, directory = self._settle(turn)
        except MissingCounters as error:
            with self._store.writing() as connection:
                error.make(connection)
            said, overruns, directory = self._settle(turn)
        message = _message(turn)
        # Whatever is granted is granted by what the store says now: a correction may have moved it.
        wanted = {need.key for needs in turn.asks for need in needs} | turn.wants.keys()
        said |= self._read(wanted - set(map(_decode, said)))
        answer = self._run(message | {"said": said})
        while "ok" not in answer:
            if "stale" in answer:
                raise StaleTurn(f"Redis: turn {turn.number} of {turn.holder} came after {answer['stale']}")
            if "new" in answer:
                message["holders"] = self._registered()
            said |= self._read(map(_decode, answer.get("unknown", ())))
            answer = self._run(message | {"said": said})
        return Answer(
            now=float(answer["now"]),
            directory=directory,
            decisions=[Decision(Verdict(v), tuple(since), short) for v, since, short in answer["decisions"]],
            granted={_decode(key): int(amount) for key, amount in answer["granted"].items()},
            free={_decode(key): int(amount) for key, amount in answer["free"].items()},
            recalls={_decode(key): Recall(made, int(free)) for key, (made, free) in answer["recalls"].items()},
            overruns=overruns,
            epoch=answer["epoch"],
            announce=answer["announce"],
        )

    def resolve(self, charge: Charge, used: Mapping[Key, int]) -> bool:
        """As ``Bank.resolve``; Redis hears of it before anything of the counter is granted next."""
        return resolve_at(self._store, charge, used)

    def _settle(self, turn: Turn) -> tuple[_Said, dict[Key, int], int]:
        """The store's part of a turn: what is used of each counter touched, overruns, the directory's version."""
        if not turn.ended and not turn.whole:
            with self._store.reading() as connection:
                now = read_now(connection, self._clock())
                if abs(now - self._beats.get(turn.holder, -HEARTBEAT_S)) < HEARTBEAT_S:
                    return {}, {}, directory_version(connection)
        with self._store.writing() as connection:
            now = read_now(connection, self._clock())
            position = lock_holder(connection, turn.holder, now, host=self._host, pid=os.getpid())
            if turn.number <= position.turn:
                raise StaleTurn(f"{self._store.name}: turn {turn.number} of {turn.holder} came after {position.turn}")
            touched = {part.key for ended in turn.ended for part in ended.parts}
            named = {key: counter for key, counter in turn.counters.items() if key in touched}
            counted = CounterRows(connection, touched, named)
            through = counted.take_in(turn.ended, position.through, turn.holder, taken_over=turn.taken_over)
            overruns = counted.overruns()
            counted.write()
            mark_holder(connection, turn.holder, Position(turn.number, through), now)
            directory = directory_version(connection)
        self._beats = {turn.holder: now}
        said = {
            encode(key): _said(row.amount, row.settled + row.leased, counted.versions[key])
            for key, row in counted.rows.items()
        }
        return said, overruns, directory

    def _read(self, keys: Iterable[Key]) -> _Said:
        wanted = list(keys)
        said = {encode(key): _said(0, 0, 0) for key in wanted}
        if wanted:
            with self._store.reading() as connection:
                for at in range(0, len(wanted), KEYS_PER_STATEMENT):
                    said |= _read_some(connection, wanted[at : at + KEYS_PER_STATEMENT])
        return said

    def _registered(self) -> list[str]:
        with self._store.reading() as connection:
            now = read_now(connection, self._clock())
            lives = holders.c.heartbeat_at.between(now - REGISTERED_S, now + REGISTERED_S)
            return list(connection.execute(select(holders.c.name).where(lives)).scalars())

    def _run(self, message: Mapping[str, object]) -> dict[str, Any]:  # JSON of our own script
        try:
            said: bytes = self._script(keys=[self._prefix], args=[msgspec.json.encode(message)])
            return msgspec.json.decode(said, type=dict[str, Any])
        except RedisError as error:
            words = " ".join(str(error).split())[:300]
            raise StorageError(f"Redis: {words}. Does it run, and can it be reached from here?") from None


def _said(amount: int, used: int, version: int) -> dict[str, int]:
    return {"amount": amount, "used": used, "version": version}


def _read_some(connection: Connection, keys: list[Key]) -> _Said:
    c = counters.c
    query = select(c.allowance, c.period_start, c.amount, c.settled + c.leased, c.version)
    found = connection.execute(query.where(tuple_(c.allowance, c.period_start).in_(keys)))
    return {encode((name, start)): _said(amount, used, version) for name, start, amount, used, version in found}


def _message(turn: Turn) -> dict[str, object]:
    keys = {part.key for ended in turn.ended for part in ended.parts}
    keys.update(turn.leases, turn.wants, (need.key for needs in turn.asks for need in needs))
    return {
        "holder": turn.holder,
        "number": turn.number,
        "epoch": turn.epoch,
        "whole": turn.whole,
        "keys": [encode(key) for key in keys],
        "leases": {encode(key): tuple(held) for key, held in turn.leases.items()},
        "amounts": {encode(key): counter.amount for key, counter in turn.counters.items()},
        "asks": [[(encode(need.key), need.amount, need.since) for need in needs] for needs in turn.asks],
        "wants": {encode(key): amount for key, amount in turn.wants.items()},
        "live_s": LIVE_S,
        "recall_s": RECALL_S,
        "keep_s": KEEP_S,
    }
