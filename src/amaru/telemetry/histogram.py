"""A histogram that costs its observer one bisection.

prometheus_client's own takes a lock, walks its bounds and adds to a sum under a second lock: more than a microsecond
for each figure. Here one thread (the event loop's) observes; a scrape in the same or another thread reads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""Bounds for whole requests."""
FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)
"""Bounds for the time to the first token."""
DECISION_SECONDS = (5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2)
"""Bounds for deciding alone."""


class Histogram:
    """Counts of observations by upper bound, and their sum.

    Parameters
    ----------
    bounds
        Ascending upper bounds, each inclusive as Prometheus has it; a last one at +Inf is implied.

    Examples
    --------
    >>> h = Histogram((0.1, 1.0))
    >>> for seconds in (0.05, 0.1, 0.5, 7.0):
    ...     h.observe(seconds)
    >>> h.cumulative()
    [('0.1', 2.0), ('1.0', 3.0), ('+Inf', 4.0)]
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Take in one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Pairs of bound and count of the observations at or below it, as the exposition format wants them."""
        names = [*map(str, self.bounds), "+Inf"]
        return [(name, float(count)) for name, count in zip(names, accumulate(self.counts), strict=True)]

    def add(self, other: Histogram) -> None:
        """Add another histogram of the same bounds."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def quantile(self, q: float) -> float | None:
        """The q-quantile, interpolated inside its bucket; ``None`` where nothing was observed.

        As good as the bounds are fine. Above the last bound it is that bound: a lower estimate.
        """
        rank = q * sum(self.counts)
        seen = 0
        low = 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and seen + count >= rank:
                return low + (bound - low) * (rank - seen) / count
            seen += count
            low = bound
        return low if self.counts[-1] else None


def merged(histograms: Iterable[Histogram], bounds: tuple[float, ...]) -> Histogram:
    """The sum of histograms of the same bounds."""
    whole = Histogram(bounds)
    for histogram in histograms:
        whole.add(histogram)
    return whole
