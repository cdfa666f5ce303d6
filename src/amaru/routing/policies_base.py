"""What every policy is: a kind of the one compiled ranking, with what it has learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from amaru.domain import Capability, Experience, Kind, Offer, Weights, Workload
from amaru.routing import kernels as k
from amaru.routing import rank_kernels
from amaru.routing.board import Board
from amaru.routing.mind import Mind
from amaru.routing.ranking import Ranking

Preferences = Callable[[Weights], tuple[float, float, float, float]]
"""A tenant's weights → the weights to score by: price, latency, reputation, availability."""


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
        """Fill ``ranking.codes``, ``ranking.table`` and ``order``; return what ``rank_kernels.rank`` returns."""
        ...

    def share(self, ranking: Ranking, place: int) -> float:
        """Probability with which it puts the offer at ``place`` of ``ranking.order``, just as it ranked, first."""
        ...

    def learn(self, workload: Workload, offer: Offer, experience: Experience) -> None:
        """Take in what one attempt to serve ``workload`` by ``offer`` showed. Called after the answer, never on the
        hot path; once per attempt, also for those before the one that served, but not where ``blame`` is False."""
        ...

    def state(self) -> bytes:
        """All that was learned; ``restore`` of it gives the same policy again. Equal states are equal bytes."""
        ...

    def restore(self, state: bytes) -> None:
        """Take over a saved state. Raises ValueError where it is not this policy's, or damaged; it stays as it was."""
        ...


def of_tenant(weights: Weights) -> tuple[float, float, float, float]:
    """The tenant's own weights."""
    return weights.price, weights.latency, weights.reputation, weights.availability


def is_whole(workload: Workload) -> bool:
    """Whether the workload waits for a whole answer, not for a first token or an acceptance."""
    return workload.kind is not Kind.GPU_JOB and Capability.STREAM not in workload.needs


class KernelPolicy:
    """A kind of the compiled ranking.

    Parameters
    ----------
    kind
        Of ``score_kernels``.
    mind
        What it has learned.
    preferences
        By which weights it scores; left out: the tenant's.
    """

    __slots__ = ("_board", "_slots", "kind", "mind", "name", "preferences")

    def __init__(self, name: str, kind: int, mind: Mind, preferences: Preferences = of_tenant) -> None:
        self.name = name
        self.kind = kind
        self.mind = mind
        self.preferences = preferences
        self._board: Board | None = None
        self._slots: tuple[tuple[k.Ints, k.Ints], tuple[k.Ints, k.Ints]] | None = None

    def rank(self, ranking: Ranking, order: k.Ints) -> tuple[int, int, int]:
        """See ``Policy.rank``."""
        board, mind = ranking.board, self.mind
        slots, groups = self._slots_for(ranking)
        price, latency, reputation, availability = self.preferences(ranking.workload.weights)
        return rank_kernels.rank(
            self.kind,
            ranking.rows,
            board.static,
            board.slab.values,
            ranking.ask,
            ranking.excluded,
            price,
            latency,
            reputation,
            availability,
            ranking.table,
            ranking.codes,
            order,
            slots,
            groups,
            mind.sums,
            mind.beliefs,
            mind.values,
            mind.knobs,
        )

    def _slots_for(self, ranking: Ranking) -> tuple[k.Ints, k.Ints]:
        board = ranking.board
        if board is not self._board or self._slots is None:
            self._slots = self.mind.slots(board.offers), self.mind.slots(board.offers, whole=True)
            self._board = board
        return self._slots[is_whole(ranking.workload)]

    def share(self, ranking: Ranking, place: int) -> float:
        """See ``Policy.share``."""
        chosen = ranking.rows.tolist().index(ranking.order[place])
        slots, _ = self._slots_for(ranking)
        beliefs, knobs = self.mind.beliefs, self.mind.knobs
        return rank_kernels.share(self.kind, chosen, ranking.rows, ranking.codes, ranking.table, slots, beliefs, knobs)
