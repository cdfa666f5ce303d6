"""Prices as whole numbers, and which price of an offer was valid when.

A price never changes: where an offer's price does, another one is valid from then on, and a charge names the one that
it was made at by an id, the digest of whose it is, since when, and what it says.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from amaru.accounts.money import PICO_PER_USD
from amaru.domain import Offer, Price, PriceTier, ServiceTier

TOKENS_PER_PRICE = 10**6
"""Token prices are per million tokens."""
_PICO_PER_PRICE = PICO_PER_USD // TOKENS_PER_PRICE


class Rates(Struct, frozen=True, gc=False):
    """A price in pico-dollars per token, every kind of token spelled out."""

    input: int
    cached_input: int
    cache_write: int
    cache_write_1h: int
    audio_input: int
    image_input: int
    output: int
    reasoning: int
    audio_output: int
    image_output: int
    tiers: tuple[RateTier, ...] = ()
    """Those that outrank others first: the service tiers', then those of longer prompts."""

    def of(self, input_tokens: int, service_tier: ServiceTier | None) -> Rates:
        """Those of a request with so much input, served in that tier."""
        for tier in self.tiers:
            if input_tokens > tier.above_input_tokens and tier.service_tier in (None, service_tier):
                return tier.rates
        return self


class RateTier(Struct, frozen=True, gc=False):
    """As ``PriceTier``."""

    rates: Rates
    above_input_tokens: int
    service_tier: ServiceTier | None


@functools.lru_cache(maxsize=4096)
def rates_of(price: Price) -> Rates:
    """What ``price`` says, in whole numbers; exact where its prices have at most six decimals."""
    return msgspec.structs.replace(
        _rates(price),
        tiers=tuple(
            RateTier(_rates(tier.price), tier.above_input_tokens, tier.service_tier)
            for tier in sorted(price.tiers, key=_rank)
        ),
    )


def _rank(tier: PriceTier) -> tuple[bool, int]:
    return tier.service_tier is None, -tier.above_input_tokens


def _rates(price: Price) -> Rates:
    input, output = _pico(price.input_usd_per_mtok), _pico(price.output_usd_per_mtok)
    cache_write = _pico(price.cache_write_usd_per_mtok, input)
    return Rates(
        input=input,
        cached_input=_pico(price.cached_input_usd_per_mtok, input),
        cache_write=cache_write,
        cache_write_1h=_pico(price.cache_write_1h_usd_per_mtok, cache_write),
        audio_input=_pico(price.audio_input_usd_per_mtok, input),
        image_input=_pico(price.image_input_usd_per_mtok, input),
        output=output,
        reasoning=_pico(price.reasoning_usd_per_mtok, output),
        audio_output=_pico(price.audio_output_usd_per_mtok, output),
        image_output=_pico(price.image_output_usd_per_mtok, output),
    )


def _pico(usd_per_mtok: float | None, otherwise: int = 0) -> int:
    """The nearest whole number of pico-dollars per token."""
    return otherwise if usd_per_mtok is None else round(usd_per_mtok * _PICO_PER_PRICE)


class DatedPrice(Struct, frozen=True, gc=False):
    """A price, valid from an instant (Unix seconds) until the next one of its offer."""

    valid_from: float
    price: Price


class PriceRecord(Struct, frozen=True, gc=False):
    """A price as it is kept, so that a charge can refer to it by its id."""

    id: str
    """16 hex digits of the SHA-256 of all below but ``valid_until``: whatever changes, the id does."""
    offer: str
    valid_from: float
    """Unix seconds; 0: from the beginning."""
    valid_until: float | None
    """``None``: nothing follows it yet."""
    terms: str
    """What the price says: JSON of ``domain.Price``."""


def price_json(price: Price) -> bytes:
    """What a price says, the same bytes for the same price; what is 0 or not priced is left out."""
    return msgspec.json.encode(_told(price, Price()))


def _told(said: Price | PriceTier, untold: Price | PriceTier) -> dict[str, object]:
    """The fields that say something, so that a kind of price to come changes no price's bytes."""
    told = {name: value for name in said.__struct_fields__ if (value := getattr(said, name)) != getattr(untold, name)}
    if isinstance(said, Price) and said.tiers:
        told["tiers"] = [
            {**_told(tier, PriceTier(Price())), "price": _told(tier.price, Price())} for tier in said.tiers
        ]
    return told


class PriceBook:
    """Every price of each offer, by its id, with the dates from which they are valid.

    Parameters
    ----------
    prices
        By offer; at least one each, their dates rising. The first is valid before its date as well.
    """

    def __init__(self, prices: Mapping[str, Sequence[DatedPrice]]) -> None:
        self._prices = {offer: tuple(dated) for offer, dated in prices.items()}
        self._records = {offer: _records(offer, dated) for offer, dated in self._prices.items()}
        self._dates = sorted({each.valid_from for dated in self._prices.values() for each in dated[1:]})

    def price_at(self, offer: str, at: float) -> Price:
        """The price of an offer that is valid at an instant (Unix seconds); ``KeyError``: no such offer."""
        return self._prices[offer][self._place(offer, at)].price

    def record_at(self, offer: str, at: float) -> PriceRecord:
        """The record of that price, by whose id a charge names it."""
        return self._records[offer][self._place(offer, at)]

    def offers_at(self, offers: Iterable[Offer], at: float) -> tuple[Offer, ...]:
        """The offers at the prices that are valid at an instant."""
        return tuple(msgspec.structs.replace(offer, price=self.price_at(offer.id, at)) for offer in offers)

    def next_change(self, at: float) -> float:
        """The first instant after ``at`` from which some offer has another price; ``inf``: none has."""
        place = bisect.bisect_right(self._dates, at)
        return self._dates[place] if place < len(self._dates) else math.inf

    def records(self) -> tuple[PriceRecord, ...]:
        """Every price, to be kept."""
        return tuple(record for records in self._records.values() for record in records)

    def _place(self, offer: str, at: float) -> int:
        return max(bisect.bisect_right(self._prices[offer], at, key=_valid_from) - 1, 0)


def _records(offer: str, dated: Sequence[DatedPrice]) -> tuple[PriceRecord, ...]:
    ends = [*(each.valid_from for each in dated[1:]), None]
    return tuple(_record(offer, each, until) for each, until in zip(dated, ends, strict=True))


def _record(offer: str, dated: DatedPrice, valid_until: float | None) -> PriceRecord:
    terms = price_json(dated.price).decode()
    named = msgspec.json.encode([offer, dated.valid_from, terms])
    return PriceRecord(hashlib.sha256(named).hexdigest()[:16], offer, dated.valid_from, valid_until, terms)


def _valid_from(dated: DatedPrice) -> float:
    return dated.valid_from
