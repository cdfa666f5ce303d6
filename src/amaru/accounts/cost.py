"""What work costs at an offer's price.

Exactness. Each cost is a double with a relative error below 1e-15. Added up with ``math.fsum``, costs agree with exact
arithmetic to the micro-dollar for totals up to a hundred million dollars. A plain running sum of n costs is off by at
most n·2^-53 of the total: a million costs stay within a micro-dollar up to some nine thousand dollars. Property tests
hold both against ``fractions.Fraction``.
"""

from __future__ import annotations

from amaru.domain import Price, Usage

TOKENS_PER_PRICE = 1e6
"""Token prices are per million tokens."""


def cost_usd(price: Price, usage: Usage) -> float:
    """Cost of one answer, in USD; cached input at its own price where the offer has one.

    Provider figures are taken with care: cached input beyond the input, and negative counts, are cut off.
    """
    input_tokens = max(usage.input_tokens, 0)
    cached_tokens = min(max(usage.cached_input_tokens, 0), input_tokens)
    cached_price = price.cached_input_usd_per_mtok
    if cached_price is None:
        cached_price = price.input_usd_per_mtok
    return (
        (input_tokens - cached_tokens) * price.input_usd_per_mtok
        + cached_tokens * cached_price
        + max(usage.output_tokens, 0) * price.output_usd_per_mtok
    ) / TOKENS_PER_PRICE
