"""Requests routed a second by each policy in the compiled war-game, on one core and on two processes, and its memory.

python benchmarks/wargame_speed.py [--scenario hidden-eval-v1] [--seconds 3] [--rounds 5] [--write PAGE]

The peer is a war-game of the kind that users have today: plain Python, a dictionary per offer and request, tabular
Q-learning in a dictionary of states. It is written below as one would write it, plays the classic game (which hides no
truth, so it does less), and runs in turns with the others. Rounds are interleaved (A B C, A B C, …); the median is
printed with the least and the most. Everything is pinned to one core, but for the two processes, which get one each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from wargame_page import machine_words, write_between

from amaru.learning.evaluation import Player, enter
from amaru.simulation import play_kernels as p
from amaru.simulation.play import CHUNK_STEPS, Game, play
from amaru.simulation.scenario import Scenario
from amaru.simulation.scenario_files import load_scenario
from amaru.simulation.world import World

POLICIES = ("rules", "qlearning", "thompson", "hybrid", "informed", "oracle")
PEER = "plain Python, Q-learning"
PAIRED = ("qlearning", "thompson")
"""Also run on two processes."""
WARM_STEPS = 50
LEAST_STEPS = 200


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="hidden-eval-v1")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="replace the table in this page")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(**json.loads(arguments.child))))
        return 0
    cores = sorted(os.sched_getaffinity(0))
    scenario = load_scenario(arguments.scenario)
    steps = {name: calibrated(scenario, name, arguments.seconds) for name in POLICIES}
    classic, peer_steps = load_scenario("classic"), 1000
    rates: dict[str, list[float]] = {name: [] for name in (*POLICIES, PEER)}
    routing: dict[str, list[float]] = {name: [] for name in POLICIES}
    both: dict[str, list[tuple[float, float]]] = {name: [] for name in PAIRED}
    os.sched_setaffinity(0, cores[:1])
    try:
        for round_ in range(arguments.rounds):
            for name in POLICIES:
                whole, alone = rate(scenario, name, steps[name], round_)
                rates[name].append(whole)
                routing[name].append(alone)
            rates[PEER].append(timed(lambda seed=round_: plain_python(classic, peer_steps, seed)))
            print(f"round {round_ + 1} of {arguments.rounds} done", file=sys.stderr, flush=True)
    finally:
        os.sched_setaffinity(0, cores)
    if len(cores) > 1:
        for round_ in range(arguments.rounds):
            for name in PAIRED:
                one, two = (
                    side_by_side(arguments.scenario, name, steps[name], round_, cores[:count]) for count in (1, 2)
                )
                both[name].append((two, two / one))
    memory = {name: resident(arguments.scenario, name) for name in PAIRED}
    text = page(arguments, rates, routing, both, memory)
    print(text)
    if arguments.write:
        write_between(arguments.write, "speed", text)
    return 0


def rate(scenario: Scenario, name: str, steps: int, seed: int) -> tuple[float, float]:
    """Requests a second of ``name`` in a world of ``steps``: with the making of the world, and of the routing alone."""
    world = World(scenario, seed)
    game = Game(world, enter(Player(name=name, role="any"), world))
    totals, by_step = np.zeros((len(world.tenants), p.N_TALLY)), np.zeros((CHUNK_STEPS, p.N_TALLY))
    game.play(world.chunk(CHUNK_STEPS), totals, by_step)
    totals[:], routing_s = 0.0, 0.0
    began = time.perf_counter()
    for _ in range(max(1, steps // CHUNK_STEPS)):
        chunk = world.chunk(CHUNK_STEPS)
        handed = time.perf_counter()
        game.play(chunk, totals, by_step)
        routing_s += time.perf_counter() - handed
    requests = float(totals[:, p.REQUESTS].sum())
    return requests / (time.perf_counter() - began), requests / routing_s


def calibrated(scenario: Scenario, name: str, seconds: float) -> int:
    """So many steps take about ``seconds``; the first play also compiles what is not in the cache."""
    rate(scenario, name, LEAST_STEPS, 0)
    world = World(scenario, 0)
    policy = enter(Player(name=name, role="any"), world)
    began = time.perf_counter()
    play(world, policy, LEAST_STEPS)
    return max(LEAST_STEPS, int(LEAST_STEPS * seconds / (time.perf_counter() - began)))


def timed(work: Callable[[], int]) -> float:
    """Requests a second."""
    began = time.perf_counter()
    return work() / (time.perf_counter() - began)


def side_by_side(scenario: str, name: str, steps: int, seed: int, cores: list[int]) -> float:
    """Requests a second of a process on each of ``cores`` together; they begin at the same instant."""
    context = get_context("spawn")
    barrier, results = context.Barrier(len(cores)), context.Queue()
    workers = [
        context.Process(target=_worker, args=(scenario, name, steps, seed + place, core, barrier, results))
        for place, core in enumerate(cores)
    ]
    for worker in workers:
        worker.start()
    spans = [results.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    return sum(requests for requests, _, _ in spans) / (max(end for _, _, end in spans) - min(a for _, a, _ in spans))


def _worker(scenario: str, name: str, steps: int, seed: int, core: int, barrier: Barrier, results: Any) -> None:
    os.sched_setaffinity(0, {core})
    world = World(load_scenario(scenario), seed)
    policy = enter(Player(name=name, role="any"), world)
    play(world, policy, WARM_STEPS)
    barrier.wait()
    began = time.perf_counter()  # CLOCK_MONOTONIC, which processes share
    tally = play(world, policy, steps)
    results.put((float(tally.requests), began, time.perf_counter()))


def resident(scenario: str, name: str) -> tuple[float, float, int, int]:
    """Greatest resident MiB of a process that plays a length, and ten times it, and the requests of each."""
    sizes = []
    for steps in (3_000, 30_000):
        asked = json.dumps({"scenario": scenario, "name": name, "steps": steps})
        done = subprocess.run([sys.executable, __file__, "--child", asked], check=True, capture_output=True, text=True)
        sizes.append(json.loads(done.stdout))
    return sizes[0]["mib"], sizes[1]["mib"], sizes[0]["requests"], sizes[1]["requests"]


def child(scenario: str, name: str, steps: int) -> dict[str, float]:
    """Play ``steps``, and tell of this process's memory."""
    world = World(load_scenario(scenario), 0)
    tally = play(world, enter(Player(name=name, role="any"), world), steps)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"mib": peak_kib / 1024, "requests": int(tally.requests)}


def page(
    arguments: argparse.Namespace,
    rates: dict[str, list[float]],
    routing: dict[str, list[float]],
    both: dict[str, list[tuple[float, float]]],
    memory: dict[str, tuple[float, float, int, int]],
) -> str:
    """The tables as Markdown."""
    peer = statistics.median(rates[PEER])

    def row(name: str, found: list[float], last: str) -> str:
        median = statistics.median(found)
        return f"| {name} | {median:,.0f} | {min(found):,.0f} | {max(found):,.0f} | {median / peer:,.1f}x | {last} |"

    def alone(name: str) -> str:
        return f"{statistics.median(routing[name]):,.0f}" if name in routing else ""

    def of_one(name: str) -> str:
        return f"{statistics.median(ratio for _, ratio in both[name]):.2f}x"

    lines = [
        f"Routed requests a second on {arguments.scenario}; {arguments.rounds} rounds. Machine: {machine_words()}.",
        "",
        "| policy, one core | median | least | most | of the peer | without making the world |",
        "|---|---:|---:|---:|---:|---:|",
        *(row(name, found, alone(name)) for name, found in rates.items()),
    ]
    if any(both.values()):
        lines += ["", "| policy, two processes | median | least | most | of the peer | of one process, paired |"]
        lines += [
            "|---|---:|---:|---:|---:|---:|",
            *(row(n, [two for two, _ in found], of_one(n)) for n, found in both.items()),
        ]
    lines += [
        "",
        "| policy | requests | greatest resident MiB | requests | greatest resident MiB |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {few:,} | {small:.1f} | {many:,} | {large:.1f} |"
        for name, (small, large, few, many) in memory.items()
    ]
    return "\n".join(lines)


# --- The peer -------------------------------------------------------------------------------------------------------


def plain_python(scenario: Scenario, steps: int, seed: int) -> int:
    """The classic game as users have it today; returns how many requests were routed."""
    rng = random.Random(seed)
    profiles = {one.id: one for one in scenario.profiles}
    providers = [
        {
            "id": offer.provider,
            "gpu": offer.resource,
            "regions": offer.regions,
            "price": offer.price.usd_per_gpu_hour,
            "latency": offer.latency_ms,
            "capacity": offer.capacity or 1e9,
            "reputation": offer.reputation,
        }
        for offer in scenario.offers
    ]
    table: dict[tuple[Any, ...], float] = {}
    epsilon, alpha, routed = 0.2, 0.05, 0
    for _ in range(steps):
        left = {provider["id"]: provider["capacity"] for provider in providers}
        for demand in scenario.demands:
            budget = demand.budget_usd_per_step
            for _ in range(max(0, int(rng.gauss(demand.requests_per_step, 2)))):
                name = rng.choices(list(demand.mix), list(demand.mix.values()))[0]
                profile = profiles[name]
                hours = rng.uniform(*profile.gpu_hours)
                request = {"gpu": profile.resource, "hours": hours, "max_price": min(10.0, max(0.1, budget / hours))}
                limits = demand.tenant.limits
                feasible = [
                    provider
                    for provider in providers
                    if provider["gpu"] == request["gpu"]
                    and (demand.region in provider["regions"] or "global" in provider["regions"])
                    and provider["price"] <= request["max_price"]
                    and provider["latency"] <= (limits.max_latency_ms or 1e9)
                    and provider["reputation"] >= (limits.min_reputation or 0)
                    and left[provider["id"]] >= hours
                ]
                routed += 1
                if not feasible:
                    continue
                states = [
                    (
                        demand.tenant.id,
                        provider["id"],
                        provider["gpu"],
                        int(provider["latency"] // 50),
                        int(provider["price"] // 0.5),
                        int(left[provider["id"]] // 50),
                        int(provider["reputation"] // 10),
                    )
                    for provider in feasible
                ]
                if rng.random() < epsilon:
                    chosen = rng.randrange(len(feasible))
                else:
                    chosen = max(range(len(feasible)), key=lambda place: table.get(states[place], 0.0))
                provider, state = feasible[chosen], states[chosen]
                cost = provider["price"] * hours
                budget -= cost
                left[provider["id"]] -= hours
                weights = demand.tenant.weights
                reward = (
                    weights.price * min(one["price"] for one in feasible) / provider["price"]
                    + weights.latency * min(one["latency"] for one in feasible) / provider["latency"]
                    + weights.reputation * provider["reputation"] / 100
                    + weights.availability
                )
                table[state] = table.get(state, 0.0) + alpha * (reward - table.get(state, 0.0))
        epsilon = max(0.01, epsilon * 0.999)
    return routed


if __name__ == "__main__":
    sys.exit(main())
