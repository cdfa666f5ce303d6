"""The arrays of a decision, and the filter: which offers may serve, what each is expected to cost and take.

The live router and the war-game call this same code on the same arrays (law 5). It touches no Python object and holds
no state; randomness comes in as one number. How the offers that may serve are scored: ``score_kernels``.

Arrays, all C-contiguous: ``static`` float64 [offers, N_STATIC], what the configuration says; ``live`` float64
[slots, N_LIVE], what is known from outcomes (``static[:, SLOT]`` says where); ``ask`` float64 [N_ASK], the workload;
``table`` float64 [rows asked about, N_TABLE], the answer's figures. Instants are seconds of the caller's clock.
"""

from __future__ import annotations

import enum
import math

import numpy as np
from numpy.typing import NDArray

from amaru.compiling import inlined

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

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
    DRAINED_FROM,  # places taken beyond which it serves only what no other offer can take: 0 drained, inf never
    CARE,  # its score is multiplied by this; 1: not weighed; see ``steering``
    LIMIT,  # as CAPACITY, of a steering; inf: none
    RISK,  # the part of CARE that is a prediction, as 1 less; told with the decision
    LOOK_AT,  # from then on one request is to try it, drained or not; inf: none
) = range(20)
N_LIVE = 20

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
    LOT,  # in [0, 1), drawn anew per decision: breaks ties, explores, samples
    POSTED_LIMITS,  # 1: MAX_LATENCY binds what is posted, whatever was observed (the same for every policy)
    WALL,  # NOW in Unix seconds, by which what was learned fades
    IS_WARM,  # 1: SAVES_PRICE and SAVES_TIME are in the table already; 0: no prompt cache is known to be warm
) = range(18)
N_ASK = 18
ANYWHERE = -1.0

# Columns of `table`. The four parts and DRAW add up to the score. (Q-learning scores by the value of a state; its parts
# are those of the rule's expectation.) Refused rows have no score; FIGURE holds what refused them. What the policy does
# not predict is as posted and observed.
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
    AVAILABILITY,  # share of capacity that is free, times SUCCESS_SEEN; by `rules_classic` without that
    FIGURE,  # by code: USD, ms, tokens, reputation, room left, seconds; DRAINED: beyond so many; FEASIBLE: 1 if drained
    POSTED_MS,  # as LATENCY, but advertised
    LOAD,  # share of its capacity in use, in [0, 1]
    SUCCESS_SEEN,  # share of recent attempts that succeeded, faded towards 1
    PREDICTED_SUCCESS,  # in [0, 1]; 0 where the policy predicts nothing, as the next four
    PREDICTED_MS,
    PREDICTED_PRICE,  # unit price that will be charged, USD
    EVIDENCE,  # outcomes behind the prediction, after forgetting
    DRAW,  # what the draw added to the score
    CARED,  # as CARE: the parts are multiplied by it already
    RISKED,  # as RISK
    SAVES_PRICE,  # share of UNIT_PRICE that a prompt cache, warm for this request, is expected to save; in [0, 1)
    SAVES_TIME,  # the same of LATENCY
) = range(23)
N_TABLE = 23


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
    DRAINED = 17
    """A healing or a person keeps it out while others can serve. Checked after BROKEN."""
    BUDGET = 18
    """A budget does not cover it: found once its turn has come, and by no kernel. It does not pass by itself."""


# Numba takes plain integers as compile-time constants.
_KIND, _CAPABILITY, _REGION, _REGION_LIMIT, _CONTEXT_WINDOW, _MAX_PRICE = (int(code) for code in list(Code)[1:7])
_MIN_REPUTATION, _MAX_LATENCY, _TOO_LARGE, _EXCLUDED, _BROKEN, _SLOWED = (int(code) for code in list(Code)[7:13])
_COOLING_DOWN, _THROTTLED, _RATE_LIMIT, _CAPACITY, _DRAINED = (int(code) for code in list(Code)[13:18])

HALF_LIFE_S = 60.0
"""The weight of live observations against the advertisement halves in this time without a new one."""
FLOOR = 1e-9
"""Prices and latencies below this count as this, so that a free offer beats every other instead of dividing by zero."""

GAIN = 0.2
"""Weight of one observation in its moving average."""

_DECAY_PER_S = math.log(2.0) / HALF_LIFE_S

BLANK: Floats = np.zeros(N_LIVE)
"""A row of ``live`` of which nothing is known: closed, idle, nothing observed, not steered."""
BLANK[[REFUSES_UNTIL, THROTTLED_UNTIL, REQUEST_TAT, TOKEN_TAT]] = -math.inf
BLANK[CARE] = 1.0
BLANK[[DRAINED_FROM, LIMIT, LOOK_AT]] = math.inf
BLANK.setflags(write=False)


@inlined
def faded(weight: float, seen_at: float, now: float) -> float:
    """The weight that an estimate last updated at ``seen_at`` has left."""
    if weight <= 0.0:
        return 0.0
    return weight * math.exp(-_DECAY_PER_S * (now - seen_at)) if now > seen_at else weight


@inlined
def blend(live: Floats, slot: int, column: int, observed: float, now: float) -> None:
    """Take ``observed`` into the estimate at ``column``: a moving average whose memory also fades with time."""
    kept = faded(live[slot, column + 1], live[slot, column + 2], now) * (1.0 - GAIN)
    live[slot, column] = (kept * live[slot, column] + GAIN * observed) / (kept + GAIN)
    live[slot, column + 1] = kept + GAIN
    live[slot, column + 2] = now


@inlined
def gcra_free_at(tat: float, cost_s: float, burst_s: float) -> float:
    """Instant from which a request of ``cost_s`` conforms, given the theoretical arrival time (see ``limits``).

    A request larger than the burst conforms on a full bucket, and then pays its whole debt: else it never could.
    """
    return tat + min(cost_s, burst_s) - burst_s


@inlined
def lot_of(seed: float, row: int) -> np.uint64:
    """A pseudo-random number, 64 bits, of this decision and row (SplitMix64; Steele, Lea, Flood, 2014)."""
    z = np.uint64(int(seed * 9007199254740992.0)) + np.uint64(np.int64(row + 1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inlined
def unit_of(bits: np.uint64) -> float:
    """The bits as a number in [0, 1)."""
    return float(bits >> np.uint64(11)) * 1.1102230246251565e-16


@inlined
def serves_region(static: Floats, row: int, region: float) -> bool:
    """Whether the offer serves the region (a bit, or ``ANYWHERE``)."""
    return bool(region == ANYWHERE or static[row, IS_GLOBAL] != 0.0 or int(static[row, REGIONS]) & int(region) != 0)


@inlined
def _refusal(
    static: Floats,
    row: int,
    live: Floats,
    slot: int,
    ask: Floats,
    excluded: bool,
    unit_price: float,
    seen_ms: float,
    last_resort: bool,
) -> tuple[int, float]:
    """The first constraint that the offer breaks, and its figure; (0, 0) where it is feasible, or (0, 1) where it is
    drained besides, which the ``last_resort`` overlooks. Bits become integers."""
    if int(static[row, KINDS]) & int(ask[KIND]) == 0:
        return _KIND, 0.0
    missing = int(ask[NEEDS]) & ~int(static[row, CAPABILITIES])
    if missing != 0:
        return _CAPABILITY, float(missing)
    if not serves_region(static, row, ask[REGION]):
        return _REGION, 0.0
    is_global = static[row, IS_GLOBAL] != 0.0
    named = int(static[row, REGIONS])
    if ask[REGION] != ANYWHERE:
        named &= int(ask[REGION])
    if ask[ALLOWED_REGIONS] != ANYWHERE:
        by_name = named & int(ask[ALLOWED_REGIONS]) != 0
        if not by_name and not (is_global and ask[ALLOWS_GLOBAL] != 0.0):
            return _REGION_LIMIT, 0.0
    if ask[INPUT_TOKENS] + ask[OUTPUT_TOKENS] > static[row, CONTEXT_WINDOW]:
        return _CONTEXT_WINDOW, static[row, CONTEXT_WINDOW]
    if unit_price > ask[MAX_PRICE]:
        return _MAX_PRICE, unit_price
    if static[row, REPUTATION] < ask[MIN_REPUTATION]:
        return _MIN_REPUTATION, static[row, REPUTATION]
    advertised = static[row, ADVERTISED_MS]
    bound_ms = advertised if ask[POSTED_LIMITS] != 0.0 else seen_ms
    too_slow = bound_ms > ask[MAX_LATENCY]
    if too_slow and advertised > ask[MAX_LATENCY]:
        return _MAX_LATENCY, bound_ms
    place = ask[GPU_HOURS] if ask[IS_GPU_JOB] != 0.0 else 1.0
    if place > static[row, CAPACITY]:
        return _TOO_LARGE, static[row, CAPACITY]
    if excluded:
        return _EXCLUDED, 0.0
    now = ask[NOW]
    if live[slot, REFUSES_UNTIL] > now and live[slot, IS_BROKEN] != 0.0:
        return _BROKEN, live[slot, REFUSES_UNTIL] - now
    # Whatever its size, one job at least fits an idle offer that is not drained altogether.
    drained = live[slot, IN_FLIGHT] + (place if live[slot, IN_FLIGHT] > 0.0 else FLOOR) > live[slot, DRAINED_FROM]
    if live[slot, LOOK_AT] <= now and live[slot, IN_FLIGHT] == 0.0:
        drained = False
    if drained and not last_resort:
        return _DRAINED, live[slot, DRAINED_FROM]
    if too_slow:
        return _SLOWED, seen_ms
    if live[slot, REFUSES_UNTIL] > now:
        return _COOLING_DOWN, live[slot, REFUSES_UNTIL] - now
    if live[slot, THROTTLED_UNTIL] > now:
        return _THROTTLED, live[slot, THROTTLED_UNTIL] - now
    free_at = now
    if static[row, REQUEST_INTERVAL_S] > 0.0:
        free_at = gcra_free_at(live[slot, REQUEST_TAT], static[row, REQUEST_INTERVAL_S], static[row, BURST_S])
    if static[row, TOKEN_INTERVAL_S] > 0.0:
        cost_s = (ask[INPUT_TOKENS] + ask[OUTPUT_TOKENS]) * static[row, TOKEN_INTERVAL_S]
        free_at = max(free_at, gcra_free_at(live[slot, TOKEN_TAT], cost_s, static[row, BURST_S]))
    if free_at > now:
        return _RATE_LIMIT, free_at - now
    most = min(static[row, CAPACITY], live[slot, LIMIT])
    if live[slot, IN_FLIGHT] + place > most:
        return _CAPACITY, max(most - live[slot, IN_FLIGHT], 0.0)
    return 0, 1.0 if drained else 0.0


@inlined
def look(
    rows: Ints, static: Floats, live: Floats, ask: Floats, excluded: Ints, table: Floats, codes: Ints, order: Ints
) -> tuple[int, int]:
    """Hold the offers ``rows`` against the constraints of ``ask``, and work out what each is expected to cost and take.

    Parameters
    ----------
    rows, excluded
        [n] rows of ``static`` that are asked about; [m] rows that must not serve (tried already).
    table, codes, order
        Written: [n, N_TABLE] figures, the scores and predictions of the feasible left to ``score``, and [n] ``Code`` by
        position in ``rows``; the positions that are feasible, in the order of ``rows``.

    Returns
    -------
    feasible, transient
        How many offers are feasible; how many were refused only for a cause that passes by itself.

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
            slot = int(static[rows[i], SLOT])
            weight = faded(live[slot, ANSWER_WEIGHT], live[slot, ANSWER_AT], now)
            observed += weight * live[slot, ANSWER]
            advertised += weight * max(static[rows[i], ADVERTISED_MS], FLOOR)
        if advertised > 0.0:
            answer_ratio = observed / advertised

    feasible = transient = drained = 0
    for last_resort in (False, True):  # where every offer that could serve is drained, one of them must
        if last_resort and (feasible > 0 or drained == 0):
            break
        transient = 0
        for i in range(n):
            row = rows[i]
            slot = int(static[row, SLOT])
            if is_gpu_job:
                price = static[row, PRICE_GPU_HOUR]
                cost = ask[GPU_HOURS] * price
            else:
                # Written so that equal prices for input and output give exactly that price.
                price = static[row, PRICE_IN] + (static[row, PRICE_OUT] - static[row, PRICE_IN]) * output_share
                cost = (ask[INPUT_TOKENS] * static[row, PRICE_IN] + ask[OUTPUT_TOKENS] * static[row, PRICE_OUT]) * 1e-6
            posted = static[row, ADVERTISED_MS]
            weight = faded(live[slot, FIRST_TOKEN_WEIGHT], live[slot, FIRST_TOKEN_AT], now)
            first_token = posted + weight * (live[slot, FIRST_TOKEN] - posted)
            latency = first_token
            if whole_answer:
                weight = faded(live[slot, ANSWER_WEIGHT], live[slot, ANSWER_AT], now)
                posted *= answer_ratio
                latency = posted + weight * (live[slot, ANSWER] - posted)
            load = 0.0
            if static[row, CAPACITY] < math.inf:
                load = min(live[slot, IN_FLIGHT] / static[row, CAPACITY], 1.0) if static[row, CAPACITY] > 0.0 else 1.0
            weight = faded(live[slot, SUCCESS_WEIGHT], live[slot, SUCCESS_AT], now)
            is_excluded = False
            for k in range(excluded.shape[0]):
                is_excluded = is_excluded or excluded[k] == row
            code, figure = _refusal(static, row, live, slot, ask, is_excluded, price, first_token, last_resort)
            codes[i] = code
            table[i, UNIT_PRICE] = price
            table[i, COST] = cost
            table[i, LATENCY] = latency
            table[i, TRUST] = static[row, REPUTATION]
            seen = 1.0 - weight * (1.0 - live[slot, SUCCESS])
            table[i, AVAILABILITY] = (1.0 - load) * seen
            table[i, FIGURE] = figure
            table[i, POSTED_MS] = posted
            table[i, LOAD] = load
            table[i, SUCCESS_SEEN] = seen
            table[i, CARED] = live[slot, CARE]
            table[i, RISKED] = live[slot, RISK]
            if ask[IS_WARM] == 0.0:
                table[i, SAVES_PRICE] = table[i, SAVES_TIME] = 0.0
            if code == 0:
                order[feasible] = i
                feasible += 1
                continue
            transient += code >= _SLOWED
            drained += code == _DRAINED
            for column in range(AVAILABILITY_PART + 1):
                table[i, column] = 0.0
            for column in range(PREDICTED_SUCCESS, CARED):
                table[i, column] = 0.0
    return feasible, transient
