"""The incidents of the demo: aimed at the providers that the rules like best, since those hurt most."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from amaru.simulation.faults import Fault, Incident

LENGTH_S = 120.0
"""The scenario's own length; it is stretched to the run's."""


class _Strike(msgspec.Struct, frozen=True):
    place: int
    """Of the provider struck, in the rules' order of preference; 0 is the favourite."""
    at_s: float
    for_s: float
    fault: Fault


_STRIKES = (
    # An outage takes the favourite down, with the answers it was giving; meanwhile the second is rate limited.
    _Strike(0, 12, 20, Fault(kind="refuse", under_way=True)),
    _Strike(1, 18, 12, Fault(kind="status", status=429, retry_after="seconds", retry_after_s=2)),
    # One that accepts and never answers: only a time limit notices.
    _Strike(2, 38, 12, Fault(kind="hang", at="head")),
    _Strike(1, 44, 12, Fault(kind="slow", factor=3)),
    # Silence behind a good-looking 200; errors dressed as answers.
    _Strike(0, 58, 12, Fault(kind="stall", at="first_byte")),
    _Strike(0, 76, 8, Fault(kind="error_in_200", status=503)),
    _Strike(3, 74, 12, Fault(kind="status", status=500)),
    # Breaks in the middle of an answer, when the caller has already read half of it.
    _Strike(0, 90, 8, Fault(kind="cut", after_events=6, probability=0.3)),
    _Strike(1, 98, 10, Fault(kind="status", status=503, retry_after="ms", retry_after_s=0.5, probability=0.5)),
)

_GRAY = (
    # A part of the requests fails, and slowly, for long: too few for a breaker, and only a time limit notices.
    _Strike(1, 50, 36, Fault(kind="hang", at="head", probability=0.3)),
    _Strike(2, 60, 36, Fault(kind="stall", at="first_byte", probability=0.3)),
    _Strike(3, 90, 24, Fault(kind="hang", at="head", probability=0.3)),
)


def scenario(ranking: Sequence[str], duration_s: float, *, gray: bool = False) -> list[Incident]:
    """The incidents of a run of ``duration_s``, for providers in the rules' order of preference, in order of time.

    ``gray``: with gray failures besides, which no breaker notices.
    """
    stretch = duration_s / LENGTH_S
    incidents = []
    for strike in (*_STRIKES, *(_GRAY if gray else ())):
        if strike.place < len(ranking):
            fields = {name: getattr(strike.fault, name) for name in Fault.__struct_fields__}
            fields |= {"provider": ranking[strike.place], "duration_s": strike.for_s * stretch}
            incidents.append(Incident(at_s=strike.at_s * stretch, **fields))
    return sorted(incidents, key=lambda incident: incident.at_s)
