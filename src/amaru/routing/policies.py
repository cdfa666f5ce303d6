"""The policies by name: what to prefer among the offers that may serve.

A policy is asked to fill in a ``Ranking`` (filter, score, pick) and is told what came of it. The filter is not the
policy's: hard limits are applied by the kernel that every policy calls, so they bind all of them alike (law 10).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from amaru.domain import Experience, Offer, Workload
from amaru.routing import score_kernels as s
from amaru.routing.knobs import Knobs, knobs_from
from amaru.routing.learned import BeliefPolicy, QPolicy
from amaru.routing.mind import Mind
from amaru.routing.policies_base import KernelPolicy, Policy, Preferences, of_tenant
from amaru.routing.ranking import Ranking

__all__ = ["LEARNED", "POLICIES", "LearnedPolicy", "Policy", "RulePolicy", "make_policy"]

LearnedPolicy = BeliefPolicy | QPolicy


class RulePolicy(KernelPolicy):
    """Scores by the offers' figures alone; learns nothing beyond the board's own averages."""

    __slots__ = ()

    def __init__(self, name: str, kind: int, preferences: Preferences = of_tenant) -> None:
        super().__init__(name, kind, Mind(Knobs()), preferences)

    def share(self, ranking: Ranking, place: int) -> float:
        """Equal scores take turns by lot."""
        return 1.0 / ranking.tied if place < ranking.tied else 0.0

    @property
    def learns(self) -> bool:
        """A rule does not."""
        return False

    def learn(self, workload: Workload, offer: Offer, experience: Experience) -> None:
        """Nothing to learn."""

    def reset(self) -> None:
        """Nothing to forget."""

    def table_size(self) -> int:
        """Nothing was learned."""
        return 0

    def state(self) -> bytes:
        """Empty."""
        return b""

    def restore(self, state: bytes) -> None:
        """Only the empty state is a rule's."""
        if state:
            raise ValueError(f"policy {self.name!r} has no state, but {len(state)} bytes were given")


POLICIES: Mapping[str, Callable[[Knobs], RulePolicy | LearnedPolicy]] = {
    "rules": lambda _: RulePolicy("rules", s.NORMALISED),
    "rules_classic": lambda _: RulePolicy("rules_classic", s.CLASSIC),
    "cheapest": lambda _: RulePolicy("cheapest", s.NORMALISED, lambda _: (1.0, 0.0, 0.0, 0.0)),
    "fastest": lambda _: RulePolicy("fastest", s.NORMALISED, lambda _: (0.0, 1.0, 0.0, 0.0)),
    # Without weights every feasible offer ties, and ties are drawn by lot.
    "random": lambda _: RulePolicy("random", s.NORMALISED, lambda _: (0.0, 0.0, 0.0, 0.0)),
    "qlearning": lambda knobs: QPolicy("qlearning", knobs),
    "thompson": lambda knobs: BeliefPolicy("thompson", s.THOMPSON, knobs),
    "hybrid": lambda knobs: BeliefPolicy("hybrid", s.HYBRID, knobs),
}
"""Name → factory, as ``routing.policy`` in the configuration."""

LEARNED = ("qlearning", "thompson", "hybrid")
"""The names of those that learn."""


def make_policy(name: str, **knobs: float) -> RulePolicy | LearnedPolicy:
    """The policy of that name, with these of its ``Knobs``.

    Raises ValueError, which lists the names, where there is no such policy or knob, or a knob is out of bounds.
    """
    factory = POLICIES.get(name)
    if factory is None:
        raise ValueError(f"there is no policy {name!r}; choose one of {', '.join(POLICIES)}")
    return factory(knobs_from(knobs))
