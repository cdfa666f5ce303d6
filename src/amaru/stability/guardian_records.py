"""What the guardian may ask for, when, and what it keeps of it."""

from __future__ import annotations

import enum
from typing import Annotated, Protocol

import msgspec


class Intervention(enum.StrEnum):
    """What the field's guardian may ask for."""

    NIGREDO = "nigredo"
    """Reset the worst: an agent forgets, a provider is drained."""
    ALBEDO = "albedo"
    """Raise exploration."""


class Measured(Protocol):
    """What the guardian looks at; a ``FieldReading`` has it."""

    @property
    def PE(self) -> float: ...  # noqa: N802 -- the field's own name
    @property
    def H(self) -> float: ...  # noqa: N802 -- the field's own name
    @property
    def Psi(self) -> float: ...  # noqa: N802 -- the field's own name


class GuardianSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to intervene. Steps are readings judged."""

    enabled: bool = True
    """Whether it asks by itself; a person's trigger works all the same."""
    nigredo_pe: Annotated[float, msgspec.Meta(gt=0)] = 1.5
    """Least prediction error for ``nigredo``: on stationary data one step in 10,000 is above it."""
    nigredo_percentile: Annotated[float, msgspec.Meta(ge=50, le=100)] = 99.0
    """Of the history of ``PE``."""
    albedo_h: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.8
    """Least entropy for ``albedo``."""
    albedo_psi: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    """Highest Ψ for ``albedo``."""
    albedo_percentile: Annotated[float, msgspec.Meta(ge=50, le=100)] = 90.0
    """Of the history of ``H``; of Ψ's, the one as far from the other end."""
    farthest: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    """Most that a percentile may move a threshold of ``PE`` or Ψ away, as a factor on the static one: however long a
    trouble lasted, the next one of this size is seen."""
    history: Annotated[int, msgspec.Meta(ge=10, le=100_000)] = 1000
    """Readings that percentiles are taken of."""
    least_history: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100
    """With fewer readings, the static thresholds stand alone; at most ``history``."""
    warm_up_steps: Annotated[int, msgspec.Meta(ge=0)] = 20
    """Readings before the first intervention: the field itself must have seen something."""
    cooldown_steps: Annotated[int, msgspec.Meta(ge=0)] = 20
    """Least readings between two interventions, of whatever kind: what was changed must be given time to show."""
    cooldown_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Least seconds between them, besides."""
    release: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.7
    """``nigredo`` may come again once ``PE`` has been below this share of its threshold."""
    margin: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.05
    """``albedo`` may come again once ``H`` or Ψ has been on the calm side of its threshold by so much."""
    effect_steps: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10
    """Readings after which an intervention's effect on Ψ is noted."""

    def __post_init__(self) -> None:
        if self.least_history > self.history:
            raise ValueError(
                f"least_history: {self.least_history} readings are never there with a history of {self.history}"
            )


class InterventionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One intervention: why, by whom, and what it changed."""

    id: str
    kind: Intervention
    at: float
    """Unix seconds."""
    step: int
    """Readings judged before."""
    by: str
    """``guardian``, or who triggered it."""
    reason: str
    changed: dict[str, str] = {}
    """What was changed → from what to what, as told by whoever acted; empty: nobody said."""
    psi: float | None = None
    """Ψ then; ``None``: not known."""
    psi_after: float | None = None
    """Ψ ``effect_steps`` readings later; ``None``: not yet."""


class Thresholds(msgspec.Struct, frozen=True):
    """What is compared with now."""

    nigredo_pe: float
    albedo_h: float
    albedo_psi: float


class GuardianStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the guardian would do now."""

    enabled: bool
    steps: int
    warming_up: bool
    thresholds: Thresholds
    armed: dict[str, bool]
    """By kind; false: it came, and the readings have not calmed down since."""
    cooldown_left_steps: int
    cooldown_left_s: float
    pending: list[str]
    """Triggered by people, and handed out with the next reading."""
    last: InterventionRecord | None


class GuardianStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What the guardian did so far."""

    steps: int
    interventions: dict[str, int]
    """By kind."""
    triggered: int
    """Of them, by people."""
    withheld: dict[str, int]
    """Readings beyond a threshold at which it did not ask, by why: ``off``, ``warm_up``, ``cooldown``, ``hysteresis``.
    """
    steps_per_intervention: float | None
    psi_before: float | None
    psi_after: float | None
    """Means over the recent interventions whose effect is known."""
    effects: int
    """How many these are."""
