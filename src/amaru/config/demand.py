"""The shape of ``routing``: how requests find an offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticKnownError

from amaru.files.fields import Identifier, Milliseconds, Section
from amaru.routing.policies import POLICIES


def _known_policy(name: str) -> str:
    if name not in POLICIES:
        raise PydanticKnownError("literal_error", {"expected": ", ".join(f"'{known}'" for known in POLICIES)})
    return name


PolicyName = Annotated[str, AfterValidator(_known_policy), WithJsonSchema({"type": "string", "enum": list(POLICIES)})]


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

    policy: PolicyName = Field(
        default="rules",
        description="How offers are ranked. rules weighs price, latency, reputation and availability as posted and "
        "lately seen; qlearning, thompson and hybrid learn from what becomes of requests.",
    )
    policy_settings: Mapping[Identifier, int | float] = Field(
        default={}, description="Knobs of a policy that learns, by name; left out: its own defaults."
    )
    policy_artifact: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None,
        description="Trained state to begin with: URL@version, or URL@promoted for whichever version is promoted.",
        examples=["s3://amaru-artifacts/chat@promoted"],
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
