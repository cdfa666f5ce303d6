"""Policies: what to prefer among the offers that may serve.

A policy is asked to fill in a ``Ranking`` (filter, score, pick) and is told what came of it. The filter is not the
policy's: hard limits are applied by the kernel that every policy calls, so they bind all of them alike (law 10). The
policies here are a line each over the kernel; learned ones bring predictions of their own and state to save.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from amaru.domain import Offer, Outcome, Weights, Workload
from amaru.routing import kernels as k
from amaru.routing.ranking import Ranking


class Policy(Protocol):
    """Ranks feasible offers for a workload, and learns from outcomes."""

    @property
    def name(self) -> str:
        """As ``routing.policy`` names it; stored with every decision."""
        ...

    @property
    def learns(self) -> bool:
        """Whether ``learn`` needs to be called at all."""
        ...

    def rank(self, ranking: Ranking, order: k.Ints) -> tuple[int, int, int]:
        """Fill ``ranking.codes``, ``ranking.table`` and ``order``; return what ``kernels.rank`` returns."""
        ...

    def learn(self, workload: Workload, offer: Offer, outcome: Outcome) -> None:
        """Take in what came of serving ``workload`` by ``offer``. Called after the answer, never on the hot path."""
        ...

    def state(self) -> bytes:
        """All that was learned; ``restore`` of it gives the same policy again."""
        ...

    def restore(self, state: bytes) -> None:
        """Take over a saved state. Raises ValueError where it is not this policy's."""
        ...


Preferences = Callable[[Weights], tuple[float, float, float, float]]
"""A tenant's weights → the weights to score by: price, latency, reputation, availability."""


class RulePolicy:
    """Scores by the offers' figures alone; learns nothing beyond the board's own averages."""

    __slots__ = ("_mode", "_preferences", "name")

    def __init__(self, name: str, mode: int, preferences: Preferences) -> None:
        self.name = name
        self._mode = mode
        self._preferences = preferences

    @property
    def learns(self) -> bool:
        """A rule does not."""
        return False

    def rank(self, ranking: Ranking, order: k.Ints) -> tuple[int, int, int]:
        """See ``Policy.rank``."""
        board = ranking.board
        price, latency, reputation, availability = self._preferences(ranking.workload.weights)
        return k.rank(
            ranking.rows,
            board.static,
            board.slab.values,
            ranking.ask,
            ranking.excluded,
            self._mode,
            price,
            latency,
            reputation,
            availability,
            ranking.table,
            ranking.codes,
            order,
        )

    def learn(self, workload: Workload, offer: Offer, outcome: Outcome) -> None:
        """Nothing to learn."""

    def state(self) -> bytes:
        """Empty."""
        return b""

    def restore(self, state: bytes) -> None:
        """Only the empty state is a rule's."""
        if state:
            raise ValueError(f"policy {self.name!r} has no state, but {len(state)} bytes were given")


def _of_tenant(weights: Weights) -> tuple[float, float, float, float]:
    return weights.price, weights.latency, weights.reputation, weights.availability


POLICIES: Mapping[str, Callable[[], Policy]] = {
    "rules": lambda: RulePolicy("rules", k.NORMALISED, _of_tenant),
    "rules_classic": lambda: RulePolicy("rules_classic", k.CLASSIC, _of_tenant),
    "cheapest": lambda: RulePolicy("cheapest", k.NORMALISED, lambda _: (1.0, 0.0, 0.0, 0.0)),
    "fastest": lambda: RulePolicy("fastest", k.NORMALISED, lambda _: (0.0, 1.0, 0.0, 0.0)),
    # Without weights every feasible offer ties, and ties are drawn by lot.
    "random": lambda: RulePolicy("random", k.NORMALISED, lambda _: (0.0, 0.0, 0.0, 0.0)),
}
"""Name → factory, as ``routing.policy`` in the configuration."""


def make_policy(name: str) -> Policy:
    """The policy of that name. Raises ValueError, which lists the names, where there is none."""
    factory = POLICIES.get(name)
    if factory is None:
        raise ValueError(f"there is no policy {name!r}; choose one of {', '.join(POLICIES)}")
    return factory()
