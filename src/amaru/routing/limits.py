"""Rate limits of providers, kept on our side so that a request which would be refused is not sent.

The generic cell rate algorithm (ATM Forum, *Traffic Management Specification 4.1*, 1999, section 4.4.2, virtual
scheduling): one number per limit, the *theoretical arrival time* (TAT), at which the bucket will be full again. With
a burst of one minute it equals a token bucket that holds one minute's allowance and refills continuously, which is how
providers describe their own limits.

A request conforms from ``kernels.gcra_free_at(tat, cost_s, BURST_S)`` on; the kernel and the board evaluate that same
function on the same columns.
"""

from __future__ import annotations

import math

BURST_S = 60.0
"""An offer that was idle may take a whole minute's allowance at once."""


def interval_s(per_min: float | None) -> float:
    """Seconds that one unit (a request, a token) costs; 0 where there is no limit.

    Raises ValueError where the limit is not positive: it could never be met.
    """
    if per_min is None:
        return 0.0
    if not (per_min > 0.0 and math.isfinite(per_min)):
        raise ValueError(f"a rate limit must be a positive number per minute, not {per_min}")
    return 60.0 / per_min


def spend(tat: float, cost_s: float, now_s: float) -> float:
    """The TAT after a conforming request of ``cost_s`` (units times ``interval_s``)."""
    return max(tat, now_s) + cost_s
