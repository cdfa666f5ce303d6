"""The prices that charges name, kept: what one said stays known after it has left the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import select, update

from amaru.accounts.books_sql import ignoring
from amaru.accounts.pricing import PriceRecord
from amaru.accounts.schema import prices
from amaru.accounts.store import Store

FROM_FILE = "file"


def keep_prices(store: Store, records: Sequence[PriceRecord], providers: Mapping[str, str], at: float) -> None:
    """Keep each price that is not kept yet, and until when each is valid; nothing of it is ever changed.

    ``providers`` are the offers'; ``at`` is now, in Unix seconds. Raises StorageError.
    """
    rows = [
        {
            "id": record.id,
            "provider": providers[record.offer],
            "offer": record.offer,
            "valid_from": record.valid_from,
            "valid_until": record.valid_until,
            "terms": record.terms,
            "source": FROM_FILE,
            "created_at": at,
        }
        for record in records
    ]
    with store.writing() as connection:
        connection.execute(ignoring(connection, prices), rows)
        for record in records:
            if record.valid_until is not None:
                same = prices.c.id == record.id
                connection.execute(update(prices).where(same).values(valid_until=record.valid_until))


class PriceTerms:
    """What prices say, by their ids; each is looked up once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, str | None] = {}

    def of(self, id: str | None) -> str | None:
        """JSON of ``domain.Price``; ``None``: it is not kept. Raises StorageError."""
        if id is None:
            return None
        if id not in self._known:
            with self._store.reading() as connection:
                self._known[id] = connection.execute(select(prices.c.terms).where(prices.c.id == id)).scalar()
        return self._known[id]
