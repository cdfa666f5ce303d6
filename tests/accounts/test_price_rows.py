"""Prices in the store: kept once, never changed, and also those that the configuration has no more."""

from __future__ import annotations

from sqlalchemy import select

from amaru.accounts.price_rows import keep_prices
from amaru.accounts.pricing import DatedPrice, PriceBook
from amaru.accounts.schema import prices
from amaru.accounts.store import Store
from amaru.domain import Price

OLD, NEW = Price(input_usd_per_mtok=1.0), Price(input_usd_per_mtok=2.0)


def kept(store: Store) -> list[tuple[object, ...]]:
    columns = (prices.c.offer, prices.c.provider, prices.c.valid_from, prices.c.valid_until, prices.c.created_at)
    with store.reading() as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(prices.c.valid_from))]


def test_a_price_stays_known_and_ends_where_the_next_begins(store: Store) -> None:
    first = PriceBook({"a/chat": [DatedPrice(0.0, OLD)]})
    keep_prices(store, first.records(), {"a/chat": "a"}, 100.0)
    assert kept(store) == [("a/chat", "a", 0.0, None, 100.0)]
    both = PriceBook({"a/chat": [DatedPrice(0.0, OLD), DatedPrice(500.0, NEW)]})
    keep_prices(store, both.records(), {"a/chat": "a"}, 200.0)
    keep_prices(store, both.records(), {"a/chat": "a"}, 300.0)
    assert kept(store) == [("a/chat", "a", 0.0, 500.0, 100.0), ("a/chat", "a", 500.0, None, 200.0)]
    with store.reading() as connection:
        ids = set(connection.execute(select(prices.c.id)).scalars())
    assert ids == {record.id for record in both.records()}
