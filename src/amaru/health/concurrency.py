"""An adaptive limit on requests at once: as many as an offer serves without making them wait.

After Netflix's *concurrency-limits* (``Gradient2Limit``): the limit follows the gradient of the usual latency to that
of now, plus room for a short queue, and grows only while it is used; failures and throttles shrink it at once, by
``BACK_OFF``, as AIMD does (Chiu and Jain, 1989), to half of what it began with: more than that is for a drain.
"""

from __future__ import annotations

import math

from amaru.health.healing_effects import Sums

TOLERANCE = 1.5
"""Latency may rise by so much before the limit falls."""
SMOOTHING = 0.2
BACK_OFF = 0.9
LEAST, MOST = 1.0, 1_000.0
SHORT_GAIN = 0.2
"""Weight of one answer in the latency of now."""
LONG_GAIN = 2.0 / (600.0 + 1.0)
"""The same in the usual latency: a mean over about 600. Both are means of logarithms, of first tokens and of whole
answers each against their own."""


class ConcurrencyLimit:
    """The limit of one offer.

    Parameters
    ----------
    limit
        To begin with.
    usual
        What the offer brought when all was well; where it is not known, its first answers take its place.
    """

    __slots__ = ("_least", "_slowness", "_usual_log_ms", "limit")

    def __init__(self, limit: float, usual: Sums | None = None) -> None:
        self.limit = min(max(limit, LEAST), MOST)
        self._least = max(self.limit / 2.0, LEAST)
        self._usual_log_ms = [None if usual is None else usual.mean_log_ms(stream, 1.0) for stream in (False, True)]
        self._slowness = 0.0

    def answered(self, log_ms: float, stream: bool, in_flight: float) -> None:
        """A whole answer, or the first token of a stream, took so long, as logarithm, while ``in_flight`` requests were
        under way, itself included."""
        usual = self._usual_log_ms[stream]
        if usual is None:
            usual = log_ms
        departure = log_ms - usual
        self._usual_log_ms[stream] = usual + LONG_GAIN * departure
        self._slowness += SHORT_GAIN * (departure - self._slowness)
        gradient = min(max(TOLERANCE * math.exp(-self._slowness), 0.5), 1.0)
        if gradient == 1.0 and in_flight < self.limit / 2.0:  # nobody needs more
            return
        wanted = self.limit * gradient + math.sqrt(self.limit)
        self._set(self.limit + SMOOTHING * (wanted - self.limit))

    def failed(self) -> None:
        """A request failed or was throttled."""
        self._set(self.limit * BACK_OFF)

    def _set(self, limit: float) -> None:
        self.limit = min(max(limit, self._least), MOST)
