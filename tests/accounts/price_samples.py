"""Prices and usages of every kind, and what they come to by Fractions alone."""

from __future__ import annotations

from fractions import Fraction

import msgspec
from hypothesis import strategies as st

from amaru.domain import Price, PriceTier, ServiceTier, Usage, UsageDetails

usd_per_mtok = st.decimals("0", "1000", places=6).map(float)
tokens = st.integers(0, 2_000_000)
maybe = st.none() | usd_per_mtok
service_tiers = st.none() | st.sampled_from(ServiceTier)

plain_prices = st.builds(
    Price, input_usd_per_mtok=usd_per_mtok, cached_input_usd_per_mtok=maybe, output_usd_per_mtok=usd_per_mtok
)
flat_prices = st.builds(
    Price,
    input_usd_per_mtok=usd_per_mtok,
    cached_input_usd_per_mtok=maybe,
    output_usd_per_mtok=usd_per_mtok,
    cache_write_usd_per_mtok=maybe,
    cache_write_1h_usd_per_mtok=maybe,
    audio_input_usd_per_mtok=maybe,
    image_input_usd_per_mtok=maybe,
    reasoning_usd_per_mtok=maybe,
    audio_output_usd_per_mtok=maybe,
    image_output_usd_per_mtok=maybe,
)
_tiers = st.lists(
    st.builds(PriceTier, flat_prices, st.sampled_from([0, 1_000, 200_000]), service_tiers),
    max_size=4,
    unique_by=lambda tier: (tier.above_input_tokens, tier.service_tier),
)
prices = st.builds(lambda price, tiers: _with_tiers(price, tuple(tiers)), flat_prices, _tiers)

plain_usages = st.builds(
    lambda fresh, cached, output: Usage(fresh + cached, output, cached_input_tokens=cached), tokens, tokens, tokens
)


def _with_tiers(price: Price, tiers: tuple[PriceTier, ...]) -> Price:
    return msgspec.structs.replace(price, tiers=tiers)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Usages whose parts fit into their wholes."""
    plain, cached, write, write_1h, audio, image = (draw(st.integers(0, 300_000)) for _ in range(6))
    text, reasoning, audio_out, image_out = (draw(st.integers(0, 100_000)) for _ in range(4))
    return Usage(
        plain + cached + write + write_1h + audio + image,
        text + reasoning + audio_out + image_out,
        cached,
        details=UsageDetails(
            cache_write_tokens=write + write_1h,
            cache_write_1h_tokens=write_1h,
            audio_input_tokens=audio,
            image_input_tokens=image,
            reasoning_tokens=reasoning,
            audio_output_tokens=audio_out,
            image_output_tokens=image_out,
            service_tier=draw(service_tiers),
        ),
    )


def exact_usd(price: Price, usage: Usage) -> Fraction:
    """The sum over the kinds of tokens, each count times what the price's decimals say."""
    details = usage.details or UsageDetails()
    fitting = [
        (tier.service_tier is not None, tier.above_input_tokens, tier.price)
        for tier in price.tiers
        if usage.input_tokens > tier.above_input_tokens and tier.service_tier in (None, details.service_tier)
    ]
    if fitting:
        price = max(fitting, key=lambda found: found[:2])[2]

    def rate(*names: str) -> Fraction:
        found = next(value for name in names if (value := getattr(price, f"{name}_usd_per_mtok")) is not None)
        return Fraction(str(found)) / 1_000_000

    writes_5m = details.cache_write_tokens - details.cache_write_1h_tokens
    inputs: dict[tuple[str, ...], int] = {
        ("cached_input", "input"): usage.cached_input_tokens,
        ("cache_write", "input"): writes_5m,
        ("cache_write_1h", "cache_write", "input"): details.cache_write_1h_tokens,
        ("audio_input", "input"): details.audio_input_tokens,
        ("image_input", "input"): details.image_input_tokens,
    }
    outputs: dict[tuple[str, ...], int] = {
        ("reasoning", "output"): details.reasoning_tokens,
        ("audio_output", "output"): details.audio_output_tokens,
        ("image_output", "output"): details.image_output_tokens,
    }
    inputs["input",] = usage.input_tokens - sum(inputs.values())
    outputs["output",] = usage.output_tokens - sum(outputs.values())
    return sum((count * rate(*names) for names, count in (inputs | outputs).items()), Fraction(0))
