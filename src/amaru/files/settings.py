"""Settings that several kinds of file have: an offer's price and abilities, a tenant's preferences and limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from amaru.domain import Capability
from amaru.files.fields import Milliseconds, Region, Section, UsdPerMtok, Weight


class PriceSettings(Section):
    """What an offer charges. Token prices are USD per million tokens. A free offer says 0."""

    input_usd_per_mtok: UsdPerMtok | None = Field(
        default=None, description="Per million input tokens.", examples=[0.15]
    )
    cached_input_usd_per_mtok: UsdPerMtok | None = Field(
        default=None, description="Per million input tokens that the provider had cached; left out: what input costs."
    )
    output_usd_per_mtok: UsdPerMtok | None = Field(
        default=None, description="Per million output tokens.", examples=[0.6]
    )
    usd_per_gpu_hour: Annotated[float, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="Per GPU-hour, for offers of kind gpu_job.", examples=[2.49]
    )


CapabilityName = Literal["stream", "tools", "vision", "json_schema", "prefill"]
CAPABILITIES: dict[CapabilityName, Capability] = {
    "stream": Capability.STREAM,
    "tools": Capability.TOOLS,
    "vision": Capability.VISION,
    "json_schema": Capability.JSON_SCHEMA,
    "prefill": Capability.PREFILL,
}


class WeightSettings(Section):
    """What a tenant prefers. Only ratios count; one that is left out keeps its default."""

    price: Weight = Field(default=0.4, description="Low price.")
    latency: Weight = Field(default=0.3, description="Low latency.")
    reputation: Weight = Field(default=0.15, description="High reputation.")
    availability: Weight = Field(default=0.15, description="Free capacity and health.")


class LimitSettings(Section):
    """Hard limits: an offer that breaks one is never chosen, by any policy."""

    max_price: float | None = Field(
        default=None,
        ge=0,
        description="USD per GPU-hour, or per million tokens at the request's mix of input and output.",
    )
    max_latency_ms: Milliseconds | None = Field(default=None, description="Longest expected time to the first token.")
    min_reputation: float | None = Field(default=None, ge=0, le=100, description="Lowest reputation.")
    regions: tuple[Region, ...] | None = Field(
        default=None,
        min_length=1,
        description="Regions that may serve; an offer in `global` passes only where `global` is listed.",
    )
