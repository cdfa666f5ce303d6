"""What a run of traffic measured: one `Sample` per request, and the `Summary` of many.

Latencies count from the instant at which a request was meant to be sent, not from when it was: a load generator that
waits for a slow server before it sends the next request would hide exactly the slowness it should measure ("coordinated
omission", Gil Tene, "How NOT to Measure Latency", 2013).
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec


def _no_gaps() -> array[float]:
    return array("f")


class Sample(msgspec.Struct, gc=False):
    """One request, as its caller saw it. Times ending in ``_s`` are seconds; instants count from the run's start."""

    at_s: float
    """When it was meant to be sent."""
    lag_s: float = 0.0
    """How much later it was sent: the load generator's own fault."""
    first_token_s: float | None = None
    """From when it was meant to be sent to the first token; ``None``: none came."""
    latency_s: float = 0.0
    """From when it was meant to be sent to its end, good or bad."""
    status: int = 0
    """HTTP status; 0: no answer came."""
    error: str = ""
    """What went wrong, in one word; empty: the answer is whole."""
    detail: str = ""
    """The error in words, as it was told."""
    input_tokens: int = 0
    output_tokens: int = 0
    counted_by: str = "server"
    """Whose count the tokens are: ``server`` (reported usage) or ``client`` (one a content event)."""
    client_retries: int = 0
    """How often the caller itself asked again."""
    provider: str = ""
    """Who served it, where the server says."""
    attempts: int = 1
    """Providers' calls that the server needed for it, where it says."""
    cost_usd: float = 0.0
    decision: str = ""
    joined: str = ""
    """How a break was rescued, where the server says: ``continued``, ``repeated`` or ``unseen``; empty: no break."""
    content_events: int = 0
    """Events that carried content."""
    gaps_s: array[float] = msgspec.field(default_factory=_no_gaps)
    """Between each content event and the next, as single-precision floats: a run has millions."""

    @property
    def ok(self) -> bool:
        """Whether the caller got a whole answer."""
        return not self.error

    @property
    def ended_s(self) -> float:
        """The instant of its end."""
        return self.at_s + self.latency_s


TRUNCATED = "truncated"
"""Error of an answer that stopped without a finish reason and without saying that anything went wrong."""
UNFINISHED = "unfinished"
"""Error of a request that was still open when the run was stopped; it counts neither as served nor as failed."""


class Quantiles(msgspec.Struct, frozen=True):
    """Percentiles in seconds; ``None`` where nothing was measured."""

    count: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run, or a part of it, in figures."""

    sent: int
    served: int
    """Whole answers."""
    failed: int
    unfinished: int
    dropped: int
    """Requests never sent, since too many were open."""
    broken_streams: int
    """Of the failed: those whose caller had already got a token."""
    errors: dict[str, int]
    """Failures by kind, the most frequent first."""
    success_share: float | None
    """Whole answers of all requests that ended or were dropped."""
    good: int
    """Whole answers whose first token came within the objective."""
    goodput_per_s: float
    slo_first_token_s: float
    first_token: Quantiles
    latency: Quantiles
    """Of whole answers."""
    lag: Quantiles
    """How late requests were sent: where this is not small, the load generator was the bottleneck."""
    input_tokens: int
    output_tokens: int
    output_tokens_per_s: float
    token_counts_by: dict[str, int]
    cost_usd: float
    """Of whole answers, as the server reported it."""
    saved_by_failover: int
    """Whole answers that took more than one provider's call."""
    client_retries: int
    by_provider: dict[str, int]
    """Whole answers by who served them."""
    duration_s: float


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``ordered`` lies: the nearest rank, so always a value that was measured."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def quantiles(values: Iterable[float]) -> Quantiles:
    """p50, p95 and p99."""
    ordered = sorted(values)
    if not ordered:
        return Quantiles(0)
    return Quantiles(len(ordered), *(quantile(ordered, share) for share in (0.50, 0.95, 0.99)))


def summarize(samples: Sequence[Sample], *, duration_s: float, slo_first_token_s: float, dropped: int = 0) -> Summary:
    """Figures over ``samples``. ``duration_s`` is what rates are taken over."""
    whole = [sample for sample in samples if sample.ok]
    unfinished = sum(sample.error == UNFINISHED for sample in samples)
    failed = len(samples) - len(whole) - unfinished
    good = sum(sample.first_token_s is not None and sample.first_token_s <= slo_first_token_s for sample in whole)
    output_tokens = sum(sample.output_tokens for sample in whole)
    span_s = max(duration_s, 1e-9)
    ended = len(whole) + failed + dropped
    errors = Counter(sample.error for sample in samples if sample.error and sample.error != UNFINISHED)
    return Summary(
        sent=len(samples),
        served=len(whole),
        failed=failed,
        unfinished=unfinished,
        dropped=dropped,
        broken_streams=sum(_broke(sample) for sample in samples),
        errors=dict(errors.most_common()),
        success_share=len(whole) / ended if ended else None,
        good=good,
        goodput_per_s=good / span_s,
        slo_first_token_s=slo_first_token_s,
        first_token=quantiles(sample.first_token_s for sample in whole if sample.first_token_s is not None),
        latency=quantiles(sample.latency_s for sample in whole),
        lag=quantiles(sample.lag_s for sample in samples),
        input_tokens=sum(sample.input_tokens for sample in whole),
        output_tokens=output_tokens,
        output_tokens_per_s=output_tokens / span_s,
        token_counts_by=dict(Counter(sample.counted_by for sample in whole)),
        cost_usd=math.fsum(sample.cost_usd for sample in whole),
        saved_by_failover=sum(sample.attempts > 1 for sample in whole),
        client_retries=sum(sample.client_retries for sample in samples),
        by_provider=dict(Counter(sample.provider or "unknown" for sample in whole).most_common()),
        duration_s=duration_s,
    )


def _broke(sample: Sample) -> bool:
    return not sample.ok and sample.error != UNFINISHED and sample.first_token_s is not None
