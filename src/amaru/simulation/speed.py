"""How long a simulated provider takes: log-normal times that rise with load."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from amaru.simulation.profiles import Latency


class Speed:
    """Draws the times of one provider. ``load`` is asked at each draw: share of the capacity in use."""

    __slots__ = ("_latency", "_load", "_rng")

    def __init__(self, latency: Latency, load: Callable[[], float], rng: random.Random) -> None:
        self._latency = latency
        self._load = load
        self._rng = rng

    def strain(self) -> float:
        """The factor by which load stretches every time: ``1 + weight · load ** power``."""
        latency = self._latency
        if latency.load_weight == 0:
            return 1.0
        return 1.0 + latency.load_weight * math.pow(self._load(), latency.load_power)

    def first_token_s(self, uncached_tokens: int) -> float:
        """Time to the first token of a prompt of which ``uncached_tokens`` must be read."""
        latency = self._latency
        if latency.ttft_ms == 0 and latency.prefill_ms_per_ktok == 0:
            return 0.0
        median_ms = latency.ttft_ms + latency.prefill_ms_per_ktok * uncached_tokens / 1000
        return self._drawn(median_ms, latency.ttft_sigma) * self.strain()

    def tokens_s(self, tokens: int) -> float:
        """Time for ``tokens`` further tokens."""
        latency = self._latency
        if latency.itl_ms == 0 or tokens == 0:
            return 0.0
        # One draw for all of them, its spread shrunk as that of a sum of independent draws.
        return self._drawn(latency.itl_ms * tokens, latency.itl_sigma / math.sqrt(tokens)) * self.strain()

    def _drawn(self, median_ms: float, sigma: float) -> float:
        return median_ms / 1000 * (self._rng.lognormvariate(0.0, sigma) if sigma else 1.0)
