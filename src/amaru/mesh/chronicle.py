"""What happened: each pattern, healing, reading and intervention is counted, remembered, logged and told."""

from __future__ import annotations

from typing import Any

import msgspec

from amaru.health.healing import SelfHealingAction
from amaru.health.history import Recurrence, recurring
from amaru.health.memory import Memory
from amaru.health.pattern_types import InfrastructurePattern
from amaru.mesh.feed import Feed
from amaru.mesh.ledger import MeshLedger
from amaru.stability.field_settings import FieldReading
from amaru.stability.guardian import InterventionRecord
from amaru.telemetry.logs import get_logger

RECENT_S = 30 * 86_400.0
"""How far back a report looks for what comes again;"""
ANEW_S = 60.0
"""it does so anew after this long: of thousands of patterns that takes milliseconds."""

log = get_logger("mesh")


class Chronicle:
    """Tells ``feed``; remembers in ``memory`` and logs in ``ledger``, where there are such."""

    def __init__(self, feed: Feed, memory: Memory | None, ledger: MeshLedger | None = None) -> None:
        self.memory = memory
        self._ledger = ledger
        self.patterns_seen: dict[str, int] = {}
        """By kind, as ``healings_taken``."""
        self.healings_taken: dict[str, int] = {}
        self._feed = feed
        self._known: set[str] = set()  # that were counted, and go on
        self._lately: tuple[float, list[Recurrence]] | None = None

    def pattern(self, pattern: InfrastructurePattern) -> None:
        """A pattern began, changed or ended."""
        if self._is_new(pattern):
            _count(self.patterns_seen, pattern.kind.value)
        log.info("pattern", id=pattern.id, kind=pattern.kind.value, detail=pattern.detail, ended_at=pattern.ended_at)
        self._remember(pattern)
        self._tell("pattern", pattern)

    def healing(self, healing: SelfHealingAction) -> bool:
        """A healing began, was measured or ended; whether it is one that was never told before."""
        new = healing.applied and self._is_new(healing)
        if new:
            _count(self.healings_taken, healing.kind.value)
        log.info("healing", id=healing.id, kind=healing.kind.value, offers=healing.offers, ended=healing.ended or None)
        if self._ledger is not None and healing.applied and (new or healing.ended_at is not None):
            self._ledger.healed(healing)
        self._remember(healing)
        self._tell("healing", healing)
        return new

    def reading(self, reading: FieldReading) -> None:
        """The stability field took a step."""
        self._tell("field", reading)

    def intervention(self, record: InterventionRecord) -> None:
        """The guardian, or a person, intervened."""
        log.warning("intervention", id=record.id, kind=record.kind.value, reason=record.reason, changed=record.changed)
        if self._ledger is not None:
            self._ledger.intervened(record)
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

    def lately(self, now: float) -> list[Recurrence]:
        """The same of the last ``RECENT_S``, as of some moment within the last minute. May run on any thread."""
        if self._lately is None or not 0.0 <= now - self._lately[0] < ANEW_S:
            self._lately = now, self.recurring(now - RECENT_S)
        return self._lately[1]

    def _is_new(self, what: InfrastructurePattern | SelfHealingAction) -> bool:
        """Whether it was never told of before, also not by the process before this one."""
        memory = self.memory
        new = what.id not in self._known
        if memory is not None:
            new = new and what.id not in memory.patterns and what.id not in memory.healings
        if what.ended_at is None:
            self._known.add(what.id)
        else:  # it is told of no more
            self._known.discard(what.id)
        return new

    def _remember(self, what: InfrastructurePattern | SelfHealingAction) -> None:
        if self.memory is not None:
            self.memory.remember(what)

    def _tell(self, kind: str, what: Any) -> None:  # Any: a struct
        self._feed.tell(kind, msgspec.to_builtins(what))


def _count(counts: dict[str, int], kind: str) -> None:
    counts[kind] = counts.get(kind, 0) + 1
