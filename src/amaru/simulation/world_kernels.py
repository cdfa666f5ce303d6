"""The compiled halves of a world: its hidden weather, and its requests."""

from __future__ import annotations

import math

from amaru.compiling import compiled, inlined
from amaru.routing.kernels import Floats, Ints

# Columns of `posted` [steps, offers, N_POSTED]: what everyone sees.
PRICE, PRICE_OUT, LATENCY_MS, CAPACITY, REPUTATION = range(5)
N_POSTED = 5

# Columns of `truth` [steps, offers, N_TRUTH]: what nobody is told.
LOG_PRICE, LOG_MS, LOAD_SLOPE, NOISE_SD, FAILURE, LOG_STALE = range(6)
"""log(charged/posted); log of the mean latency in ms at no load; its rise to full load; the standard deviation of
log-latency; the probability that an attempt fails; log of the posted price to the one advertised, events included."""
N_TRUTH = 6

HEALTHY, DEGRADED, DOWN = range(3)
N_REGIMES = 3

# Columns of `providers` [providers, N_PROVIDER]: failure probability and log-slowdown of each regime, and how it moves.
(
    FAILURE_HEALTHY,
    FAILURE_DEGRADED,
    FAILURE_DOWN,
    SLOW_HEALTHY,
    SLOW_DEGRADED,
    SLOW_DOWN,
    LEAVES_HEALTHY,  # probability in a step
    LEAVES_DEGRADED,
    LEAVES_DOWN,
    GOES_DOWN,  # probability that leaving HEALTHY leads to DOWN
) = range(10)
N_PROVIDER = 10

# Columns of `bridges` [bridges, N_BRIDGE].
BREAKS, MENDS, BRIDGE_FAILURE = range(3)
N_BRIDGE = 3

# Columns of `hidden` [offers, N_HIDDEN].
LOG_BIAS, SLOPE, NOISE, DRIFT, JUMPS, JUMP_SD, LAG = range(7)
N_HIDDEN = 7
PULL = 0.01
"""Part of the log-price's distance from the advertised one that it is pulled back by in a step."""

# Columns of `sizes` [requests, N_SIZE] and `luck` [requests, N_LUCK].
GPU_HOURS, INPUT_TOKENS, OUTPUT_TOKENS = range(3)
N_SIZE = 3
SUCCESS_LUCK, LATENCY_LUCK, LOT = range(3)
"""Uniform, standard normal, uniform."""
N_LUCK = 3


@inlined
def next_regime(regime: int, u: float, v: float, provider: Floats) -> int:
    """The regime of the next step; ``u`` and ``v`` are uniform."""
    if u >= provider[LEAVES_HEALTHY + regime]:
        return regime
    if regime == HEALTHY:
        return DOWN if v < provider[GOES_DOWN] else DEGRADED
    return HEALTHY


@compiled(
    "void(int64, int64, float64[:, :, ::1], int64[::1], int64[::1], float64[:, ::1], float64[:, ::1], float64[:, ::1],"
    " float64[:, :, ::1], float64[:, ::1], float64[:, ::1], float64[:, ::1], int64[::1], int64[::1], float64[::1],"
    " float64[:, ::1], int64[:, ::1], float64[:, :, ::1], float64[:, :, ::1])"
)
def weather(
    first_step: int,
    steps: int,
    base: Floats,
    provider_of: Ints,
    bridge_of: Ints,
    providers: Floats,
    bridges: Floats,
    hidden: Floats,
    regime_luck: Floats,
    bridge_luck: Floats,
    price_luck: Floats,
    jump_luck: Floats,
    regimes: Ints,
    outs: Ints,
    log_prices: Floats,
    history: Floats,
    path: Ints,
    posted: Floats,
    truth: Floats,
) -> None:
    """The next steps of a world.

    Parameters
    ----------
    base
        [round, offers, N_POSTED] what would be posted if nothing were hidden, events included; round after round.
    provider_of, bridge_of
        [offers] and [providers].
    regime_luck, bridge_luck, price_luck, jump_luck
        [steps, providers, 2] and [steps, bridges] uniform; [steps, offers] normal and uniform.
    regimes, outs, log_prices, history
        State, kept from call to call: [providers], [bridges], [offers], [longest lag + 1, offers] a ring of log-prices.
    path, posted, truth
        Written: [steps, providers] regime, plus 3 while the bridge is out; [steps, offers, ...].
    """
    for s in range(steps):
        step = first_step + s
        at = step % base.shape[0]
        for bridge in range(bridges.shape[0]):
            if outs[bridge] == 1:
                outs[bridge] = int(bridge_luck[s, bridge] >= bridges[bridge, MENDS])
            else:
                outs[bridge] = int(bridge_luck[s, bridge] < bridges[bridge, BREAKS])
        for p in range(providers.shape[0]):
            regimes[p] = next_regime(regimes[p], regime_luck[s, p, 0], regime_luck[s, p, 1], providers[p])
            path[s, p] = regimes[p] + N_REGIMES * outs[bridge_of[p]]
        for o in range(base.shape[1]):
            p = provider_of[o]
            change = hidden[o, DRIFT] * price_luck[s, o]
            if jump_luck[s, o] < hidden[o, JUMPS]:
                # Its size is the neighbour's luck, which is normal and the offer's own has no part in.
                change += hidden[o, JUMP_SD] * price_luck[s, (o + 1) % base.shape[1]]
            log_prices[o] += change - PULL * log_prices[o]
            history[step % history.shape[0], o] = log_prices[o]
            lag = min(int(hidden[o, LAG]), step)
            stale = history[(step - lag) % history.shape[0], o]
            factor = math.exp(stale)
            for column in range(N_POSTED):
                posted[s, o, column] = base[at, o, column]
            posted[s, o, PRICE] *= factor
            posted[s, o, PRICE_OUT] *= factor
            truth[s, o, LOG_PRICE] = log_prices[o] - stale
            truth[s, o, LOG_STALE] = stale
            slow = providers[p, SLOW_HEALTHY + regimes[p]]
            truth[s, o, LOG_MS] = math.log(base[at, o, LATENCY_MS]) + hidden[o, LOG_BIAS] + slow
            truth[s, o, LOAD_SLOPE] = hidden[o, SLOPE]
            truth[s, o, NOISE_SD] = hidden[o, NOISE]
            failure = providers[p, FAILURE_HEALTHY + regimes[p]]
            if outs[bridge_of[p]] == 1:
                failure = max(failure, bridges[bridge_of[p], BRIDGE_FAILURE])
            truth[s, o, FAILURE] = failure


@compiled(
    "void(int64[:, ::1], float64[:, ::1], float64[:, ::1], float64[:, ::1], int64[::1], int64[::1], int64[::1],"
    " float64[:, ::1])"
)
def requests(
    counts: Ints,
    mix: Floats,
    hours: Floats,
    lots: Floats,
    starts: Ints,
    tenant: Ints,
    profile: Ints,
    sizes: Floats,
) -> None:
    """The requests of some steps, tenant after tenant within a step.

    ``counts`` [steps, tenants]; ``mix`` [tenants, profiles] cumulative shares; ``hours`` [profiles, 2]; ``lots``
    [requests, 2] uniform. Written: ``starts`` [steps + 1], ``tenant``, ``profile`` [requests], ``sizes``.
    """
    r = 0
    for s in range(counts.shape[0]):
        starts[s] = r
        for t in range(counts.shape[1]):
            for _ in range(counts[s, t]):
                which = 0
                while which < mix.shape[1] - 1 and lots[r, 0] >= mix[t, which]:
                    which += 1
                tenant[r] = t
                profile[r] = which
                sizes[r, GPU_HOURS] = hours[which, 0] + (hours[which, 1] - hours[which, 0]) * lots[r, 1]
                r += 1
    starts[counts.shape[0]] = r
