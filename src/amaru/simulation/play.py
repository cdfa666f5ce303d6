"""Plays a policy in a world, and tallies what its tenants got."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from amaru.domain import Kind, Tenant
from amaru.routing import kernels as k
from amaru.routing.board import KIND_BITS
from amaru.routing.kernels import Floats, Ints
from amaru.routing.mind import Mind
from amaru.routing.policies_base import Preferences
from amaru.simulation import play_kernels as p
from amaru.simulation.references import Reference, no_filter
from amaru.simulation.world import Chunk, World

CHUNK_STEPS = 256
"""Steps unrolled at once: some thousand requests, which stay in the cache."""


class Playable(Protocol):
    """A policy of ``routing.policies``, or a ``Reference``."""

    name: str
    kind: int
    mind: Mind
    preferences: Preferences

    @property
    def learns(self) -> bool:
        """Whether it learns at all."""
        ...


class Played(NamedTuple):
    """What became of the requests of a chunk, each [R]."""

    chosen: Ints
    """Row of the offer; -1: none was feasible."""
    ok: np.ndarray[tuple[int], np.dtype[np.bool_]]
    latency_ms: Floats
    """0 where it was not served, as the next two."""
    cost_usd: Floats
    utility: Floats
    explored: np.ndarray[tuple[int], np.dtype[np.bool_]]
    """The offer stood first by a draw only."""
    propensity: Floats
    """Probability with which the offer was chosen, given what was learned by then."""
    feasible: Ints
    """How many offers could have served it."""


class Tally:
    """What tenants got. ``totals`` is float64 [tenants, N_TALLY], ``by_step`` [steps, N_TALLY] where it is kept."""

    def __init__(self, totals: Floats, by_step: Floats | None) -> None:
        self.totals = totals
        self.by_step = by_step

    def _sum(self, column: int) -> float:
        return float(self.totals[:, column].sum())

    @property
    def requests(self) -> int:
        """How many there were."""
        return int(self._sum(p.REQUESTS))

    @property
    def served(self) -> int:
        """How many got what they asked for."""
        return int(self._sum(p.SERVED))

    @property
    def fill_rate(self) -> float:
        """Served per request."""
        return self._sum(p.SERVED) / max(self._sum(p.REQUESTS), 1.0)

    @property
    def avg_cost_usd(self) -> float:
        """Per served request; NaN where none was."""
        return self._sum(p.COST_USD) / self.served if self.served else math.nan

    @property
    def avg_latency_ms(self) -> float:
        """Per served request; NaN where none was."""
        return self._sum(p.LATENCY_MS) / self.served if self.served else math.nan

    @property
    def slo_attainment(self) -> float:
        """Requests served within their tenant's ``max_latency_ms``, per request; with no such limit: served."""
        return self._sum(p.SLO_MET) / max(self._sum(p.REQUESTS), 1.0)

    @property
    def mean_utility(self) -> float:
        """Per request: see ``score_kernels.utility``."""
        return self._sum(p.UTILITY) / max(self._sum(p.REQUESTS), 1.0)


class Game:
    """A policy in a world, played on from where both are.

    Parameters
    ----------
    policy
        The object that the gateway would use. Its arrays are read and, with ``learn``, written.
    floor
        Probability with which a choice is drawn uniformly among the feasible offers instead.
    weights
        Per tenant, what the policy scores by instead of the tenant's own weights; what a request was worth is still
        judged by the tenant's.
    """

    def __init__(
        self,
        world: World,
        policy: Playable,
        *,
        learn: bool = True,
        floor: float = 0.0,
        weights: Floats | None = None,
    ) -> None:
        if isinstance(policy, Reference) and policy.world is not world:
            raise ValueError(f"{policy.name} knows another world than the one it is to play in")
        if not 0.0 <= floor <= 1.0:
            raise ValueError(f"floor is a probability between 0 and 1, not {floor}")
        self.world = world
        self.policy = policy
        self.learns = learn and policy.learns
        self.floor = floor
        offers = len(world.offers)
        self._slots, self._groups = policy.mind.slots(world.offers)
        own = np.array([policy.preferences(tenant.weights) for tenant in world.tenants], dtype=np.float64)
        self._arena = arena_of(world, own if weights is None else np.ascontiguousarray(weights, dtype=np.float64))
        self._known = policy.known if isinstance(policy, Reference) else no_filter()
        self._scratch = p.Scratch(
            np.zeros(k.N_ASK), np.zeros((offers, k.N_TABLE)), np.zeros(offers, dtype=np.int64),
            np.zeros(offers, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(len(world.tenants)),
            np.zeros((len(world.pools), 2)),
        )  # fmt: skip

    def asked(self, weights: Floats) -> Game:
        """This very moment, frozen: a copy that scores by ``weights`` [tenants, 4] and learns nothing."""
        copied = copy.deepcopy(self, {id(self.world): self.world})
        copied.learns = False
        copied._arena = copied._arena._replace(weights=np.ascontiguousarray(weights, dtype=np.float64))
        return copied

    def play(self, chunk: Chunk, totals: Floats, by_step: Floats, *, record: bool = False) -> Played | None:
        """Play one chunk of the world, adding to ``totals`` and ``by_step``; with ``record`` request by request."""
        if isinstance(self.policy, Reference):
            self.policy.follow(chunk)
        mind = self.policy.mind
        brain = p.Brain(
            self._slots, self._groups, mind.sums, mind.beliefs, mind.values, mind.memory, mind.ring, mind.knobs
        )
        records = np.zeros((len(chunk.tenant) if record else 0, p.N_RECORD))
        p.play(
            self.policy.kind, self.learns, self.floor, self.world.is_gpu, chunk.first_step, chunk.step_s, chunk.posted,
            chunk.truth, chunk.starts, chunk.tenant, chunk.pool, chunk.sizes, chunk.luck, self._arena, brain,
            self._known, self._scratch, totals, by_step, records,
        )  # fmt: skip
        if not record:
            return None
        return Played(
            records[:, p.ROW].astype(np.int64), records[:, p.OK] > 0.0, records[:, p.REC_LATENCY_MS],
            records[:, p.REC_COST_USD], records[:, p.REC_UTILITY], records[:, p.EXPLORED] > 0.0,
            records[:, p.PROPENSITY], records[:, p.FEASIBLE].astype(np.int64),
        )  # fmt: skip


def play(
    world: World,
    policy: Playable,
    steps: int,
    *,
    learn: bool = True,
    floor: float = 0.0,
    weights: Floats | None = None,
    keep_steps: bool = False,
    on_chunk: Callable[[Chunk, Played], None] | None = None,
    chunk_steps: int = CHUNK_STEPS,
) -> Tally:
    """Play the next ``steps`` steps of ``world`` by ``policy``; see ``Game``.

    ``on_chunk`` is handed every request with what became of it. Memory does not grow with ``steps`` unless
    ``keep_steps`` asks for figures by step.
    """
    game = Game(world, policy, learn=learn, floor=floor, weights=weights)
    totals = np.zeros((len(world.tenants), p.N_TALLY))
    kept: list[Floats] = []
    for begun in range(0, steps, chunk_steps):
        chunk = world.chunk(min(chunk_steps, steps - begun))
        by_step = np.zeros((len(chunk.starts) - 1, p.N_TALLY))
        played = game.play(chunk, totals, by_step, record=on_chunk is not None)
        if on_chunk is not None and played is not None:
            on_chunk(chunk, played)
        if keep_steps:
            kept.append(by_step)
    return Tally(totals, np.concatenate(kept) if keep_steps and kept else None)


def arena_of(world: World, weights: Floats) -> p.Arena:
    """The offers of a world as its first step finds them; ``weights`` [tenants, 4] are those that are scored by."""
    static = world.static.copy()
    static[:, k.SLOT] = world.slots
    live = np.tile(k.BLANK, (int(world.slots.max()) + 1, 1))
    asks = np.array([_ask(world, i, tenant) for i, tenant in enumerate(world.tenants)])
    worth = np.array(
        [(t.weights.price, t.weights.latency, t.weights.reputation, t.weights.availability) for t in world.tenants]
    )
    slo = np.array([math.inf if (most := t.limits.max_latency_ms) is None else most for t in world.tenants])
    starts = np.cumsum([0, *(len(rows) for rows in world.pools)]).astype(np.int64)
    rows = np.concatenate(world.pools)
    own_starts = np.zeros(len(asks) * len(world.pools) + 1, dtype=np.int64)
    own_rows = np.zeros(len(asks) * len(rows), dtype=np.int64)
    p.own_pools(static, starts, rows, asks, own_starts, own_rows)
    return p.Arena(
        static, live, starts, rows, own_starts, own_rows, asks, weights, worth, slo, world.budgets
    )  # fmt: skip


def _ask(world: World, index: int, tenant: Tenant) -> Floats:
    """What all requests of a tenant ask alike."""
    limits = tenant.limits
    ask = np.zeros(k.N_ASK)
    ask[k.KIND] = KIND_BITS[Kind.GPU_JOB if world.is_gpu else Kind.CHAT]
    ask[k.REGION] = world.regions[index]
    ask[k.IS_GPU_JOB] = float(world.is_gpu)
    ask[k.IS_STREAM] = float(not world.is_gpu)
    ask[k.MAX_PRICE] = math.inf if limits.max_price is None else limits.max_price
    ask[k.MAX_LATENCY] = math.inf if limits.max_latency_ms is None else limits.max_latency_ms
    ask[k.MIN_REPUTATION] = -math.inf if limits.min_reputation is None else limits.min_reputation
    ask[k.ALLOWED_REGIONS], ask[k.ALLOWS_GLOBAL] = world.allowed[index]
    ask[k.POSTED_LIMITS] = 1.0
    return ask
