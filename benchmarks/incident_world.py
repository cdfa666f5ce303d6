"""What `incidents.py` plays: providers, kinds of incidents with their course, and traffic that goes on and on.

An incident of the kind "gradual" grows in steps until its provider fails hard, so that a warning can come first. Each
is followed by calm, in which what it did must be taken back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import msgspec

from amaru.simulation.faults import Fault, Incident
from amaru.simulation.profiles import SEVEN, ProviderProfile
from amaru.simulation.traces import TraceRequest, bundled_trace, open_trace

CALM_S = 75.0
"""Before the first incident, for the baselines, and after each."""
STEP_S = 5.0
SMALLER = 20
"""The capacity of each provider is divided by this, to suit some ten requests a second."""

DEGRADATION, API_CHANGE, RESONANCE, RECOVERY = "degradation", "api_change", "resonance", "recovery"
"""The four patterns, by the names that amaru gives them."""


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of incident.

    ``strikes`` are (place of the provider in the rules' ranking, start, length, fault), in seconds of the incident.
    """

    name: str
    pattern: str
    """Which amaru is expected to name."""
    lasts_s: float
    strikes: tuple[tuple[int, float, float, Fault], ...]
    hard_at_s: float | None = None
    """When the provider begins to fail hard; ``None``: it does not, or from the beginning."""

    @property
    def places(self) -> frozenset[int]:
        """Who is struck."""
        return frozenset(place for place, *_ in self.strikes)


def _ramp(place: int, faults: Sequence[Fault]) -> tuple[tuple[int, float, float, Fault], ...]:
    """One step after the other, each until the next."""
    return tuple((place, n * STEP_S, STEP_S, fault) for n, fault in enumerate(faults))


_SLOWER = tuple(Fault(kind="slow", factor=1.3**n) for n in range(1, 11))
_ERRORS = tuple(Fault(kind="status", status=500, probability=min(0.04 * 1.3**n, 1.0)) for n in range(10))
_GONE = Fault(kind="refuse", under_way=True)

COURSES = (
    Course(
        name="slower and slower, then gone",
        pattern=DEGRADATION,
        lasts_s=70.0,
        strikes=(*_ramp(0, _SLOWER), (0, 50.0, 20.0, _GONE)),
        hard_at_s=50.0,
    ),
    Course(
        name="more and more errors, then gone",
        pattern=DEGRADATION,
        lasts_s=70.0,
        strikes=(*_ramp(1, _ERRORS), (1, 50.0, 20.0, _GONE)),
        hard_at_s=50.0,
    ),
    Course(
        name="answers without their choices",
        pattern=API_CHANGE,
        lasts_s=60.0,
        strikes=((0, 0.0, 60.0, Fault(kind="garbage", garbage="null_choices", probability=0.4)),),
    ),
    Course(
        name="two providers of one kind at once",
        pattern=RESONANCE,
        lasts_s=60.0,
        strikes=tuple((n, 0.0, 60.0, Fault(kind="status", status=503, probability=0.6)) for n in (0, 1)),
    ),
)


class Placed(msgspec.Struct, frozen=True):
    """An incident at its place in the run."""

    course: Course
    at_s: float
    providers: frozenset[str]

    @property
    def until_s(self) -> float:
        """When its last fault is switched off."""
        return self.at_s + self.course.lasts_s


def schedule(ranking: Sequence[str], rounds: int) -> tuple[list[Placed], list[Incident], float]:
    """The incidents of a run, the faults that make them, and how long all of it takes, in seconds.

    Struck are the two that get most of the traffic, and from round to round they change places: of a provider that
    nobody asks, live traffic shows nothing.
    """
    placed, faults = [], []
    at_s = CALM_S
    for turn in range(rounds):
        names = ranking[:2] if turn % 2 == 0 else ranking[1::-1]
        for course in COURSES:
            placed.append(Placed(course, at_s, frozenset(names[place] for place in course.places)))
            for place, start_s, length_s, fault in course.strikes:
                fields = {name: getattr(fault, name) for name in Fault.__struct_fields__}
                fields |= {"provider": names[place], "duration_s": length_s}
                faults.append(Incident(at_s=at_s + start_s, **fields))
            at_s += course.lasts_s + CALM_S
    return placed, sorted(faults, key=lambda fault: fault.at_s), at_s


def profiles() -> tuple[ProviderProfile, ...]:
    """The demo's seven, each so small that one of them cannot serve all: traffic spreads, as it does in a large mesh.

    The two that are struck stand in one region, so that there is something to share.
    """
    return tuple(
        msgspec.structs.replace(
            profile,
            capacity=max(profile.capacity // SMALLER, 1),
            queue=max(profile.queue // SMALLER, 1),
            regions=("us-west",) if profile.name in ("cobalt", "flint") else profile.regions,
        )
        for profile in SEVEN
    )


def endless() -> Iterator[TraceRequest]:
    """The bundled trace, again and again, without its prompts' shared blocks."""
    once = list(open_trace(bundled_trace()).requests)
    length_s = once[-1].at_s + once[-1].at_s / len(once)
    for lap in itertools.count():
        for request in once:
            yield msgspec.structs.replace(request, at_s=request.at_s + lap * length_s)
