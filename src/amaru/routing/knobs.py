"""The hyperparameters of the learning policies, named, bounded, and as the array that the kernels read."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from amaru.routing import belief_kernels as b
from amaru.routing.kernels import Floats

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Seconds = Annotated[float, msgspec.Meta(ge=1.0, le=31_536_000.0)]
Count = Annotated[float, msgspec.Meta(ge=0.01, le=1e6)]


class Knobs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of every learning policy, in the order of ``belief_kernels``; each policy reads its own part.

    The defaults were searched for on worlds of ``hidden-train-v1`` (``benchmarks/wargame_knobs.py``).
    """

    fast_s: Seconds = 4.0
    """Half-life of what tells the price of the moment, in seconds of event time."""
    slow_s: Seconds = 43_200.0
    """The same of what tells what is usual."""
    relax_s: Seconds = 1_200.0
    """Half-life, without a new outcome, of what the last ones said of the moment."""
    price_s: Seconds = 600.0
    """The same of the last price charged."""
    siblings: Share = 1.0
    """What is known of the provider counts so much of what is believed of its offer."""
    prior_success: Annotated[float, msgspec.Meta(ge=0.01, le=0.999)] = 0.95
    """Share of successes before it is known; it counts as ``prior_tries`` outcomes."""
    prior_tries: Count = 12.0
    forgiven: Share = 0.7
    """Part of the failures on record that are put down to bad times, not to what the offer is usually like."""
    degraded: Share = 0.1
    """Share of the time that an offer is degraded while its record is as the prior; with ``down`` at most 0.9."""
    down: Share = 0.07
    success_degraded: Annotated[float, msgspec.Meta(ge=0.01, le=0.99)] = 0.55
    """Share of successes while clearly degraded; ``success_down`` while down."""
    success_down: Annotated[float, msgspec.Meta(ge=0.01, le=0.99)] = 0.03
    latency_tries: Count = 1.7
    """Observations that the advertised latency, and ``load_slope``, count as."""
    load_slope: Annotated[float, msgspec.Meta(ge=0.0, le=5.0)] = 0.12
    """Rise of log-latency from idle to full load, before it is known."""
    slowdown: Annotated[float, msgspec.Meta(ge=0.01, le=3.0)] = 0.55
    """Rise of log-latency while degraded, before it is known."""
    price_tries: Count = 0.05
    """Outcomes that the price usual before counts as against those of the moment."""
    boldness: Share = 0.7
    """Share of decisions that are drawn from the beliefs (Thompson sampling); the others go by their means."""
    confidence: Count = 2.0
    """Outcomes at which the hybrid weighs the learned score as much as the rule's."""
    epsilon: Share = 0.2
    """Probability that Q-learning draws among the feasible offers, at the start."""
    epsilon_least: Share = 0.01
    epsilon_kept: Annotated[float, msgspec.Meta(ge=0.5, le=1.0)] = 0.999
    """Factor on ``epsilon`` with each outcome learned from."""
    learning_rate: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.05
    """Least weight of a new outcome in the value of its state; the first ones are averaged."""
    discount: Annotated[float, msgspec.Meta(ge=0.0, le=0.99)] = 0.0
    """What the value of the next choice counts. 0: a choice is judged by its own outcome."""
    replays: Annotated[int, msgspec.Meta(ge=0, le=64)] = 1
    """Past experiences learned from again with each new one."""
    q_prior: Count = 3.0
    """Visits that the rule's expectation counts as in an unvisited state."""

    def __post_init__(self) -> None:
        """Raises ValueError where fields that are each within bounds do not fit together."""
        if self.degraded + self.down > 0.9:
            raise ValueError("degraded + down must not exceed 0.9: in the rest of the time nothing is the matter")

    def array(self) -> Floats:
        """float64 [N_KNOBS]."""
        array = np.array([float(value) for value in msgspec.structs.astuple(self)])
        assert array.shape == (b.N_KNOBS,)
        return array


def knobs_from(fields: object) -> Knobs:
    """The knobs of a mapping, the rest as by default. Raises ValueError, naming the field, where one is wrong."""
    try:
        knobs = msgspec.convert(fields, Knobs)
    except msgspec.ValidationError as error:
        names = ", ".join(field.name for field in msgspec.structs.fields(Knobs))
        raise ValueError(f"{error}; the knobs are {names}") from None
    return knobs
