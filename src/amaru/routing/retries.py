"""How often, and how soon, amaru tries again.

The budget follows Finagle's ``RetryBudget`` (also linkerd's and Envoy's): retries may be a share of recent requests,
plus a small floor so that quiet services can retry at all. When everything fails, load grows by that share and no more.
The back-off is "full jitter" from "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import math
import random

BACKOFF_S, MAX_BACKOFF_S = 0.1, 2.0
"""The longest first pause, and the longest of all."""


class RetryBudget:
    """Bounds retries to ``ratio`` of the requests of about the last ``window_s`` seconds, plus ``min_per_s``.

    Requests and retries are two sums that fade exponentially with time constant ``window_s``: under a steady load the
    bound is ``retries/s <= ratio * requests/s + min_per_s``, and after silence at most ``min_per_s * window_s`` retries
    may come at once.
    """

    __slots__ = ("_at", "_requests", "_retries", "min_per_s", "ratio", "window_s")

    def __init__(self, ratio: float = 0.2, *, min_per_s: float = 1.0, window_s: float = 10.0) -> None:
        self.ratio = ratio
        self.min_per_s = min_per_s
        self.window_s = window_s
        self._requests = 0.0
        self._retries = 0.0
        self._at = -math.inf

    def request(self, now_s: float) -> None:
        """Count one request (not its retries): it earns ``ratio`` of a retry."""
        if now_s - self._at > self.window_s * 1e-3:  # what one request fades in less is lost in rounding
            self._fade(now_s)
        self._requests += 1.0

    def try_retry(self, now_s: float) -> bool:
        """Take one retry from the budget; False where it is spent."""
        self._fade(now_s)
        if self._retries + 1.0 > self.ratio * self._requests + self.min_per_s * self.window_s:
            return False
        self._retries += 1.0
        return True

    def _fade(self, now_s: float) -> None:
        elapsed_s = now_s - self._at
        if elapsed_s > 0.0:
            kept = math.exp(-elapsed_s / self.window_s)
            self._requests *= kept
            self._retries *= kept
            self._at = now_s


def backoff_s(attempt: int, rng: random.Random, *, base_s: float = BACKOFF_S, max_s: float = MAX_BACKOFF_S) -> float:
    """Seconds to wait before retry number ``attempt`` (0 is the first): uniform in [0, min(max_s, base_s·2^attempt)].

    Drawing from zero spreads retries best: callers that failed together do not come back together.
    """
    return rng.random() * min(max_s, base_s * 2.0 ** min(attempt, 60))
