"""What an operator may order about healings, as it comes over HTTP."""

from __future__ import annotations

from typing import Annotated

import msgspec

from amaru.health.healing import HealingKind, SelfHealingAction
from amaru.health.healing_settings import Veto
from amaru.health.history import Recurrence
from amaru.health.pattern_types import InfrastructurePattern, PatternKind
from amaru.stability.guardian import InterventionRecord

Text = Annotated[str, msgspec.Meta(max_length=200)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class PatternsOut(msgspec.Struct, frozen=True):
    """A page of patterns."""

    patterns: tuple[InfrastructurePattern, ...]
    """Newest first."""
    active: tuple[str, ...]
    """Ids of those under way."""


class HistoryOut(msgspec.Struct, frozen=True):
    """What came more than once."""

    recurring: tuple[Recurrence, ...]


class HealingsOut(msgspec.Struct, frozen=True):
    """Healings, and what people forbade."""

    healings: tuple[SelfHealingAction, ...]
    """Newest first."""
    active: tuple[str, ...]
    """Ids of those in force."""
    vetoes: tuple[Veto, ...]
    interventions: tuple[InterventionRecord, ...]
    """Of the guardian of the stability field, newest first."""


class VetoIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to forbid, or, in ``/lift``, which veto to lift. What is left out stands for all."""

    kind: HealingKind | None = None
    provider: Name | None = None
    pattern: PatternKind | None = None
    by: Text = "operator"
    reason: Text = ""


class PinIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A healing to order; it holds until it is lifted. ``nothing`` keeps amaru's own away from the offers."""

    kind: HealingKind
    offers: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=1000)]
    by: Text = "operator"
    reason: Text = ""


class LiftIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to lift: a pinned healing by its id, or the vetoes that say exactly this."""

    healing: Name | None = None
    veto: VetoIn | None = None


class TriggerIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who triggers an intervention."""

    by: Text = "operator"
