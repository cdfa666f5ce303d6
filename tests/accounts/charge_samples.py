"""Charges to test with, and how they get into a store."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert

from amaru.accounts.charges import Charge, row_of
from amaru.accounts.schema import charges
from amaru.accounts.store import Store

NOON = 1_793_534_400.0
"""2026-11-01T12:00:00Z."""
_numbers = itertools.count()


def charge(**changes: Any) -> Charge:
    number = next(_numbers)
    values: dict[str, Any] = {
        "id": f"c{number}",
        "at": NOON,
        "decision": f"d{number}",
        "attempt": 0,
        "tenant": "acme",
        "resource": "chat",
        "provider": "anvil",
        "offer": "anvil-large",
        "model": "large",
        "kind": "chat",
        "usage_source": "provider",
    }
    return Charge(**values | changes)


def write(store: Store, *made: Charge, reserved: str | None = None) -> Sequence[Charge]:
    with store.writing() as connection:
        for at in range(0, len(made), 1000):
            rows = [row_of(one, "holder", reserved) for one in made[at : at + 1000]]
            connection.execute(insert(charges), rows)
    return made
