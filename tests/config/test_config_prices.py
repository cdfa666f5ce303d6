"""Prices in amaru.yaml: every kind of token, tiers, dates, and what is refused."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime

import pytest

from amaru.accounts.cost import cost_pusd
from amaru.config import effective, warnings
from amaru.config.load import parse
from amaru.config.settings import Config
from amaru.domain import Price, ServiceTier, Usage, UsageDetails
from amaru.errors import ConfigError

HEAD = "version: 1\nserver: {auth: none}\nproviders: {a: {base_url: 'http://127.0.0.1:1/v1'}}\noffers:\n"


def config(offer: str) -> Config:
    return parse(HEAD + textwrap.indent(textwrap.dedent(offer), "  "), env={})


def price_of(offer: str) -> Price:
    return config(offer).offers()[0].price


def problems(offer: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        config(offer)
    return [line.partition(": offers[0].")[2] for line in refused.value.problems]


def at(year: int, month: int, day: int, hour: int = 0) -> float:
    return datetime(year, month, day, hour, tzinfo=UTC).timestamp()


NO_OUTPUT = "output_usd_per_mtok is missing — write the price of a million output tokens, or 0 if it is free"
NO_DATE = "not a date — write it like 2026-01-01, or 2026-01-01T09:00:00Z; without a zone it is UTC"
NOT_HERE = "is missing, which the usual price names — write what it costs here, also where it is the same"
FREE = "input_usd_per_mtok: 0, output_usd_per_mtok: 0"


def test_every_kind_of_token_may_have_a_price() -> None:
    price = price_of("""
      - provider: a
        resource: m
        price:
          input_usd_per_mtok: 3
          cached_input_usd_per_mtok: 0.3
          output_usd_per_mtok: 15
          cache_write_usd_per_mtok: 3.75
          cache_write_1h_usd_per_mtok: 6
          audio_input_usd_per_mtok: 40
          image_input_usd_per_mtok: 5
          reasoning_usd_per_mtok: 15.5
          audio_output_usd_per_mtok: 80
          image_output_usd_per_mtok: 0.000001
    """)
    assert price == Price(3.0, 0.3, 15.0, 0.0, 3.75, 6.0, 40.0, 5.0, 15.5, 80.0, 0.000001)


TIERED = """
  - provider: a
    resource: m
    price:
      input_usd_per_mtok: 2
      output_usd_per_mtok: 12
      tiers:
        - {above_input_tokens: 200000, price: {input_usd_per_mtok: 4, output_usd_per_mtok: 18}}
        - {service_tier: batch, factor: 0.5}
        - {service_tier: flex, above_input_tokens: 300000, factor: 0.1}
        - {service_tier: priority, price: {input_usd_per_mtok: 7, output_usd_per_mtok: 24}}
"""


@pytest.mark.parametrize(
    ("tokens", "served", "usd_per_mtok"),
    [
        (200_000, None, 2), (200_001, None, 4),
        (200_000, ServiceTier.BATCH, 1), (200_001, ServiceTier.BATCH, 2),
        (300_000, ServiceTier.FLEX, 4), (300_001, ServiceTier.FLEX, 0.4), (100, ServiceTier.FLEX, 2),
        (100, ServiceTier.PRIORITY, 7), (900_000, ServiceTier.PRIORITY, 7),
    ],
)  # fmt: skip
def test_a_tier_has_a_price_or_a_factor(tokens: int, served: ServiceTier | None, usd_per_mtok: float) -> None:
    usage = Usage(tokens, 0, details=UsageDetails(service_tier=served))
    assert cost_pusd(price_of(TIERED), usage) == tokens * round(usd_per_mtok * 1_000_000)


def test_a_factor_is_exact_in_decimals() -> None:
    tiers = "tiers: [{service_tier: flex, factor: 3}]"
    price = price_of(
        f"- {{provider: a, resource: m, price: {{input_usd_per_mtok: 0.1, output_usd_per_mtok: 1, {tiers}}}}}"
    )
    assert price.tiers[0].price == Price(0.3, output_usd_per_mtok=3.0)


DATED = """
  - provider: a
    resource: m
    prices:
      - {from: 2026-01-01, input_usd_per_mtok: 3, output_usd_per_mtok: 15}
      - {from: "2026-07-01T12:00:00+02:00", input_usd_per_mtok: 2, output_usd_per_mtok: 10}
"""


def test_prices_hold_from_their_dates_on() -> None:
    settings = config(DATED)
    change = at(2026, 7, 1, 10)
    for when, usd in [(at(2025, 1, 1), 3.0), (at(2026, 1, 1), 3.0), (change - 1, 3.0), (change, 2.0)]:
        assert settings.prices.price_at("a/m", when).input_usd_per_mtok == usd
        assert settings.prices.offers_at(settings.offers(), when)[0].price.input_usd_per_mtok == usd
    assert settings.prices.next_change(at(2025, 1, 1)) == change
    assert [record.valid_from for record in settings.prices.records()] == [at(2026, 1, 1), change]


def test_the_effective_settings_name_dates_as_the_file_does() -> None:
    assert effective(config(DATED))["offers"][0]["prices"][0]["from"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("prices", "found"),
    [
        ("", ["price: missing — write price: {input_usd_per_mtok: 0.15, output_usd_per_mtok: 0.6}"]),
        (
            ", price: {input_usd_per_mtok: 0.0000001, output_usd_per_mtok: 1}",
            ["price.input_usd_per_mtok: has more than 6 decimals — round it: bills are kept to 1e-12 USD a token"],
        ),
        (
            f", price: {{{FREE}}}, prices: [{{from: 2026-01-01, {FREE}}}]",
            ["prices: stands beside price — move what price says into the list, with its date"],
        ),
        (", prices: []", ["prices: is empty — give a value, or remove the line"]),
        (
            ", prices: [{from: 2026-01-01, input_usd_per_mtok: 1}, {from: 2026-01-01, input_usd_per_mtok: 1}]",
            [
                f"prices[0]: {NO_OUTPUT}",
                f"prices[1]: {NO_OUTPUT}",
                "prices[1].from: not after the one before it — write them in the order of their dates",
            ],
        ),
        (
            ", prices: [{from: 2026, input_usd_per_mtok: 1}]",
            [f"prices[0].from: {NO_DATE}"],
        ),
        (
            ", prices: [{form: 2026-01-01}]",
            [
                "prices[0].from: missing — write from: 2026-01-01",
                'prices[0].form: unknown field — did you mean "from"?',
            ],
        ),
    ],
)
def test_prices_that_do_not_agree_are_named(prices: str, found: list[str]) -> None:
    assert sorted(problems(f"- {{provider: a, resource: m{prices}}}")) == sorted(found)


@pytest.mark.parametrize(
    ("tiers", "found"),
    [
        ("{factor: 2}", ["[0]: holds for every request — say for which: above_input_tokens, service_tier, or both"]),
        ("{service_tier: flex}", ["[0]: needs either a price or a factor — write one of them"]),
        (
            "{service_tier: flex, factor: 1, price: {input_usd_per_mtok: 1}}",
            ["[0]: needs either a price or a factor — write one of them"],
        ),
        (
            "{service_tier: flex, factor: 1}, {service_tier: flex, factor: 2}",
            ["[1]: tiers[0] is for the same requests — remove one of the two"],
        ),
        (
            "{above_input_tokens: 5, price: {input_usd_per_mtok: 1}}",
            [f"[0].price: output_usd_per_mtok {NOT_HERE}"],
        ),
        (
            "{service_tier: flex, factor: 0.1}",
            ["[0].factor: makes a price with more than 6 decimals — write the price instead, rounded"],
        ),
        ("{service_tier: slow, factor: 1}", ['[0].service_tier: not one of flex, priority, batch: "slow"']),
    ],
)
def test_tiers_that_do_not_agree_are_named(tiers: str, found: list[str]) -> None:
    price = f"{{input_usd_per_mtok: 0.000001, output_usd_per_mtok: 1, tiers: [{tiers}]}}"
    told = problems(f"- {{provider: a, resource: m, price: {price}}}")
    assert told == ["price.tiers" + each for each in found]


@pytest.mark.parametrize(("told", "warned"), [("", True), ("max_output_tokens: 9", False)])
def test_who_does_not_tell_how_long_answers_get_is_told_what_is_reserved(told: str, warned: bool) -> None:
    free = "price: {input_usd_per_mtok: 0, output_usd_per_mtok: 0}"
    found = warnings(config(f"- {{provider: a, resource: m, {free}, {told}}}"))
    line = (
        "offers[0].max_output_tokens: not told, so 131,072 output tokens are reserved for each request without a limit"
    )
    assert (line in found) is warned
