"""The failure taxonomy as one table: what each failure makes the mesh do.

The table is DESIGN.md's, row by row. Nothing else in amaru decides by the kind of a failure.
"""

from __future__ import annotations

import enum

import msgspec

from amaru.domain import FailureKind
from amaru.errors import Failure


class Again(enum.Enum):
    """Whether the same offer may be asked once more."""

    NEVER = "never"
    ONCE = "once"
    AFTER_RETRY_AFTER = "after_retry_after"
    """Once, after the provider's Retry-After, where that is short or no other offer is free."""
    BACKOFF = "backoff"
    """After a jittered back-off, inside the retry budget."""


class Next(enum.Enum):
    """Whether another offer may be asked."""

    YES = "yes"
    NO = "no"
    LARGER_WINDOW = "larger_window"
    """Only offers whose context window is larger than that of the one which failed."""


class Health(enum.Enum):
    """What the failure says about the offer."""

    HEALTHY = "healthy"
    THROTTLED = "throttled"
    """Busy, not sick: never counts against the breaker."""
    FAILING = "failing"
    SUSPECT = "suspect"
    """Perhaps its API changed; counts as failing."""
    BROKEN = "broken"
    """Until a person fixes it."""


class Reaction(msgspec.Struct, frozen=True):
    """One row of the taxonomy."""

    again: Again
    next: Next
    health: Health
    caller_status: int | None
    """HTTP status the caller gets if every attempt fails; ``None``: the provider's own 4xx, with its words."""
    alert: bool = False
    """A person must act."""
    exclude_provider: bool = False
    """Other offers of this provider are not asked for this request either: it keeps callers waiting."""


_TRANSIENT = Reaction(Again.ONCE, Next.YES, Health.FAILING, 502)
_BROKEN = Reaction(Again.NEVER, Next.YES, Health.BROKEN, 502, alert=True)

_TABLE: dict[FailureKind, Reaction] = {
    FailureKind.RATE_LIMITED: Reaction(Again.BACKOFF, Next.YES, Health.THROTTLED, 429),
    FailureKind.OVERLOADED: Reaction(Again.BACKOFF, Next.YES, Health.FAILING, 503),
    FailureKind.SERVER_ERROR: _TRANSIENT,
    FailureKind.CONNECT: _TRANSIENT,
    FailureKind.RESET: _TRANSIENT,
    FailureKind.NO_ANSWER: Reaction(Again.NEVER, Next.YES, Health.FAILING, 504, exclude_provider=True),
    FailureKind.STREAM_CUT: Reaction(Again.NEVER, Next.YES, Health.FAILING, 502),
    FailureKind.STREAM_STALLED: Reaction(Again.NEVER, Next.YES, Health.FAILING, 504),
    FailureKind.MALFORMED_EVENT: Reaction(Again.NEVER, Next.YES, Health.SUSPECT, 502),
    FailureKind.MALFORMED_BODY: Reaction(Again.ONCE, Next.YES, Health.SUSPECT, 502),
    FailureKind.CONTEXT_TOO_LONG: Reaction(Again.NEVER, Next.LARGER_WINDOW, Health.HEALTHY, 400),
    FailureKind.CONTENT_REJECTED: Reaction(Again.NEVER, Next.NO, Health.HEALTHY, None),
    FailureKind.BAD_REQUEST: Reaction(Again.NEVER, Next.NO, Health.HEALTHY, None),
    FailureKind.BAD_CREDENTIALS: _BROKEN,
    FailureKind.QUOTA_EXHAUSTED: _BROKEN,
    FailureKind.UNKNOWN_MODEL: _BROKEN,
}

# A provider that says when to come back is taken at its word instead of by our own back-off.
_TABLE_WITH_RETRY_AFTER: dict[FailureKind, Reaction] = {
    kind: msgspec.structs.replace(_TABLE[kind], again=Again.AFTER_RETRY_AFTER)
    for kind in (FailureKind.RATE_LIMITED, FailureKind.OVERLOADED)
}


_NOT_SO_HERE = Reaction(Again.NEVER, Next.YES, Health.HEALTHY, None)
"""Of a request that another provider has begun to answer: it is not bad, only not to this provider's taste."""


def reaction_to(failure: Failure, *, rescuing: bool = False) -> Reaction:
    """Look up the row of ``failure``; for throttling kinds there is one with and one without Retry-After.

    ``rescuing``: another provider's answer to the same request had begun, and broke.
    """
    if rescuing and failure.kind is FailureKind.BAD_REQUEST:
        return _NOT_SO_HERE
    if failure.retry_after_s is not None:
        row = _TABLE_WITH_RETRY_AFTER.get(failure.kind)
        if row is not None:
            return row
    return _TABLE[failure.kind]
