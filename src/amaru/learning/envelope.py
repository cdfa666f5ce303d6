"""What is possible at all in a war-game that hides nothing.

Where the posted prices and latencies are the truth, no policy can learn anything that a rule does not see. Whoever
always takes the cheapest feasible offer pays the least, whoever always takes the fastest waits the least, and every
other policy that serves as much lies between the two: a lower cost than the first or a lower latency than the second is
impossible, and the best cost and the best latency cannot be had together.

Choices are made request by request, as routers make them. Where capacity is short, a planner that saw a whole step's
requests at once could do a hair better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from amaru.learning.evaluation import Games, Played, Player, evaluate
from amaru.simulation.scenario import Scenario

CORNERS = ("rules_classic", "cheapest", "fastest")
PUBLISHED = (("fill", 0.9964, 0.0001, 4), ("cost, USD", 3.437, 0.010, 3), ("latency, ms", 320.5, 0.06, 1))
"""What ``rules_classic`` gives in the classic game as its authors have it: means over 100 seeds, their standard errors,
and to how many digits they are given."""


class Mean(msgspec.Struct, frozen=True):
    """Over worlds, and its standard error."""

    value: float
    error: float

    def z(self, expected: float, error: float = 0.0) -> float:
        """How many standard errors (of both) it lies from ``expected``."""
        apart, both = self.value - expected, math.hypot(self.error, error)
        return apart / both if both else math.copysign(math.inf, apart) if apart else 0.0


class Corner(msgspec.Struct, frozen=True, kw_only=True):
    """One policy: means over worlds of what each world gave."""

    policy: str
    fill_rate: Mean
    avg_cost_usd: Mean
    """Per served request, as the next."""
    avg_latency_ms: Mean


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The two ends, and the classic rule between them."""

    classic: Corner
    cheapest: Corner
    fastest: Corner

    @property
    def cost_saving(self) -> float:
        """The largest share of the classic rule's cost that can be saved."""
        return 1 - self.cheapest.avg_cost_usd.value / self.classic.avg_cost_usd.value

    @property
    def latency_saving(self) -> float:
        """The largest share of the classic rule's latency that can be saved."""
        return 1 - self.fastest.avg_latency_ms.value / self.classic.avg_latency_ms.value


def envelope(games: Games) -> Envelope | None:
    """Of what was played; ``None`` where something was hidden, or nothing was played to the end."""
    if games.scenario.hidden is not None or not games.seeds:
        return None
    classic, cheapest, fastest = (
        corner(name, [played for played in games.played if played.policy == name]) for name in CORNERS
    )
    return Envelope(classic=classic, cheapest=cheapest, fastest=fastest)


def play_corners(scenario: Scenario, *, steps: int, seeds: Sequence[int]) -> Games:
    """Play only what the envelope needs."""
    return evaluate(scenario, [Player(name=name, role="rule") for name in CORNERS], steps=steps, seeds=seeds)


def corner(policy: str, played: Sequence[Played]) -> Corner:
    """Means over the worlds of ``played``."""
    return Corner(
        policy=policy,
        fill_rate=_mean([one.served / one.requests for one in played if one.requests]),
        avg_cost_usd=_mean([one.cost_usd / one.served for one in played if one.served]),
        avg_latency_ms=_mean([one.latency_ms / one.served for one in played if one.served]),
    )


def _mean(values: list[float]) -> Mean:
    if not values:
        return Mean(float("nan"), float("nan"))
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
    return Mean(float(np.mean(values)), error)
