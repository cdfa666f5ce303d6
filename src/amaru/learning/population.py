"""The agents' knobs: where each begins, and how the worse ones take after the better ones.

Population-based training (Jaderberg et al., *Population Based Training of Neural Networks*, 2017): now and then each
agent of the worst fifth takes over the knobs of one of the best fifth (exploit), each perturbed by a factor of 0.8 or
1.2 (explore); what Q-learning agents have learned is everybody's by then (``exchange``). Knobs stay within bounds that
no sensible policy leaves.

Exploration itself (``epsilon``) is no such knob: whoever explores less looks better at once, and the swarm would stop
exploring before it had found anything. It follows one schedule for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from amaru.routing.knobs import Knobs

TURNED: Mapping[str, tuple[str, ...]] = {
    "qlearning": ("learning_rate", "q_prior"),
    "thompson": ("relax_s", "slow_s", "prior_tries", "latency_tries", "price_tries", "boldness"),
    "hybrid": ("relax_s", "slow_s", "prior_tries", "latency_tries", "price_tries", "boldness", "confidence"),
}
"""Policy → the knobs that a swarm turns."""
REACH = 4.0
"""They stay within this factor of where the first agent began."""
MOST = {"boldness": 1.0, "learning_rate": 1.0}
"""What a knob means bounds it, too."""

EVERY = 5
"""Exchanges between two rounds of it: scores must have had time to tell the agents apart."""
PART = 0.2
"""Of the agents, at either end."""
FACTORS = (0.8, 1.2)
_SPREAD = 2.0
"""Agents begin within this factor of the given knobs."""
_KNOBS, _TURNS = 1, 2  # what the random numbers are for


class Turn(NamedTuple):
    """An agent that takes after another."""

    agent: int
    donor: int
    knobs: dict[str, float]


def first_knobs(policy: str, agents: int, seed: int, given: Mapping[str, float]) -> list[dict[str, float]]:
    """Where each agent begins: the first with what is ``given`` and the defaults, the others around that."""
    rng = np.random.default_rng([seed, _KNOBS])
    knobs = [dict(given)]
    for _ in range(agents - 1):
        own = dict(given)
        for name in TURNED[policy]:
            own[name] = _bounded(name, _center(name, given) * _SPREAD ** rng.uniform(-1.0, 1.0), given)
        knobs.append(own)
    return knobs


def turns(
    policy: str,
    scores: Sequence[float],
    knobs: Sequence[Mapping[str, float]],
    given: Mapping[str, float],
    seed: int,
    episode: int,
) -> list[Turn]:
    """Who takes after whom once ``episode`` is over; nobody where the agents are too few."""
    n = len(scores)
    part = int(PART * n)
    if not part:
        return []
    rng = np.random.default_rng([seed, _TURNS, episode])
    order = np.argsort(-np.asarray(scores), kind="stable")
    result = []
    for agent in sorted(int(place) for place in order[-part:]):
        donor = int(order[rng.integers(part)])
        own = dict(knobs[donor])
        for name in TURNED[policy]:
            now = own.get(name, _center(name, given))
            own[name] = _bounded(name, now * FACTORS[rng.integers(len(FACTORS))], given)
        result.append(Turn(agent, donor, own))
    return result


def _center(name: str, given: Mapping[str, float]) -> float:
    return given.get(name, float(getattr(Knobs(), name)))


def _bounded(name: str, value: float, given: Mapping[str, float]) -> float:
    center = _center(name, given)
    return min(max(value, center / REACH), center * REACH, MOST.get(name, math.inf))
