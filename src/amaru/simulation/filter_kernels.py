"""The Bayes filter of the reference ``informed``: what can be known of the hidden state from what was seen.

It is told everything that a world was drawn with (failure probabilities and slowdowns of each regime, how regimes,
bridges and prices move, mean latencies), but neither the regimes nor the prices of the moment. The providers on one
bridge fall together, so their states are inferred jointly: 2 · 3^n of them for a bridge with n providers. A hidden
Markov model, filtered forward (Rabiner, 1989), with each step's outcomes as its observations.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from amaru.compiling import inlined
from amaru.routing import belief_kernels as b
from amaru.routing.kernels import Floats, Ints
from amaru.simulation import world_kernels as w

_LEAST = 1e-12
"""No state is ever ruled out for good: what was thought impossible may be a rounding."""

# Columns of `charged` [offers, 2].
LOG_PRICE, AT_STEP = range(2)


class Filter(NamedTuple):
    """What is known, and what is believed."""

    joint: Floats
    """[bridges, 2 · 3^most] probability of each state of a bridge: whether it is out, and its providers' regimes, the
    first varying fastest behind it."""
    members: Ints
    """[bridges, most] providers on the bridge; -1: none."""
    bridge_of: Ints
    provider_of: Ints
    providers: Floats
    bridges: Floats
    hidden: Floats
    charged: Floats
    """[offers, 2] log of the last price charged to the one advertised then, and its step; -1: none yet."""


@inlined
def _states(bridge: int, known: Filter) -> int:
    """3^n, the number of the providers' joint regimes."""
    n = 1
    for j in range(known.members.shape[1]):
        if known.members[bridge, j] >= 0:
            n *= 3
    return n


@inlined
def foresee(known: Filter) -> None:
    """One step passes: every state moves on by its probabilities."""
    for bridge in range(known.joint.shape[0]):
        n = _states(bridge, known)
        breaks, mends = known.bridges[bridge, w.BREAKS], known.bridges[bridge, w.MENDS]
        for i in range(n):
            up, out = known.joint[bridge, i], known.joint[bridge, n + i]
            known.joint[bridge, i] = up * (1.0 - breaks) + out * mends
            known.joint[bridge, n + i] = up * breaks + out * (1.0 - mends)
        stride = 1
        for j in range(known.members.shape[1]):
            p = known.members[bridge, j]
            if p < 0:
                break
            leaves = known.providers[p, w.LEAVES_HEALTHY]
            recovers, returns = known.providers[p, w.LEAVES_DEGRADED], known.providers[p, w.LEAVES_DOWN]
            down = known.providers[p, w.GOES_DOWN]
            for i in range(2 * n):
                if (i % n) // stride % 3 == 0:
                    healthy = known.joint[bridge, i]
                    degraded, fallen = known.joint[bridge, i + stride], known.joint[bridge, i + 2 * stride]
                    known.joint[bridge, i] = healthy * (1.0 - leaves) + degraded * recovers + fallen * returns
                    known.joint[bridge, i + stride] = degraded * (1.0 - recovers) + healthy * leaves * (1.0 - down)
                    known.joint[bridge, i + 2 * stride] = fallen * (1.0 - returns) + healthy * leaves * down
            stride *= 3


@inlined
def observe(row: int, ok: bool, log_ms: float, base_log_ms: float, load: float, known: Filter) -> None:
    """One outcome of the offer ``row``: states are weighed by how likely they made it."""
    p = known.provider_of[row]
    bridge = known.bridge_of[p]
    n = _states(bridge, known)
    stride = 1
    for j in range(known.members.shape[1]):
        if known.members[bridge, j] == p:
            break
        stride *= 3
    total = 0.0
    expected = base_log_ms + known.hidden[row, w.LOG_BIAS] + load * known.hidden[row, w.SLOPE]
    sd = max(known.hidden[row, w.NOISE], 1e-3)
    for i in range(2 * n):
        regime = (i % n) // stride % 3
        failure = known.providers[p, w.FAILURE_HEALTHY + regime]
        if i >= n:
            failure = max(failure, known.bridges[bridge, w.BRIDGE_FAILURE])
        likelihood = failure
        if ok:
            z = (log_ms - expected - known.providers[p, w.SLOW_HEALTHY + regime]) / sd
            likelihood = (1.0 - failure) * math.exp(-0.5 * min(z * z, 100.0))
        known.joint[bridge, i] = known.joint[bridge, i] * likelihood + 1e-300
        total += known.joint[bridge, i]
    for i in range(2 * n):
        known.joint[bridge, i] = max(known.joint[bridge, i] / total, _LEAST)


@inlined
def infer(bridge: int, step: int, stale: Floats, slots: Ints, beliefs: Floats, known: Filter) -> None:
    """Turn what is known of the providers on ``bridge`` into beliefs about their offers.

    ``stale`` [offers] is the log of the posted price to the one advertised, events included: those are for all to see.
    """
    n = _states(bridge, known)
    stride = 1
    for j in range(known.members.shape[1]):
        p = known.members[bridge, j]
        if p < 0:
            break
        shares = (0.0, 0.0, 0.0)
        success = speed = out = 0.0
        for i in range(2 * n):
            regime = (i % n) // stride % 3
            failure = known.providers[p, w.FAILURE_HEALTHY + regime]
            probability = known.joint[bridge, i]
            if i >= n:
                failure = max(failure, known.bridges[bridge, w.BRIDGE_FAILURE])
                out += probability
            elif regime == w.HEALTHY:
                shares = (shares[0] + probability, shares[1], shares[2])
            elif regime == w.DEGRADED:
                shares = (shares[0], shares[1] + probability, shares[2])
            else:
                shares = (shares[0], shares[1], shares[2] + probability)
            success += probability * (1.0 - failure)
            # Utilities go by 1/latency, and only of what succeeds.
            speed += probability * (1.0 - failure) * math.exp(-known.providers[p, w.SLOW_HEALTHY + regime])
        total = shares[0] + shares[1] + shares[2] + out
        slow = math.log(max(success, 1e-12) / max(speed, 1e-12))
        for row in range(slots.shape[0]):
            if known.provider_of[row] == p:
                slot = slots[row]
                beliefs[slot, b.SUCCESS] = success / total
                beliefs[slot, b.AS_USUAL] = 1.0 - known.providers[p, w.FAILURE_HEALTHY]
                beliefs[slot, b.IF_DEGRADED] = 1.0 - known.providers[p, w.FAILURE_DEGRADED]
                beliefs[slot, b.IF_DOWN] = 1.0 - known.providers[p, w.FAILURE_DOWN]
                beliefs[slot, b.P_DEGRADED] = shares[1] / total
                beliefs[slot, b.P_DOWN] = (shares[2] + out) / total
                beliefs[slot, b.LOG_MS] = known.hidden[row, w.LOG_BIAS] + slow
                beliefs[slot, b.FASTER_USUAL] = math.exp(slow - known.providers[p, w.SLOW_HEALTHY])
                beliefs[slot, b.LOG_MS_SLOPE] = known.hidden[row, w.SLOPE]
                beliefs[slot, b.LOG_MS_NOISE] = known.hidden[row, w.NOISE] ** 2
                # The fresher of two views of a price that wanders: the last bill, or the posted one of LAG steps ago.
                lag = min(known.hidden[row, w.LAG], step)
                beliefs[slot, b.LOG_PRICE] = stale[row] * ((1.0 - w.PULL) ** lag - 1.0)
                age = step - known.charged[row, AT_STEP]
                if known.charged[row, AT_STEP] >= 0.0 and age < lag:
                    beliefs[slot, b.LOG_PRICE] = known.charged[row, LOG_PRICE] * (1.0 - w.PULL) ** age - stale[row]
        stride *= 3
