"""One number for how well a fleet of requests was served: what training curves show, and a stability field is sent.

Policies do not learn from it. Each learns from its tenants' own utilities, request by request; this is the yardstick
for people, which needs nothing but three averages.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from amaru.simulation.scenario import Scenario


class References(NamedTuple):
    """The cost and the latency that halve their term."""

    cost_usd: float
    latency_ms: float


GPU_JOBS = References(3.437, 320.5)
"""Per served request, what ``rules_classic`` pays and waits in the classic war-game."""
CHAT = References(0.001, 500.0)
"""A tenth of a cent, and half a second until the first token."""

FILL, COST, LATENCY = 0.5, 0.25, 0.25
"""What each term weighs."""


def compute_reward(
    fill_rate: float,
    avg_cost: float,
    avg_latency: float,
    *,
    references: References = GPU_JOBS,
) -> float:
    """``fill · (1/2 + 1/4 · c/(c + cost) + 1/4 · l/(l + latency))``, in [0, 1].

    It rises with the fill rate, and falls with cost and latency; c and l are ``references``, at which a term is worth
    half. The rest is multiplied by the fill rate because averages per *served* request say nothing of those that were
    not: serving nobody is worth 0, however cheap.

    Parameters
    ----------
    fill_rate
        Share of the requests that were served, 0 to 1.
    avg_cost
        USD per served request, at least 0.
    avg_latency
        Milliseconds per served request, at least 0.

    Raises
    ------
    ValueError
        A figure is out of its range, or not finite.

    Examples
    --------
    >>> compute_reward(fill_rate=1.0, avg_cost=0.0, avg_latency=0.0)
    1.0
    >>> round(compute_reward(0.9964, 3.437, 320.5), 4)
    0.7473
    >>> compute_reward(0.0, 0.0, 0.0)
    0.0
    """
    if not 0.0 <= fill_rate <= 1.0:
        raise ValueError(f"fill_rate is a share, 0 to 1, not {fill_rate}")
    for name, figure in (("avg_cost", avg_cost), ("avg_latency", avg_latency)):
        if not 0.0 <= figure < math.inf:
            raise ValueError(f"{name} is finite and at least 0, not {figure}")
    cost = references.cost_usd / (references.cost_usd + avg_cost)
    latency = references.latency_ms / (references.latency_ms + avg_latency)
    return fill_rate * (FILL + COST * cost + LATENCY * latency)


def references_of(scenario: Scenario) -> References:
    """Those of GPU jobs, or of chat where requests come from a trace."""
    return CHAT if scenario.trace is not None else GPU_JOBS
