"""The shape of ``health`` and ``stability``: how amaru watches its providers and itself, and may act on it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from amaru.config.fields import RESTART
from amaru.files.fields import FilePath, Section


class ProbeSettings(Section):
    """Tiny requests of amaru's own, by which it sees how an offer fares that nobody has asked for a while."""

    offers: Literal["off", "free", "all"] = Field(
        default="free",
        description="Which offers may be probed. free: those whose price is 0. all: also those that bill for it, "
        "up to max_usd_per_day.",
    )
    idle_after_s: float = Field(
        default=300, ge=1, le=86_400, description="An offer that served nothing for this long is probed, and again."
    )
    max_usd_per_day: float = Field(
        default=0.05, ge=0, le=10_000, description="What all probes of a day may cost at most, in US dollars."
    )


class HealthSettings(Section):
    """How amaru senses each provider: signatures, patterns, predictions, healing, and what is kept of them."""

    enabled: bool = Field(
        default=True, description="false: nothing is observed, predicted or healed.", json_schema_extra=RESTART
    )
    healing: Literal["act", "advise", "off"] = Field(
        default="act",
        description="act: healings are applied to the live router, bounded and reversible. advise: they are only "
        "named. off: neither.",
    )
    prediction: bool = Field(
        default=True,
        description="Failures that are foreseen, and answers that have ceased to make sense, lower an offer's rank.",
    )
    samples_per_s: float = Field(
        default=20,
        ge=0,
        le=1000,
        description="Answers per second and offer whose shape and text are reduced to figures, after the answer; "
        "beyond a burst of 100. Answers without any text always are.",
    )
    probes: ProbeSettings = Field(default=ProbeSettings(), description="Tiny requests to idle offers.")
    path: FilePath | None = Field(
        default=None,
        description="Folder of what is remembered, relative to the configuration file; left out: `health` beside "
        "the database.",
        json_schema_extra=RESTART,
    )
    snapshot_every_s: float = Field(
        default=3600, ge=1, le=86_400, description="Between two infrastructure_state files, in seconds."
    )
    retention_files: int = Field(
        default=100, ge=1, le=100_000, description="infrastructure_state and session_analysis files that are kept."
    )
    retention_days: float = Field(default=7, gt=0, le=36_500, description="Older ones of these files are deleted.")
    history_days: float = Field(
        default=90, gt=0, le=36_500, description="Patterns and healings older than this are forgotten."
    )


class StabilitySettings(Section):
    """The stability field over the whole mesh (the Ψ-field), and the guardian that acts on it."""

    enabled: bool = Field(default=True, description="false: the field is not computed.", json_schema_extra=RESTART)
    every_s: float = Field(
        default=15, ge=0.1, le=3600, description="Seconds between two steps over the providers' signals."
    )
    guardian: bool = Field(
        default=True,
        description="The guardian may act: nigredo drains the worst provider, albedo raises exploration, each for a "
        "bounded time.",
    )
