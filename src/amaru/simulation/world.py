"""A world: a scenario and a seed. It unrolls step by step, the same whatever is played in it.

Nothing that a policy does changes the weather or the requests; only load and budgets depend on its choices. So every
policy meets the same requests, the same regimes and the same luck, and differences between policies are theirs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from amaru.domain import GLOBAL_REGION, Kind, Offer, Tenant
from amaru.routing import kernels as k
from amaru.routing.board import Board
from amaru.routing.kernels import Floats, Ints
from amaru.simulation import world_kernels as w
from amaru.simulation.arrivals import Arrivals, TenantArrivals, TraceArrivals
from amaru.simulation.scenario import EventKind, Hidden, Range, Scenario


class Chunk(NamedTuple):
    """Some steps of a world: S steps, O offers, P providers, R requests."""

    first_step: int
    step_s: float
    posted: Floats
    """[S, O, N_POSTED], what everyone sees; columns in ``world_kernels``."""
    truth: Floats
    """[S, O, N_TRUTH], hidden."""
    path: Ints
    """[S, P] regime of each provider, hidden; plus 3 while its bridge is out."""
    starts: Ints
    """[S + 1]: the requests of step s are ``starts[s]:starts[s + 1]``."""
    tenant: Ints
    """[R]"""
    pool: Ints
    """[R], into ``World.pools``."""
    profile: Ints
    """[R], into ``World.profiles``."""
    sizes: Floats
    """[R, N_SIZE]: GPU-hours, input and output tokens."""
    luck: Floats
    """[R, N_LUCK]: uniform for success, standard normal for latency, uniform lot for the policy."""


class World:
    """One world of a scenario.

    Parameters
    ----------
    seed
        At least 0. The same scenario and seed give the same world, however it is cut into chunks.

    Attributes
    ----------
    offers, tenants, profiles
        By row, by index, by index (names).
    pools
        Rows of the offers of each resource asked for, in the order of ``resources``.
    providers, bridges
        Names.
    static
        float64 [O, N_STATIC] of the kernels; prices, latencies, capacities and reputations are overwritten each step.
    provider_of, bridge_of
        [O] and [P].
    regions, allowed
        By tenant, as the kernels take them: bits of where its work must run; bits of where its limits let it, and
        whether they list ``global``.
    provider_truth, bridge_truth, offer_truth
        What was drawn: see ``world_kernels`` (``providers``, ``bridges``, ``hidden``).
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self.step = 0
        self.offers: tuple[Offer, ...] = scenario.offers
        self.providers = tuple(dict.fromkeys(offer.provider for offer in self.offers))
        self.bridges = tuple(sorted(set(scenario.bridges.values()))) or ("none",)
        place = {name: i for i, name in enumerate(self.providers)}
        self.provider_of: Ints = np.array([place[offer.provider] for offer in self.offers], dtype=np.int64)
        bridge = {name: i for i, name in enumerate(self.bridges)}
        self.bridge_of: Ints = np.array(
            [bridge[scenario.bridges.get(name, self.bridges[0])] for name in self.providers], dtype=np.int64
        )
        streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(10)]
        self._regimes_rng, self._bridges_rng, self._prices_rng, self._jumps_rng = streams[1:5]
        self._success_rng, self._latency_rng, self._lots_rng = streams[5:8]
        self._draw_truth(streams[0])
        self._base = self._advertised()
        self._arrivals: Arrivals = (
            TraceArrivals(scenario, streams[8])
            if scenario.trace is not None
            else TenantArrivals(scenario, *streams[8:10])
        )
        self.tenants: tuple[Tenant, ...] = self._arrivals.tenants
        self.profiles: tuple[str, ...] = self._arrivals.profiles
        self.resources: tuple[str, ...] = self._arrivals.resources
        board = Board(self.offers, {})
        self.pools: tuple[Ints, ...] = tuple(self._pool(board, name) for name in self.resources)
        self.static: Floats = board.static.copy()
        # GPU types of one provider share its capacity, so they share a row of what is live.
        shared = scenario.trace is None
        self.slots: Ints = self.provider_of if shared else np.arange(len(self.offers), dtype=np.int64)
        self.regions: tuple[float, ...] = tuple(
            k.ANYWHERE if region is None or region == GLOBAL_REGION else float(board.region_bits((region,)))
            for region in self._arrivals.regions
        )
        self.allowed: tuple[tuple[float, float], ...] = tuple(
            (k.ANYWHERE, 0.0) if only is None else (float(board.region_bits(only)), float(GLOBAL_REGION in only))
            for only in (tenant.limits.regions for tenant in self.tenants)
        )
        self.budgets: Floats = np.array(self._arrivals.budgets, dtype=np.float64)
        self.is_gpu = any(Kind.GPU_JOB in offer.kinds for offer in self.offers)

    @staticmethod
    def _pool(board: Board, resource: str) -> Ints:
        rows = board.pool(resource)
        if rows is None:
            raise ValueError(f"no offer serves {resource!r}")
        return np.ascontiguousarray(rows, dtype=np.int64)

    def chunk(self, steps: int) -> Chunk:
        """The next ``steps`` ≥ 1 steps."""
        n_offers, n_providers = len(self.offers), len(self.providers)
        posted, truth = np.empty((steps, n_offers, w.N_POSTED)), np.empty((steps, n_offers, w.N_TRUTH))
        path = np.empty((steps, n_providers), dtype=np.int64)
        w.weather(
            self.step, steps, self._base, self.provider_of, self.bridge_of, self.provider_truth, self.bridge_truth,
            self.offer_truth, self._regimes_rng.random((steps, n_providers, 2)),
            self._bridges_rng.random((steps, len(self.bridges))),
            self._prices_rng.standard_normal((steps, n_offers)), self._jumps_rng.random((steps, n_offers)),
            self._regimes, self._outs, self._log_prices, self._history, path, posted, truth,
        )  # fmt: skip
        starts, tenant, pool, profile, sizes = self._arrivals.take(self.step, steps)
        luck = np.empty((len(tenant), w.N_LUCK))
        luck[:, w.SUCCESS_LUCK] = self._success_rng.random(len(tenant))
        luck[:, w.LATENCY_LUCK] = self._latency_rng.standard_normal(len(tenant))
        luck[:, w.LOT] = self._lots_rng.random(len(tenant))
        first, self.step = self.step, self.step + steps
        return Chunk(first, self.scenario.step_s, posted, truth, path, starts, tenant, pool, profile, sizes, luck)

    def _advertised(self) -> Floats:
        """What is advertised over one round of the scenario, events included, float64 [steps, offers, N_POSTED]."""
        steps = self.scenario.steps if self.scenario.events else 1
        base = np.empty((steps, len(self.offers), w.N_POSTED))
        for row, offer in enumerate(self.offers):
            gpu = Kind.GPU_JOB in offer.kinds
            base[:, row, w.PRICE] = offer.price.usd_per_gpu_hour if gpu else offer.price.input_usd_per_mtok
            base[:, row, w.PRICE_OUT] = offer.price.output_usd_per_mtok
            base[:, row, w.LATENCY_MS] = offer.latency_ms
            base[:, row, w.CAPACITY] = np.inf if offer.capacity is None else offer.capacity
            base[:, row, w.REPUTATION] = offer.reputation
        at = np.arange(steps)
        for event in self.scenario.events:
            during = (at >= event.step) & (at < event.step + event.steps)
            for row in np.flatnonzero(self.provider_of == self.providers.index(event.provider)).tolist():
                if event.kind is EventKind.PRICE_SPIKE:
                    base[during, row, w.PRICE] *= event.multiplier
                    base[during, row, w.PRICE_OUT] *= event.multiplier
                elif event.kind is EventKind.OUTAGE:
                    base[during, row, w.CAPACITY] = 0.0
                elif event.kind is EventKind.LATENCY_SPIKE:
                    base[during, row, w.LATENCY_MS] += event.delta
                elif event.kind is EventKind.CAPACITY_SURGE:
                    base[during, row, w.CAPACITY] *= event.multiplier
                else:
                    base[during, row, w.REPUTATION] += event.delta
        np.maximum(base[:, :, w.LATENCY_MS], 0.001, out=base[:, :, w.LATENCY_MS])
        np.clip(base[:, :, w.REPUTATION], 0.0, 100.0, out=base[:, :, w.REPUTATION])
        return base

    def _draw_truth(self, rng: np.random.Generator) -> None:
        """What the world is like; nothing is hidden where the scenario hides nothing."""
        n_providers, n_bridges, n_offers = len(self.providers), len(self.bridges), len(self.offers)
        self.provider_truth = np.zeros((n_providers, w.N_PROVIDER))
        self.bridge_truth = np.zeros((n_bridges, w.N_BRIDGE))
        self.offer_truth = np.zeros((n_offers, w.N_HIDDEN))
        self.bridge_truth[:, w.MENDS] = 1.0
        self._regimes = np.zeros(n_providers, dtype=np.int64)
        self._outs = np.zeros(n_bridges, dtype=np.int64)
        self._log_prices = np.zeros(n_offers)
        self._history = np.zeros((1, n_offers))
        hidden = self.scenario.hidden
        if hidden is None:
            return
        for i in range(n_providers):
            self._draw_provider(rng, hidden, self.provider_truth[i])
        for i in range(n_bridges):
            self.bridge_truth[i] = (
                1.0 / _draw(rng, hidden.bridge_up_steps), 1.0 / _draw(rng, hidden.bridge_down_steps),
                hidden.bridge_failure,
            )  # fmt: skip
        for i in range(n_offers):
            bias = np.log(hidden.latency_bias[0]), np.log(hidden.latency_bias[1])
            self.offer_truth[i] = (
                _draw(rng, bias), _draw(rng, hidden.latency_load), _draw(rng, hidden.latency_noise),
                _draw(rng, hidden.price_drift), _draw(rng, hidden.price_jumps), hidden.price_jump_sd,
                np.floor(_draw(rng, hidden.price_lag_steps)),
            )  # fmt: skip
        self._history = np.zeros((int(self.offer_truth[:, w.LAG].max()) + 1, n_offers))

    @staticmethod
    def _draw_provider(rng: np.random.Generator, hidden: Hidden, into: Floats) -> None:
        regimes = (hidden.healthy, hidden.degraded, hidden.down)
        for number, regime in enumerate(regimes):
            into[w.FAILURE_HEALTHY + number] = _draw(rng, regime.failure)
            into[w.SLOW_HEALTHY + number] = np.log(_draw(rng, regime.slowdown))
            into[w.LEAVES_HEALTHY + number] = 1.0 / _draw(rng, regime.steps)
        into[w.GOES_DOWN] = _draw(rng, hidden.down_share)


def _draw(rng: np.random.Generator, range_: Range) -> float:
    return float(rng.uniform(range_[0], range_[1])) if range_[1] > range_[0] else float(range_[0])
