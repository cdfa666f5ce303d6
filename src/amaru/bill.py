"""The words of a bill: what an offer charges, and what was used. A part of the language, see ``domain``."""

from __future__ import annotations

import enum

import msgspec


class Provenance(enum.StrEnum):
    """Where a figure came from (law 1)."""

    PROVIDER = "provider"
    """The provider reported it."""
    COUNTED = "counted"
    """We counted it with the model's own vocabulary, or counted what was delivered."""
    ESTIMATED = "estimated"
    """We estimated it from sizes."""


class ServiceTier(enum.StrEnum):
    """How urgently a provider served a request, where that changes its price."""

    FLEX = "flex"
    """When there is room."""
    PRIORITY = "priority"
    """Before others."""
    BATCH = "batch"
    """Within a day."""


class Price(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """What one offer charges. Token prices are USD per million tokens; a GPU price is USD per GPU-hour.

    A kind of token without a price of its own costs what the kind that it is a part of costs (see ``Usage``).
    """

    input_usd_per_mtok: float = 0.0
    cached_input_usd_per_mtok: float | None = None
    """``None``: cached input costs what input costs."""
    output_usd_per_mtok: float = 0.0
    usd_per_gpu_hour: float = 0.0
    cache_write_usd_per_mtok: float | None = None
    """Input that the provider's cache takes up; ``None``: what input costs."""
    cache_write_1h_usd_per_mtok: float | None = None
    """The same, to be kept for an hour; ``None``: what other cache writes cost."""
    audio_input_usd_per_mtok: float | None = None
    image_input_usd_per_mtok: float | None = None
    reasoning_usd_per_mtok: float | None = None
    """``None``: what output costs."""
    audio_output_usd_per_mtok: float | None = None
    image_output_usd_per_mtok: float | None = None
    tiers: tuple[PriceTier, ...] = ()
    """Other prices for some requests."""


class PriceTier(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """The price of a whole request that is longer than usual, or that was served in another service tier.

    Of the tiers that fit a request, those of its service tier go before the others, and then the one of the longest
    prompt applies. A request in a service tier that has no price is charged as any other.
    """

    price: Price
    """Its own ``tiers`` are of no meaning."""
    above_input_tokens: int = 0
    """It holds for requests with more input tokens than this, cached ones included."""
    service_tier: ServiceTier | None = None
    """``None``: the usual one."""


class UsageDetails(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The finer kinds of tokens of one attempt, where its provider told them. As JSON, what is 0 is left out.

    Kinds of input are parts of ``Usage.input_tokens``, none of them cached input; kinds of output are parts of
    ``Usage.output_tokens``. No token is in two of them, but for ``cache_write_1h_tokens``.
    """

    cache_write_tokens: int = 0
    """Input that the provider's cache took up, for however long."""
    cache_write_1h_tokens: int = 0
    """The part of ``cache_write_tokens`` that is kept for an hour; the rest is kept for minutes."""
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    reasoning_tokens: int = 0
    """Output that was thought before the answer, whether the caller saw it or not."""
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    service_tier: ServiceTier | None = None
    """In which it was served; ``None``: the usual one, or unknown."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one attempt. ``cached_input_tokens`` are a part of ``input_tokens``.

    ``output_tokens`` is all that was generated, reasoning included.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    source: Provenance = Provenance.PROVIDER
    details: UsageDetails | None = None
    """``None``: all of it is plain text, as far as the provider told."""
