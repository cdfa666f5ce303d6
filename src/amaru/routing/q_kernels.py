"""Tabular Q-learning (Watkins, 1989) over discretised states of offers.

A state is what a request of some preference sees in one offer: latency and price as ratios to the pool's best posted
ones, free capacity, reputation, and health (the recent share of successes). To choose an offer is to choose a state;
its value is the utility to expect, so what was learned of one provider holds for another in the same state.
"""

from __future__ import annotations

from amaru.compiling import compiled, inlined
from amaru.routing import belief_kernels as b
from amaru.routing import kernels as k
from amaru.routing.kernels import Floats

LATENCY_EDGES = (1.1, 1.3, 1.6, 2.2, 3.5)
PRICE_EDGES = (1.05, 1.25, 1.5, 2.0, 3.0)
_QUICKNESS_EDGES = (-1.0 / 1.1, -1.0 / 1.3, -1.0 / 1.6, -1.0 / 2.2, -1.0 / 3.5)
_CHEAPNESS_EDGES = (-1.0 / 1.05, -1.0 / 1.25, -1.0 / 1.5, -1.0 / 2.0, -1.0 / 3.0)
CAPACITY_EDGES = (0.25, 0.5, 0.75)
REPUTATION_EDGES = (60.0, 70.0, 80.0)
HEALTH_EDGES = (0.3, 0.6, 0.8, 0.9, 0.97)
PREFERENCES = 4
"""Which of the four weights is the largest."""
N_STATES = PREFERENCES * 6 * 6 * 4 * 4 * 6

# Columns of `values` [N_STATES, 2].
VALUE, VISITS = range(2)

# Columns of `memory` [MEMORY, 3]: experiences to replay, a ring.
STATE, REWARD, NEXT = range(3)
MEMORY = 1024
"""A power of two."""

# The entry of `ring` [1].
COUNT = 0  # experiences ever taken in


@inlined
def _bin3(value: float, edges: tuple[float, float, float]) -> int:
    """How many edges the value reaches. Written out: compiled, a loop over a tuple looks each element up in a table."""
    return int(value >= edges[0]) + int(value >= edges[1]) + int(value >= edges[2])


@inlined
def _bin5(value: float, edges: tuple[float, float, float, float, float]) -> int:
    """See ``_bin3``."""
    return _bin3(value, (edges[0], edges[1], edges[2])) + int(value >= edges[3]) + int(value >= edges[4])


@inlined
def preference_of(weights: tuple[float, float, float, float]) -> int:
    """Which weight is the largest, the first of equals."""
    price, latency, reputation, availability = weights
    if price >= latency and price >= reputation and price >= availability:
        return 0
    if latency >= reputation and latency >= availability:
        return 1
    return 2 if reputation >= availability else 3


@inlined
def state_at(
    preference: int, latency_ratio: float, price_ratio: float, free: float, reputation: float, health: float
) -> int:
    """Number of the state, 0 ≤ state < N_STATES. Ratios are to the best posted figures of the pool."""
    quickness, cheapness = 1.0 / max(latency_ratio, k.FLOOR), 1.0 / max(price_ratio, k.FLOOR)
    return state_in(preference, quickness, cheapness, free, reputation, health)


@inlined
def state_of(preference: int, quickness: float, cheapness: float, i: int, table: Floats) -> int:
    """State of the offer at position ``i`` of the table; ``quickness`` and ``cheapness`` are 1 over its ratios."""
    free = 1.0 - table[i, k.LOAD]
    return state_in(preference, quickness, cheapness, free, table[i, k.TRUST], table[i, k.SUCCESS_SEEN])


@inlined
def state_in(preference: int, quickness: float, cheapness: float, free: float, reputation: float, health: float) -> int:
    """See ``state_at``; ``quickness`` and ``cheapness`` are the pool's best posted figures to the offer's.

    Live and played must come by them in the same way: a ratio that lies on an edge rounds to either side.
    """
    # The scores have these inverses of ratios at hand, and a division costs as much as ten edges: what does not exceed
    # an edge's inverse reaches the edge.
    state = preference * 6 + _bin5(-quickness, _QUICKNESS_EDGES)
    state = state * 6 + _bin5(-cheapness, _CHEAPNESS_EDGES)
    state = state * 4 + _bin3(free, CAPACITY_EDGES)
    state = state * 4 + _bin3(reputation, REPUTATION_EDGES)
    return state * 6 + _bin5(health, HEALTH_EDGES)


@inlined
def explores(lot: float, knobs: Floats) -> bool:
    """Whether this decision is drawn among all feasible offers."""
    return bool(k.unit_of(k.lot_of(lot, -2)) < knobs[b.EPSILON])


@inlined
def second_lot(lot: float) -> float:
    """Another number in [0, 1), independent of the first for all that matters."""
    return k.unit_of(k.lot_of(lot, -3))


@inlined
def _update(state: int, target: float, values: Floats, rate: float, again: bool) -> None:
    if not again:
        values[state, VISITS] += 1.0
    # The mean of all targets while they are few; a moving one, which forgets, once they are many.
    step = max(rate, 1.0 / max(values[state, VISITS], 1.0))
    values[state, VALUE] += step * (target - values[state, VALUE])


@inlined
def take_in(state: int, reward: float, lot: float, values: Floats, memory: Floats, ring: Floats, knobs: Floats) -> None:
    """Learn from one choice: ``state`` was chosen and earned ``reward``; then replay some past experiences.

    With a discount, an experience is complete once the next state is known, which is the next one chosen.
    """
    discount = knobs[b.DISCOUNT]
    count = int(ring[COUNT])
    if count > 0 and discount > 0.0:
        last = (count - 1) & (MEMORY - 1)
        memory[last, NEXT] = state
        before = int(memory[last, STATE])
        _update(before, memory[last, REWARD] + discount * values[state, VALUE], values, knobs[b.RATE], False)
    at = count & (MEMORY - 1)
    memory[at, STATE] = state
    memory[at, REWARD] = reward
    memory[at, NEXT] = -1.0
    ring[COUNT] = count + 1
    if discount == 0.0:
        _update(state, reward, values, knobs[b.RATE], False)
    held = min(count, MEMORY)
    for i in range(int(knobs[b.REPLAYS])):
        if held < 64:  # too few to be worth it
            break
        past = int(k.unit_of(k.lot_of(lot, 1000 + i)) * held)
        after = int(memory[past, NEXT])
        if discount > 0.0 and after < 0:
            continue
        target = memory[past, REWARD] + (discount * values[after, VALUE] if discount > 0.0 else 0.0)
        _update(int(memory[past, STATE]), target, values, knobs[b.RATE], True)
    knobs[b.EPSILON] = max(knobs[b.EPSILON] * knobs[b.EPSILON_KEPT], min(knobs[b.EPSILON], knobs[b.EPSILON_LEAST]))


@compiled("void(int64, float64, float64, float64[:, ::1], float64[:, ::1], float64[::1], float64[::1])")
def learn(state: int, reward: float, lot: float, values: Floats, memory: Floats, ring: Floats, knobs: Floats) -> None:
    """See ``take_in``."""
    take_in(state, reward, lot, values, memory, ring, knobs)
