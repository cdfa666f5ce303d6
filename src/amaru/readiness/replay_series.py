"""A replay in its stored form: its distributions as curves, and the run cut into intervals. Compact, and enough to plot
and to compare it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from amaru.readiness.measuring import UNFINISHED, UNKNOWN, Distributions, Sample, Values, quantile

INTERVALS = 60
"""Into so many a run is cut, unless it has too few requests for that."""
REQUESTS_PER_INTERVAL = 10
"""On average, at least."""
PROVIDERS = 9
"""So many are told apart over time; the rest goes under ``OTHERS``."""
OTHERS = "(others)"
HISTOGRAM_FROM_S = 1e-4
HISTOGRAM_RATIO = 1.02
"""Each bin of a histogram of latencies ends 2 % above where it begins."""
HISTOGRAM_BINS = 1024
"""The last one begins at 17 hours, and holds what is more."""
CURVE_SHARES = (*(place / 200 for place in range(1, 200)), 0.999, 1.0)


class Curves(msgspec.Struct, frozen=True, kw_only=True):
    """Distributions of whole answers, as the values at ``shares`` of them; empty where nothing was measured."""

    shares: tuple[float, ...]
    first_token_s: tuple[float, ...]
    inter_token_s: tuple[float, ...]
    time_per_output_token_s: tuple[float, ...]
    latency_s: tuple[float, ...]

    def __post_init__(self) -> None:
        for values in (self.first_token_s, self.inter_token_s, self.time_per_output_token_s, self.latency_s):
            if len(values) not in (0, len(self.shares)):
                raise ValueError("a curve has not as many values as shares")


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """The run by intervals, each list with one entry an interval.

    A request counts in the interval in which it was due, whenever it ended: so the entries of one interval add up, and
    what befell its requests stands where they were sent.
    """

    interval_s: float
    sent: list[int]
    served: list[int]
    good: list[int]
    """Of the served: those whose first token came within the objective."""
    failed: list[int]
    unfinished: list[int]
    first_token_p50_s: list[float | None]
    first_token_p95_s: list[float | None]
    latency_p50_s: list[float | None]
    latency_p95_s: list[float | None]
    output_tokens_delivered: list[float]
    """Tokens of whole answers by when they came, taking each answer's to come evenly from its first to its last. What
    came after the last interval is in none."""
    by_provider: dict[str, list[int]]
    """Served, by who served; the most frequent first."""
    first_token_histograms: list[dict[int, int]]
    """Whole answers by their time to first token: bin ``k`` counts those from ``HISTOGRAM_FROM_S *
    HISTOGRAM_RATIO**k`` up to the next bin's beginning; bin 0 also what is less."""

    def __post_init__(self) -> None:
        lists: list[Sequence[object]] = [
            self.served,
            self.good,
            self.failed,
            self.unfinished,
            self.first_token_p50_s,
            self.first_token_p95_s,
            self.latency_p50_s,
            self.latency_p95_s,
            self.output_tokens_delivered,
            self.first_token_histograms,
            *self.by_provider.values(),
        ]
        if not self.sent or any(len(values) != len(self.sent) for values in lists):
            raise ValueError("the series have not one entry an interval each")
        if any(not 0 <= place < HISTOGRAM_BINS for bins in self.first_token_histograms for place in bins):
            raise ValueError("a histogram has a bin that there is not")

    @property
    def starts_s(self) -> list[float]:
        """When each interval begins."""
        return [place * self.interval_s for place in range(len(self.sent))]


def curves(timed: Distributions) -> Curves:
    """The stored form of what was timed."""
    return Curves(
        shares=CURVE_SHARES,
        first_token_s=_curve(timed.first_token_s),
        inter_token_s=_curve(timed.inter_token_s),
        time_per_output_token_s=_curve(timed.time_per_output_token_s),
        latency_s=_curve(timed.latency_s),
    )


def series(samples: Sequence[Sample], *, duration_s: float, slo_first_token_s: float) -> Series:
    """Cut a run of ``duration_s`` seconds of sending into intervals."""
    count = min(INTERVALS, max(1, len(samples) // REQUESTS_PER_INTERVAL))
    width_s = max(duration_s, 1e-3) / count
    parts: list[list[Sample]] = [[] for _ in range(count)]
    for sample in samples:
        parts[min(count - 1, max(0, int(sample.at_s / width_s)))].append(sample)
    served = [[sample for sample in part if sample.ok] for part in parts]
    first_tokens_s = [sorted(s.first_token_s for s in part if s.first_token_s is not None) for part in served]
    latencies_s = [sorted(sample.latency_s for sample in part) for part in served]
    unfinished = [sum(sample.error == UNFINISHED for sample in part) for part in parts]
    return Series(
        interval_s=width_s,
        sent=[len(part) for part in parts],
        served=[len(part) for part in served],
        good=[sum(value <= slo_first_token_s for value in part) for part in first_tokens_s],
        failed=[len(part) - len(whole) - still for part, whole, still in zip(parts, served, unfinished, strict=True)],
        unfinished=unfinished,
        first_token_p50_s=_each(first_tokens_s, 0.5),
        first_token_p95_s=_each(first_tokens_s, 0.95),
        latency_p50_s=_each(latencies_s, 0.5),
        latency_p95_s=_each(latencies_s, 0.95),
        output_tokens_delivered=_delivered([sample for part in served for sample in part], count, width_s),
        by_provider=_by_provider(served),
        first_token_histograms=[histogram(part) for part in first_tokens_s],
    )


def histogram(values_s: Iterable[float]) -> dict[int, int]:
    """How many of ``values_s`` fall into each bin, without the empty ones."""
    step = math.log(HISTOGRAM_RATIO)
    bins = Counter(
        min(HISTOGRAM_BINS - 1, math.floor(math.log(max(value, HISTOGRAM_FROM_S) / HISTOGRAM_FROM_S) / step))
        for value in values_s
    )
    return dict(sorted(bins.items()))


def _curve(ordered: Values) -> tuple[float, ...]:
    return tuple(quantile(ordered, share) for share in CURVE_SHARES) if len(ordered) else ()


def _each(parts: Iterable[Sequence[float]], share: float) -> list[float | None]:
    return [quantile(part, share) if part else None for part in parts]


def _delivered(whole: Sequence[Sample], count: int, width_s: float) -> list[float]:
    streams = [sample for sample in whole if sample.first_token_s is not None]
    first_s = np.fromiter((sample.at_s + (sample.first_token_s or 0.0) for sample in streams), np.float64)
    lasting_s = np.maximum(np.fromiter((sample.ended_s for sample in streams), np.float64) - first_s, 1e-9)
    tokens = np.fromiter((sample.output_tokens for sample in streams), np.float64)
    until = [
        float(np.sum(tokens * np.clip((place * width_s - first_s) / lasting_s, 0.0, 1.0))) for place in range(count + 1)
    ]
    return [float(tokens) for tokens in np.diff(until)]


def _by_provider(served: Sequence[Sequence[Sample]]) -> dict[str, list[int]]:
    counts = [Counter(sample.provider or UNKNOWN for sample in part) for part in served]
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    ranked = [name for name, _ in total.most_common()]
    named, rest = ranked[:PROVIDERS], ranked[PROVIDERS:]
    shares = {name: [part[name] for part in counts] for name in named}
    if rest:
        others = [sum(part[name] for name in rest) for part in counts]
        shares[OTHERS] = [a + b for a, b in zip(shares.get(OTHERS, [0] * len(counts)), others, strict=True)]
    return shares
