"""What a generated mesh goes through: incidents with their truth, and what the mesh is like in calm."""

from __future__ import annotations

import enum
import math

import msgspec

from amaru.health.pattern_types import PatternKind, Traits


class Trouble(enum.StrEnum):
    """What an incident does to its offers."""

    SLOWING = "slowing"
    """Latency grows gradually, until hardly anything succeeds."""
    FAILING = "failing"
    """Ever more attempts fail."""
    RAMBLING = "rambling"
    """Ever more answers are empty or repeat themselves, until hardly anything succeeds."""
    OUTAGE = "outage"
    """From one moment to the next hardly anything succeeds."""
    MISSING = "missing"
    """Answers suddenly lack a required field."""
    MALFORMED = "malformed"
    """Bodies suddenly cannot be read."""
    STATUS = "status"
    """Attempts are suddenly refused with a status never seen before."""
    RESHAPED = "reshaped"
    """Answers suddenly have another shape, with nothing missing."""
    TOGETHER = "together"
    """All providers that share a trait fail from one moment to the next."""


GRADUAL = (Trouble.SLOWING, Trouble.FAILING, Trouble.RAMBLING)
API = (Trouble.MISSING, Trouble.MALFORMED, Trouble.STATUS, Trouble.RESHAPED)

_SHOWS: dict[Trouble, frozenset[str]] = {
    Trouble.SLOWING: frozenset({"latency", "errors"}),
    Trouble.FAILING: frozenset({"errors"}),
    Trouble.RAMBLING: frozenset({"coherence", "errors"}),
    Trouble.OUTAGE: frozenset({"errors"}),
    Trouble.MISSING: frozenset({"shape"}),
    Trouble.MALFORMED: frozenset({"shape"}),
    Trouble.STATUS: frozenset({"status"}),
    Trouble.RESHAPED: frozenset({"shape"}),
    Trouble.TOGETHER: frozenset({"errors"}),
}
HARD_SHARE = 0.5
"""An offer of whose attempts at least this share fails has failed hard."""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happens, as it truly is."""

    trouble: Trouble
    offers: tuple[str, ...]
    providers: tuple[str, ...]
    begins: float
    full_at: float
    """When it is as bad as it gets, but for the hard failure that a gradual one ends in; ``begins`` of sudden ones."""
    ends: float
    strength: float
    """Of a slowing the factor, of others the share of attempts, when full."""
    trait: str | None = None
    """What the providers share."""

    @property
    def kind(self) -> PatternKind:
        """The pattern that it ought to be recognised as."""
        if self.trouble is Trouble.TOGETHER:
            return PatternKind.RESONANCE
        return PatternKind.API_CHANGE if self.trouble in API else PatternKind.DEGRADATION

    @property
    def shows(self) -> frozenset[str]:
        """Causes that patterns may truly name while it lasts; ``status`` with any number."""
        return _SHOWS[self.trouble]

    @property
    def hard_at(self) -> float | None:
        """When its offers fail hard: at least ``HARD_SHARE`` of their attempts; ``None``: never."""
        if self.trouble is Trouble.FAILING:
            if self.strength < HARD_SHARE:
                return None
            return self.begins + (self.full_at - self.begins) * HARD_SHARE / self.strength
        if self.trouble in (Trouble.SLOWING, Trouble.RAMBLING):
            return self.full_at
        if self.trouble in (Trouble.OUTAGE, Trouble.TOGETHER, Trouble.MALFORMED):
            return self.begins if self.strength >= HARD_SHARE else None
        return None


class Mesh(msgspec.Struct, frozen=True, kw_only=True):
    """A mesh in calm: what is usual, and how it varies. Made to look like public APIs, not taken from any one."""

    traits: tuple[Traits, ...]
    rate_per_s: float = 0.5
    """Attempts per offer in the mean of a day."""
    day_swing: float = 0.7
    """Load swings so much around its mean within a day."""
    load_slows: float = 0.3
    """Logarithm of how much slower the busiest hour is than the mean one."""
    noise: float = 0.35
    """Standard deviation of log-latency from one attempt to the next."""
    wander: float = 0.08
    """Standard deviation of the log-latency that one provider's attempts share for some minutes."""
    wander_s: float = 300.0
    spikes: float = 0.01
    """Share of attempts that take four to twenty times as long."""
    failures: float = 0.004
    """Usual share of failed attempts; of offers between a third and three times so many."""
    blips_per_day: float = 4.0
    """Of an offer: a few seconds in which three in ten attempts fail. Too short to be a pattern."""
    throttled: float = 0.03
    """Share of throttled attempts in the busiest hour."""
    callers_faults: float = 0.01
    malformed: float = 0.0005
    sampled: float = 0.3
    """Share of answers whose shape and text is looked at."""


def mesh_of(providers: int = 10, models: tuple[str, ...] = ("llama-3", "qwen-3", "mistral"), **usual: float) -> Mesh:
    """A mesh in which each provider serves two models, in one of three regions, over one of four bridges."""
    bridges, regions = ("axelar", "across", "hop", "direct"), ("eu", "us", "ap")
    traits = tuple(
        Traits(
            offer=f"p{provider}/{models[(provider + which) % len(models)]}",
            provider=f"p{provider}",
            resource=models[(provider + which) % len(models)],
            regions=(regions[provider % len(regions)],),
            model=models[(provider + which) % len(models)],
            labels=(f"bridge:{bridges[(provider // 2) % len(bridges)]}",),
        )
        for provider in range(providers)
        for which in range(2)
    )
    return msgspec.structs.replace(Mesh(traits=traits), **usual)


def load_at(mesh: Mesh, at: float) -> float:
    """Attempts per second and offer, relative to the mean of the day; highest in the afternoon."""
    return 1.0 + mesh.day_swing * math.sin(2.0 * math.pi * (at / 86400.0 - 0.35))
