"""What an attempt at a provider was worth: the third signal of the stability field over a mesh, and what the worst
provider is found by."""

from __future__ import annotations


def utility_of(served: float, coherence: float, latency_s: float) -> float:
    """In [0, 1]: the share of attempts that succeeded, times how coherent their answers are, over one more than the
    seconds that they took.

    >>> utility_of(1.0, 1.0, 1.0)
    0.5
    """
    return served * coherence / (1.0 + latency_s)
