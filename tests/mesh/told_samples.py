"""Patterns and healings, as sensing tells of them."""

from __future__ import annotations

import msgspec

from amaru.health.healing import HealingKind, SelfHealingAction
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind

NOW = 1_800_000_000.0


def pattern(id: str = "p", at: float = NOW, **fields: object) -> InfrastructurePattern:
    usual = InfrastructurePattern(
        id=id, kind=PatternKind.DEGRADATION, at=at, confidence=0.9, offers=("a/sim",), providers=("a",),
        impact=Impact.MAJOR, cause="latency", suggested="weight", detail="three times as slow",
    )  # fmt: skip
    return msgspec.structs.replace(usual, **fields)


def healing(id: str = "h", at: float = NOW, **fields: object) -> SelfHealingAction:
    usual = SelfHealingAction(
        id=id, pattern="p", kind=HealingKind.WEIGHT, offers=("a/sim",), at=at, until=at + 60.0
    )  # fmt: skip
    return msgspec.structs.replace(usual, **fields)
