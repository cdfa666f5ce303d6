"""The taxonomy table, row by row, as DESIGN.md has it."""

from __future__ import annotations

import pytest
from routing_samples import failure

from amaru.domain import FailureKind as F
from amaru.routing.reactions import Again, Health, Next, reaction_to

ROWS = [
    (F.RATE_LIMITED, Again.BACKOFF, Next.YES, Health.THROTTLED, 429),
    (F.OVERLOADED, Again.BACKOFF, Next.YES, Health.FAILING, 503),
    (F.SERVER_ERROR, Again.ONCE, Next.YES, Health.FAILING, 502),
    (F.CONNECT, Again.ONCE, Next.YES, Health.FAILING, 502),
    (F.RESET, Again.ONCE, Next.YES, Health.FAILING, 502),
    (F.NO_ANSWER, Again.NEVER, Next.YES, Health.FAILING, 504),
    (F.STREAM_CUT, Again.NEVER, Next.YES, Health.FAILING, 502),
    (F.STREAM_STALLED, Again.NEVER, Next.YES, Health.FAILING, 504),
    (F.MALFORMED_EVENT, Again.NEVER, Next.YES, Health.SUSPECT, 502),
    (F.MALFORMED_BODY, Again.ONCE, Next.YES, Health.SUSPECT, 502),
    (F.CONTEXT_TOO_LONG, Again.NEVER, Next.LARGER_WINDOW, Health.HEALTHY, 400),
    (F.CONTENT_REJECTED, Again.NEVER, Next.NO, Health.HEALTHY, None),
    (F.BAD_REQUEST, Again.NEVER, Next.NO, Health.HEALTHY, None),
    (F.BAD_CREDENTIALS, Again.NEVER, Next.YES, Health.BROKEN, 502),
    (F.QUOTA_EXHAUSTED, Again.NEVER, Next.YES, Health.BROKEN, 502),
    (F.UNKNOWN_MODEL, Again.NEVER, Next.YES, Health.BROKEN, 502),
]


@pytest.mark.parametrize(("kind", "again", "following", "health", "status"), ROWS)
def test_row(kind: F, again: Again, following: Next, health: Health, status: int | None) -> None:
    reaction = reaction_to(failure(kind))
    assert (reaction.again, reaction.next, reaction.health, reaction.caller_status) == (
        again,
        following,
        health,
        status,
    )
    assert reaction.alert == (health is Health.BROKEN)
    assert reaction.exclude_provider == (kind is F.NO_ANSWER)


def test_every_kind_has_its_row() -> None:
    assert {row[0] for row in ROWS} == set(F)


@pytest.mark.parametrize("kind", [F.RATE_LIMITED, F.OVERLOADED])
def test_a_retry_after_replaces_our_own_back_off(kind: F) -> None:
    assert reaction_to(failure(kind, retry_after_s=0.0)).again is Again.AFTER_RETRY_AFTER
    assert reaction_to(failure(kind, retry_after_s=0.0)).health is reaction_to(failure(kind)).health


def test_a_retry_after_changes_no_other_row() -> None:
    assert reaction_to(failure(F.SERVER_ERROR, retry_after_s=3.0)) == reaction_to(failure(F.SERVER_ERROR))
