"""What a run of traffic measured: one `Sample` per request, and the `Summary` of many.

Latencies count from the instant at which a request was meant to be sent, not from when it was: a load generator that
waits for a slow server before it sends the next request would hide exactly the slowness it should measure ("coordinated
omission", Gil Tene, "How NOT to Measure Latency", 2013). Percentiles are by nearest rank. Beside that the figures are
defined as those of vLLM's ``bench serve``, so that they can be laid beside its own.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt


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
    """As the server counts them; where it does not, those of the trace."""
    cached_input_tokens: int | None = None
    """Of the input tokens, those that the server took from a cache of prompts; ``None``: it does not say."""
    output_tokens: int = 0
    counted_by: str = "server"
    """Whose count the output tokens are: ``server`` (reported usage) or ``client`` (one a content event)."""
    client_retries: int = 0
    """How often the caller itself asked again."""
    provider: str = ""
    """Who served it, where the server says."""
    attempts: int = 1
    """Providers' calls that the server needed for it, where it says."""
    cost_usd: float | None = None
    """As the server reports it; ``None``: it does not."""
    decision: str = ""
    joined: str = ""
    """How a break was rescued, where the server says: ``continued``, ``repeated``, ``unseen`` or ``complete``; empty:
    no break."""
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
UNKNOWN = "unknown"
"""The provider of answers whose server does not say who served."""

Values = npt.NDArray[np.floating[Any]]  # Any: single or double precision


class Quantiles(msgspec.Struct, frozen=True):
    """Percentiles in seconds, each a value that was measured; ``None`` where nothing was."""

    count: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Distributions(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was timed, in seconds and ascending. All but ``lag_s`` are of whole answers: a failure is no
    latency, and counts against goodput instead."""

    first_token_s: Values
    """From when the request was meant to be sent to its first token (TTFT)."""
    inter_token_s: Values
    """Between each content event and the next, over all streams together (ITL, as vLLM's ``bench serve`` has it, which
    counts events too: one that carries several tokens is one)."""
    time_per_output_token_s: Values
    """One a request: from its first token to its last, over its output tokens less one (TPOT, as vLLM's). Requests of
    one token, or whose tokens came in a single event, have none."""
    latency_s: Values
    """From when the request was meant to be sent to the end of its answer (E2EL)."""
    lag_s: Values
    """How late each request left; of all that were sent."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run, or a part of it, in figures.

    Rates of requests are taken over ``duration_s``, the time in which they were due, so that those of due, whole and
    good ones are to each other as their numbers are. Rates of tokens are taken over ``measured_s``, as all of vLLM's
    are over its ``benchmark_duration``: over less, they would count tokens that came later.
    """

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
    """Good answers a second: vLLM's ``request_goodput``, after DistServe (Zhong et al., OSDI 2024)."""
    goodput_share: float | None
    """Good answers of all requests that the trace had: what failed, was dropped or was still open is not good."""
    slo_first_token_s: float
    offered_per_s: float
    """Requests that the trace had, sent or dropped, a second."""
    served_per_s: float
    first_token: Quantiles = msgspec.field(name="first_token_s")
    inter_token: Quantiles = msgspec.field(name="inter_token_s")
    time_per_output_token: Quantiles = msgspec.field(name="time_per_output_token_s")
    latency: Quantiles = msgspec.field(name="latency_s")
    """Of whole answers, as the other three; see `Distributions`."""
    lag: Quantiles = msgspec.field(name="lag_s")
    """How late requests were sent: where this is not small, the load generator was the bottleneck."""
    input_tokens: int
    """Of whole answers; those of the trace, where the server counts none."""
    cached_input_tokens: int | None = None
    """Of the input tokens, those that came from caches of prompts, as far as the server says; ``None``: it never
    does."""
    output_tokens: int
    """Of whole answers."""
    output_tokens_per_s: float
    total_tokens_per_s: float
    """Input and output."""
    tokens_per_event: float | None
    """Output tokens by the server's count for each content event: where it is far from 1, gaps between events are not
    gaps between tokens."""
    token_counts_by: dict[str, int]
    """Whole answers by who counted their tokens: ``server`` or ``client``."""
    cost_usd: float
    """Of whole answers, as the server reported it."""
    cost_reported: int
    """Whole answers whose cost the server reported."""
    saved_by_failover: int
    """Whole answers that took more than one provider's call."""
    joined: dict[str, int]
    """Whole answers that had broken and were rescued, by how they were joined."""
    client_retries: int
    by_provider: dict[str, int]
    """Whole answers by who served them."""
    duration_s: float
    """From the start until no more was sent."""
    measured_s: float
    """From the start until the last whole answer ended, or until no more was sent, where that was later."""

    @property
    def cached_share(self) -> float | None:
        """Of the input tokens, the share that came from caches; ``None``: the server does not say."""
        if self.cached_input_tokens is None or not self.input_tokens:
            return None
        return self.cached_input_tokens / self.input_tokens


def quantile(ordered: Sequence[float] | Values, share: float) -> float:
    """The value below which ``share`` of ``ordered`` lies: the nearest rank, so always a value that was measured."""
    rank = math.ceil(share * len(ordered) * (1 - 1e-12))  # 0.07 * 100 is a hair more than 7
    return float(ordered[max(0, rank - 1)])


def quantiles(values: Iterable[float]) -> Quantiles:
    """p50, p95 and p99."""
    return _three(_ascending(values))


def distributions(samples: Sequence[Sample]) -> Distributions:
    """Sort out what was timed. Single precision holds the gaps, of which a run has millions."""
    whole = [sample for sample in samples if sample.ok]
    gaps_s = np.concatenate([np.empty(0, np.float32), *(np.frombuffer(s.gaps_s, np.float32) for s in whole)])
    gaps_s.sort()
    return Distributions(
        first_token_s=_ascending(sample.first_token_s for sample in whole if sample.first_token_s is not None),
        inter_token_s=gaps_s,
        time_per_output_token_s=_ascending(_time_per_output_token_s(whole)),
        latency_s=_ascending(sample.latency_s for sample in whole),
        lag_s=_ascending(sample.lag_s for sample in samples),
    )


def summarize(
    samples: Sequence[Sample],
    *,
    duration_s: float,
    slo_first_token_s: float,
    dropped: int = 0,
    timed: Distributions | None = None,
) -> Summary:
    """Figures over ``samples``.

    Parameters
    ----------
    duration_s
        For how long requests were sent.
    slo_first_token_s
        The objective: an answer is good if it is whole and its first token came within it.
    dropped
        Requests that were due and never sent.
    timed
        ``distributions(samples)``, where the caller has them already.
    """
    timed = timed or distributions(samples)
    whole = [sample for sample in samples if sample.ok]
    unfinished = sum(sample.error == UNFINISHED for sample in samples)
    failed = len(samples) - len(whole) - unfinished
    good = sum(sample.first_token_s is not None and sample.first_token_s <= slo_first_token_s for sample in whole)
    input_tokens = sum(sample.input_tokens for sample in whole)
    cached = [sample.cached_input_tokens for sample in whole if sample.cached_input_tokens is not None]
    costs_usd = [sample.cost_usd for sample in whole if sample.cost_usd is not None]
    output_tokens = sum(sample.output_tokens for sample in whole)
    measured_s = max(duration_s, max((sample.ended_s for sample in whole), default=0.0))
    sending_s, span_s = max(duration_s, 1e-9), max(measured_s, 1e-9)
    ended = len(whole) + failed + dropped
    offered = len(samples) + dropped
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
        goodput_per_s=good / sending_s,
        goodput_share=good / offered if offered else None,
        slo_first_token_s=slo_first_token_s,
        offered_per_s=offered / sending_s,
        served_per_s=len(whole) / sending_s,
        first_token=_three(timed.first_token_s),
        inter_token=_three(timed.inter_token_s),
        time_per_output_token=_three(timed.time_per_output_token_s),
        latency=_three(timed.latency_s),
        lag=_three(timed.lag_s),
        input_tokens=input_tokens,
        cached_input_tokens=sum(cached) if cached else None,
        output_tokens=output_tokens,
        output_tokens_per_s=output_tokens / span_s,
        total_tokens_per_s=(input_tokens + output_tokens) / span_s,
        tokens_per_event=_tokens_per_event(whole),
        token_counts_by=dict(Counter(sample.counted_by for sample in whole).most_common()),
        cost_usd=math.fsum(costs_usd),
        cost_reported=len(costs_usd),
        saved_by_failover=sum(sample.attempts > 1 for sample in whole),
        joined=dict(Counter(sample.joined for sample in whole if sample.joined).most_common()),
        client_retries=sum(sample.client_retries for sample in samples),
        by_provider=dict(Counter(sample.provider or UNKNOWN for sample in whole).most_common()),
        duration_s=duration_s,
        measured_s=measured_s,
    )


def _broke(sample: Sample) -> bool:
    return not sample.ok and sample.error != UNFINISHED and sample.first_token_s is not None


def _ascending(values: Iterable[float]) -> Values:
    ordered = np.fromiter(values, np.float64)
    ordered.sort()
    return ordered


def _three(ordered: Values) -> Quantiles:
    if not len(ordered):
        return Quantiles(0)
    return Quantiles(len(ordered), *(quantile(ordered, share) for share in (0.50, 0.95, 0.99)))


def _time_per_output_token_s(whole: Iterable[Sample]) -> Iterable[float]:
    # The gaps of a stream add up to what lay between its first token and its last.
    return (sum(s.gaps_s) / (s.output_tokens - 1) for s in whole if s.gaps_s and s.output_tokens > 1)


def _tokens_per_event(whole: Iterable[Sample]) -> float | None:
    told = [sample for sample in whole if sample.counted_by == "server" and sample.content_events]
    events = sum(sample.content_events for sample in told)
    return sum(sample.output_tokens for sample in told) / events if events else None
