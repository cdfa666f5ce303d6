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
SHORT_S = 1.0
"""Over less, a rate is hardly one."""


def warnings(summary: Summary, *, complete: bool, streamed: bool = True) -> Iterator[str]:
    """One plain sentence or two for each thing that is not as it should be."""
    if not complete:
        yield _stopped(summary)
    if not streamed:
        yield "Answers were not streamed: what is called time to first token is the time to the whole answer."
    yield from _not_measured(summary)
    if summary.sent and summary.duration_s < SHORT_S:
        yield (
            f"All requests were due within {seconds(summary.duration_s)}: rates of requests, which are over that time, "
            "say little."
        )
    yield from _late(summary)
    yield from _counted(summary, streamed=streamed)
    if 0 < summary.served < FEW:
        yield f"With only {counted(summary.served, 'whole answer')}, a p99 is no more than the slowest of them."


def _stopped(summary: Summary) -> str:
    words = "The run was stopped before the end of its trace: the figures are of what had happened until then."
    ended = summary.served + summary.failed
    if summary.unfinished and ended:
        words += f" Of the {counted(ended, 'request')} that had ended, {share(summary.good / ended)} were good."
    return words


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


def _counted(summary: Summary, *, streamed: bool) -> Iterator[str]:
    by_client = summary.token_counts_by.get("client", 0)
    if by_client:
        how = "one for each content event" if streamed else "an estimate from the text"
        yield (
            f"The server reported no usage for {share(by_client / summary.served)} of the whole answers: their output "
            f"tokens are the client's count, {how}, and input tokens are the trace's."
        )
    tokens = summary.tokens_per_event
    if tokens is not None and tokens >= BUNDLED_TOKENS and summary.inter_token.count:
        yield (
            f"A content event carried {number(tokens)} tokens on average, so the inter-token latency is that between "
            "events; the time per output token is of tokens."
        )
    if 0 < summary.cost_reported < summary.served:
        yield f"The server reported the cost of {counted(summary.cost_reported, 'whole answer')} only: it is of these."
