"""Who changed what, when: each change of the directory with its row of audit, in one transaction.

The directory's version rises by one with each. Its row is taken first, so that changes happen one after the other, also
in PostgreSQL: whoever has seen a version has seen every change up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection, Row

from amaru.accounts.schema import audit, versions
from amaru.accounts.store import Store
from amaru.errors import AccountError

MAX_PAGE = 1_000
MAX_FOLLOWED = 1_000
"""More changes than these at once, and everything counts as changed."""
_DIRECTORY = versions.c.name == "directory"
_json = msgspec.json.Encoder()


class Change(msgspec.Struct, frozen=True):
    """A change that is under way."""

    connection: Connection
    at: float
    by: str

    def note(self, action: str, subject: str, before: object = None, after: object = None) -> None:
        """Write its row of audit, and raise the directory's version. ``before`` and ``after`` hold no secret."""
        bump = update(versions).where(_DIRECTORY).values(version=versions.c.version + 1).returning(versions.c.version)
        self._write(action, subject, before, after, self.connection.execute(bump).scalar_one())

    def remark(self, action: str, subject: str, after: object = None) -> None:
        """A row of audit about something else than the directory."""
        self._write(action, subject, None, after, None)

    def _write(self, action: str, subject: str, before: object, after: object, version: int | None) -> None:
        row = {"at": self.at, "actor": self.by, "action": action, "subject": subject, "version": version}
        self.connection.execute(insert(audit).values(**row, before=_text(before), after=_text(after)))


class Changes(msgspec.Struct, frozen=True):
    """What was changed since a version."""

    version: int
    subjects: frozenset[str] | None
    """``key:k-…``, ``tenant:ID``, ``team:TENANT/ID``, ``allowance:ID``; ``None``: perhaps everything."""


class AuditRow(msgspec.Struct, frozen=True):
    """One change, as it was written down."""

    id: int
    at: float
    actor: str
    action: str
    subject: str
    before: msgspec.Raw | None
    after: msgspec.Raw | None


class ChangeLog:
    """Makes changes, and tells of them."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    @contextmanager
    def changing(self, by: str) -> Iterator[Change]:
        """A transaction for changes by somebody: all of them are kept, or none.

        Raises AccountError where ``by`` is no name, StorageError where the store fails.
        """
        require_text("who changes it", by)
        with self._store.writing() as connection:
            lock(connection)
            yield Change(connection, self._clock(), by)

    def version(self) -> int:
        """The directory's. Raises StorageError."""
        with self._store.reading() as connection:
            return _version(connection)

    def since(self, version: int) -> Changes:
        """What was changed after ``version``. Raises StorageError."""
        query = select(audit.c.subject).where(audit.c.version > version).limit(MAX_FOLLOWED + 1)
        with self._store.reading() as connection:
            now = _version(connection)
            subjects = frozenset() if now == version else frozenset(connection.execute(query).scalars())
        # Rows that retention removed, or a store that was put back from a backup, leave a gap.
        whole = 0 <= now - version <= MAX_FOLLOWED
        return Changes(now, subjects if whole else None)

    def page(self, limit: int = 50, *, before: int | None = None, subject: str | None = None) -> list[AuditRow]:
        """Rows of audit, the newest first, of those older than the row ``before``. Raises StorageError."""
        columns = (audit.c[name] for name in AuditRow.__struct_fields__)
        query = select(*columns).order_by(audit.c.id.desc()).limit(max(1, min(limit, MAX_PAGE)))
        if before is not None:
            query = query.where(audit.c.id < before)
        if subject is not None:
            query = query.where(audit.c.subject == plain(subject))
        with self._store.reading() as connection:
            rows = connection.execute(query).all()
        return [audit_row(row) for row in rows]


def lock(connection: Connection) -> None:
    """Nobody else changes the directory until this transaction ends."""
    connection.execute(select(versions.c.version).where(_DIRECTORY).with_for_update())


def audit_row(row: Row[Any]) -> AuditRow:
    """As it is shown."""
    return AuditRow(row.id, row.at, row.actor, row.action, row.subject, _raw(row.before), _raw(row.after))


def plain(id: str) -> str:
    """The id; an empty one, which no row has, where it holds what drivers and databases stumble over."""
    return id if id.isprintable() else ""


def require_text(what: str, text: str, *, empty: bool = False) -> None:
    """Refuse a text that no list could show. Raises AccountError."""
    if not (text or empty) or len(text) > 200 or not text.isprintable() or text != text.strip():
        raise AccountError(f"{what} must be 1 to 200 printable characters, with no space at either end.")


def _version(connection: Connection) -> int:
    return int(connection.execute(select(versions.c.version).where(_DIRECTORY)).scalar_one())


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())


def _text(value: object) -> str | None:
    return None if value is None else _json.encode(value).decode()
