"""A store to try things on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from storage_samples import NOW, Hand, OpenStore

from amaru.storage import DecisionStore, StoreSettings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "amaru.db"


@pytest.fixture
async def open_store(path: Path) -> AsyncIterator[OpenStore]:
    """Opens stores on one file; whatever is still open at the end is closed."""
    opened: list[DecisionStore] = []

    def open_one(
        *, clock: Callable[[], float] | None = None, timer: Callable[[], float] | None = None, **settings: object
    ) -> DecisionStore:
        merged = {"path": path, "interval_s": 0.005, **settings}
        store = DecisionStore(
            StoreSettings(**merged),  # type: ignore[arg-type]  # a test's short hand
            clock=clock or Hand(NOW),
            **({"timer": timer} if timer is not None else {}),
        )
        store.start()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close(2.0)
