"""Which price was valid when, and by what a charge names it."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from price_samples import prices

from amaru.accounts.pricing import DatedPrice, PriceBook, price_json
from amaru.domain import Offer, Price, PriceTier

OLD, NEW, LATER = (Price(input_usd_per_mtok=usd) for usd in (3.0, 2.0, 1.0))
BOOK = PriceBook({
    "a/m": [DatedPrice(100.0, OLD), DatedPrice(200.0, NEW), DatedPrice(300.0, LATER)],
    "b/m": [DatedPrice(0.0, OLD)],
    "c/m": [DatedPrice(0.0, NEW), DatedPrice(250.0, OLD)],
})  # fmt: skip


@pytest.mark.parametrize(
    ("at", "price"), [(0.0, OLD), (100.0, OLD), (199.9, OLD), (200.0, NEW), (299.9, NEW), (300.0, LATER), (9e9, LATER)]
)
def test_a_price_holds_from_its_date_until_the_next(at: float, price: Price) -> None:
    assert BOOK.price_at("a/m", at) == price
    assert BOOK.price_at("b/m", at) == OLD


def test_an_offer_without_prices_is_unknown() -> None:
    with pytest.raises(KeyError):
        BOOK.price_at("nobody/m", 0.0)


@pytest.mark.parametrize(("at", "change"), [(0.0, 200.0), (199.9, 200.0), (200.0, 250.0), (250.0, 300.0)])
def test_the_next_change_is_the_first_of_any_offer(at: float, change: float) -> None:
    assert BOOK.next_change(at) == change


def test_after_the_last_change_there_is_none() -> None:
    assert BOOK.next_change(300.0) == math.inf


def test_offers_come_at_the_prices_of_the_time() -> None:
    offers = [Offer(id=f"{provider}/m", provider=provider, resource="m", model="m") for provider in "ac"]
    assert [offer.price for offer in BOOK.offers_at(offers, 210.0)] == [NEW, NEW]
    assert [offer.price for offer in BOOK.offers_at(offers, 260.0)] == [NEW, OLD]


def test_records_hold_every_price_and_no_two_share_an_id() -> None:
    records = BOOK.records()
    assert [(record.offer, record.valid_from, record.valid_until) for record in records] == [
        ("a/m", 100.0, 200.0), ("a/m", 200.0, 300.0), ("a/m", 300.0, None),
        ("b/m", 0.0, None), ("c/m", 0.0, 250.0), ("c/m", 250.0, None),
    ]  # fmt: skip
    assert len({record.id for record in records}) == len(records)
    assert records[0].terms == '{"input_usd_per_mtok":3.0}'


@pytest.mark.parametrize(("at", "place"), [(0.0, 0), (199.9, 0), (200.0, 1), (300.0, 2)])
def test_a_charge_names_the_record_of_the_price_of_its_time(at: float, place: int) -> None:
    assert BOOK.record_at("a/m", at) == BOOK.records()[place]


def test_an_id_changes_with_the_price_and_not_with_what_follows_it() -> None:
    alone, followed, edited = (
        PriceBook({"a/m": dated}).records()[0].id
        for dated in ([DatedPrice(0.0, OLD)], [DatedPrice(0.0, OLD), DatedPrice(9.0, NEW)], [DatedPrice(0.0, NEW)])
    )
    assert alone == followed != edited


def test_what_is_free_is_left_out_wherever_it_stands() -> None:
    free = float("0")  # equal to the default, and another object
    price = Price(3.0, usd_per_gpu_hour=free, tiers=(PriceTier(Price(free, output_usd_per_mtok=1.0), 5),))
    told = b'{"input_usd_per_mtok":3.0,"tiers":[{"price":{"output_usd_per_mtok":1.0},"above_input_tokens":5}]}'
    assert price_json(price) == told


def test_an_id_outlives_the_process_and_kinds_of_price_to_come() -> None:
    # What is not priced is left out of the digest, so a field that is added later changes no id.
    book = PriceBook({"a/m": [DatedPrice(0.0, Price(input_usd_per_mtok=0.15, output_usd_per_mtok=0.6))]})
    assert book.records()[0].id == "60b89664e44c57f7"


@given(prices, prices)
def test_a_price_is_read_back_from_what_it_says(price: Price, other: Price) -> None:
    assert msgspec.json.decode(price_json(price), type=Price) == price
    assert (price_json(price) == price_json(other)) == (price == other)
