"""What a reader of a replay's figures must be told before taking them for what they seem to say."""

from __future__ import annotations

from collections.abc import Iterator

from amaru.readiness.markdown import counted, number, seconds, share
from amaru.readiness.measuring import Summary

LATE_SHARE = 0.1
"""The load generator is called late where the p99 of its lag exceeds so much of the median time to first token."""
FEW = 100
"""Below so many answers the p99 is their slowest."""
BUNDLED_TOKENS = 1.5
"""From so many tokens a content event on, gaps between events are not called gaps between tokens."""


def warnings(summary: Summary, *, complete: bool, streamed: bool = True) -> Iterator[str]:
    """One plain sentence or two for each thing that is not as it should be."""
    if not complete:
        yield "The run was stopped before the end of its trace: the figures are of what had happened until then."
    if not streamed:
        yield "Answers were not streamed: what is called time to first token is the time to the whole answer."
    yield from _not_measured(summary)
    yield from _late(summary)
    yield from _counted(summary)
    if 0 < summary.served < FEW:
        yield f"With only {counted(summary.served, 'whole answer')}, a p99 is no more than the slowest of them."


def _not_measured(summary: Summary) -> Iterator[str]:
    offered = summary.sent + summary.dropped
    if summary.dropped:
        yield (
            f"Of the requests that were due, {summary.dropped:,} ({share(summary.dropped / offered)}) never left, "
            "since too many were open. They count as not good; their latencies, in no percentile, would have been the "
            "worst."
        )
    if summary.unfinished:
        yield (
            f"Of the requests that were sent, {summary.unfinished:,} ({share(summary.unfinished / offered)}) did not "
            "end and had to be given up. They count as not good, and are in no percentile."
        )


def _late(summary: Summary) -> Iterator[str]:
    lag_s, first_token_s = summary.lag.p99, summary.first_token.p50
    if lag_s is not None and first_token_s is not None and lag_s > LATE_SHARE * first_token_s:
        yield (
            f"The load generator was late itself: one request in a hundred left {seconds(lag_s)} or more after it was "
            f"due, beside a median time to first token of {seconds(first_token_s)}. Latencies count from when a "
            "request was due, so they hold this delay too: replay slower, or from a machine with more to spare."
        )


def _counted(summary: Summary) -> Iterator[str]:
    by_client = summary.token_counts_by.get("client", 0)
    if by_client:
        yield (
            f"The server reported no usage for {share(by_client / summary.served)} of the whole answers: their tokens "
            "are the client's count, one for each content event."
        )
    tokens = summary.tokens_per_event
    if tokens is not None and tokens >= BUNDLED_TOKENS:
        yield (
            f"A content event carried {number(tokens)} tokens on average, so the inter-token latency is that between "
            "events; the time per output token is of tokens."
        )
    if 0 < summary.cost_reported < summary.served:
        yield f"The server reported the cost of {counted(summary.cost_reported, 'whole answer')} only: it is of these."
