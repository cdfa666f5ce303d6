"""Small worlds that the tests of the war-game share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from amaru.domain import Capability, Kind, Limits, Offer, Price, Tenant, Weights
from amaru.simulation.play import Played, Tally
from amaru.simulation.scenario import Demand, Event, Hidden, Profile, Regime, Scenario
from amaru.simulation.world import Chunk, World

REGIMES: dict[str, Any] = {
    "healthy": Regime(failure=(0.01, 0.05), slowdown=(1.0, 1.0), steps=(20, 60)),
    "degraded": Regime(failure=(0.2, 0.5), slowdown=(1.4, 2.2), steps=(5, 15)),
    "down": Regime(failure=(0.85, 0.95), slowdown=(1.0, 2.0), steps=(4, 10)),
    "down_share": (0.3, 0.6),
}
WEIGHTS = Weights(price=0.4, latency=0.3, reputation=0.1, availability=0.2)


def hidden(**changes: Any) -> Hidden:
    """A world in which much happens."""
    fields: dict[str, Any] = REGIMES | {
        "latency_bias": (0.7, 1.6),
        "latency_noise": (0.1, 0.3),
        "latency_load": (0.2, 0.8),
        "bridge_up_steps": (40, 80),
        "bridge_down_steps": (3, 8),
        "bridge_failure": 0.97,
        "price_drift": (0.01, 0.03),
        "price_jumps": (0.005, 0.02),
        "price_jump_sd": 0.25,
        "price_lag_steps": (2, 9),
    }
    return Hidden(**(fields | changes))


def gpu(provider: str, usd: float = 2.0, ms: float = 300.0, capacity: float | None = 200.0, **changes: Any) -> Offer:
    fields: dict[str, Any] = {
        "id": f"{provider}/A100",
        "provider": provider,
        "resource": "A100",
        "model": "A100",
        "kinds": (Kind.GPU_JOB,),
        "price": Price(usd_per_gpu_hour=usd),
        "capabilities": Capability.NONE,
        "latency_ms": ms,
        "reputation": 75.0,
        "capacity": capacity,
    }
    return Offer(**(fields | changes))


def demand(
    name: str = "t",
    *,
    mean: float = 8.0,
    budget: float = 1e6,
    region: str | None = None,
    weights: Weights = WEIGHTS,
    limits: Limits | None = None,
    mix: dict[str, float] | None = None,
) -> Demand:
    return Demand(
        tenant=Tenant(id=name, weights=weights, limits=limits or Limits()),
        region=region,
        budget_usd_per_step=budget,
        requests_per_step=mean,
        mix=mix or {"job": 1.0},
    )


def gpu_scenario(
    offers: Sequence[Offer],
    demands: Sequence[Demand] = (),
    *,
    bridges: Mapping[str, str] | None = None,
    events: Sequence[Event] = (),
    what_is_hidden: Hidden | None = None,
    profiles: Sequence[Profile] = (Profile(id="job", resource="A100", gpu_hours=(0.5, 2.0)),),
    steps: int = 120,
) -> Scenario:
    return Scenario(
        name="sample",
        purpose="any",
        steps=steps,
        step_s=30.0,
        offers=tuple(offers),
        bridges=dict(bridges or {}),
        demands=tuple(demands) or (demand(),),
        profiles=tuple(profiles),
        events=tuple(events),
        hidden=what_is_hidden,
    )


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """The chunks of one run as one chunk."""
    starts, begun = [np.zeros(1, dtype=np.int64)], 0
    for chunk in chunks:
        starts.append(chunk.starts[1:] + begun)
        begun += int(chunk.starts[-1])

    def whole(name: str) -> Any:  # an array of one of two types
        return np.concatenate([getattr(chunk, name) for chunk in chunks])

    arrays = ("posted", "truth", "path", "tenant", "pool", "profile", "sizes", "luck")
    return chunks[0]._replace(starts=np.concatenate(starts), **{name: whole(name) for name in arrays})


def same_chunk(a: Chunk, b: Chunk) -> bool:
    pairs: Iterator[tuple[Any, Any]] = zip(a, b, strict=True)  # Any: numbers and arrays
    return all(np.array_equal(x, y) for x, y in pairs)


class Recording:
    """Takes down a run: hand it to ``play`` as ``on_chunk``."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.played: list[Played] = []

    def __call__(self, chunk: Chunk, played: Played) -> None:
        self.chunks.append(chunk)
        columns: list[Any] = [np.array(column) for column in played]  # Any: three types
        self.played.append(Played(*columns))

    @property
    def chunk(self) -> Chunk:
        return joined(self.chunks)

    @property
    def all(self) -> Played:
        columns: list[Any] = [np.concatenate(parts) for parts in zip(*self.played, strict=True)]  # Any: three types
        return Played(*columns)

    def requests(self) -> Iterator[tuple[int, int]]:
        """Every request as its step and number, both from 0."""
        starts = self.chunk.starts
        for step in range(len(starts) - 1):
            for r in range(int(starts[step]), int(starts[step + 1])):
                yield step, r


def same_tally(a: Tally, b: Tally) -> bool:
    return bool(np.array_equal(a.totals, b.totals))


def slot_of(world: World, row: int) -> int:
    """What shares its capacity with ``row`` has the same."""
    return int(world.slots[row])
