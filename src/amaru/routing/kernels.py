"""The compiled decision: which offers may serve, what each is expected to cost and take, how they score, in what order.

The live router and the simulator call this same code on the same arrays (law 5). It touches no Python object and holds
no state; randomness comes in as one number.

Arrays, all C-contiguous: ``static`` float64 [offers, N_STATIC], what the configuration says; ``live`` float64
[slots, N_LIVE], what is known from outcomes (``static[:, SLOT]`` says where); ``ask`` float64 [N_ASK], the workload;
``table`` float64 [rows asked about, N_TABLE], the answer's figures. Instants are seconds of the caller's clock.

Everything the kernel calls is in this file, because Numba's cache on disk only notices changes of this file.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_F = TypeVar("_F", bound=Callable[..., object])

# Columns of `static`. Bit sets are integers below 2**53, which float64 holds exactly.
(
    PRICE_IN,  # USD per million tokens, as the next two
    PRICE_CACHED,
    PRICE_OUT,
    PRICE_GPU_HOUR,  # USD
    CONTEXT_WINDOW,  # tokens; inf: unknown
    CAPABILITIES,  # bits
    KINDS,  # bits
    REGIONS,  # bits
    IS_GLOBAL,  # 1: serves every region
    REPUTATION,  # 0 to 100
    ADVERTISED_MS,
    CAPACITY,  # requests or GPU-hours at once; inf: unbounded
    REQUEST_INTERVAL_S,  # GCRA cost of a request; 0: unlimited
    TOKEN_INTERVAL_S,  # GCRA cost of a token; 0: unlimited
    BURST_S,  # GCRA burst of both
    SLOT,  # row of `live`
) = range(16)
N_STATIC = 16

# Columns of `live`. Each estimate is three columns: value, weight against the prior, instant of the last observation.
(
    IN_FLIGHT,
    REFUSES_UNTIL,  # by the breaker: -inf closed, +inf while a probe is under way
    IS_BROKEN,  # 1: the breaker is open for a cause that a person must fix
    THROTTLED_UNTIL,
    REQUEST_TAT,
    TOKEN_TAT,
    FIRST_TOKEN,  # ms
    FIRST_TOKEN_WEIGHT,
    FIRST_TOKEN_AT,
    ANSWER,  # ms until a whole answer had arrived
    ANSWER_WEIGHT,
    ANSWER_AT,
    SUCCESS,  # share of attempts
    SUCCESS_WEIGHT,
    SUCCESS_AT,
) = range(15)
N_LIVE = 15

# Entries of `ask`.
(
    NOW,
    KIND,  # bit
    NEEDS,  # capability bits
    REGION,  # bit; 0: no offer names this region; ANYWHERE
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    GPU_HOURS,
    IS_GPU_JOB,
    IS_STREAM,
    MAX_PRICE,  # inf: no limit, as the next
    MAX_LATENCY,
    MIN_REPUTATION,  # -inf: no limit
    ALLOWED_REGIONS,  # bits, or ANYWHERE: no limit
    ALLOWS_GLOBAL,
    LOT,  # in [0, 1), drawn anew per decision: breaks ties
) = range(15)
N_ASK = 15
ANYWHERE = -1.0

# Columns of `table`. The four parts add up to the score. Refused rows have no score; FIGURE holds what refused them.
(
    SCORE,
    PRICE_PART,
    LATENCY_PART,
    REPUTATION_PART,
    AVAILABILITY_PART,
    UNIT_PRICE,  # USD per GPU-hour, or per million tokens at the workload's mix of input and output
    COST,  # USD, expected for this workload
    LATENCY,  # ms expected: first token for streams, acceptance for GPU jobs, else the whole answer
    TRUST,  # the offer's reputation
    AVAILABILITY,  # in [0, 1]
    FIGURE,  # by code: USD, ms, tokens in the window, reputation, room left, or seconds until free
) = range(11)
N_TABLE = 11


class Code(enum.IntEnum):
    """What refused an offer: the first constraint that it breaks, in this order."""

    FEASIBLE = 0
    KIND = 1
    CAPABILITY = 2
    REGION = 3
    REGION_LIMIT = 4
    CONTEXT_WINDOW = 5
    MAX_PRICE = 6
    MIN_REPUTATION = 7
    MAX_LATENCY = 8
    TOO_LARGE = 9
    """The job is larger than the offer's whole capacity."""
    EXCLUDED = 10
    """Tried already for this request."""
    BROKEN = 11
    """A person must fix it."""
    SLOWED = 12
    """Slower now than the latency limit, though advertised within it. From here on causes pass by themselves."""
    COOLING_DOWN = 13
    THROTTLED = 14
    RATE_LIMIT = 15
    CAPACITY = 16


# Numba takes plain integers as compile-time constants.
_KIND, _CAPABILITY, _REGION, _REGION_LIMIT, _CONTEXT_WINDOW, _MAX_PRICE = (int(code) for code in list(Code)[1:7])
_MIN_REPUTATION, _MAX_LATENCY, _TOO_LARGE, _EXCLUDED, _BROKEN, _SLOWED = (int(code) for code in list(Code)[7:13])
_COOLING_DOWN, _THROTTLED, _RATE_LIMIT, _CAPACITY = (int(code) for code in list(Code)[13:17])

NORMALISED = 0
"""Each term is its ratio to the best feasible offer of this decision, weights sum to 1: scores lie in [0, 1]."""
CLASSIC = 1
"""w_price/price + w_latency/latency_ms + w_reputation·reputation/100 + w_availability·remaining/total, as they are."""

HALF_LIFE_S = 60.0
"""The weight of live observations against the advertisement halves in this time without a new one."""
FLOOR = 1e-9
"""Prices and latencies below this count as this, so that a free offer beats every other instead of dividing by zero."""

_DECAY_PER_S = math.log(2.0) / HALF_LIFE_S


def _compiled(signature: str) -> Callable[[_F], _F]:
    """Compile for exactly ``signature``, now or from the cache on disk; without a cache where no place is writable."""

    def compile_it(function: _F) -> _F:
        try:
            return cast(_F, numba.njit(signature, cache=True, nogil=True)(function))
        except RuntimeError:
            return cast(_F, numba.njit(signature, nogil=True)(function))

    return compile_it


def _inlined(function: _F) -> _F:
    """Callable from compiled code and, as it is, from Python."""
    return register_jitable(function)


@_inlined
def faded(weight: float, seen_at: float, now: float) -> float:
    """The weight that an estimate last updated at ``seen_at`` has left."""
    return weight * math.exp(-_DECAY_PER_S * max(now - seen_at, 0.0)) if weight > 0.0 else 0.0


@_inlined
def gcra_free_at(tat: float, cost_s: float, burst_s: float) -> float:
    """Instant from which a request of ``cost_s`` conforms, given the theoretical arrival time (see ``limits``).

    A request larger than the burst conforms on a full bucket, and then pays its whole debt: else it never could.
    """
    return tat + min(cost_s, burst_s) - burst_s


@_inlined
def _lot(seed: float, row: int) -> np.uint64:
    """A pseudo-random number of this decision and row (SplitMix64; Steele, Lea, Flood, 2014)."""
    z = np.uint64(int(seed * 9007199254740992.0)) + np.uint64(row + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_inlined
def _refusal(
    offer: Floats, state: Floats, ask: Floats, excluded: bool, unit_price: float, first_token_ms: float
) -> tuple[int, float]:
    """The first constraint that the offer breaks, and its figure; (0, 0) where it is feasible. Bits become integers."""
    if int(offer[KINDS]) & int(ask[KIND]) == 0:
        return _KIND, 0.0
    missing = int(ask[NEEDS]) & ~int(offer[CAPABILITIES])
    if missing != 0:
        return _CAPABILITY, float(missing)
    is_global = offer[IS_GLOBAL] != 0.0
    named = int(offer[REGIONS])
    if ask[REGION] != ANYWHERE:
        named &= int(ask[REGION])
        if named == 0 and not is_global:
            return _REGION, 0.0
    if ask[ALLOWED_REGIONS] != ANYWHERE:
        by_name = named & int(ask[ALLOWED_REGIONS]) != 0
        if not by_name and not (is_global and ask[ALLOWS_GLOBAL] != 0.0):
            return _REGION_LIMIT, 0.0
    if ask[INPUT_TOKENS] + ask[OUTPUT_TOKENS] > offer[CONTEXT_WINDOW]:
        return _CONTEXT_WINDOW, offer[CONTEXT_WINDOW]
    if unit_price > ask[MAX_PRICE]:
        return _MAX_PRICE, unit_price
    if offer[REPUTATION] < ask[MIN_REPUTATION]:
        return _MIN_REPUTATION, offer[REPUTATION]
    too_slow = first_token_ms > ask[MAX_LATENCY]
    if too_slow and offer[ADVERTISED_MS] > ask[MAX_LATENCY]:
        return _MAX_LATENCY, first_token_ms
    place = ask[GPU_HOURS] if ask[IS_GPU_JOB] != 0.0 else 1.0
    if place > offer[CAPACITY]:
        return _TOO_LARGE, offer[CAPACITY]
    if excluded:
        return _EXCLUDED, 0.0
    now = ask[NOW]
    if state[REFUSES_UNTIL] > now and state[IS_BROKEN] != 0.0:
        return _BROKEN, state[REFUSES_UNTIL] - now
    if too_slow:
        return _SLOWED, first_token_ms
    if state[REFUSES_UNTIL] > now:
        return _COOLING_DOWN, state[REFUSES_UNTIL] - now
    if state[THROTTLED_UNTIL] > now:
        return _THROTTLED, state[THROTTLED_UNTIL] - now
    free_at = now
    if offer[REQUEST_INTERVAL_S] > 0.0:
        free_at = max(free_at, gcra_free_at(state[REQUEST_TAT], offer[REQUEST_INTERVAL_S], offer[BURST_S]))
    if offer[TOKEN_INTERVAL_S] > 0.0:
        cost_s = (ask[INPUT_TOKENS] + ask[OUTPUT_TOKENS]) * offer[TOKEN_INTERVAL_S]
        free_at = max(free_at, gcra_free_at(state[TOKEN_TAT], cost_s, offer[BURST_S]))
    if free_at > now:
        return _RATE_LIMIT, free_at - now
    if state[IN_FLIGHT] + place > offer[CAPACITY]:
        return _CAPACITY, max(offer[CAPACITY] - state[IN_FLIGHT], 0.0)
    return 0, 0.0


@_compiled(
    "UniTuple(int64, 3)(int64[::1], float64[:, ::1], float64[:, ::1], float64[::1], int64[::1], int64,"
    " float64, float64, float64, float64, float64[:, ::1], int64[::1], int64[::1])"
)
def rank(
    rows: Ints,
    static: Floats,
    live: Floats,
    ask: Floats,
    excluded: Ints,
    mode: int,
    weight_price: float,
    weight_latency: float,
    weight_reputation: float,
    weight_availability: float,
    table: Floats,
    codes: Ints,
    order: Ints,
) -> tuple[int, int, int]:
    """Filter, score and order the offers ``rows`` for the workload ``ask``.

    Parameters
    ----------
    rows, excluded
        [n] rows of ``static`` that are asked about; [m] rows that must not serve (tried already).
    mode
        ``NORMALISED`` or ``CLASSIC``.
    weight_…
        At least 0. In ``NORMALISED`` mode all zero means that every feasible offer ties: a draw.
    table, codes, order
        Written: [n, N_TABLE] figures and [n] ``Code`` by position in ``rows``; the feasible rows, best first.

    Returns
    -------
    feasible, tied, transient
        How many offers are feasible; how many share the best score (the first was drawn among them); how many were
        refused only for a cause that passes by itself.

    Terms in ``NORMALISED`` mode are best/value for price and latency, value/best for reputation and availability, so
    the best feasible offer has 1 in each, a term on which all agree adds the same to all, and "twice as dear" costs as
    much as "twice as slow". Min-max scaling was rejected: with it a difference of 1 % fills the whole range.

    An expected latency is the advertised one blended with observations by their weight. Whole answers take longer
    than the first token that is advertised, so for them the advertised figures are first scaled by the ratio of
    observed to advertised over the pool: an offer not yet seen is expected to be slower in the same proportion.
    """
    n = rows.shape[0]
    now = ask[NOW]
    is_gpu_job = ask[IS_GPU_JOB] != 0.0
    whole_answer = not is_gpu_job and ask[IS_STREAM] == 0.0
    tokens = ask[INPUT_TOKENS] + ask[OUTPUT_TOKENS]
    output_share = ask[OUTPUT_TOKENS] / tokens if tokens > 0.0 else 0.5

    answer_ratio = 1.0
    if whole_answer:
        observed = advertised = 0.0
        for i in range(n):
            state = live[int(static[rows[i], SLOT])]
            weight = faded(state[ANSWER_WEIGHT], state[ANSWER_AT], now)
            observed += weight * state[ANSWER]
            advertised += weight * max(static[rows[i], ADVERTISED_MS], FLOOR)
        if advertised > 0.0:
            answer_ratio = observed / advertised

    feasible = transient = 0
    best_price = best_latency = math.inf
    best_reputation = best_availability = 0.0
    for i in range(n):
        row = rows[i]
        offer = static[row]
        state = live[int(offer[SLOT])]
        if is_gpu_job:
            price = offer[PRICE_GPU_HOUR]
            cost = ask[GPU_HOURS] * price
        else:
            # Written so that equal prices for input and output give exactly that price.
            price = offer[PRICE_IN] + (offer[PRICE_OUT] - offer[PRICE_IN]) * output_share
            cost = (ask[INPUT_TOKENS] * offer[PRICE_IN] + ask[OUTPUT_TOKENS] * offer[PRICE_OUT]) * 1e-6
        weight = faded(state[FIRST_TOKEN_WEIGHT], state[FIRST_TOKEN_AT], now)
        first_token = offer[ADVERTISED_MS] + weight * (state[FIRST_TOKEN] - offer[ADVERTISED_MS])
        latency = first_token
        if whole_answer:
            weight = faded(state[ANSWER_WEIGHT], state[ANSWER_AT], now)
            prior = offer[ADVERTISED_MS] * answer_ratio
            latency = prior + weight * (state[ANSWER] - prior)
        availability = 1.0
        if offer[CAPACITY] < math.inf:
            availability = max(1.0 - state[IN_FLIGHT] / offer[CAPACITY], 0.0) if offer[CAPACITY] > 0.0 else 0.0
        if mode == NORMALISED:
            weight = faded(state[SUCCESS_WEIGHT], state[SUCCESS_AT], now)
            availability *= 1.0 - weight * (1.0 - state[SUCCESS])
        is_excluded = False
        for k in range(excluded.shape[0]):
            is_excluded = is_excluded or excluded[k] == row
        code, figure = _refusal(offer, state, ask, is_excluded, price, first_token)
        codes[i] = code
        table[i, :] = 0.0
        table[i, UNIT_PRICE] = price
        table[i, COST] = cost
        table[i, LATENCY] = latency
        table[i, TRUST] = offer[REPUTATION]
        table[i, AVAILABILITY] = availability
        table[i, FIGURE] = figure
        if code == 0:
            order[feasible] = i
            feasible += 1
            best_price = min(best_price, max(price, FLOOR))
            best_latency = min(best_latency, max(latency, FLOOR))
            best_reputation = max(best_reputation, offer[REPUTATION])
            best_availability = max(best_availability, availability)
        elif code >= _SLOWED:
            transient += 1

    if mode == NORMALISED:
        total = weight_price + weight_latency + weight_reputation + weight_availability
        scale = 1.0 / total if total > 0.0 else 0.0
        weight_price *= scale * best_price
        weight_latency *= scale * best_latency
        weight_reputation *= scale / best_reputation if best_reputation > 0.0 else 0.0
        weight_availability *= scale / best_availability if best_availability > 0.0 else 0.0
    else:
        weight_reputation /= 100.0
    for place in range(feasible):
        figures = table[order[place]]
        figures[PRICE_PART] = weight_price / max(figures[UNIT_PRICE], FLOOR)
        figures[LATENCY_PART] = weight_latency / max(figures[LATENCY], FLOOR)
        figures[REPUTATION_PART] = weight_reputation * figures[TRUST]
        figures[AVAILABILITY_PART] = weight_availability * figures[AVAILABILITY]
        figures[SCORE] = (
            figures[PRICE_PART] + figures[LATENCY_PART] + figures[REPUTATION_PART] + figures[AVAILABILITY_PART]
        )

    # Insertion sort: pools hold a handful of offers. Equal offers take turns by lot, so that they share the load.
    for place in range(1, feasible):
        i = order[place]
        j = place
        while j > 0:
            before = order[j - 1]
            if table[before, SCORE] > table[i, SCORE]:
                break
            if table[before, SCORE] == table[i, SCORE] and _lot(ask[LOT], rows[before]) < _lot(ask[LOT], rows[i]):
                break
            order[j] = before
            j -= 1
        order[j] = i
    tied = 0
    while tied < feasible and table[order[tied], SCORE] == table[order[0], SCORE]:
        tied += 1
    for place in range(feasible):
        order[place] = rows[order[place]]
    return feasible, tied, transient
