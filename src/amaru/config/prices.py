"""The shape of an offer's prices, what must agree within them, and the domain's prices that they amount to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from amaru.accounts.pricing import DatedPrice
from amaru.domain import Kind, Price, PriceTier, ServiceTier
from amaru.files.fields import Section, UsdPerMtok, mistake
from amaru.files.problems import Loc, Problem

MAX_DECIMALS = 6
"""Of a price per million tokens: a token then costs a whole number of pico-dollars, and sums are exact."""
_EXAMPLE = "{input_usd_per_mtok: 0.15, output_usd_per_mtok: 0.6}"
_TOKEN_KINDS = frozenset({Kind.CHAT, Kind.COMPLETION, Kind.EMBEDDING})


def _is_fine(usd: float) -> bool:
    exponent = Decimal(repr(usd)).as_tuple().exponent
    return isinstance(exponent, int) and -exponent > MAX_DECIMALS


def _exact(usd: float) -> float:
    if _is_fine(usd):
        raise mistake(f"has more than {MAX_DECIMALS} decimals", "round it: bills are kept to 1e-12 USD a token")
    return usd


def _instant(value: object) -> datetime:
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d", value):
        try:
            read = datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    raise mistake("not a date", "write it like 2026-01-01, or 2026-01-01T09:00:00Z; without a zone it is UTC")


_Exact = Annotated[UsdPerMtok, AfterValidator(_exact)]
_Instant = Annotated[datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string"})]


class TokenPriceSettings(Section):
    """Prices in USD per million tokens, with up to six decimals."""

    input_usd_per_mtok: _Exact | None = Field(default=None, description="Per million input tokens.", examples=[0.15])
    cached_input_usd_per_mtok: _Exact | None = Field(
        default=None, description="Per million input tokens that the provider had cached; left out: what input costs."
    )
    output_usd_per_mtok: _Exact | None = Field(default=None, description="Per million output tokens.", examples=[0.6])
    cache_write_usd_per_mtok: _Exact | None = Field(
        default=None,
        description="Per million input tokens that the provider's cache takes up; left out: what input costs.",
    )
    cache_write_1h_usd_per_mtok: _Exact | None = Field(
        default=None, description="The same, where it keeps them for an hour; left out: what other cache writes cost."
    )
    audio_input_usd_per_mtok: _Exact | None = Field(
        default=None, description="Per million input tokens of sound; left out: what input costs."
    )
    image_input_usd_per_mtok: _Exact | None = Field(
        default=None, description="Per million input tokens of images; left out: what input costs."
    )
    reasoning_usd_per_mtok: _Exact | None = Field(
        default=None, description="Per million tokens of reasoning; left out: what output costs."
    )
    audio_output_usd_per_mtok: _Exact | None = Field(
        default=None, description="Per million output tokens of sound; left out: what output costs."
    )
    image_output_usd_per_mtok: _Exact | None = Field(
        default=None, description="Per million output tokens of images; left out: what output costs."
    )


class PriceTierSettings(Section):
    """Another price, for the whole of each request that is longer than usual, or served in another service tier."""

    above_input_tokens: int = Field(
        default=0, ge=0, description="For requests with more input tokens than this, cached ones included."
    )
    service_tier: ServiceTier | None = Field(
        default=None, description="For requests that the provider says it served in this tier."
    )
    price: TokenPriceSettings | None = Field(
        default=None, description="What is charged then.", examples=["{input_usd_per_mtok: 4, output_usd_per_mtok: 18}"]
    )
    factor: float | None = Field(
        default=None, gt=0, le=100, description="Or: so many times what would be charged otherwise.", examples=[0.5]
    )


class OfferPriceSettings(TokenPriceSettings):
    """What an offer charges. Token prices are USD per million tokens, with up to six decimals. A free offer says 0."""

    usd_per_gpu_hour: Annotated[float, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="Per GPU-hour, for offers of kind gpu_job.", examples=[2.49]
    )
    tiers: tuple[PriceTierSettings, ...] = Field(
        default=(), max_length=32, description="Other prices, for long prompts and for other service tiers."
    )


class DatedPriceSettings(OfferPriceSettings):
    """What an offer charges from a date on."""

    valid_from: _Instant = Field(
        alias="from", description="Since when, in UTC; until the next one's.", examples=["2026-01-01"]
    )


# ---- what must agree ------------------------------------------------------------------------------------------------


def check_prices(
    loc: Loc,
    kinds: tuple[Kind, ...],
    price: OfferPriceSettings | None,
    prices: tuple[DatedPriceSettings, ...] | None,
) -> Iterable[Problem]:
    """Every mistake in an offer's prices that needs more than one field to see; ``loc`` is the offer's place."""
    if price is not None and prices is not None:
        yield Problem((*loc, "prices"), "stands beside price", "move what price says into the list, with its date")
    elif price is not None:
        yield from _check_price((*loc, "price"), kinds, price)
    elif prices is None:
        what = "{usd_per_gpu_hour: 2.49}" if Kind.GPU_JOB in kinds else _EXAMPLE
        yield Problem((*loc, "price"), "missing", f"write price: {what}")
    for index, dated in enumerate(prices or ()):
        at: Loc = (*loc, "prices", index)
        yield from _check_price(at, kinds, dated)
        if prices and index and dated.valid_from <= prices[index - 1].valid_from:
            yield Problem((*at, "from"), "not after the one before it", "write them in the order of their dates")


def _check_price(loc: Loc, kinds: tuple[Kind, ...], price: OfferPriceSettings) -> Iterable[Problem]:
    free = "or 0 if it is free"
    for_gpu, for_tokens = Kind.GPU_JOB in kinds, not _TOKEN_KINDS.isdisjoint(kinds)
    if for_gpu and price.usd_per_gpu_hour is None:
        yield Problem(loc, "gpu_job needs usd_per_gpu_hour", f"write price: {{usd_per_gpu_hour: 2.49}}, {free}")
    if not for_gpu and price.usd_per_gpu_hour is not None:
        yield Problem(
            (*loc, "usd_per_gpu_hour"),
            f"a price per GPU-hour, but kinds is {', '.join(kinds)}",
            "write kinds: [gpu_job], or prices per million tokens",
        )
    if for_tokens and price.input_usd_per_mtok is None:
        yield Problem(loc, "input_usd_per_mtok is missing", f"write the price of a million input tokens, {free}")
    if {Kind.CHAT, Kind.COMPLETION} & set(kinds) and price.output_usd_per_mtok is None:
        yield Problem(loc, "output_usd_per_mtok is missing", f"write the price of a million output tokens, {free}")
    if not for_tokens:
        for name in _named(price):
            what = "a price of tokens, but gpu_job is charged per GPU-hour"
            yield Problem((*loc, name), what, "remove the line, or add the kind of work that uses tokens")
    yield from _check_tiers((*loc, "tiers"), price)


def _check_tiers(loc: Loc, price: OfferPriceSettings) -> Iterable[Problem]:
    seen: dict[tuple[int, ServiceTier | None], int] = {}
    for index, tier in enumerate(price.tiers):
        at: Loc = (*loc, index)
        key = (tier.above_input_tokens, tier.service_tier)
        if key == (0, None):
            yield Problem(at, "holds for every request", "say for which: above_input_tokens, service_tier, or both")
        elif key in seen:
            yield Problem(at, f"tiers[{seen[key]}] is for the same requests", "remove one of the two")
        seen.setdefault(key, index)
        if (tier.price is None) is (tier.factor is None):
            yield Problem(at, "needs either a price or a factor", "write one of them")
        elif tier.price is not None:
            left_out = [name for name in _named(price) if getattr(tier.price, name) is None]
            if left_out:
                what = f"{left_out[0]} is missing, which the usual price names"
                yield Problem((*at, "price"), what, "write what it costs here, also where it is the same")
        elif tier.factor is not None and any(
            _is_fine(usd)
            for usual in _usual(price).values()
            for usd in _token_prices(_times(usual, tier.factor)).values()
        ):
            what = f"makes a price with more than {MAX_DECIMALS} decimals"
            yield Problem((*at, "factor"), what, "write the price instead, rounded")


def _named(price: TokenPriceSettings) -> list[str]:
    return [name for name in TokenPriceSettings.model_fields if getattr(price, name) is not None]


# ---- what they amount to --------------------------------------------------------------------------------------------


def dated_prices(
    price: OfferPriceSettings | None, prices: tuple[DatedPriceSettings, ...] | None
) -> tuple[DatedPrice, ...]:
    """The domain's prices: those with dates, or the one that always holds."""
    if prices:
        return tuple(DatedPrice(each.valid_from.timestamp(), _price(each)) for each in prices)
    return (DatedPrice(0.0, Price() if price is None else _price(price)),)


def _price(settings: OfferPriceSettings) -> Price:
    usual = _usual(settings)
    tiers: dict[tuple[ServiceTier | None, int], Price] = {(None, above): usual[above] for above in usual if above}
    for tier in settings.tiers:
        if tier.service_tier is not None and tier.factor is not None:
            for above, price in usual.items():  # rising: of those up to its own length, the last is the one that holds
                key = (tier.service_tier, max(above, tier.above_input_tokens))
                tiers[key] = _times(price, tier.factor)
    for tier in settings.tiers:
        if tier.service_tier is not None and tier.price is not None:
            tiers[tier.service_tier, tier.above_input_tokens] = _flat(tier.price)
    return msgspec.structs.replace(
        usual[0],
        usd_per_gpu_hour=settings.usd_per_gpu_hour or 0.0,
        tiers=tuple(PriceTier(price, above, service) for (service, above), price in tiers.items()),
    )


def _usual(settings: OfferPriceSettings) -> dict[int, Price]:
    """By number of input tokens above which they hold, rising: the prices outside of service tiers."""
    found = {0: _flat(settings)}
    for tier in sorted(settings.tiers, key=lambda tier: tier.above_input_tokens):
        if tier.service_tier is None:
            price = _times(found[0], tier.factor or 1.0) if tier.price is None else _flat(tier.price)
            found.setdefault(tier.above_input_tokens, price)
    return found


def _flat(settings: TokenPriceSettings) -> Price:
    return Price(**{name: getattr(settings, name) for name in _named(settings)})


def _times(price: Price, factor: float) -> Price:
    """In decimals: three times 0.1 is 0.3."""
    exact = Decimal(repr(factor))
    times = {name: float(Decimal(repr(usd)) * exact) for name, usd in _token_prices(price).items()}
    return msgspec.structs.replace(price, **times)


def _token_prices(price: Price) -> dict[str, float]:
    return {name: usd for name in TokenPriceSettings.model_fields if (usd := getattr(price, name)) is not None}
