"""An adaptive limit on requests at once: as many as an offer serves without making them wait.

After Netflix's *concurrency-limits* (``Gradient2Limit``): the limit follows the gradient of the usual latency to that
of now, plus room for a short queue, and grows only while it is used; failures and throttles shrink it at once, by
``BACK_OFF``, as AIMD does (Chiu and Jain, 1989).
"""

from __future__ import annotations

import math

TOLERANCE = 1.5
"""Latency may rise by so much before the limit falls."""
SMOOTHING = 0.2
BACK_OFF = 0.9
LEAST, MOST = 1.0, 1_000.0
SHORT_GAIN = 0.2
"""Weight of one answer in the latency of now."""
LONG_GAIN = 2.0 / (600.0 + 1.0)
"""The same in the usual latency: a mean over about 600."""
RECOVERS = 0.95
"""Where the usual latency is more than twice that of now, it falls by this factor with each answer."""


class ConcurrencyLimit:
    """The limit of one offer.

    Parameters
    ----------
    limit
        To begin with.
    usual_ms
        Latency when all is well; ``None``: not known, so the first answer's.
    """

    __slots__ = ("_long_ms", "_short_ms", "limit")

    def __init__(self, limit: float, usual_ms: float | None = None) -> None:
        self.limit = min(max(limit, LEAST), MOST)
        self._long_ms = usual_ms
        self._short_ms: float | None = None

    def answered(self, latency_ms: float, in_flight: float) -> None:
        """An answer took so long while ``in_flight`` requests were under way, itself included."""
        if not 0.0 < latency_ms < math.inf:
            return
        short = latency_ms if self._short_ms is None else self._short_ms + SHORT_GAIN * (latency_ms - self._short_ms)
        long = latency_ms if self._long_ms is None else self._long_ms + LONG_GAIN * (latency_ms - self._long_ms)
        if long > 2.0 * short:
            long *= RECOVERS
        self._short_ms, self._long_ms = short, long
        gradient = min(max(TOLERANCE * long / short, 0.5), 1.0)
        if gradient == 1.0 and in_flight < self.limit / 2.0:  # nobody needs more
            return
        wanted = self.limit * gradient + math.sqrt(self.limit)
        self._set(self.limit + SMOOTHING * (wanted - self.limit))

    def failed(self) -> None:
        """A request failed or was throttled."""
        self._set(self.limit * BACK_OFF)

    def _set(self, limit: float) -> None:
        self.limit = min(max(limit, LEAST), MOST)
