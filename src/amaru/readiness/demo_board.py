"""What the demo's view shows: the last seconds of both clients, by provider, and what is happening now."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from amaru.readiness.measuring import Quantiles, Sample, quantiles
from amaru.readiness.player import Lane
from amaru.simulation.faults import Fault, Incident

WINDOW_S = 8.0
"""What "now" means in the view."""
SETTLED_S = 3.0
"""After an incident began, where the traffic went is told."""


class Event(msgspec.Struct, frozen=True):
    """Something that came about, ``at_s`` seconds after the start."""

    at_s: float
    what: Literal["struck", "moved", "well", "note"]
    words: str

    def __str__(self) -> str:
        return f"{self.at_s:.0f} s: {self.words}"


class ProviderRow(msgspec.Struct, frozen=True):
    """One provider now. ``seen`` is amaru's opinion of it; ``success`` its recent success share as amaru holds it;
    ``incident`` what strikes it, in a word or two."""

    name: str
    seen: str
    share: float
    first_token: Quantiles
    success: float | None
    incident: str


class LaneTotals(msgspec.Struct, frozen=True):
    """One client so far; ``per_s`` and ``first_token`` are of the last seconds."""

    served: int
    failed: int
    saved: int
    dropped: int
    in_flight: int
    cost_usd: float
    per_s: float
    first_token: Quantiles


class Snapshot(msgspec.Struct, frozen=True):
    """Everything that the view shows at one instant."""

    elapsed_s: float
    duration_s: float
    rows: list[ProviderRow]
    amaru: LaneTotals
    alone: LaneTotals
    events: list[Event]


class Board:
    """Follows a run. Instants count from its start, in seconds."""

    def __init__(
        self, through: Lane, alone: Lane, providers: Sequence[str], incidents: Sequence[Incident], duration_s: float
    ) -> None:
        self.through = through
        self.alone = alone
        self.events: list[Event] = []
        self._providers = providers
        self._incidents = incidents
        self._duration_s = duration_s
        self._status: dict[str, Any] = {}  # Any: JSON
        self._totals = {lane.name: _Running() for lane in (through, alone)}
        self._told: set[tuple[str, int]] = set()

    def saw_status(self, status: dict[str, Any]) -> None:  # Any: JSON
        """Take over amaru's latest ``/status``."""
        self._status = status

    def snapshot(self, elapsed_s: float) -> Snapshot:
        """The view of this instant; things that have come about since the last one are told as events."""
        recent = _since(self.through.finished, elapsed_s - WINDOW_S)
        self._tell(elapsed_s)
        served = [sample for sample in recent if sample.ok]
        shares = Counter(sample.provider for sample in served)
        seen = {entry["id"]: entry for entry in self._status.get("providers", ())}
        rows = []
        for name in self._providers:
            mine = [sample for sample in served if sample.provider == name]
            health = seen.get(name, {})
            offers = health.get("offers", ())
            rows.append(
                ProviderRow(
                    name=name,
                    seen=_seen(health),
                    share=shares[name] / len(served) if served else 0.0,
                    first_token=quantiles(sample.first_token_s for sample in mine if sample.first_token_s is not None),
                    success=offers[0]["now"].get("success") if offers else None,
                    incident=", ".join(
                        brief(incident.fault) for incident in self._incidents if _now(incident, name, elapsed_s)
                    ),
                )
            )
        return Snapshot(
            elapsed_s=elapsed_s,
            duration_s=self._duration_s,
            rows=rows,
            amaru=self._lane(self.through, elapsed_s),
            alone=self._lane(self.alone, elapsed_s),
            events=self.events,
        )

    def _lane(self, lane: Lane, elapsed_s: float) -> LaneTotals:
        totals = self._totals[lane.name]
        totals.take(lane.finished)
        recent = [sample for sample in _since(lane.finished, elapsed_s - WINDOW_S) if sample.ok]
        return LaneTotals(
            served=totals.served,
            failed=totals.failed,
            saved=totals.saved,
            dropped=lane.dropped,
            in_flight=lane.in_flight,
            cost_usd=totals.cost_usd,
            per_s=len(recent) / max(1e-9, min(WINDOW_S, elapsed_s)),
            first_token=quantiles(sample.first_token_s for sample in recent if sample.first_token_s is not None),
        )

    def note(self, at_s: float, words: str) -> None:
        """Tell something that is not of the traffic."""
        self.events.append(Event(at_s, "note", words))

    def _tell(self, elapsed_s: float) -> None:
        for place, incident in enumerate(self._incidents):
            began, ended = incident.at_s, _end(incident)
            if elapsed_s >= began and self._first("began", place):
                self.events.append(Event(began, "struck", f"{incident.provider} {incident.fault.describe()}"))
            if elapsed_s >= began + SETTLED_S and self._first("moved", place):
                moved = self._whereto(incident, began, elapsed_s)
                if moved:
                    self.events.append(Event(elapsed_s, "moved", f"answers now come from {moved}"))
            if elapsed_s >= ended and self._first("ended", place):
                self.events.append(Event(ended, "well", f"{incident.provider} is well again"))

    def _first(self, what: str, place: int) -> bool:
        if (what, place) in self._told:
            return False
        self._told.add((what, place))
        return True

    def _whereto(self, incident: Incident, began: float, elapsed_s: float) -> str:
        """Who serves now what was sent since the incident began: measured, not planned."""
        answers = [s for s in _since(self.through.finished, began) if s.ok and s.at_s >= began]
        counts = Counter(sample.provider for sample in answers)
        if not answers or elapsed_s >= _end(incident):
            return ""
        return ", ".join(f"{name} {count / len(answers):.0%}" for name, count in counts.most_common(3))


class _Running:
    """Totals of a lane, counted as its samples end."""

    def __init__(self) -> None:
        self.served = self.failed = self.saved = 0
        self.cost_usd = 0.0
        self._seen = 0

    def take(self, finished: Sequence[Sample]) -> None:
        for sample in finished[self._seen :]:
            self.served += sample.ok
            self.failed += not sample.ok
            self.saved += sample.ok and sample.attempts > 1
            self.cost_usd += sample.cost_usd or 0.0
        self._seen = len(finished)


def _seen(provider: dict[str, Any]) -> str:  # Any: JSON
    """What amaru makes of a provider with one offer, from its ``/status``."""
    now = provider["offers"][0]["now"] if provider.get("offers") else {}
    free_in_s = now.get("free_in_s") or 0.0
    match now.get("state"):
        case "open":
            return f"back in {math.ceil(free_in_s)} s" if free_in_s > 0 else "to be probed"
        case "half_open":
            return "being probed"
    return str(provider.get("status", ""))


def brief(fault: Fault) -> str:
    """A fault in a word or two; ``Fault.describe`` says more."""
    words = {
        "refuse": "refuses",
        "hang": "no answer",
        "slow": f"{fault.factor:g}x slower",
        "stall": "falls silent",
        "error_in_200": "error in a 200",
        "cut": "cuts answers",
        "status": f"answers {fault.error()[0]}",
    }
    return words.get(fault.kind, fault.kind.replace("_", " "))


def _since(finished: Sequence[Sample], instant_s: float) -> list[Sample]:
    """Those that ended after ``instant_s``, latest first; looks at no more than it must."""
    found = []
    for sample in reversed(finished):
        if sample.ended_s < instant_s:
            break
        found.append(sample)
    return found


def _end(incident: Incident) -> float:
    return incident.at_s + (math.inf if incident.duration_s is None else incident.duration_s)


def _now(incident: Incident, provider: str, elapsed_s: float) -> bool:
    return incident.provider == provider and incident.at_s <= elapsed_s < _end(incident)


def struck(samples: Iterable[Sample], incident: Incident) -> list[Sample]:
    """The requests that were meant to be sent while ``incident`` lasted."""
    return [sample for sample in samples if incident.at_s <= sample.at_s < _end(incident)]
