"""Who asks for what in a world: drawn tenant by tenant, or taken from a trace."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from amaru.domain import Tenant
from amaru.errors import TraceError
from amaru.routing.kernels import Floats, Ints
from amaru.simulation import world_kernels as w
from amaru.simulation.scenario import Scenario
from amaru.simulation.traces import TraceRequest, bundled_trace, open_trace

Arrived = tuple[Ints, Ints, Ints, Ints, Floats]
"""``starts``, ``tenant``, ``pool``, ``profile``, ``sizes`` of a ``Chunk``."""

ARRIVALS_SD = 2.0
"""Standard deviation of a tenant's requests in a step."""


class Arrivals(Protocol):
    """The requests of a world, in order.

    Attributes
    ----------
    tenants, regions, budgets
        By tenant: who, where its work must run (``None``: anywhere), USD per step.
    profiles, resources
        Names of the sorts of request, and of what they ask for.
    """

    tenants: tuple[Tenant, ...]
    regions: tuple[str | None, ...]
    budgets: tuple[float, ...]
    profiles: tuple[str, ...]
    resources: tuple[str, ...]

    def take(self, first_step: int, steps: int) -> Arrived:
        """The requests of the next steps."""
        ...


class TenantArrivals:
    """Each tenant sends max(0, int(N(mean, 2))) requests in a step, of its mix of profiles."""

    def __init__(self, scenario: Scenario, counts: np.random.Generator, lots: np.random.Generator) -> None:
        demands = scenario.demands
        self.tenants: tuple[Tenant, ...] = tuple(demand.tenant for demand in demands)
        self.regions: tuple[str | None, ...] = tuple(demand.region for demand in demands)
        self.budgets: tuple[float, ...] = tuple(demand.budget_usd_per_step for demand in demands)
        self.profiles: tuple[str, ...] = tuple(profile.id for profile in scenario.profiles)
        self.resources: tuple[str, ...] = tuple(dict.fromkeys(profile.resource for profile in scenario.profiles))
        pool = {name: i for i, name in enumerate(self.resources)}
        self._pool_of = np.array([pool[profile.resource] for profile in scenario.profiles], dtype=np.int64)
        self._means = np.array([demand.requests_per_step for demand in demands])
        shares = np.array([[demand.mix.get(name, 0.0) for name in self.profiles] for demand in demands])
        self._mix = np.cumsum(shares, axis=1)
        self._hours = np.array([profile.gpu_hours for profile in scenario.profiles], dtype=np.float64)
        self._counts, self._lots = counts, lots

    def take(self, first_step: int, steps: int) -> Arrived:  # noqa: ARG002 - the same in every step
        """See ``Arrivals.take``."""
        drawn = self._means + ARRIVALS_SD * self._counts.standard_normal((steps, len(self.tenants)))
        counts = np.maximum(drawn, 0.0).astype(np.int64)
        n = int(counts.sum())
        starts, tenant, profile = (np.empty(size, dtype=np.int64) for size in (steps + 1, n, n))
        sizes = np.zeros((n, w.N_SIZE))
        w.requests(counts, self._mix, self._hours, self._lots.random((n, 2)), starts, tenant, profile, sizes)
        return starts, tenant, self._pool_of[profile], profile, sizes


class TraceArrivals:
    """The requests of a trace, each for a tenant drawn by its share; a trace that ends begins anew."""

    def __init__(self, scenario: Scenario, lots: np.random.Generator) -> None:
        trace = scenario.trace
        assert trace is not None
        self.tenants: tuple[Tenant, ...] = scenario.tenants
        self.regions: tuple[str | None, ...] = (None,) * len(scenario.tenants)
        self.budgets: tuple[float, ...] = (np.inf,) * len(scenario.tenants)
        self.profiles: tuple[str, ...] = ("chat",)
        self.resources: tuple[str, ...] = (trace.resource,)
        self._cumulative = np.cumsum([trace.share.get(tenant.id, 0.0) for tenant in scenario.tenants])
        self._path = bundled_trace() if trace.path is None else Path(trace.path)
        self._span_s = scenario.step_s * trace.speed
        self._lots = lots
        self._requests = self._endless()
        self._next: tuple[float, TraceRequest] | None = None

    def _endless(self) -> Iterator[tuple[float, TraceRequest]]:
        """Requests with their time on the trace's clock, which goes on from round to round."""
        offset = last = 0.0
        while True:
            count = 0
            for request in open_trace(self._path).requests:
                last = offset + request.at_s
                count += 1
                yield last, request
            if count == 0:
                raise TraceError(f"{self._path}: holds no request")
            offset = last + max((last - offset) / count, 1e-3)

    def take(self, first_step: int, steps: int) -> Arrived:
        """See ``Arrivals.take``. Raises TraceError where a row is wrong."""
        starts = np.zeros(steps + 1, dtype=np.int64)
        tokens: list[tuple[float, float]] = []
        pending = chain([self._next] if self._next is not None else [], self._requests)
        for s in range(steps):
            until = (first_step + s + 1) * self._span_s
            for at, request in pending:
                if at >= until:
                    self._next = at, request
                    pending = chain([self._next], self._requests)
                    break
                tokens.append((request.input_tokens, request.output_tokens))
            starts[s + 1] = len(tokens)
        n = len(tokens)
        sizes = np.zeros((n, w.N_SIZE))
        sizes[:, w.INPUT_TOKENS :] = np.array(tokens, dtype=np.float64).reshape(n, 2)
        tenant = np.searchsorted(self._cumulative, self._lots.random(n), side="right").astype(np.int64)
        none = np.zeros(n, dtype=np.int64)
        return starts, np.minimum(tenant, len(self.tenants) - 1), none, none, sizes
