"""What work costs at an offer's price.

Exactness. ``cost_pusd`` computes in whole numbers alone: for prices of at most six decimals per million tokens, which
is all that the configuration takes, it is the cost and not near it. ``cost_usd`` is the nearest double to that, with a
relative error of at most 2^-53. Added up with ``math.fsum``, such costs agree with exact arithmetic to the micro-dollar
for totals up to a hundred million dollars. Property tests hold both against ``fractions.Fraction``.
"""

from __future__ import annotations

from amaru.accounts.money import usd_of
from amaru.accounts.pricing import Rates, rates_of
from amaru.domain import Price, Usage, UsageDetails


def cost_usd(price: Price, usage: Usage) -> float:
    """Cost of one answer, in USD; see ``cost_pusd``."""
    return usd_of(cost_pusd(price, usage))


def cost_pusd(price: Price, usage: Usage) -> int:
    """Cost of one answer, in pico-dollars: every kind of token at its own price, in the tier that applies.

    Provider figures are taken with care: negative counts are cut off, and so is what the parts of a whole hold beyond
    it; the input's parts count in the order cached, cache writes, audio, images, the output's in the order reasoning,
    audio, images.
    """
    rates = rates_of(price)
    details = usage.details
    input_tokens, output_tokens = max(usage.input_tokens, 0), max(usage.output_tokens, 0)
    if rates.tiers:
        rates = rates.of(input_tokens, None if details is None else details.service_tier)
    cached_tokens = _part(usage.cached_input_tokens, input_tokens)
    uncached_tokens = input_tokens - cached_tokens
    pusd = uncached_tokens * rates.input + cached_tokens * rates.cached_input + output_tokens * rates.output
    return pusd if details is None else pusd + _beyond_plain(rates, details, uncached_tokens, output_tokens)


def _beyond_plain(rates: Rates, details: UsageDetails, input_tokens: int, output_tokens: int) -> int:
    """What the finer kinds cost beyond what as much plain input and output does; below 0 where they cost less."""
    writes = _part(details.cache_write_tokens, input_tokens)
    writes_1h = _part(details.cache_write_1h_tokens, writes)
    audio_in = _part(details.audio_input_tokens, input_tokens - writes)
    images_in = _part(details.image_input_tokens, input_tokens - writes - audio_in)
    reasoning = _part(details.reasoning_tokens, output_tokens)
    audio_out = _part(details.audio_output_tokens, output_tokens - reasoning)
    images_out = _part(details.image_output_tokens, output_tokens - reasoning - audio_out)
    return (
        (writes - writes_1h) * (rates.cache_write - rates.input)
        + writes_1h * (rates.cache_write_1h - rates.input)
        + audio_in * (rates.audio_input - rates.input)
        + images_in * (rates.image_input - rates.input)
        + reasoning * (rates.reasoning - rates.output)
        + audio_out * (rates.audio_output - rates.output)
        + images_out * (rates.image_output - rates.output)
    )


def _part(tokens: int, whole: int) -> int:
    return min(max(tokens, 0), whole)
