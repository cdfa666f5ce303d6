"""What the agents of a swarm tell each other between episodes.

Q-learning's agents average their tables as federated learning does (McMahan et al., *Communication-Efficient Learning
of Deep Networks from Decentralized Data*, 2017; for Q tables: Jin et al., *Federated Reinforcement Learning with
Environment Heterogeneity*, 2022, QAvg), cell by cell. An agent's word on a cell weighs as much as its visits of it
since the last exchange, times its rank, so that the average is pulled toward the better agents. What they agreed on
before counts by its visits in turn (Polyak & Juditsky, *Acceleration of Stochastic Approximation by Averaging*, 1992):
a learning rate that follows a world closely leaves its noise in the values, and averaging over worlds takes it out. All
go on from that, and count each other's visits as their own.

Agents that keep beliefs have nothing to average: a belief is about the offers of one world. They exchange their knobs
only (``population``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from amaru.routing import q_kernels as q
from amaru.routing.kernels import Floats
from amaru.routing.learned import QPolicy
from amaru.routing.policies import LearnedPolicy, make_policy

LEAST_STEP = 0.02
"""Of the way to the average, whatever was agreed on before: the first exchanges are forgotten after some fifty."""


class Contribution(NamedTuple):
    """What one agent has learned since the last exchange; [cells] each."""

    cells: NDArray[np.int32]
    values: Floats
    visits: Floats
    """Since then."""


class _Center(msgspec.Struct, frozen=True):
    cells: bytes
    """int32, those with visits."""
    table: bytes
    """float64 [cells, 2]: value and visits."""


def blank_center() -> Floats:
    """Nothing was agreed on yet; float64 [N_STATES, 2]."""
    return np.zeros((q.N_STATES, 2))


def center_of(name: str, state: bytes) -> Floats:
    """What agents that all begin with ``state`` agree on. Raises ValueError where it is not that policy's."""
    policy = make_policy(name)
    policy.restore(state)
    return policy.mind.values.copy() if isinstance(policy, QPolicy) else blank_center()


def contribution(policy: LearnedPolicy, center: Floats, *, fresh: bool) -> Contribution | None:
    """What ``policy`` has learned since it adopted ``center``; or, if ``fresh``, since it began with nothing.

    ``None``: it keeps no table.
    """
    if not isinstance(policy, QPolicy):
        return None
    values = policy.mind.values
    visits = values[:, q.VISITS] if fresh else values[:, q.VISITS] - center[:, q.VISITS]
    cells = np.flatnonzero(visits > 0.0).astype(np.int32)
    return Contribution(cells, values[cells, q.VALUE], visits[cells])


def adopt(policy: LearnedPolicy, center: Floats) -> None:
    """Have ``policy`` go on from ``center``."""
    if isinstance(policy, QPolicy):
        policy.mind.values[:] = center


def merged(center: Floats, contributions: Sequence[Contribution], scores: Sequence[float]) -> Floats:
    """The new center: where anybody has been since, it moves to the average of what they say; elsewhere it stays.

    Parameters
    ----------
    contributions, scores
        In the agents' order, which is the order of summation.
    """
    weights = rank_weights(scores)
    total, heard, visits = (np.zeros(len(center)) for _ in range(3))
    for weight, said in zip(weights, contributions, strict=True):
        total[said.cells] += weight * said.visits * said.values
        heard[said.cells] += weight * said.visits
        visits[said.cells] += said.visits
    new = center.copy()
    cells = np.flatnonzero(heard)
    new[:, q.VISITS] += visits
    step = np.maximum(visits[cells] / new[cells, q.VISITS], LEAST_STEP)
    new[cells, q.VALUE] += step * (total[cells] / heard[cells] - center[cells, q.VALUE])
    return new


def rank_weights(scores: Sequence[float]) -> Floats:
    """1 for the best, falling evenly to 1/n for the worst; the first of equals counts as better.

    >>> rank_weights([0.5, 0.9, 0.7, 0.1]).tolist()
    [0.5, 1.0, 0.75, 0.25]
    """
    n = len(scores)
    weights = np.empty(n)
    weights[np.argsort(-np.asarray(scores), kind="stable")] = np.arange(n, 0, -1) / n
    return weights


def packed(center: Floats) -> bytes:
    """The center, to be sent and stored."""
    cells = np.flatnonzero(center[:, q.VISITS]).astype("<i4")
    return msgspec.msgpack.encode(_Center(cells.tobytes(), center[cells].astype("<f8").tobytes()))


def unpacked(stored: bytes) -> Floats:
    """The center of ``packed``. Raises ValueError where it is none."""
    try:
        parts = msgspec.msgpack.decode(stored, type=_Center)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    cells = np.frombuffer(parts.cells, "<i4")
    table = np.frombuffer(parts.table, "<f8")
    if table.size != 2 * cells.size or (cells.size and not 0 <= cells.min() <= cells.max() < q.N_STATES):
        raise ValueError(f"its table does not fit {q.N_STATES} states")
    center = blank_center()
    center[cells] = table.reshape(-1, 2)
    return center
