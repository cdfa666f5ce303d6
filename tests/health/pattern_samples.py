"""Short worlds, played by tests of patterns."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from amaru.domain import FailureKind
from amaru.health.incident_types import Incident, Trouble, mesh_of
from amaru.health.incidents import World
from amaru.health.observation import Observation, Sample
from amaru.health.pattern_types import InfrastructurePattern, PatternSettings, Traits
from amaru.health.patterns import Patterns

BEGINS = 1.75e9
MESH = msgspec.structs.replace(mesh_of(6), day_swing=0.0, rate_per_s=1.0)
"""Six providers, twelve offers, an attempt per second and offer, the same all day."""


def incident(
    trouble: Trouble,
    offers: tuple[str, ...],
    *,
    after_s: float = 900.0,
    ramp_s: float = 0.0,
    lasts_s: float = 400.0,
    strength: float = 0.95,
    trait: str | None = None,
) -> Incident:
    """One, which begins a quarter of an hour after the world."""
    begins = BEGINS + after_s
    providers = tuple(dict.fromkeys(offer.partition("/")[0] for offer in offers))
    return Incident(
        trouble=trouble,
        offers=offers,
        providers=providers,
        begins=begins,
        full_at=begins + ramp_s,
        ends=begins + ramp_s + lasts_s,
        strength=strength,
        trait=trait,
    )


def play(patterns: Patterns, observations: Iterable[Observation], every_s: float = 1.0) -> list[InfrastructurePattern]:
    """Everything that is told, in order, with a look each second."""
    told: list[InfrastructurePattern] = []
    look_at = -math.inf
    for observation in observations:
        patterns.observe(observation)
        if observation.at >= look_at:
            look_at = observation.at + every_s
            told += patterns.look(observation.at)
    return told


def told_of(*incidents: Incident, seconds: float = 2700.0, seed: int = 5) -> list[InfrastructurePattern]:
    """What is told of a world with these incidents."""
    patterns = Patterns(PatternSettings(), MESH.traits)
    return play(patterns, World(MESH, incidents, seed, BEGINS).observations(seconds))


def traits(offer: str, **what: object) -> Traits:
    """Of ``provider/model``."""
    return msgspec.convert({"offer": offer, "provider": offer.partition("/")[0], "resource": "chat", **what}, Traits)


def seen(offer: str, at: float, failure: FailureKind | None = None, **what: object) -> Observation:
    """One attempt at ``at`` seconds: whole, quick and unremarkable, but for what is said."""
    usual: dict[str, object] = {
        "offer": offer,
        "provider": offer.partition("/")[0],
        "at": BEGINS + at,
        "ok": failure is None,
        "failure": failure,
        "status": 200 if failure is None else 500,
        "latency_ms": 1000.0,
        "output_tokens": 100,
        "output_chars": 400,
        "finish_reason": "stop",
    }
    return Observation(**{**usual, **what})  # type: ignore[arg-type]


def sample(number: int, **what: object) -> Sample:
    """Of one answer unlike any other, but for what is said."""
    return Sample(**{"shape": 7, "digest": number + 1, "prompt": number + 1, **what})  # type: ignore[arg-type]
