"""The outbox: messages that wait to be sent, were sent, or given up.

One process at a time sends a message: it claims it for a while, and where it dies meanwhile another goes on. So a
message may arrive twice, under the same ``webhook-id``, but is never lost. It is tried for about a day.
"""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable
from hashlib import sha256

import msgspec
from sqlalchemy import ColumnElement, and_, or_, select, update

from amaru.accounts.books_sql import read_now
from amaru.accounts.changes import Change
from amaru.accounts.schema import outbox
from amaru.accounts.store import Store
from amaru.errors import AccountConflict, UnknownAccount
from amaru.http1.posting import LIMIT_S, PostError

CLAIM_S = 4 * LIMIT_S
"""So long nobody else sends a message that somebody is sending."""
TRIES = 12
FIRST_WAIT_S = 5.0
FACTOR = 3.0
LONGEST_WAIT_S = 6 * 3600.0
JITTER = 0.2
"""Waits are up to so much longer or shorter, so that what failed together does not come back together."""
GONE = 410
"""The receiver wants no more of it: it is not tried again."""


class State(enum.StrEnum):
    """What became of a message."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"
    LOGGED = "logged"
    """There was no webhook to send it to."""


class MessageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A message, as lists show it."""

    id: int
    at: float
    """Unix seconds."""
    event: str
    """``budget.threshold``, ``budget.exceeded``."""
    state: State
    tries: int
    next_at: float | None
    """When it is sent next; null: no more."""
    sent_at: float | None
    error: str | None
    """Why the last try failed."""
    webhook_id: str
    body: msgspec.Raw
    """As it is sent."""


class Message(msgspec.Struct, frozen=True):
    """A row of the outbox."""

    id: int
    once: str
    at: float
    event: str
    body: str
    tries: int
    next_at: float | None
    sent_at: float | None
    error: str | None

    @property
    def state(self) -> State:
        if self.sent_at is not None:
            return State.DELIVERED
        if self.next_at is not None:
            return State.PENDING
        return State.LOGGED if self.error is None else State.GIVEN_UP

    @property
    def webhook_id(self) -> str:
        """The same with each try, and in no other store's outbox."""
        return f"msg_{sha256(f'{self.id} {self.at!r} {self.once}'.encode()).hexdigest()[:32]}"

    def info(self) -> MessageInfo:
        """As lists show it."""
        same = {name: getattr(self, name) for name in ("id", "at", "event", "state", "tries", "next_at", "sent_at")}
        body = msgspec.Raw(self.body.encode())
        return MessageInfo(**same, error=self.error, webhook_id=self.webhook_id, body=body)


_SENT, _WAITS = outbox.c.sent_at.is_not(None), outbox.c.next_at.is_not(None)
_OVER = and_(~_SENT, ~_WAITS)
_STATES = {
    State.DELIVERED: _SENT,
    State.PENDING: and_(~_SENT, _WAITS),
    State.GIVEN_UP: and_(_OVER, outbox.c.error.is_not(None)),
    State.LOGGED: and_(_OVER, outbox.c.error.is_(None)),
}
"""As ``Message.state``."""
_COLUMNS = tuple(outbox.c[name] for name in Message.__struct_fields__)


def wait_s(tries: int, jitter: float) -> float:
    """How long to wait after so many tries, from 1; ``jitter`` in [-1, 1]. All waits together are some 23 hours."""
    return min(FIRST_WAIT_S * FACTOR ** (tries - 1), LONGEST_WAIT_S) * (1 + JITTER * jitter)


class Outbox:
    """The messages of one store. May be used by several threads; every method raises StorageError.

    Parameters
    ----------
    store
        Open.
    clock
        Unix seconds; asked in SQLite alone, PostgreSQL has its own.
    jitter
        A number in [-1, 1], for each wait anew.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311  # spreads load, guards nothing
    ) -> None:
        self._store = store
        self._clock = clock
        self._jitter = jitter

    def claim(self) -> Message | None:
        """The message that is due first, now this process's for ``CLAIM_S``; ``None``: none is."""
        with self._store.reading() as connection:
            now = read_now(connection, self._clock())
            if connection.execute(select(outbox.c.id).where(_due(now)).limit(1)).first() is None:
                return None
        with self._store.writing() as connection:
            now = read_now(connection, self._clock())
            first = select(*_COLUMNS).where(_due(now)).order_by(outbox.c.next_at, outbox.c.id).limit(1)
            found = connection.execute(first.with_for_update(skip_locked=True)).first()
            if found is None:
                return None
            claimed = {"tries": found.tries + 1, "next_at": now + CLAIM_S}
            connection.execute(update(outbox).where(outbox.c.id == found.id).values(claimed))
            return Message(**{**found._mapping, **claimed})

    def delivered(self, message: Message) -> None:
        """It was taken."""
        with self._store.writing() as connection:
            row = {"sent_at": read_now(connection, self._clock()), "next_at": None, "error": None}
            connection.execute(update(outbox).where(outbox.c.id == message.id).values(row))

    def failed(self, message: Message, error: PostError) -> bool:
        """It was not taken; whether it will be tried again."""
        is_over = message.tries >= TRIES or error.status == GONE
        wait = max(wait_s(message.tries, self._jitter()), min(error.retry_after_s or 0.0, LONGEST_WAIT_S))
        with self._store.writing() as connection:
            next_at = None if is_over else read_now(connection, self._clock()) + wait
            # Else somebody claimed it since, or had it delivered.
            same = (outbox.c.id == message.id, outbox.c.tries == message.tries, outbox.c.sent_at.is_(None))
            row = {"next_at": next_at, "error": str(error)}
            connection.execute(update(outbox).where(*same).values(row))
        return not is_over

    def newest(self, limit: int, *, before: int | None = None, state: State | None = None) -> list[Message]:
        """At most ``limit`` messages, newest first, of a state if given; ``before`` an id, to go on from."""
        query = select(*_COLUMNS).order_by(outbox.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(outbox.c.id < before)
        if state is not None:
            query = query.where(_STATES[state])
        with self._store.reading() as connection:
            return [Message(**row._mapping) for row in connection.execute(query)]


def find(store: Store, id: int) -> Message:
    """One of them. Raises UnknownAccount, StorageError."""
    with store.reading() as connection:
        row = connection.execute(select(*_COLUMNS).where(outbox.c.id == id)).first()
    if row is None:
        raise _unknown(id)
    return Message(**row._mapping)


def retry(change: Change, id: int) -> None:
    """Have a message sent anew, as if it had never been tried.

    Raises UnknownAccount: there is none of this id; AccountConflict: it was delivered.
    """
    again = {"tries": 0, "next_at": change.at, "error": None}
    undelivered = (outbox.c.id == id, outbox.c.sent_at.is_(None))
    if not change.connection.execute(update(outbox).where(*undelivered).values(again)).rowcount:
        if change.connection.execute(select(outbox.c.id).where(outbox.c.id == id)).first() is None:
            raise _unknown(id)
        raise AccountConflict(f"alert {id} was delivered.")
    change.remark("alert.retry", f"alert:{id}")


def _unknown(id: int) -> UnknownAccount:
    return UnknownAccount(f"there is no alert {id}. Give its id, as `amaru budgets alerts` shows it.")


def _due(now: float) -> ColumnElement[bool]:
    # What lies further ahead than any wait was written by a clock that has been set back since.
    farthest = now + LONGEST_WAIT_S * (1 + JITTER)
    return and_(outbox.c.next_at.is_not(None), or_(outbox.c.next_at <= now, outbox.c.next_at > farthest))
