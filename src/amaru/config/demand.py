"""The shape of ``tenants`` and ``routing``: who asks, what they prefer, and how their requests find an offer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from amaru.config.fields import KeyReference, Milliseconds, Name, Region, Section, Weight
from amaru.domain import Rescue


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


class TenantSettings(Section):
    """Who asks: a team, an application, a customer."""

    weights: WeightSettings = Field(default=WeightSettings(), description="What it prefers.")
    limits: LimitSettings = Field(default=LimitSettings(), description="What it never accepts.")
    keys: tuple[KeyReference, ...] = Field(
        default=(), description="The keys that it presents; several while one is rotated."
    )
    resources: tuple[Name, ...] | None = Field(
        default=None, min_length=1, description="Resources, aliases and offers that it may use; left out: all."
    )
    rescue: Rescue = Field(
        default=Rescue.JOIN,
        description="What its streams prefer where one may break. join: hand on each event as it comes, and join the "
        "break where that can be done exactly. hold: hold the answer back until it is whole.",
    )


class RetryBudgetSettings(Section):
    """How many retries are allowed, so that retries cannot become a storm."""

    ratio: float = Field(default=0.2, ge=0, le=1, description="Retries per request of recent traffic.")
    min_per_s: float = Field(
        default=10, ge=0, le=10_000, description="Retries per second that are allowed at any traffic."
    )


class BreakerSettings(Section):
    """When an offer is left alone for a while."""

    consecutive_failures: int = Field(default=5, ge=1, le=1000, description="Opens after this many failures in a row.")
    failure_rate: float = Field(
        default=0.5, gt=0, le=1, description="Opens when this share of a window's requests failed."
    )
    window_s: float = Field(default=60, gt=0, le=3600, description="Length of that window, in seconds.")
    cool_down_s: float = Field(default=5, gt=0, le=3600, description="Seconds until one probe request is let through.")
    max_cool_down_s: float = Field(default=25, gt=0, le=3600, description="Longest cool-down after probes that failed.")


class RoutingSettings(Section):
    """How a request finds its offer, and for how long."""

    policy: Literal["rules", "rules_classic", "cheapest", "fastest", "random"] = Field(
        default="rules", description="How offers are ranked. rules weighs price, latency, reputation and availability."
    )
    exploration: float = Field(
        default=0.0,
        ge=0,
        le=0.1,
        description="Share of first attempts that try another offer, to learn; 0.01 is a good start.",
    )
    deadline_ms: Milliseconds = Field(
        default=600_000, description="Longest time for one request, with all its attempts."
    )
    max_attempts: int = Field(default=6, ge=1, le=100, description="Most calls to providers for one request.")
    first_token_ms: Milliseconds = Field(default=30_000, description="Longest wait for a stream's first token.")
    answer_ms: Milliseconds = Field(default=120_000, description="Longest wait for an answer that is not streamed.")
    idle_ms: Milliseconds = Field(default=30_000, description="Longest silence inside a stream.")
    adaptive_limits: bool = Field(
        default=True,
        description="Wait no longer for an offer than its own recent answers give reason to, while another can take "
        "over; first_token_ms and idle_ms stay the upper bounds.",
    )
    least_first_token_ms: Milliseconds = Field(
        default=2_000, description="Shortest that adaptive limits make the wait for a stream's first token."
    )
    least_idle_ms: Milliseconds = Field(
        default=2_000, description="Shortest silence inside a stream that adaptive limits call a stall."
    )
    longest_retry_after_ms: float = Field(
        default=1_000,
        ge=0,
        le=3_600_000,
        description="A Retry-After up to this is waited for; beyond, the next offer is asked.",
    )
    longest_wait_ms: float = Field(
        default=30_000,
        ge=0,
        le=3_600_000,
        description="Longest wait for an offer when none is free; a caller's own deadline takes its place.",
    )
    retry_budget: RetryBudgetSettings = Field(
        default=RetryBudgetSettings(), description="How many retries are allowed."
    )
    breaker: BreakerSettings = Field(default=BreakerSettings(), description="When an offer is left alone for a while.")
