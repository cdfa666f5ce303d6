"""The router: one question in, every offer ranked or refused."""

from __future__ import annotations

import difflib
import math
import random
import struct
from collections.abc import Iterable

import numpy as np

from amaru.domain import GLOBAL_REGION, Capability, Decision, Kind, Workload
from amaru.errors import RequestError
from amaru.routing import kernels as k
from amaru.routing.board import KIND_BITS, Board
from amaru.routing.explanation import explain, explain_packed, why_none
from amaru.routing.policies import Policy
from amaru.routing.ranking import Figures, Ranking, pack, unpack
from amaru.routing.warmth import Warmth, put_in

__all__ = ["Figures", "Ranking", "Router", "explain_packed", "model_not_found", "pack", "unpack", "why_none"]

_pack_ask = struct.Struct(f"{k.N_ASK}d").pack_into
_NO_ROWS = np.empty(0, dtype=np.int64)
_STREAM = int(Capability.STREAM)


class Router:
    """Decides on one board by one policy.

    Parameters
    ----------
    exploration
        Probability with which the first place is drawn uniformly among the feasible offers instead of by the policy,
        so that every feasible offer keeps being seen and logged decisions can be evaluated.
    rng
        Draws ties and explorations.
    wall_offset_s
        Unix seconds less those of the clock that ``decide`` is asked with: what was learned fades by event time.
    """

    __slots__ = ("_ask", "_order", "_rng", "board", "exploration", "policy", "wall_offset_s")

    def __init__(
        self,
        board: Board,
        policy: Policy,
        *,
        exploration: float = 0.0,
        rng: random.Random | None = None,
        wall_offset_s: float = 0.0,
    ) -> None:
        if not 0.0 <= exploration <= 1.0:
            raise ValueError(f"exploration is a probability between 0 and 1, not {exploration}")
        self.board = board
        self.policy = policy
        self.exploration = exploration
        self.wall_offset_s = wall_offset_s
        self._rng = rng or random.Random()  # noqa: S311 - lots, not secrets
        # Written and read within one decision; made once, since four arrays cost as much as the compiled pass.
        self._ask: k.Floats = np.empty(k.N_ASK)
        self._order: k.Ints = np.empty(len(board.offers), dtype=np.int64)

    def decide(
        self,
        workload: Workload,
        now_s: float,
        excluded_rows: Iterable[int] | None = None,
        warmth: Warmth | None = None,
    ) -> Ranking:
        """Rank every offer of the workload's resource; ``excluded_rows`` were tried already, those in ``warmth`` have
        prompt caches that are warm for it.

        Raises ``RequestError`` (404, ``model_not_found``) where no offer or alias has that name. Where no offer is
        feasible the order is empty: see ``why_none``.
        """
        board = self.board
        rows = board.pool(workload.resource)
        if rows is None:
            raise model_not_found(workload.resource, board.resources())
        ask, order = self._ask, self._order
        _pack_ask(ask.data, 0, *self._question(workload, now_s), warmth is not None)
        n = len(rows)
        excluded = _NO_ROWS if not excluded_rows else np.array(sorted(excluded_rows), dtype=np.int64)
        ranking = Ranking(
            board,
            workload,
            now_s,
            self.policy.name,
            rows,
            np.empty(n, dtype=np.int64),
            np.empty((n, k.N_TABLE)),
            ask,
            excluded,
        )
        if warmth is not None:
            put_in(ranking.table, rows, warmth)
        feasible, tied, transient = self.policy.rank(ranking, order)
        ranking.order = order[:feasible].tolist()
        ranking.tied = tied
        ranking.transient = transient > 0
        ranking.propensity = self._explore(ranking)
        return ranking

    def explain(self, ranking: Ranking, decision_id: str, at: float, *, words: bool = True) -> Decision:
        """The ranking in words; ``at`` is its Unix time. See ``explanation.explain``."""
        return explain(ranking.board.offers, ranking, decision_id, at, words=words)

    def _question(self, workload: Workload, now_s: float) -> tuple[float, ...]:
        """All of ``ask`` but its last entry."""
        limits = workload.limits
        board = self.board
        region = k.ANYWHERE
        # `global` as a wish means anywhere; as an offer's region it means everywhere.
        if workload.region is not None and workload.region != GLOBAL_REGION:
            region = board.region_bits((workload.region,))
        allowed, allows_global = k.ANYWHERE, 0.0
        if limits.regions is not None:
            allowed, allows_global = board.region_bits(limits.regions), float(GLOBAL_REGION in limits.regions)
        needs = int(workload.needs)
        return (
            now_s,
            KIND_BITS[workload.kind],
            needs,
            region,
            workload.input_tokens,
            workload.output_tokens,
            workload.gpu_hours,
            workload.kind is Kind.GPU_JOB,
            needs & _STREAM,
            math.inf if limits.max_price is None else limits.max_price,
            math.inf if limits.max_latency_ms is None else limits.max_latency_ms,
            -math.inf if limits.min_reputation is None else limits.min_reputation,
            allowed,
            allows_global,
            self._rng.random(),
            0.0,
            now_s + self.wall_offset_s,
        )

    def _explore(self, ranking: Ranking) -> float:
        """With the floor's probability put a drawn offer first; the propensity of whichever is first then."""
        feasible = len(ranking.order)
        if feasible == 0:
            return 1.0
        floor, place = self.exploration, 0
        if floor > 0.0 and self._rng.random() < floor:
            ranking.explored = True
            place = self._rng.randrange(feasible)
        by_policy = self.policy.share(ranking, place)
        if place > 0:
            ranking.order.insert(0, ranking.order.pop(place))
        return floor / feasible + (1.0 - floor) * by_policy


def model_not_found(resource: str, names: Iterable[str]) -> RequestError:
    """OpenAI's error for an unknown model, with the near matches among ``names`` (those that the caller may see)."""
    near = difflib.get_close_matches(resource, list(names), n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else " GET /v1/models lists what there is."
    return RequestError(
        404, f"The model {resource[:200]!r} does not exist here.{hint}", code="model_not_found", param="model"
    )
