"""Stored decisions on their way into the arrays of ``off_policy``, with what each target would have done.

What rewards are predicted from, per offer: the utility that its figures promise if it serves, that times the share of
recent attempts that it served, and its load.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from amaru.domain import Offer
from amaru.errors import AmaruError
from amaru.learning.again_kernels import shares
from amaru.learning.dataset_schema import LoggedDecision
from amaru.learning.off_policy import Floats, Logged
from amaru.routing import belief_kernels as b
from amaru.routing import kernels as k
from amaru.routing.policies import LEARNED, POLICIES, LearnedPolicy, RulePolicy, make_policy
from amaru.routing.policies_base import is_whole
from amaru.routing.score_kernels import utility

AnyPolicy = RulePolicy | LearnedPolicy

CHUNK = 5_000
FEATURES = 3
UNKNOWN = "their first attempt did not go to the offer ranked first (a probe, or a place that was gone)"
UNJUDGED = "their outcome says nothing about the offer (the request was at fault, or out of time), or has no latency"
OLDER = "they are older than the most decisions that are judged at once"
_NO, _IF_EXPLORED, _YES = 0.0, 0.5, 1.0


class LeftOut(msgspec.Struct, frozen=True):
    """Decisions that were not judged, and why."""

    why: str
    decisions: int


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A policy to be judged.

    Attributes
    ----------
    policy
        It is changed where it learns along.
    learns_along
        It learns from the logged attempts as they end, so each decision is judged with what could be known by then.
        Otherwise it stays as it is, and does not fade.
    """

    name: str
    policy: AnyPolicy
    learns_along: bool = False

    @classmethod
    def named(cls, name: str) -> Target:
        """The policy of that name, untrained; one that learns learns along. Raises AmaruError for an unknown name."""
        if name not in POLICIES:
            raise AmaruError(f"there is no policy {name!r}; choose one of {', '.join(POLICIES)}")
        policy = make_policy(name)
        return cls(name, policy, learns_along=policy.learns)


class Scorer:
    """A target, asked with which probability it would have put each offer of a decision first."""

    def __init__(self, target: Target, boards: Mapping[str, tuple[Offer, ...]]) -> None:
        self.target = target
        self._boards = boards
        self._row_of: dict[str, dict[str, int]] = {}
        self._slots: dict[tuple[str, bool], tuple[k.Ints, k.Ints]] = {}

    def shares(self, row: LoggedDecision) -> Floats:
        """[n] over the offers of the row; 0 where refused."""
        policy, mind = self.target.policy, self.target.policy.mind
        if row.board not in self._row_of:
            self._row_of[row.board] = {offer.id: place for place, offer in enumerate(self._boards[row.board])}
        # Rows are the board's: the draws of sampling policies hang on them.
        figures = row.figures(self._row_of[row.board])
        key = row.board, is_whole(figures.workload)
        if key not in self._slots:
            self._slots[key] = mind.slots(self._boards[row.board], whole=key[1])
        slots, groups = self._slots[key]
        now = row.at
        if not self.target.learns_along:
            last = float(mind.beliefs[:, b.SUMS_AT].max(initial=-math.inf))
            now = last if math.isfinite(last) else now  # as it was when it last learned
        order, out = np.empty(len(row.offers), dtype=np.int64), np.empty(len(row.offers))
        weights = policy.preferences(row.weights)
        shares(
            policy.kind, figures.rows, figures.codes, figures.table, *weights, now,
            slots, groups, mind.sums, mind.beliefs, mind.values, mind.knobs, order, out,
        )  # fmt: skip
        return out


class _Chunk:
    """Some thousand decisions."""

    def __init__(self, targets: int) -> None:
        self.rows: list[tuple[float, ...]] = []
        """Of each: candidates, the place of the one taken, propensity, reward, number of the policy that decided."""
        self.candidates: list[tuple[float, ...]] = []
        """Of each: number of the offer, whether it could have been taken, features."""
        self.shares: list[list[float]] = [[] for _ in range(targets)]

    def frozen(self) -> tuple[Floats, Floats, list[Floats]]:
        """As arrays."""
        return (
            np.array(self.rows, dtype=np.float64).reshape(-1, 5),
            np.array(self.candidates, dtype=np.float64).reshape(-1, 2 + FEATURES),
            [np.array(shares, dtype=np.float64) for shares in self.shares],
        )


class Gathered:
    """What the estimators need of the decisions, and what was left out.

    Parameters
    ----------
    boards
        Version → offers; those of a row must be there when it is taken.
    most
        Decisions to hold, the newest (whole chunks of them).
    """

    def __init__(self, targets: Sequence[Target], boards: Mapping[str, tuple[Offer, ...]], most: int) -> None:
        self._scorers = [Scorer(target, boards) for target in targets]
        self._chunks: deque[tuple[Floats, Floats, list[Floats]]] = deque()
        self._most_chunks = max(most // CHUNK, 1)
        self._now = _Chunk(len(targets))
        self._offers: dict[str, int] = {}
        self._policies: dict[str, int] = {}
        self._explorers: set[int] = set()
        self._left_out = dict.fromkeys((UNKNOWN, UNJUDGED, OLDER), 0)
        self.policies: dict[str, int] = {}
        """Decisions by the policy that made them."""
        self.explored = 0
        """Decisions that the exploration floor drew."""
        self.first_at: float | None = None
        self.last_at: float | None = None

    def take(self, row: LoggedDecision) -> None:
        """Take one decision in, or count why not."""
        if not row.propensity_exact:
            self._left_out[UNKNOWN] += 1
            return
        if row.utility is None:
            self._left_out[UNJUDGED] += 1
            return
        places = [place for place, rank in enumerate(row.rank) if rank is not None]
        taken = places.index(row.offers.index(row.first.offer))
        policy = self._policies.setdefault(row.policy, len(self._policies))
        now = self._now
        now.rows.append((len(places), taken, row.propensity, row.utility, policy))
        for place, supported, features in zip(places, _supported(row, places), _features(row, places), strict=True):
            number = self._offers.setdefault(row.offers[place], len(self._offers))
            now.candidates.append((number, supported, *features))
        for scorer, kept in zip(self._scorers, now.shares, strict=True):
            kept.extend(scorer.shares(row)[places])
        if row.explored:
            self._explorers.add(policy)
        self.policies[row.policy] = self.policies.get(row.policy, 0) + 1
        self.explored += row.explored
        self.first_at = row.at if self.first_at is None else min(self.first_at, row.at)
        self.last_at = row.at if self.last_at is None else max(self.last_at, row.at)
        if len(now.rows) >= CHUNK:
            self._chunks.append(now.frozen())
            self._now = _Chunk(len(self._scorers))
            if len(self._chunks) > self._most_chunks:
                self._left_out[OLDER] += len(self._chunks.popleft()[0])

    def left_out(self) -> list[LeftOut]:
        """What was not judged."""
        return [LeftOut(why, count) for why, count in self._left_out.items() if count]

    def arrays(self) -> tuple[Logged, list[Floats]]:
        """The decisions, and what each target would have done: [M] each."""
        chunks = [*self._chunks, self._now.frozen()]
        rows = np.concatenate([chunk[0] for chunk in chunks])
        candidates = np.concatenate([chunk[1] for chunk in chunks])
        starts = np.concatenate(([0], np.cumsum(rows[:, 0]))).astype(np.int64)
        has_floor = np.isin(rows[:, 4], list(self._explorers))
        supported = np.where(
            candidates[:, 1] == _IF_EXPLORED, np.repeat(has_floor, np.diff(starts)), candidates[:, 1] == _YES
        )
        logged = Logged(
            starts=starts,
            offer=candidates[:, 0].astype(np.int64),
            features=np.ascontiguousarray(candidates[:, 2:]),
            supported=supported.astype(np.bool_),
            chosen=starts[:-1] + rows[:, 1].astype(np.int64),
            propensity=rows[:, 2],
            reward=rows[:, 3],
        )
        return logged, [np.concatenate([chunk[2][which] for chunk in chunks]) for which in range(len(self._scorers))]


def _supported(row: LoggedDecision, places: Sequence[int]) -> list[float]:
    """Of each candidate, whether it could have come first."""
    n = len(places)
    if row.explored or row.tied >= n:
        return [_YES] * n
    if row.policy in LEARNED:
        # The propensity is that of one offer; whether there was a floor under the others, other decisions tell.
        return [_YES if row.rank[place] == 0 else _IF_EXPLORED for place in places]
    floor = (1.0 / row.tied - row.propensity) / (1.0 / row.tied - 1.0 / n) if row.tied else 0.0
    if floor > 1e-9:
        return [_YES] * n
    return [_YES if (row.rank[place] or 0) < row.tied else _NO for place in places]


def _features(row: LoggedDecision, places: Sequence[int]) -> list[tuple[float, float, float]]:
    weights = (row.weights.price, row.weights.latency, row.weights.reputation, row.weights.availability)
    best_price = max(min(row.unit_price_usd), k.FLOOR)
    best_ms = max(min(row.posted_ms), k.FLOOR)
    found = []
    for place in places:
        promised = utility(
            weights, best_price, best_ms, row.unit_price_usd[place], row.expected_ms[place], row.reputation[place]
        )
        found.append((promised, promised * row.success_seen[place], row.load[place]))
    return found
