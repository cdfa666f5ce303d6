"""Whole-number money: rounding, amounts as people write them, and amounts as people read them."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.accounts.money import (
    MAX_AMOUNT_USD,
    NANO_PER_USD,
    format_usd,
    nusd_half_even,
    nusd_of_amount,
    nusd_up,
    usd_of,
)

amounts = st.integers(0, 10**19)


@given(amounts)
def test_reservations_round_up_and_settlements_to_the_nearest_even(pusd: int) -> None:
    exact = Fraction(pusd, 1000)
    assert nusd_up(pusd) == math.ceil(exact)
    assert nusd_half_even(pusd) == round(exact)


@pytest.mark.parametrize(("pusd", "nusd"), [(500, 0), (501, 1), (1_500, 2), (2_500, 2), (-500, 0), (-1_500, -2)])
def test_a_half_goes_to_the_even_one(pusd: int, nusd: int) -> None:
    assert nusd_half_even(pusd) == nusd


@given(amounts)
def test_dollars_are_the_nearest_double(pusd: int) -> None:
    assert usd_of(pusd) == float(Fraction(pusd, 10**12))


@given(st.integers(0, MAX_AMOUNT_USD * NANO_PER_USD))
def test_what_is_written_out_is_read_to_the_nano_dollar(nusd: int) -> None:
    whole, rest = divmod(nusd, NANO_PER_USD)
    assert nusd_of_amount(f"{whole}.{rest:09d}") == nusd


@given(st.decimals(0, 1_000_000, places=6))
def test_a_float_is_what_it_shows(amount: object) -> None:
    assert nusd_of_amount(float(str(amount))) == Fraction(str(amount)) * NANO_PER_USD


@pytest.mark.parametrize(
    ("amount", "nusd"),
    [("100", 100 * NANO_PER_USD), ("12.50", 12_500_000_000), (7, 7 * NANO_PER_USD), (0.1, 10**8), (1e-9, 1), (0, 0),
     (5.0, 5 * NANO_PER_USD), (" 1.5 ", 1_500_000_000)],
)  # fmt: skip
def test_amounts_as_people_write_them(amount: str | int | float, nusd: int) -> None:
    assert nusd_of_amount(amount) == nusd


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        ("-1", "at least 0, not -1"),
        (-0.5, "at least 0, not -0.5"),
        ("1.0000000001", "at most nine decimals"),
        (1e-10, "at most nine decimals"),
        ("9000000.01", "at most 9000000 US dollars"),
        ("$100", "write digits alone, like 100 or 12.50"),
        ("1,000", "write digits alone"),
        ("1e3", "write digits alone"),
        ("", "write digits alone"),
        ("１００", "write digits alone"),
        ("9" * 5000, "write digits alone"),
        (True, "write digits alone"),
        (math.nan, "write digits alone"),
        (math.inf, "write digits alone"),
        (None, "write digits alone"),
    ],
)
def test_an_amount_that_is_none_is_refused_in_words(amount: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        nusd_of_amount(amount)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("nusd", "shown"),
    [
        (0, "$0.00"),
        (12_300_000, "$0.0123"),
        (500_000_000, "$0.50"),
        (999_949_999, "$0.9999"),
        (999_960_000, "$1.00"),
        (1, "$0.000000001"),
        (1_234, "$0.000001234"),
        (1_005_000_000, "$1.00"),
        (1_015_000_000, "$1.02"),
        (1_234_567_890_000_000, "$1,234,567.89"),
        (-250_000_000, "-$0.25"),
    ],
)
def test_amounts_as_people_read_them(nusd: int, shown: str) -> None:
    assert format_usd(nusd) == shown


@given(st.integers(1, 10**18))
def test_what_is_shown_is_near(nusd: int) -> None:
    shown = Fraction(format_usd(nusd).removeprefix("$").replace(",", "")) * NANO_PER_USD
    assert abs(shown - nusd) <= (5_000_000 if nusd >= NANO_PER_USD else Fraction(nusd, 1000))
