"""How much of a step's optimum the oracle reaches, which decides one request after the other.

python benchmarks/wargame_optimum.py [--steps 400] [--seed 0]

The requests of a step compete for capacity, so the best for each is not the best for all. Small random steps are
solved to the optimum (SciPy's HiGHS) under the true expected utilities, with latencies that do not depend on load, so
that the objective is linear. Printed: the oracle's expected utility as a share of the optimum's, with its 95 %
interval over steps, where capacity binds and where it does not. Exit status 1 where the oracle beats the optimum.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from amaru.domain import Capability, Kind, Limits, Offer, Price, Tenant, Weights
from amaru.routing.kernels import Floats, Ints
from amaru.simulation import world_kernels as w
from amaru.simulation.play import Played, play
from amaru.simulation.references import oracle
from amaru.simulation.scenario import Demand, Hidden, Profile, Regime, Scenario
from amaru.simulation.world import Chunk, World

LOOSE = 1e6
"""GPU-hours of capacity that no step uses up."""
TIGHT = (1.0, 5.0)
"""GPU-hours: the offers of a step together have room for about two thirds of what is asked for."""


class Step(NamedTuple):
    """One step: what each request (R) is expected to be worth at each offer (O), and who took what."""

    worth: Floats
    """[R, O]; 0 where the offer may not serve it."""
    hours: Floats
    """[R]"""
    room: Floats
    """[O]"""
    chosen: Ints
    """[R] by the oracle; -1: none."""

    @property
    def greedy(self) -> float:
        """What the oracle's choices are expected to be worth."""
        taken = self.chosen >= 0
        return float(self.worth[np.flatnonzero(taken), self.chosen[taken]].sum())


def step_of(seed: int, room: tuple[float, float] | None) -> Step:
    """A random small step, played by the oracle. ``room``: range of capacities; left out: more than enough."""
    rng = np.random.default_rng(seed)
    world = World(_scenario(rng, room), seed)
    seen: list[tuple[Chunk, Played]] = []
    play(world, oracle(world), 1, on_chunk=lambda chunk, played: seen.append((chunk, played)))
    chunk, played = seen[0]
    posted, truth = chunk.posted[0], chunk.truth[0]
    charged = posted[:, w.PRICE] * np.exp(truth[:, w.LOG_PRICE])
    # The mean of 1/latency of a log-normal.
    speed = np.exp(-truth[:, w.LOG_MS] + 0.5 * truth[:, w.NOISE_SD] ** 2)
    terms = np.stack([
        posted[:, w.PRICE].min() / charged,
        posted[:, w.LATENCY_MS].min() * speed,
        posted[:, w.REPUTATION] / 100.0,
        np.ones(len(charged)),
    ])  # fmt: skip
    worth = np.zeros((len(chunk.tenant), len(charged)))
    for r, t in enumerate(chunk.tenant.tolist()):
        tenant = world.tenants[t]
        wish = tenant.weights
        weights = np.array([wish.price, wish.latency, wish.reputation, wish.availability])
        may = posted[:, w.REPUTATION] >= (tenant.limits.min_reputation or 0.0)
        worth[r] = may * (1.0 - truth[:, w.FAILURE]) * (weights @ terms) / weights.sum()
    return Step(worth, chunk.sizes[:, w.GPU_HOURS], posted[:, w.CAPACITY], played.chosen)


def optimum(step: Step) -> float:
    """The most that any assignment within capacity is expected to be worth. Raises RuntimeError where HiGHS fails."""
    requests, offers = step.worth.shape
    if requests == 0:
        return 0.0
    once = np.kron(np.eye(requests), np.ones(offers))  # each request at one offer at most
    within = np.kron(step.hours, np.eye(offers))  # each offer within its room
    solved = milp(
        -step.worth.ravel(),
        integrality=np.ones(requests * offers),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(once, ub=1.0), LinearConstraint(within, ub=step.room)],
        options={"mip_rel_gap": 0.0},
    )
    if solved.x is None:
        raise RuntimeError(solved.message)
    return float(-solved.fun)


def shares(seeds: range, room: tuple[float, float] | None) -> Iterator[float]:
    """The oracle's share of the optimum, step by step; steps in which nothing can be served are left out."""
    for seed in seeds:
        step = step_of(seed, room)
        best = optimum(step)
        if best > 0.0:
            yield step.greedy / best


def _scenario(rng: np.random.Generator, room: tuple[float, float] | None) -> Scenario:
    offers = tuple(
        Offer(
            id=f"{name}/A100",
            provider=name,
            resource="A100",
            model="A100",
            kinds=(Kind.GPU_JOB,),
            price=Price(usd_per_gpu_hour=float(rng.uniform(1.0, 4.0))),
            capabilities=Capability.NONE,
            latency_ms=float(rng.uniform(200.0, 500.0)),
            reputation=float(rng.uniform(40.0, 95.0)),
            capacity=LOOSE if room is None else float(rng.uniform(*room)),
        )
        for name in ("a", "b", "c", "d")
    )
    demands = tuple(
        Demand(
            tenant=Tenant(
                id=name,
                weights=Weights(*rng.dirichlet(np.ones(4)).tolist()),
                limits=Limits(min_reputation=float(rng.uniform(30.0, 70.0))),
            ),
            region=None,
            budget_usd_per_step=1e9,
            requests_per_step=6.0,
            mix={"job": 1.0},
        )
        for name in ("one", "two")
    )
    hidden = Hidden(
        healthy=Regime(failure=(0.0, 0.2), slowdown=(1.0, 1.0), steps=(2.0, 9.0)),
        degraded=Regime(failure=(0.2, 0.5), slowdown=(1.3, 2.5), steps=(5.0, 9.0)),
        down=Regime(failure=(0.8, 1.0), slowdown=(1.0, 2.0), steps=(5.0, 9.0)),
        down_share=(0.3, 0.6),
        latency_bias=(0.7, 1.6),
        latency_noise=(0.1, 0.35),
        latency_load=(0.0, 0.0),
        bridge_up_steps=(50.0, 90.0),
        bridge_down_steps=(3.0, 9.0),
        bridge_failure=0.98,
        price_drift=(0.02, 0.05),
        price_jumps=(0.01, 0.05),
        price_jump_sd=0.25,
        price_lag_steps=(0.0, 5.0),
    )
    return Scenario(
        name="optimum",
        purpose="any",
        steps=1,
        step_s=30.0,
        offers=offers,
        bridges={"a": "axelar", "b": "axelar"},
        demands=demands,
        profiles=(Profile(id="job", resource="A100", gpu_hours=(0.5, 2.5)),),
        hidden=hidden,
    )


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    fine = True
    print("| capacity | steps | oracle's share of the optimum | 95 % interval | least |")
    print("|---|---:|---:|---|---:|")
    for name, room in (("tight", TIGHT), ("loose", None)):
        found = np.array(list(shares(range(arguments.seed, arguments.seed + arguments.steps), room)))
        error = 1.96 * found.std(ddof=1) / np.sqrt(len(found))
        fine &= bool(found.max() <= 1.0 + 1e-6)
        print(
            f"| {name} | {len(found)} | {found.mean():.4f} | {found.mean() - error:.4f} to {found.mean() + error:.4f} "
            f"| {found.min():.4f} |"
        )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
