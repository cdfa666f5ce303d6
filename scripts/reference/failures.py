"""The failure taxonomy's table, from the table that the mesh reacts by."""

from __future__ import annotations

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.routing.reactions import Again, Health, Next, reaction_to
from reference.markdown import code, table

INTRO = """# The failure taxonomy

Every provider error becomes exactly one of these at the boundary, and nothing above the boundary knows any other. What
each one makes amaru do is one table in one file, `amaru/routing/reactions.py`, from which this page is made.
[Failures and retries](../explanation/failures.md) says why the rows are as they are.
"""

AGAIN = {
    Again.NEVER: "never",
    Again.ONCE: "once",
    Again.AFTER_RETRY_AFTER: "once, after its Retry-After, where that is short or no other offer is free",
    Again.BACKOFF: "after a jittered back-off, inside the retry budget",
}
NEXT = {Next.YES: "yes", Next.NO: "no", Next.LARGER_WINDOW: "only with a larger context window"}
HEALTH = {
    Health.HEALTHY: "healthy",
    Health.THROTTLED: "throttled, not sick",
    Health.FAILING: "failing",
    Health.SUSPECT: "suspect: its API may have changed",
    Health.BROKEN: "broken until fixed, and an alert",
}
MEANING = {
    FailureKind.RATE_LIMITED: "429: too many requests or tokens for now",
    FailureKind.OVERLOADED: "503 or 529: busy",
    FailureKind.SERVER_ERROR: "500, 502, 504 and the like",
    FailureKind.CONNECT: "no connection: refused, DNS, TLS, or the connect limit passed",
    FailureKind.RESET: "the connection was closed before the first byte of an answer",
    FailureKind.NO_ANSWER: "no answer, or no first token, within the limit",
    FailureKind.STREAM_CUT: "a stream ended early",
    FailureKind.STREAM_STALLED: "a stream fell silent for longer than the idle limit",
    FailureKind.MALFORMED_EVENT: "an event in a stream that cannot be read",
    FailureKind.MALFORMED_BODY: "an answer that is empty, cannot be read, or lacks a field it must have",
    FailureKind.CONTEXT_TOO_LONG: "the request does not fit the model's window",
    FailureKind.CONTENT_REJECTED: "the provider's content filter refused it",
    FailureKind.BAD_REQUEST: "the provider says that the request is wrong",
    FailureKind.BAD_CREDENTIALS: "401 or 403: the key is wrong",
    FailureKind.QUOTA_EXHAUSTED: "402 or `insufficient_quota`: no money left",
    FailureKind.UNKNOWN_MODEL: "the provider does not know the model",
}


def page() -> str:
    """The page's Markdown."""
    rows = []
    for kind in FailureKind:
        variants = {
            reaction_to(Failure(kind, "")): "",
            reaction_to(Failure(kind, "", retry_after_s=1.0)): " + Retry-After",
        }
        for reaction, suffix in variants.items():
            status = "the provider's own 4xx" if reaction.caller_status is None else str(reaction.caller_status)
            rows.append(
                (
                    code(kind.value) + (suffix if len(variants) > 1 else ""),
                    MEANING[kind],
                    AGAIN[reaction.again],
                    NEXT[reaction.next],
                    HEALTH[reaction.health],
                    status,
                )
            )
    head = ("failure", "what happened", "same offer again", "another offer", "health", "caller gets, if all fail")
    return INTRO + "\n" + table(head, rows)
