"""Costs, to the micro-dollar."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.accounts.cost import cost_usd
from amaru.domain import Price, Usage

MICRO_USD = Fraction(1, 1_000_000)

usd_per_mtok = st.decimals("0", "1000", places=4).map(float)
tokens = st.integers(0, 2_000_000)
prices = st.builds(
    Price,
    input_usd_per_mtok=usd_per_mtok,
    cached_input_usd_per_mtok=st.none() | usd_per_mtok,
    output_usd_per_mtok=usd_per_mtok,
)
usages = st.builds(
    lambda fresh, cached, output: Usage(fresh + cached, output, cached_input_tokens=cached), tokens, tokens, tokens
)


def exact(price: Price, usage: Usage) -> Fraction:
    cached = price.cached_input_usd_per_mtok
    cached_price = Fraction(price.input_usd_per_mtok if cached is None else cached)
    fresh = usage.input_tokens - usage.cached_input_tokens
    return (
        fresh * Fraction(price.input_usd_per_mtok)
        + usage.cached_input_tokens * cached_price
        + usage.output_tokens * Fraction(price.output_usd_per_mtok)
    ) / 1_000_000


def test_an_example_by_hand() -> None:
    price = Price(input_usd_per_mtok=2.5, cached_input_usd_per_mtok=1.25, output_usd_per_mtok=10.0)
    usage = Usage(input_tokens=1_000, output_tokens=200, cached_input_tokens=400)
    assert cost_usd(price, usage) == pytest.approx(600 * 2.5e-6 + 400 * 1.25e-6 + 200 * 10e-6, abs=1e-15)


def test_without_a_cached_price_cached_input_is_input() -> None:
    price = Price(input_usd_per_mtok=3.0)
    assert cost_usd(price, Usage(1_000_000, 0, cached_input_tokens=999_999)) == 3.0


def test_cached_input_may_be_free() -> None:
    price = Price(input_usd_per_mtok=3.0, cached_input_usd_per_mtok=0.0)
    assert cost_usd(price, Usage(1_000_000, 0, cached_input_tokens=1_000_000)) == 0.0


@pytest.mark.parametrize(
    ("usage", "as_if"),
    [
        (Usage(10, 5, cached_input_tokens=99), Usage(10, 5, cached_input_tokens=10)),
        (Usage(10, 5, cached_input_tokens=-3), Usage(10, 5)),
        (Usage(-10, -5), Usage(0, 0)),
    ],
)
def test_nonsense_from_a_provider_never_lowers_a_cost_below_zero(usage: Usage, as_if: Usage) -> None:
    price = Price(input_usd_per_mtok=3.0, cached_input_usd_per_mtok=1.0, output_usd_per_mtok=7.0)
    assert cost_usd(price, usage) == cost_usd(price, as_if) >= 0.0


@given(prices, usages)
def test_a_cost_is_right_to_fifteen_digits(price: Price, usage: Usage) -> None:
    true = exact(price, usage)
    assert abs(Fraction(cost_usd(price, usage)) - true) <= true * Fraction(1, 10**15)


@given(prices, st.lists(usages, max_size=50), st.integers(1, 200))
def test_ten_thousand_costs_add_up_to_the_micro_dollar(price: Price, some: list[Usage], repeats: int) -> None:
    costs = [cost_usd(price, usage) for usage in some] * repeats
    true = repeats * sum((exact(price, usage) for usage in some), Fraction(0))
    assert abs(Fraction(math.fsum(costs)) - true) <= max(MICRO_USD, true * Fraction(1, 10**15))
    running = Fraction(sum(costs))
    assert abs(running - true) <= max(MICRO_USD, true * len(costs) * Fraction(1, 2**52))
