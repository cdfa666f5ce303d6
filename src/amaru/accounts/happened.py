"""What the store tells of as it happens: changes, as the audit has them, and alerts of budgets, each by its ids."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from sqlalchemy import func, select

from amaru.accounts.changes import AuditRow, audit_row
from amaru.accounts.schema import audit, outbox
from amaru.accounts.store import Store


class Position(NamedTuple):
    """How far somebody was told."""

    change: int = 0
    """Id of the last row of the audit."""
    alert: int = 0
    """Id of the last alert."""


class AlertRow(msgspec.Struct, frozen=True):
    """An alert, as the webhook is sent it."""

    id: int
    at: float
    event: str
    body: msgspec.Raw


def latest(store: Store) -> Position:
    """The end of what has happened. Raises StorageError."""
    with store.reading() as connection:
        newest = (connection.execute(select(func.max(table.c.id))).scalar() for table in (audit, outbox))
        return Position(*(one or 0 for one in newest))


def happened_after(
    store: Store, position: Position, *, until: Position | None = None, limit: int
) -> list[AuditRow | AlertRow]:
    """At most ``limit`` changes and as many alerts between two positions, oldest first. Raises StorageError."""
    changes = select(*(audit.c[name] for name in AuditRow.__struct_fields__)).where(audit.c.id > position.change)
    alerts = select(*(outbox.c[name] for name in AlertRow.__struct_fields__)).where(outbox.c.id > position.alert)
    if until is not None:
        changes, alerts = changes.where(audit.c.id <= until.change), alerts.where(outbox.c.id <= until.alert)
    with store.reading() as connection:
        found = connection.execute(changes.order_by(audit.c.id).limit(limit)).all()
        alerted = connection.execute(alerts.order_by(outbox.c.id).limit(limit)).all()
    return [
        *map(audit_row, found),
        *(AlertRow(row.id, row.at, row.event, msgspec.Raw(row.body.encode())) for row in alerted),
    ]
