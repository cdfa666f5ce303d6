"""What happened, in order, from a position on: told once to whoever keeps the position."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from amaru.accounts.changes import AuditRow
from amaru.accounts.directory import Directory
from amaru.accounts.happened import AlertRow, Position, happened_after, latest
from amaru.accounts.schema import outbox
from amaru.accounts.store import Store


def alert(store: Store, once: str) -> None:
    with store.writing() as connection:
        row = {"once": once, "at": 1.5, "event": "budget.threshold", "body": '{"share": 0.8}', "tries": 0}
        connection.execute(insert(outbox).values(row))


@pytest.fixture
def told(directory: Directory, store: Store) -> Position:
    """Two tenants and two alerts later."""
    assert latest(store) == Position()
    for number in (1, 2):
        directory.tenants.create(f"shop-{number}", by="ann")
        alert(store, f"alert {number}")
    return latest(store)


def subjects(rows: list[AuditRow | AlertRow]) -> list[object]:
    return [row.subject if isinstance(row, AuditRow) else row.id for row in rows]


def test_what_came_after_a_position_is_told_oldest_first(store: Store, told: Position) -> None:
    assert told == Position(2, 2)
    assert subjects(happened_after(store, Position(), limit=9)) == ["tenant:shop-1", "tenant:shop-2", 1, 2]
    assert subjects(happened_after(store, Position(1, 1), limit=9)) == ["tenant:shop-2", 2]
    assert happened_after(store, told, limit=9) == []
    assert subjects(happened_after(store, Position(), limit=1)) == ["tenant:shop-1", 1]
    assert subjects(happened_after(store, Position(), until=Position(1, 0), limit=9)) == ["tenant:shop-1"]


def test_an_alert_is_told_as_it_is_sent(store: Store, told: Position) -> None:
    (found,) = happened_after(store, told._replace(alert=1), limit=9)
    assert isinstance(found, AlertRow)
    assert (found.at, found.event, bytes(found.body)) == (1.5, "budget.threshold", b'{"share": 0.8}')
