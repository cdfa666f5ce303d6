"""Train agents of your own beside a psi-field, and do what it asks for.

Start the service in one terminal, and this in another:

    amaru psi serve
    python examples/integrate_psi.py

Eight agents learn which of three providers to use. Half way through, the best provider begins to fail, and every agent
has to learn anew: the field is surprised, and the worst agent is reset (nigredo), or exploration raised (albedo). Each
step is recorded as a line of JSON.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from amaru.learning import State, SwarmCoordinator, compute_reward
from amaru.stability import PsiFieldIntegration

LATENCY_MS = (120.0, 300.0, 450.0)
PRICE_USD = (2.5, 1.0, 0.8)
REQUESTS = 200
"""Of an agent, in one step."""
REST = 20
"""Steps from one intervention to the next: what was changed must be given time to show."""


def served(provider: int, broken: bool, rng: random.Random) -> float:
    """The reward of one agent that sent its requests to ``provider``."""
    success = 0.3 if broken and provider == 0 else 0.98
    fill_rate = sum(rng.random() < success for _ in range(REQUESTS)) / REQUESTS
    latency_ms = LATENCY_MS[provider] * rng.lognormvariate(0.0, 0.05)
    return compute_reward(fill_rate, avg_cost=PRICE_USD[provider], avg_latency=latency_ms)


def main() -> None:
    """Train, and say what the field made of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--psi", default="http://127.0.0.1:8000", help="the service's address")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("training.jsonl"), help="a line of JSON per step goes there")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    rng = random.Random(given.seed)
    swarm = SwarmCoordinator(given.agents, n_providers=len(LATENCY_MS), epsilon=0.1, seed=given.seed)
    offers = [
        State.of(latency_ms=latency, price=price, best_latency_ms=min(LATENCY_MS), best_price=min(PRICE_USD))
        for latency, price in zip(LATENCY_MS, PRICE_USD, strict=True)
    ]
    psi = PsiFieldIntegration(psi_url=given.psi, remembrancer_path=given.out, say=print)

    rested, answered = REST, 0
    for n in range(1, given.steps + 1):
        broken = n > given.steps // 2
        rewards = swarm.step(offers, serve=lambda _, provider: served(provider, broken, rng))  # noqa: B023
        if n % 10 == 0:
            swarm.update_swarm()

        metrics = psi.send_agent_metrics(rewards)
        answered += bool(metrics)
        needed = psi.check_intervention_needed(metrics) if n >= rested else None
        changed: dict[str, str] = {}
        if needed == "nigredo":
            worst = min(range(given.agents), key=lambda agent: rewards[agent] or 0.0)
            swarm.agents[worst].policy.reset()
            changed = {f"agent {worst}": "what it had learned -> nothing"}
        elif needed == "albedo":
            before = swarm.agents[0].epsilon
            for agent in swarm.agents:
                agent.epsilon = min(0.3, 1.5 * agent.epsilon)
            changed = {"epsilon": f"{before:.3f} -> {swarm.agents[0].epsilon:.3f}"}
        if needed is not None:
            rested = n + REST
            psi.record_intervention(metrics, needed, changed)
            print(f"step {n}: PE {metrics['PE']:.2f}, Psi {metrics['Psi']:.2f}: {needed}: {changed}")

        mean = sum(reward or 0.0 for reward in rewards) / given.agents
        psi.record_training_step(n, {"reward": mean, "intervention": needed, "changed": changed, **metrics})

    health = psi.get_swarm_health()
    if health:
        print(f"the swarm at the end: Psi {health['Psi']:.2f}, C {health['C']:.2f}, U {health['U']:.2f}")
    print(f"{given.steps} steps are recorded in {given.out}; the field answered {answered:,} of them")


if __name__ == "__main__":
    main()
