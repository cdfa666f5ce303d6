"""Costs, to the pico-dollar."""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from price_samples import exact_usd, plain_prices, plain_usages, prices, usages

from amaru.accounts.cost import cost_pusd, cost_usd
from amaru.domain import Price, PriceTier, ServiceTier, Usage, UsageDetails

MICRO_USD = Fraction(1, 1_000_000)


def test_an_example_by_hand() -> None:
    price = Price(input_usd_per_mtok=2.5, cached_input_usd_per_mtok=1.25, output_usd_per_mtok=10.0)
    usage = Usage(input_tokens=1_000, output_tokens=200, cached_input_tokens=400)
    assert cost_pusd(price, usage) == 600 * 2_500_000 + 400 * 1_250_000 + 200 * 10_000_000
    assert cost_usd(price, usage) == 0.004


def test_without_a_cached_price_cached_input_is_input() -> None:
    price = Price(input_usd_per_mtok=3.0)
    assert cost_usd(price, Usage(1_000_000, 0, cached_input_tokens=999_999)) == 3.0


def test_cached_input_may_be_free() -> None:
    price = Price(input_usd_per_mtok=3.0, cached_input_usd_per_mtok=0.0)
    assert cost_usd(price, Usage(1_000_000, 0, cached_input_tokens=1_000_000)) == 0.0


PLAIN = Price(input_usd_per_mtok=3.0, output_usd_per_mtok=7.0)


@pytest.mark.parametrize(
    ("priced", "counted", "usd_per_mtok"),
    [
        ({"cache_write_usd_per_mtok": 3.75}, {"cache_write_tokens": 100}, 3.75),
        ({"cache_write_usd_per_mtok": 3.75}, {"cache_write_tokens": 100, "cache_write_1h_tokens": 100}, 3.75),
        ({"cache_write_1h_usd_per_mtok": 6.0}, {"cache_write_tokens": 100, "cache_write_1h_tokens": 100}, 6.0),
        ({"cache_write_1h_usd_per_mtok": 6.0}, {"cache_write_tokens": 100}, 3.0),
        ({"audio_input_usd_per_mtok": 40.0}, {"audio_input_tokens": 100}, 40.0),
        ({"image_input_usd_per_mtok": 0.0}, {"image_input_tokens": 100}, 0.0),
        ({"reasoning_usd_per_mtok": 2.0}, {"reasoning_tokens": 100}, 2.0),
        ({"audio_output_usd_per_mtok": 80.0}, {"audio_output_tokens": 100}, 80.0),
        ({"image_output_usd_per_mtok": 30.0}, {"image_output_tokens": 100}, 30.0),
    ],
)
def test_each_kind_of_token_has_its_price(
    priced: dict[str, float], counted: dict[str, int], usd_per_mtok: float
) -> None:
    is_output = any(name.startswith(("reasoning", "audio_output", "image_output")) for name in counted)
    details = msgspec.structs.replace(UsageDetails(), **counted)
    usage = Usage(0, 100, details=details) if is_output else Usage(100, 0, details=details)
    assert cost_pusd(msgspec.structs.replace(PLAIN, **priced), usage) == 100 * usd_per_mtok * 1_000_000
    assert cost_pusd(PLAIN, usage) == 100 * (7 if is_output else 3) * 1_000_000


LONG = PriceTier(Price(input_usd_per_mtok=6.0, output_usd_per_mtok=9.0), above_input_tokens=200)
BATCH = PriceTier(Price(input_usd_per_mtok=1.5, output_usd_per_mtok=3.5), service_tier=ServiceTier.BATCH)
LONG_BATCH = PriceTier(Price(input_usd_per_mtok=3.0), above_input_tokens=200, service_tier=ServiceTier.BATCH)


@pytest.mark.parametrize(
    ("tokens", "served", "usd_per_mtok"),
    [
        (200, None, 3.0),
        (201, None, 6.0),
        (200, ServiceTier.BATCH, 1.5),
        (201, ServiceTier.BATCH, 3.0),
        (200, ServiceTier.PRIORITY, 3.0),
        (201, ServiceTier.PRIORITY, 6.0),
    ],
)
@pytest.mark.parametrize("tiers", [(LONG, BATCH, LONG_BATCH), (LONG_BATCH, BATCH, LONG)])
def test_a_tier_holds_for_the_whole_request(
    tiers: tuple[PriceTier, ...], tokens: int, served: ServiceTier | None, usd_per_mtok: float
) -> None:
    usage = Usage(tokens, 0, cached_input_tokens=tokens - 1, details=UsageDetails(service_tier=served))
    assert cost_pusd(Price(input_usd_per_mtok=3.0, tiers=tiers), usage) == tokens * usd_per_mtok * 1_000_000


@pytest.mark.parametrize(
    ("usage", "as_if"),
    [
        (Usage(10, 5, cached_input_tokens=99), Usage(10, 5, cached_input_tokens=10)),
        (Usage(10, 5, cached_input_tokens=-3), Usage(10, 5)),
        (Usage(-10, -5), Usage(0, 0)),
        (Usage(10, 5, 8, details=UsageDetails(cache_write_tokens=9)), Usage(10, 5, 8, details=UsageDetails(2))),
        (Usage(10, 5, details=UsageDetails(4, 9)), Usage(10, 5, details=UsageDetails(4, 4))),
        (Usage(10, 5, details=UsageDetails(-4, 9)), Usage(10, 5)),
        (
            Usage(10, 5, details=UsageDetails(7, audio_input_tokens=2, image_input_tokens=9)),
            Usage(10, 5, details=UsageDetails(7, audio_input_tokens=2, image_input_tokens=1)),
        ),
        (
            Usage(10, 5, details=UsageDetails(reasoning_tokens=9)),
            Usage(10, 5, details=UsageDetails(reasoning_tokens=5)),
        ),
        (
            Usage(10, 5, details=UsageDetails(reasoning_tokens=4, audio_output_tokens=9, image_output_tokens=9)),
            Usage(10, 5, details=UsageDetails(reasoning_tokens=4, audio_output_tokens=1)),
        ),
    ],
)
def test_nonsense_from_a_provider_is_cut_off(usage: Usage, as_if: Usage) -> None:
    price = Price(3.0, 1.0, 7.0, 0.0, 11.0, 13.0, 17.0, 19.0, 23.0, 29.0, 31.0)
    assert cost_pusd(price, usage) == cost_pusd(price, as_if) >= 0


some = st.integers(-5, 20)


@given(prices, st.builds(Usage, some, some, some, details=st.builds(UsageDetails, *[some] * 7)))
def test_no_figures_make_a_cost_negative_or_dearer_than_its_dearest_kind(price: Price, usage: Usage) -> None:
    dearest = max(
        value
        for each in (price, *(tier.price for tier in price.tiers))
        for name in each.__struct_fields__
        if name.endswith("_per_mtok") and (value := getattr(each, name)) is not None
    )
    most = (max(usage.input_tokens, 0) + max(usage.output_tokens, 0)) * Fraction(str(dearest)) * 1_000_000
    assert 0 <= cost_pusd(price, usage) <= most


@given(prices, usages())
def test_a_cost_is_exact(price: Price, usage: Usage) -> None:
    true = exact_usd(price, usage)
    assert cost_pusd(price, usage) == true * 10**12
    assert cost_usd(price, usage) == float(true)


@given(plain_prices, plain_usages)
def test_a_cost_of_plain_usage_is_exact(price: Price, usage: Usage) -> None:
    assert cost_pusd(price, usage) == exact_usd(price, usage) * 10**12


@given(plain_prices, st.lists(plain_usages, max_size=50), st.integers(1, 200))
def test_ten_thousand_costs_add_up_to_the_micro_dollar(price: Price, some: list[Usage], repeats: int) -> None:
    costs = [cost_usd(price, usage) for usage in some] * repeats
    true = repeats * sum((exact_usd(price, usage) for usage in some), Fraction(0))
    assert abs(Fraction(math.fsum(costs)) - true) <= max(MICRO_USD, true * Fraction(1, 10**15))
