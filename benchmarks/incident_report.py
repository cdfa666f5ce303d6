"""What `incidents.py` shows: which patterns were named and when, and how callers fared, as tables in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import incident_world as w
import msgspec

from amaru.readiness.demo_comparison import Judge
from amaru.readiness.markdown import seconds, share, table
from amaru.readiness.measuring import Sample, quantiles
from amaru.readiness.player import Lane

SLOW_S = 2.0
"""A first token after this is one that callers notice."""
LATE_S = 20.0
"""After its end an incident may still be named: what was under way ends late."""


class Sighting(msgspec.Struct, frozen=True):
    """A pattern as amaru first named it."""

    at_s: float
    kind: str
    providers: frozenset[str]
    cause: str
    confidence: float


class Played(msgspec.Struct, frozen=True):
    """One mesh's run: what struck, what amaru saw and did, and how callers fared, with healing and without."""

    placed: list[w.Placed]
    sightings: list[Sighting]
    healings: list[dict[str, Any]]  # Any: JSON
    lanes: list[Lane]
    warnings: list[tuple[float, str]]
    """When a provider's predicted failure probability rose above one half."""


def report(played: Sequence[Played]) -> str:
    """All tables."""
    return "\n\n".join((_seen(played), _served(played), _healed(played)))


def matches(incident: w.Placed, sighting: Sighting) -> bool:
    """Whether the sighting names this incident."""
    return (
        sighting.kind == incident.course.pattern
        and bool(sighting.providers & set(incident.providers))
        and incident.at_s <= sighting.at_s <= incident.until_s + LATE_S
    )


def true_of(incident: w.Placed, sighting: Sighting) -> bool:
    """Whether the sighting is true of this incident, be it another pattern than its own: its parts, and its end."""
    if not sighting.providers & set(incident.providers) or sighting.at_s < incident.at_s:
        return False
    if sighting.kind == w.RECOVERY:
        return sighting.at_s <= incident.until_s + w.CALM_S
    # Each of the providers that fail together degrades, and so does one whose answers nobody can read.
    own = sighting.kind in (incident.course.pattern, w.DEGRADATION)
    return own and sighting.at_s <= incident.until_s + LATE_S


def _seen(played: Sequence[Played]) -> str:
    rows = []
    for kind in (w.DEGRADATION, w.API_CHANGE, w.RESONANCE, w.RECOVERY):
        named = true = 0
        delays: list[float] = []
        leads: list[float] = []
        incidents = 0
        for one in played:
            of_kind = [sighting for sighting in one.sightings if sighting.kind == kind]
            named += len(of_kind)
            true += sum(any(true_of(incident, s) for incident in one.placed) for s in of_kind)
            for incident in one.placed:
                if kind == w.RECOVERY:
                    incidents += 1
                    ends = [s.at_s - incident.until_s for s in of_kind if true_of(incident, s)]
                    delays += [max(min(ends), 0.0)] if ends else []
                elif incident.course.pattern == kind:
                    incidents += 1
                    firsts = [s.at_s for s in of_kind if matches(incident, s)]
                    delays += [min(firsts) - incident.at_s] if firsts else []
                    leads += _lead(incident, firsts, one.warnings)
        rows.append(
            [
                kind,
                str(incidents),
                f"{len(delays)} ({share(len(delays) / incidents)})",
                str(named),
                f"{true} ({share(true / named)})" if named else "0",
                seconds(statistics.median(delays)) if delays else "-",
                _leads(leads),
            ]
        )
    head = (
        "pattern", "incidents", "found (recall)", "named", "true (precision)", "delay, median",
        "first warning before the hard failure, median",
    )  # fmt: skip
    return table(head, rows)


def _lead(incident: w.Placed, firsts: Iterable[float], warnings: Iterable[tuple[float, str]]) -> list[float]:
    """How long before the hard failure of a gradual incident the first pattern or prediction came; 0: not before."""
    if incident.course.hard_at_s is None:
        return []
    hard_at_s = incident.at_s + incident.course.hard_at_s
    warned = [at_s for at_s, who in warnings if who in incident.providers and incident.at_s <= at_s <= incident.until_s]
    return [max(hard_at_s - min([*firsts, *warned], default=hard_at_s), 0.0)]


def _leads(leads: Sequence[float]) -> str:
    if not leads:
        return ""
    return f"{seconds(statistics.median(leads))} ({sum(lead >= 30.0 for lead in leads)} of {len(leads)} at least 30 s)"


def _served(played: Sequence[Played]) -> str:
    judge = Judge(w.profiles())
    rows = []
    for course in w.COURSES:
        spans = [[(i.at_s, i.until_s) for i in one.placed if i.course is course] for one in played]
        rows.append(_row(course.name, played, spans, judge))
    after = [[(i.until_s, i.until_s + w.CALM_S) for i in one.placed] for one in played]
    rows.append(_row("the calm after each", played, after, judge))
    lanes = played[0].lanes
    columns = [
        f"{what}, {lane.name}"
        for what in ("served", "first token p99", f"first token after {SLOW_S:g} s", "utility")
        for lane in lanes
    ]
    return table(("while", "requests", *columns), rows)


def _row(
    name: str, played: Sequence[Played], spans: Sequence[Sequence[tuple[float, float]]], judge: Judge
) -> list[str]:
    within = [
        [
            sample
            for one, of_mesh in zip(played, spans, strict=True)
            for sample in one.lanes[lane].samples
            if sample.error != "unfinished" and any(begins <= sample.at_s < ends for begins, ends in of_mesh)
        ]
        for lane in range(2)
    ]
    times = [sorted(sample.first_token_s or 0.0 for sample in samples if useful(sample)) for samples in within]
    return [
        name,
        f"{len(within[0]):,}",
        *(share(sum(useful(sample) for sample in samples) / max(len(samples), 1)) for samples in within),
        *(seconds(quantiles(one).p99) for one in times),
        *(share(sum(time > SLOW_S for time in one) / max(len(one), 1)) for one in times),
        *(f"{statistics.fmean([judge.utility(s) * useful(s) for s in samples] or [0.0]):.3f}" for samples in within),
    ]


def useful(sample: Sample) -> bool:
    """A whole answer that says something."""
    return sample.ok and sample.content_events > 0


def _healed(played: Sequence[Played]) -> str:
    """What was done, how often, and its mean effect where it could be measured."""
    found: dict[str, list[dict[str, Any]]] = {}  # Any: JSON
    for one in played:
        for healing in one.healings:
            found.setdefault(healing["kind"], []).append(healing)
    rows = []
    for kind, healings in sorted(found.items(), key=lambda item: -len(item[1])):
        effects = [healing["effect"] for healing in healings if healing.get("effect") is not None]
        mean = f"{statistics.fmean(effects):+.2f} ({len(effects)})" if effects else "-"
        rows.append([kind, str(len(healings)), str(sum(bool(h.get("ended_at")) for h in healings)), mean])
    return table(("healing", "begun", "ended by then", "mean effect (measured)"), rows)
