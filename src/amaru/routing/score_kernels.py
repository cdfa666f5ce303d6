"""How the offers that may serve are scored: one switch over all kinds of policy.

``score`` reads nothing but the table that ``kernels.look`` wrote, what was learned, and the lot; so a stored decision
can be scored again by another policy.

Thompson sampling (Thompson, 1933; Russo et al., *A Tutorial on Thompson Sampling*, 2018) draws from the belief what may
be the matter with each offer, and its usual figures. The lot picks one of ``DRAWS`` equally likely draws; in the draw
``j`` the offer ``row`` has the ``(a·j + c) mod DRAWS``-th stratified quantile, ``a`` odd, both hashed from the row. A
share ``BOLDNESS`` of the draws samples, the others take the means. So the probability of each offer (its propensity)
is a count over the draws, exact and cheap.
"""

from __future__ import annotations

import math
import statistics

import numpy as np

from amaru.compiling import inlined
from amaru.routing import belief_kernels as b
from amaru.routing import kernels as k
from amaru.routing import q_kernels as q
from amaru.routing.kernels import Floats, Ints

# Kinds of policy.
NORMALISED = 0
"""Each term is its ratio to the best feasible offer of this decision, weights sum to 1: scores lie in [0, 1]."""
CLASSIC = 1
"""w_price/price + w_latency/latency_ms + w_reputation·reputation/100 + w_availability·remaining/total, as they are."""
THOMPSON = 2
"""The utility that the belief predicts, drawn from its posterior."""
HYBRID = 3
"""Between the rule's expectation and the belief's, by the belief's evidence, drawn from what it leaves open."""
QLEARNING = 4
"""The value of the offer's discretised state."""

_GRID = 1.5 * 2.0**12
"""Added and taken off again, it rounds a value to a multiple of 2^-40; so a draw added to one can be taken off exactly.
"""

DRAWS = 64
_QUANTILES = np.array([statistics.NormalDist().inv_cdf((i + 0.5) / DRAWS) for i in range(DRAWS)])
_MATTER, _FIGURES = 0.25, 0.75
"""Seeds of the two independent orders of quantiles that a row has."""


@inlined
def _stratum(seed: float, row: int, draw: int) -> int:
    """Which quantile the offer ``row`` has in the draw, 0 ≤ stratum < DRAWS: each of them in exactly one draw."""
    bits = k.lot_of(seed, row)
    a, c = int(bits & np.uint64(DRAWS - 1)) | 1, int((bits >> np.uint64(8)) & np.uint64(DRAWS - 1))
    return (a * draw + c) & (DRAWS - 1)


@inlined
def references(n: int, table: Floats) -> tuple[float, float]:
    """Lowest posted unit price and latency (ms) of the pool: what utilities of its outcomes are measured by."""
    price = latency = math.inf
    for i in range(n):
        price = min(price, table[i, k.UNIT_PRICE])
        latency = min(latency, table[i, k.POSTED_MS])
    return max(price, k.FLOOR), max(latency, k.FLOOR)


@inlined
def utility(
    weights: tuple[float, float, float, float],
    best_price: float,
    best_latency: float,
    price: float,
    latency_ms: float,
    reputation: float,
) -> float:
    """What a served request was worth to its tenant: the weights' share of each term; a failed one is worth 0.

    Price and latency count as the ratio of the pool's best posted figure to the one that came true, reputation out of
    100, and having been served as 1. So it is 1 for the best posted figures by an offer of reputation 100.
    """
    total = weights[0] + weights[1] + weights[2] + weights[3]
    if total <= 0.0:
        return 1.0
    return (
        weights[0] * best_price / max(price, k.FLOOR)
        + weights[1] * best_latency / max(latency_ms, k.FLOOR)
        + weights[2] * reputation / 100.0
        + weights[3]
    ) / total


@inlined
def warm_price(i: int, price: float, table: Floats) -> float:
    """What is left of a price where a prompt cache is warm. Only scores know of it, no limit does."""
    return float(price * (1.0 - table[i, k.SAVES_PRICE]))


@inlined
def warm_ms(i: int, latency_ms: float, table: Floats) -> float:
    """The same of a latency."""
    return float(latency_ms * (1.0 - table[i, k.SAVES_TIME]))


@inlined
def _rules(kind: int, feasible: int, weights: tuple[float, float, float, float], table: Floats, order: Ints) -> None:
    """Terms in ``NORMALISED`` mode are best/value for price and latency, value/best for reputation and availability, so
    the best feasible offer has 1 in each, a term on which all agree adds the same to all, and "twice as dear" costs as
    much as "twice as slow". Min-max scaling was rejected: with it a difference of 1 % fills the whole range. What an
    offer is weighed by multiplies all its terms: a request that fails is worth nothing, be it ever so cheap.
    """
    price, latency, reputation, availability = weights
    if kind == NORMALISED:
        best_price = best_latency = math.inf
        best_reputation = best_availability = 0.0
        for place in range(feasible):
            i = order[place]
            best_price = min(best_price, max(warm_price(i, table[i, k.UNIT_PRICE], table), k.FLOOR))
            best_latency = min(best_latency, max(warm_ms(i, table[i, k.LATENCY], table), k.FLOOR))
            best_reputation = max(best_reputation, table[i, k.TRUST])
            best_availability = max(best_availability, table[i, k.AVAILABILITY])
        total = price + latency + reputation + availability
        scale = 1.0 / total if total > 0.0 else 0.0
        price *= scale * best_price
        latency *= scale * best_latency
        reputation *= scale / best_reputation if best_reputation > 0.0 else 0.0
        availability *= scale / best_availability if best_availability > 0.0 else 0.0
    else:
        reputation /= 100.0
        for place in range(feasible):
            table[order[place], k.AVAILABILITY] = 1.0 - table[order[place], k.LOAD]
    for place in range(feasible):
        i = order[place]
        care = table[i, k.CARED]
        table[i, k.PRICE_PART] = care * price / max(warm_price(i, table[i, k.UNIT_PRICE], table), k.FLOOR)
        table[i, k.LATENCY_PART] = care * latency / max(warm_ms(i, table[i, k.LATENCY], table), k.FLOOR)
        table[i, k.REPUTATION_PART] = care * reputation * table[i, k.TRUST]
        table[i, k.AVAILABILITY_PART] = care * availability * table[i, k.AVAILABILITY]


@inlined
def _expected(
    i: int,
    success: float,
    cheapness: float,
    quickness: float,
    weights: tuple[float, float, float, float],
    per_weight: float,
    table: Floats,
) -> float:
    """Write the parts of the expected utility, and return it. What an offer is weighed by counts as its success does.

    ``cheapness`` and ``quickness`` are the pool's best posted price and latency to those expected; ``per_weight`` is 1
    over the sum of the weights.
    """
    scale = table[i, k.CARED] * success * per_weight
    price, latency = scale * weights[0] * cheapness, scale * weights[1] * quickness
    reputation, availability = scale * weights[2] * 0.01 * table[i, k.TRUST], scale * weights[3]
    table[i, k.PRICE_PART] = price
    table[i, k.LATENCY_PART] = latency
    table[i, k.REPUTATION_PART] = reputation
    table[i, k.AVAILABILITY_PART] = availability
    return float(price + latency + reputation + availability)


@inlined
def _predict(i: int, success: float, latency_ms: float, price: float, evidence: float, table: Floats) -> None:
    table[i, k.PREDICTED_SUCCESS] = success
    table[i, k.PREDICTED_MS] = latency_ms
    table[i, k.PREDICTED_PRICE] = price
    table[i, k.EVIDENCE] = evidence


@inlined
def sum_of_parts(i: int, table: Floats) -> float:
    """The expected utility, or the rule's score."""
    parts = table[i, k.PRICE_PART] + table[i, k.LATENCY_PART] + table[i, k.REPUTATION_PART]
    return float(parts + table[i, k.AVAILABILITY_PART])


@inlined
def score(
    kind: int,
    rows: Ints,
    feasible: int,
    weights: tuple[float, float, float, float],
    best_price: float,
    best_latency: float,
    lot: float,
    table: Floats,
    order: Ints,
    slots: Ints,
    beliefs: Floats,
    values: Floats,
    knobs: Floats,
) -> None:
    """Score the feasible offers.

    Parameters
    ----------
    kind
        Of policy.
    rows, feasible, table, order
        As ``kernels.look`` left them; SCORE, the parts, predictions and DRAW are written.
    weights
        Of price, latency, reputation and availability, each at least 0.
    best_price, best_latency
        Of the pool: see ``references``. Rules do not need them.
    lot
        In [0, 1): draws the sample, or whether and where to explore.
    slots, beliefs, values, knobs
        [offers] row of each offer in what was learned; float64 [slots, N_BELIEFS], up to date (``b.refresh``);
        float64 [states, 2] of ``q_kernels``; float64 [N_KNOBS].
    """
    if kind in (NORMALISED, CLASSIC):
        _rules(kind, feasible, weights, table, order)
        for place in range(feasible):
            i = order[place]
            table[i, k.SCORE] = sum_of_parts(i, table)
            _predict(i, 0.0, 0.0, 0.0, 0.0, table)
            table[i, k.DRAW] = 0.0
        return
    per_weight = 1.0 / max(weights[0] + weights[1] + weights[2] + weights[3], k.FLOOR)
    if kind == QLEARNING:
        explores = q.explores(lot, knobs)
        lucky = order[int(q.second_lot(lot) * feasible)] if explores and feasible > 0 else -1
        preference, best = q.preference_of(weights), -math.inf
        for place in range(feasible):
            i = order[place]
            cheapness = best_price / max(table[i, k.UNIT_PRICE], k.FLOOR)
            quickness = best_latency / max(table[i, k.LATENCY], k.FLOOR)
            rule = _expected(i, table[i, k.SUCCESS_SEEN], cheapness, quickness, weights, per_weight, table)
            state = q.state_of(preference, quickness, cheapness, i, table)
            visits, prior = values[state, q.VISITS], knobs[b.Q_PRIOR]
            value = (visits * (table[i, k.CARED] * values[state, q.VALUE]) + prior * rule) / (visits + prior)
            if table[i, k.SAVES_PRICE] + table[i, k.SAVES_TIME] > 0.0:  # states know of no cache: it is added in full
                cheapness = best_price / max(warm_price(i, table[i, k.UNIT_PRICE], table), k.FLOOR)
                quickness = best_latency / max(warm_ms(i, table[i, k.LATENCY], table), k.FLOOR)
                warm = _expected(i, table[i, k.SUCCESS_SEEN], cheapness, quickness, weights, per_weight, table)
                value += warm - rule
            value = (value + _GRID) - _GRID
            _predict(i, 0.0, 0.0, 0.0, visits, table)
            table[i, k.DRAW] = 0.0
            table[i, k.SCORE] = value
            best = max(best, value)
        if lucky >= 0:  # ahead of the best, by a whole number: values may lie more than 1 apart
            table[lucky, k.DRAW] = math.ceil(best - table[lucky, k.SCORE]) + 1.0
            table[lucky, k.SCORE] += table[lucky, k.DRAW]
        return
    draw = int(lot * DRAWS)
    for place in range(feasible):
        i = order[place]
        slot = slots[rows[i]]
        value = _believe(kind, i, slot, weights, per_weight, best_price, best_latency, table, beliefs, knobs)
        table[i, k.DRAW] = drawn(kind, i, rows[i], slot, draw, table, beliefs, knobs)
        table[i, k.SCORE] = value + table[i, k.DRAW]


@inlined
def _believe(
    kind: int,
    i: int,
    slot: int,
    weights: tuple[float, float, float, float],
    per_weight: float,
    best_price: float,
    best_latency: float,
    table: Floats,
    beliefs: Floats,
    knobs: Floats,
) -> float:
    """Write predictions and parts by the means of the belief, a hybrid's between the rule's and these; their sum."""
    success, evidence = beliefs[slot, b.SUCCESS], beliefs[slot, b.EVIDENCE]
    latency_ms = b.predicted_ms(beliefs[slot, b.LOG_MS], slot, table[i, k.POSTED_MS], table[i, k.LOAD], beliefs)
    price = table[i, k.UNIT_PRICE] * math.exp(beliefs[slot, b.LOG_PRICE])
    _predict(i, success, latency_ms, price, evidence, table)
    if kind == HYBRID:
        rest = 1.0 - evidence / (evidence + knobs[b.CONFIDENCE])
        success += rest * (table[i, k.SUCCESS_SEEN] - success)
        latency_ms += rest * (table[i, k.LATENCY] - latency_ms)
        price += rest * (table[i, k.UNIT_PRICE] - price)
    cheapness = best_price / max(warm_price(i, price, table), k.FLOOR)
    quickness = best_latency / max(warm_ms(i, latency_ms, table), k.FLOOR)
    return _expected(i, success, cheapness, quickness, weights, per_weight, table)


@inlined
def drawn(
    kind: int,
    i: int,
    row: int,
    slot: int,
    draw: int,
    table: Floats,
    beliefs: Floats,
    knobs: Floats,
) -> float:
    """What the draw adds to the expected utility of the offer at position ``i``."""
    if draw >= knobs[b.BOLDNESS] * DRAWS:
        return 0.0
    matter = (_stratum(_MATTER, row, draw) + 0.5) / DRAWS
    z = _QUANTILES[_stratum(_FIGURES, row, draw)]
    success = min(max(beliefs[slot, b.AS_USUAL] + z * beliefs[slot, b.AS_USUAL_SD], 0.0), 1.0)
    x = z * beliefs[slot, b.LOG_MS_SD]
    faster = 1.0 + x + 0.5 * x * x  # exp(x), near enough for what is drawn from a normal anyway
    if matter < beliefs[slot, b.P_DOWN]:
        success = beliefs[slot, b.IF_DOWN]
    elif matter < beliefs[slot, b.P_DOWN] + beliefs[slot, b.P_DEGRADED]:
        success = beliefs[slot, b.IF_DEGRADED]
    else:
        faster *= beliefs[slot, b.FASTER_USUAL]
    expected = sum_of_parts(i, table)
    # The parts are those at the expected success and latency.
    change = success / max(table[i, k.PREDICTED_SUCCESS], 0.01)
    value = change * (expected + table[i, k.LATENCY_PART] * (faster - 1.0))
    if kind == HYBRID:
        evidence = beliefs[slot, b.EVIDENCE]
        return float((value - expected) * evidence / (evidence + knobs[b.CONFIDENCE]))
    return float(value - expected)
