"""What `incidents.py` plays: a mesh of four providers, kinds of incidents with their course, and endless traffic.

The mesh is provisioned as operators do it: any one provider may be lost, two may not. Each incident is of a kind that
breakers and failover alone do not end: providers that grow slower or lose requests slowly before they are gone, answers
without a word, a changed API at two providers at once, and two that lose a third of their requests because of something
that they share. Each is followed by calm, in which what was done about it must be taken back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec

from amaru.simulation.faults import Fault, Incident
from amaru.simulation.profiles import SEVEN, ProviderProfile
from amaru.simulation.traces import TraceRequest, bundled_trace, open_trace

CALM_S = 110.0
"""Before the first incident, for the baselines, and after each."""
PAIR = ("cobalt", "ember")
"""Those that the rules prefer: of a provider that nobody asks, live traffic shows nothing. They stand in one region, so
that there is something that they share."""
CAPACITIES = {"anvil": 24, "cobalt": 22, "ember": 18, "garnet": 18}
"""Requests at once, for some 15 of them under way, and twice as many at times."""

DEGRADATION, API_CHANGE, RESONANCE, RECOVERY = "degradation", "api_change", "resonance", "recovery"
"""The four patterns, by the names that amaru gives them."""

Strike = tuple[int, float, Fault]
"""Place among the struck, seconds into the incident, and what begins then; it ends with its own duration."""


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of incident."""

    name: str
    pattern: str
    """Which amaru is expected to name."""
    lasts_s: float
    struck: int
    """How many of ``PAIR``."""
    strikes: tuple[Strike, ...]
    hard_at_s: float | None = None
    """When the provider begins to fail hard; ``None``: it does not, or from the beginning."""


def _gradual(name: str, fault: Fault, gone: Fault) -> Course:
    """It grows over a minute and a half, and then the provider is gone for half a minute."""
    grows_s, gone_s = 90.0, 30.0
    growing = msgspec.structs.replace(fault, ramp_s=grows_s, duration_s=grows_s)
    gone = msgspec.structs.replace(gone, duration_s=gone_s)
    return Course(
        name=name,
        pattern=DEGRADATION,
        lasts_s=grows_s + gone_s,
        struck=1,
        strikes=((0, 0.0, growing), (0, grows_s, gone)),
        hard_at_s=grows_s,
    )


def _at_once(name: str, pattern: str, struck: int, fault: Fault) -> Course:
    """It is there from one moment to the next, and stays for a minute and a half."""
    fault = msgspec.structs.replace(fault, duration_s=90.0)
    strikes = tuple((place, 0.0, fault) for place in range(struck))
    return Course(name=name, pattern=pattern, lasts_s=90.0, struck=struck, strikes=strikes)


COURSES = (
    _gradual("slower and slower, then silent", Fault(kind="slow", factor=6.0), Fault(kind="hang")),
    _gradual(
        "loses more and more, then gone",
        Fault(kind="hang", probability=0.5),
        Fault(kind="refuse", under_way=True),
    ),
    _at_once("answers without a word", DEGRADATION, 1, Fault(kind="empty_text")),
    _at_once("a field renamed at two providers", API_CHANGE, 2, Fault(kind="renamed_field")),
    _at_once("two of one region lose a third", RESONANCE, 2, Fault(kind="hang", probability=0.35)),
)


class Placed(msgspec.Struct, frozen=True):
    """An incident at its place in the run."""

    course: Course
    at_s: float
    providers: tuple[str, ...]

    @property
    def until_s(self) -> float:
        """When its last fault is switched off."""
        return self.at_s + self.course.lasts_s

    def faults(self) -> Iterator[Incident]:
        """What makes it, each for one provider."""
        for place, start_s, fault in self.course.strikes:
            fields = {name: getattr(fault, name) for name in Fault.__struct_fields__}
            yield Incident(at_s=self.at_s + start_s, provider=self.providers[place], **fields)


def schedule(mesh: int, incidents: int) -> tuple[list[Placed], list[Incident], float]:
    """The incidents of one mesh, the faults that make them, and how long all of it takes, in seconds.

    Each mesh begins with another kind, and who of the pair is struck (first) changes.
    """
    placed = []
    at_s = CALM_S
    for turn in range(mesh, mesh + incidents):
        course = COURSES[turn % len(COURSES)]
        pair = PAIR if turn // len(COURSES) % 2 == 0 else PAIR[::-1]
        placed.append(Placed(course, at_s, pair[: course.struck]))
        at_s += course.lasts_s + CALM_S
    faults = sorted((fault for one in placed for fault in one.faults()), key=lambda fault: fault.at_s)
    return placed, faults, at_s


def profiles() -> tuple[ProviderProfile, ...]:
    """Four of the demo's seven, each so small that none of them can serve all."""
    return tuple(
        msgspec.structs.replace(
            profile,
            capacity=CAPACITIES[profile.name],
            queue=CAPACITIES[profile.name] // 2,
            regions=("us-west",) if profile.name in PAIR else profile.regions,
        )
        for profile in SEVEN
        if profile.name in CAPACITIES
    )


def endless(share: float) -> Iterator[TraceRequest]:
    """The bundled trace, again and again, begun after ``share`` of it."""
    once = list(open_trace(bundled_trace()).requests)
    length_s = once[-1].at_s + once[-1].at_s / len(once)
    begins_s = share * length_s
    for lap in itertools.count():
        for request in once:
            at_s = request.at_s + lap * length_s - begins_s
            if at_s >= 0.0:
                yield msgspec.structs.replace(request, at_s=at_s)
