"""Where the default knobs of the Bayesian policies come from: a random search on worlds of a training family.

    python benchmarks/wargame_knobs.py [--policy thompson] [--tries 400] [--worlds 16] [--steps 640] [--seed 1]

Starts at the defaults, turns one to three knobs at a time, and keeps what raises the mean utility over the worlds.
Prints each improvement with the share of the gap between the rules and ``informed`` that it closes, and at the end the
knobs, and what they are worth on as many worlds that the search did not see. The defaults are those knobs, rounded.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from amaru.routing.policies import make_policy
from amaru.simulation import play_kernels as p
from amaru.simulation.play import CHUNK_STEPS, Game, Playable
from amaru.simulation.references import informed
from amaru.simulation.scenario_files import load_scenario
from amaru.simulation.world import Chunk, World

SPACE: dict[str, tuple[float, float]] = {
    "fast_s": (1, 80),
    "slow_s": (2000, 60000),
    "relax_s": (60, 3000),
    "price_s": (60, 2000),
    "siblings": (0.1, 1),
    "prior_tries": (1, 20),
    "forgiven": (0.05, 0.9),
    "degraded": (0.01, 0.3),
    "down": (0.01, 0.3),
    "success_degraded": (0.4, 0.85),
    "success_down": (0.02, 0.2),
    "latency_tries": (0.3, 10),
    "load_slope": (0.05, 1),
    "slowdown": (0.1, 1),
    "price_tries": (0.02, 3),
    "boldness": (0.05, 1),
}
"""Knob → bounds of the search."""

Worlds = list[tuple[int, list[Chunk]]]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="hidden-train-v1")
    parser.add_argument("--policy", default="thompson")
    parser.add_argument("--tries", type=int, default=400)
    parser.add_argument("--worlds", type=int, default=16)
    parser.add_argument("--steps", type=int, default=640)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    scenario = load_scenario(options.family)

    def unrolled(first: int) -> Worlds:
        chunks = range(max(options.steps // CHUNK_STEPS, 1))
        made = [(seed, World(scenario, seed)) for seed in range(first, first + options.worlds)]
        return [(seed, [world.chunk(CHUNK_STEPS) for _ in chunks]) for seed, world in made]

    def utility(worlds: Worlds, policy_of: Callable[[World], Playable]) -> float:
        earned = asked = 0.0
        for seed, chunks in worlds:
            world = World(scenario, seed)
            game = Game(world, policy_of(world))
            totals = np.zeros((len(world.tenants), p.N_TALLY))
            for chunk in chunks:
                game.play(chunk, totals, np.zeros((CHUNK_STEPS, p.N_TALLY)))
            earned += totals[:, p.UTILITY].sum()
            asked += totals[:, p.REQUESTS].sum()
        return float(earned / asked)

    def gap(worlds: Worlds) -> tuple[float, float]:
        floor = utility(worlds, lambda _: make_policy("rules"))
        return floor, utility(worlds, informed) - floor

    seen, unseen = unrolled(100), unrolled(10_000)
    floor, width = gap(seen)
    defaults = make_policy(options.policy).mind.settings
    knobs = {name: float(getattr(defaults, name)) for name in SPACE}
    best = utility(seen, lambda _: make_policy(options.policy, **knobs))
    print(f"defaults: utility {best:.5f}, {(best - floor) / width:.1%} of the gap closed")
    rng = np.random.default_rng(options.seed)
    for attempt in range(options.tries):
        turned = dict(knobs)
        for name in rng.choice(list(SPACE), size=rng.integers(1, 4), replace=False):
            low, high = SPACE[name]
            turned[name] = float(np.clip(turned[name] * np.exp(rng.normal(0.0, 0.5)), low, high))
        found = utility(seen, lambda _, turned=turned: make_policy(options.policy, **turned))
        if found > best:
            best, knobs = found, turned
            print(f"try {attempt}: utility {best:.5f}, {(best - floor) / width:.1%} of the gap closed", flush=True)
    floor, width = gap(unseen)
    fresh = utility(unseen, lambda _: make_policy(options.policy, **knobs))
    print({name: round(value, 4) for name, value in knobs.items()})
    print(f"on {options.worlds} worlds that the search did not see: {(fresh - floor) / width:.1%} of the gap closed")


if __name__ == "__main__":
    main()
