"""What happened: each pattern, healing, reading and intervention is counted, remembered, logged and told."""

from __future__ import annotations

from typing import Any

import msgspec

from amaru.health.healing import SelfHealingAction
from amaru.health.history import Recurrence, recurring
from amaru.health.memory import Memory
from amaru.health.pattern_types import InfrastructurePattern
from amaru.mesh.feed import Feed
from amaru.stability.field_settings import FieldReading
from amaru.stability.guardian import InterventionRecord
from amaru.telemetry.logs import get_logger

log = get_logger("mesh")


class Chronicle:
    """Tells ``feed``; remembers in ``memory``, where there is one."""

    def __init__(self, feed: Feed, memory: Memory | None) -> None:
        self.memory = memory
        self.patterns_seen: dict[str, int] = {}
        """By kind, as ``healings_taken``."""
        self.healings_taken: dict[str, int] = {}
        self._feed = feed
        self._known: set[str] = set()  # that were counted

    def pattern(self, pattern: InfrastructurePattern) -> None:
        """A pattern began, changed or ended."""
        if pattern.id not in self._known:
            self._known.add(pattern.id)
            _count(self.patterns_seen, pattern.kind.value)
        log.info("pattern", id=pattern.id, kind=pattern.kind.value, detail=pattern.detail, ended_at=pattern.ended_at)
        self._remember(pattern)
        self._tell("pattern", pattern)

    def healing(self, healing: SelfHealingAction) -> bool:
        """A healing began, was measured or ended; whether it is one that was never told before."""
        new = healing.applied and healing.id not in self._known
        if new:
            self._known.add(healing.id)
            _count(self.healings_taken, healing.kind.value)
        log.info("healing", id=healing.id, kind=healing.kind.value, offers=healing.offers, ended=healing.ended or None)
        self._remember(healing)
        self._tell("healing", healing)
        return new

    def reading(self, reading: FieldReading) -> None:
        """The stability field took a step."""
        self._tell("field", reading)

    def intervention(self, record: InterventionRecord) -> None:
        """The guardian, or a person, intervened."""
        log.warning("intervention", id=record.id, kind=record.kind.value, reason=record.reason, changed=record.changed)
        self._tell("guardian", record)

    def patterns(self) -> list[InfrastructurePattern]:
        """Every pattern that is remembered, oldest first."""
        return [] if self.memory is None else list(self.memory.patterns.values())

    def healings(self, known: list[SelfHealingAction]) -> list[SelfHealingAction]:
        """Every healing that is remembered, and those that the healer knows, newest first."""
        kept = {} if self.memory is None else dict(self.memory.healings)
        kept |= {action.id: action for action in known}
        return sorted(kept.values(), key=lambda action: -action.at)

    def recurring(self, since: float) -> list[Recurrence]:
        """What came more than once since then, Unix seconds."""
        return recurring(self.patterns(), since=since)

    def _remember(self, what: InfrastructurePattern | SelfHealingAction) -> None:
        if self.memory is not None:
            self.memory.remember(what)

    def _tell(self, kind: str, what: Any) -> None:  # Any: a struct
        self._feed.tell(kind, msgspec.to_builtins(what))


def _count(counts: dict[str, int], kind: str) -> None:
    counts[kind] = counts.get(kind, 0) + 1
