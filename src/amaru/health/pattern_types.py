"""What a run of observations means: the types of patterns, and what is known of an offer beforehand."""

from __future__ import annotations

import enum

import msgspec

SIGNALS = ("latency", "first_token", "repetition", "errors", "coherence", "shape", "novelty", "refused")
"""What changes are looked for in, by number; see ``change_kernels``."""


class PatternKind(enum.StrEnum):
    """What is happening."""

    DEGRADATION = "degradation"
    """An offer became slower, fails more often, or answers what makes no sense."""
    API_CHANGE = "api_change"
    """Answers suddenly have another shape: nulls, missing fields, other error codes, bodies that cannot be read."""
    RESONANCE = "resonance"
    """Several providers fail together, beyond chance."""
    RECOVERY = "recovery"
    """What one of the others named is over."""


class Impact(enum.StrEnum):
    """How much of the traffic is touched, and whether others can serve it."""

    MINOR = "minor"
    MODERATE = "moderate"
    MAJOR = "major"
    CRITICAL = "critical"


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What an offer may share with others."""

    offer: str
    provider: str
    resource: str = ""
    """What it serves; offers of one resource stand in for each other."""
    regions: tuple[str, ...] = ()
    model: str = ""
    """The family of its model, such as ``llama-3``."""
    labels: tuple[str, ...] = ()
    """Anything else, as ``kind:name``: ``bridge:axelar``, ``host:eu-1.example``."""

    def shared(self) -> tuple[str, ...]:
        """Every trait as ``kind:name``."""
        model = (f"model:{self.model}",) if self.model else ()
        return (*self.labels, *model, *(f"region:{region}" for region in self.regions))


class InfrastructurePattern(msgspec.Struct, frozen=True, kw_only=True):
    """One pattern that was seen. When it changes or ends, it is told anew under the same id."""

    id: str
    kind: PatternKind
    at: float
    """When it was recognised, in Unix seconds."""
    confidence: float
    """That it is real, 0 to 1; see ``PatternSettings.incidents_per_day``."""
    offers: tuple[str, ...]
    providers: tuple[str, ...]
    impact: Impact
    cause: str
    """``latency``, ``errors``, ``coherence``; ``shape``, ``status:422``; ``bridge:axelar``, ``region:eu``,
    ``model:llama-3``, ``everyone``. Of a recovery, that of what ended."""
    suggested: str | None
    """A kind of healing; ``None``: none comes to mind."""
    detail: str
    """In words."""
    similar: tuple[str, ...] = ()
    """Ids of past ones, the most similar first. Of a recovery, what ended comes first."""
    ended_at: float | None = None


class PatternSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How patterns are told. Times are in seconds."""

    false_alarms_per_day: float = 0.5
    """Of the whole mesh, shared evenly over offers and signals, and once more over what providers share."""
    incidents_per_day: float = 1.0
    """How often a signal of an offer truly changes, about: with the evidence this gives ``confidence``, the posterior
    probability of a change (Shiryaev), tempered by a square root because no model of a provider is true."""
    usual_s: float = 1800.0
    """Half-life of what is usual."""
    least_slowdown: float = 1.5
    """Latency ratio below which nobody minds."""
    recovery_evidence: float = 9.0
    """Natural logarithm of the likelihood ratio, of what is usual against the illness, that ends a pattern: five
    outcomes as usual where all had failed, some thirty where three in ten had."""
    settle_s: float = 3600.0
    """A slowness or another shape that lasts so long is the new usual."""
    window_s: float = 10.0
    """Failures within one are together."""
    past: int = 200
    """Patterns kept in mind."""
