"""What one attempt showed of an offer: all that the rooms of health are told.

Figures only, never text (law 4): where a text or a prompt must be recognised again, a salted hash stands for it.
"""

from __future__ import annotations

import enum

import msgspec

from amaru.domain import FailureKind, Kind
from amaru.errors import Failure
from amaru.routing.reactions import Health, reaction_to


class Sample(msgspec.Struct, frozen=True, gc=False):
    """What the shape and the text of one answer looked like. See ``sample.sample_of``."""

    shape: int
    """64-bit digest of the set of field paths with their JSON types, of the answer or of its events; 0: not read."""
    missing: tuple[str, ...] = ()
    """Fields that the protocol requires and that were absent or null."""
    repetition: float = 0.0
    """Share of repeated 4-grams of words in the answer, 0 to 1 (1 - distinct/total); 0 for short texts."""
    digest: int = 0
    """Salted 64-bit hash of the text; equal texts to different prompts are suspicious. 0: no text."""
    prompt: int = 0
    """Salted 64-bit hash of the prompt; 0: not known."""
    empty: bool = False
    """It should hold generated text, and holds none but white space."""


class Observation(msgspec.Struct, frozen=True, gc=False):
    """One attempt that has ended.

    Attempts that say nothing about the offer (the caller went away, or its own deadline passed) are not observed.
    """

    offer: str
    provider: str
    at: float
    """When it ended, in Unix seconds. All forgetting goes by this clock."""
    ok: bool
    failure: FailureKind | None = None
    """Given exactly where it is not ok."""
    status: int | None = None
    """The provider's HTTP status, where one arrived. A success without one was reported by a caller: nobody saw the
    answer, so it says nothing about coherence."""
    stream: bool = False
    latency_ms: float = 0.0
    """Of the whole attempt."""
    first_token_ms: float | None = None
    input_tokens: int = 0
    output_tokens: int | None = None
    """``None``: unknown."""
    output_chars: int = 0
    finish_reason: str | None = None
    sample: Sample | None = None
    """``None``: not looked at; only some answers are."""
    probe: bool = False
    """Nobody's request: amaru asked to see how the offer fares."""
    kind: Kind = Kind.CHAT
    prompt: int = 0
    """Salted 64-bit hash of a prompt that was refused as a bad request; 0: not known, or not refused so."""
    load: float = 0.0
    """Share of the offer's capacity that was taken when it was asked, 0 to 1; 0 where that has no bound."""


class Verdict(enum.IntEnum):
    """What an observation says of its offer; numbers are those of the kernels."""

    SUCCESS = 0
    ERROR = 1
    THROTTLED = 2
    """Busy, not sick."""
    NONE = 3
    """Nothing: the caller's own fault."""


_HEALTH = {kind: reaction_to(Failure(kind, "")).health for kind in FailureKind}
_VERDICTS = {
    kind: {Health.HEALTHY: Verdict.NONE, Health.THROTTLED: Verdict.THROTTLED}.get(health, Verdict.ERROR)
    for kind, health in _HEALTH.items()
}


def verdict_on(ok: bool, failure: FailureKind | None) -> Verdict:
    """What the failure taxonomy makes of it; a failure without a kind counts as an error."""
    if ok:
        return Verdict.SUCCESS
    return Verdict.ERROR if failure is None else _VERDICTS[failure]


def is_suspect(failure: FailureKind) -> bool:
    """The answer could not be read: perhaps the provider's API changed."""
    return _HEALTH[failure] is Health.SUSPECT
