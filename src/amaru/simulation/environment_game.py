"""A world played one request at a time: what both environments are made of.

Filter, outcomes and utilities are those of ``play_kernels``; only the choice comes from outside. A policy that chooses
here what it would choose in ``play`` gets the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from amaru.domain import Tenant
from amaru.routing import kernels as k
from amaru.routing import score_kernels as s
from amaru.simulation import environment_kernels as e
from amaru.simulation import play_kernels as p
from amaru.simulation import world_kernels as w
from amaru.simulation.play import CHUNK_STEPS, arena_of
from amaru.simulation.scenario import Scenario
from amaru.simulation.world import World

Observation = NDArray[np.float32]
Mask = NDArray[np.int8]

# What is observed of each offer, in this order; 0 throughout for offers that serve another resource.
OFFER_FIGURES = (
    "price",  # lowest posted price of those that serve the resource / its own
    "latency",  # lowest posted latency / its own
    "free",  # share of its capacity that is free in this step
    "reputation",  # out of 100
    "feasible",  # 1: within every hard limit, and with room for this request
    "success",  # share of recent attempts that succeeded; what is old fades towards 1
    "speed",  # posted / (posted + recent) latency: 0.5 as posted, less where it is slower
)
# And of the request.
REQUEST_FIGURES = (
    "waiting",  # 1: there is a request to place
    "weight_price",  # the tenant's weights; they sum to 1
    "weight_latency",
    "weight_reputation",
    "weight_availability",
    "gpu_hours",  # log2(1 + size) / 20
    "input_tokens",
    "output_tokens",
)
_SIZE_SCALE = 20.0


class Placed(msgspec.Struct, frozen=True):
    """What became of a request."""

    row: int = -1
    """The offer that tried; -1: none did, because the choice was not feasible."""
    served: bool = False
    latency_ms: float = 0.0
    """0 where it was not served, as the next two."""
    cost_usd: float = 0.0
    utility: float = 0.0
    """What it was worth to its tenant, about 0 to 1."""


class Seen(NamedTuple):
    """A request as a policy sees it."""

    observation: Observation
    """[observation_size(offers)], each figure in [0, 1]: offer by offer ``OFFER_FIGURES``, then ``REQUEST_FIGURES``."""
    mask: Mask
    """[offers] 1 where the offer may serve."""


def observation_size(offers: int) -> int:
    """How many figures an observation holds."""
    return offers * len(OFFER_FIGURES) + len(REQUEST_FIGURES)


def tenants_of(scenario: Scenario) -> tuple[Tenant, ...]:
    """Who asks, in the order of ``World.tenants``."""
    return tuple(demand.tenant for demand in scenario.demands) if scenario.trace is None else scenario.tenants


class SteppedGame:
    """One episode.

    Parameters
    ----------
    steps
        War-game steps that it lasts.

    Attributes
    ----------
    step
        The war-game step that is being played; -1 before the first.
    requests
        Numbers of the requests of this step, to be handed to the methods.
    """

    def __init__(self, scenario: Scenario, seed: int, steps: int) -> None:
        self.world = World(scenario, seed)
        self.steps = steps
        self.step = -1
        self.requests = range(0)
        worth = [(t.weights.price, t.weights.latency, t.weights.reputation, t.weights.availability)
                 for t in self.world.tenants]  # fmt: skip
        self._arena = arena_of(self.world, np.array(worth, dtype=np.float64))
        self._budgets = self._arena.budgets.copy()
        offers = len(self.world.offers)
        self._ask = np.zeros(k.N_ASK)
        self._table, self._codes = np.zeros((offers, k.N_TABLE)), np.zeros(offers, dtype=np.int64)
        self._order, self._excluded = np.zeros(offers, dtype=np.int64), np.zeros(0, dtype=np.int64)
        self._chunk = self.world.chunk(min(CHUNK_STEPS, steps))
        self._at = -1
        totals = self._arena.worth.sum(axis=1, keepdims=True)
        self._shares = self._arena.worth / np.where(totals > 0, totals, 1.0)

    def advance(self) -> bool:
        """Begin the next step: new posted figures, all capacity free, budgets full. False: the episode is over."""
        if self.step + 1 >= self.steps:
            self.requests = range(0)
            return False
        self.step += 1
        self._at += 1
        if self._at == len(self._chunk.posted):
            self._chunk = self.world.chunk(min(CHUNK_STEPS, self.steps - self.step))
            self._at = 0
        p.post(self._at, self._now, self._chunk.posted, self._arena.static, self._arena.live, self.world.is_gpu)
        self._budgets[:] = self._arena.budgets
        self.requests = range(int(self._chunk.starts[self._at]), int(self._chunk.starts[self._at + 1]))
        return True

    @property
    def _now(self) -> float:
        return self.step * self.world.scenario.step_s

    def tenant_of(self, request: int) -> int:
        """Index of the tenant who asks."""
        return int(self._chunk.tenant[request])

    def resource_of(self, request: int) -> str:
        """What is asked for."""
        return self.world.resources[int(self._chunk.pool[request])]

    def see(self, request: int) -> Seen:
        """The request, and the offers as they stand now."""
        rows = self._look(request)
        n = len(rows)
        table = self._table[:n]
        best_price, best_latency = s.references(n, self._table)
        feasible = self._codes[:n] == 0
        figures = np.zeros((len(self.world.offers), len(OFFER_FIGURES)), dtype=np.float32)
        posted_ms = np.maximum(table[:, k.POSTED_MS], k.FLOOR)
        figures[rows, 0] = best_price / np.maximum(table[:, k.UNIT_PRICE], k.FLOOR)
        figures[rows, 1] = best_latency / posted_ms
        figures[rows, 2] = 1.0 - table[:, k.LOAD]
        figures[rows, 3] = table[:, k.TRUST] / 100.0
        figures[rows, 4] = feasible
        figures[rows, 5] = table[:, k.SUCCESS_SEEN]
        figures[rows, 6] = posted_ms / (posted_ms + np.maximum(table[:, k.LATENCY], k.FLOOR))
        sizes = np.minimum(np.log2(1.0 + self._chunk.sizes[request]) / _SIZE_SCALE, 1.0)
        asked = np.concatenate(([1.0], self._shares[self.tenant_of(request)], sizes))
        mask = np.zeros(len(self.world.offers), dtype=np.int8)
        mask[rows] = feasible
        return Seen(np.concatenate((figures.ravel(), asked)).astype(np.float32).clip(0.0, 1.0), mask)

    def nothing(self) -> Seen:
        """What is seen where no request waits: nothing."""
        offers = len(self.world.offers)
        return Seen(np.zeros(observation_size(offers), dtype=np.float32), np.zeros(offers, dtype=np.int8))

    def place(self, request: int, row: int) -> Placed:
        """Let the offer ``row`` try; where it may not serve, nobody does."""
        rows = self._look(request)
        places = np.flatnonzero(rows == row)
        if not len(places) or self._codes[places[0]] != 0:
            return Placed()
        figures = self._table[places[0]]
        chunk, live, at = self._chunk, self._arena.live, self._at
        slot = int(self._arena.static[row, k.SLOT])
        luck = chunk.luck[request]
        served, log_ms = p.outcome(
            at, row, float(figures[k.LOAD]), luck[w.SUCCESS_LUCK], luck[w.LATENCY_LUCK], chunk.truth
        )
        live[slot, k.IN_FLIGHT] += chunk.sizes[request, w.GPU_HOURS] if self.world.is_gpu else 1.0
        k.blend(live, slot, k.SUCCESS, 1.0 if served else 0.0, self._now)
        if not served:
            return Placed(row)
        latency_ms = math.exp(log_ms)
        k.blend(live, slot, k.FIRST_TOKEN, latency_ms, self._now)
        factor = math.exp(chunk.truth[at, row, w.LOG_PRICE])
        tenant = self.tenant_of(request)
        cost_usd = float(figures[k.COST]) * factor
        self._budgets[tenant] -= cost_usd
        best_price, best_latency = s.references(len(rows), self._table)
        price, latency, reputation, availability = self._arena.worth[tenant].tolist()
        worth = s.utility(
            (price, latency, reputation, availability), best_price, best_latency,
            float(figures[k.UNIT_PRICE]) * factor, latency_ms, float(figures[k.TRUST]),
        )  # fmt: skip
        return Placed(row, True, latency_ms, cost_usd, worth)

    def _look(self, request: int) -> k.Ints:
        """Hold the offers of the request's pool against its constraints; returns their rows."""
        chunk, ask = self._chunk, self._ask
        tenant = self.tenant_of(request)
        ask[:] = self._arena.asks[tenant]
        ask[k.NOW] = ask[k.WALL] = self._now
        hours = float(chunk.sizes[request, w.GPU_HOURS])
        ask[k.GPU_HOURS] = hours
        ask[k.INPUT_TOKENS] = chunk.sizes[request, w.INPUT_TOKENS]
        ask[k.OUTPUT_TOKENS] = chunk.sizes[request, w.OUTPUT_TOKENS]
        ask[k.LOT] = chunk.luck[request, w.LOT]
        if self.world.is_gpu:
            ask[k.MAX_PRICE] = min(p.max_price(float(self._budgets[tenant]), hours), ask[k.MAX_PRICE])
        rows = self.world.pools[int(chunk.pool[request])]
        e.look(rows, self._arena.static, self._arena.live, ask, self._excluded, self._table, self._codes, self._order)
        return rows
