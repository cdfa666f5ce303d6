"""The compiled decision, put together: filter, score, order; and how probable the order's first place was."""

from __future__ import annotations

import math

from amaru.compiling import compiled, inlined
from amaru.routing import belief_kernels as b
from amaru.routing import kernels as k
from amaru.routing import score_kernels as s
from amaru.routing.kernels import Floats, Ints


@inlined
def beats(a: int, b_: int, rows: Ints, table: Floats, lot: float) -> bool:
    """Whether position ``a`` stands before ``b_``. Equal offers take turns by lot, so that they share the load."""
    if table[a, k.SCORE] != table[b_, k.SCORE]:
        return bool(table[a, k.SCORE] > table[b_, k.SCORE])
    return bool(k.lot_of(lot, rows[a]) < k.lot_of(lot, rows[b_]))


@inlined
def first_of(feasible: int, rows: Ints, lot: float, table: Floats, order: Ints) -> int:
    """Position of the best offer, or -1: what ``arrange`` would put first."""
    if feasible == 0:
        return -1
    best = int(order[0])
    for place in range(1, feasible):
        if beats(order[place], best, rows, table, lot):
            best = int(order[place])
    return best


@inlined
def arrange(feasible: int, rows: Ints, lot: float, table: Floats, order: Ints) -> int:
    """Order the feasible positions, best first, and turn them into rows; how many share the best score.

    Insertion sort: pools hold a handful of offers.
    """
    for place in range(1, feasible):
        i = order[place]
        j = place
        while j > 0 and beats(i, order[j - 1], rows, table, lot):
            order[j] = order[j - 1]
            j -= 1
        order[j] = i
    tied = 0
    while tied < feasible and table[order[tied], k.SCORE] == table[order[0], k.SCORE]:
        tied += 1
    for place in range(feasible):
        order[place] = rows[order[place]]
    return tied


@inlined
def share_of(
    kind: int,
    chosen: int,
    rows: Ints,
    codes: Ints,
    table: Floats,
    slots: Ints,
    beliefs: Floats,
    knobs: Floats,
) -> float:
    """Probability, over lots, with which the policy puts position ``chosen`` first, given what it has learned.

    ``codes`` and ``table`` are those of a decision that was just scored, with any lot.
    """
    feasible = 0
    if kind in (s.THOMPSON, s.HYBRID):
        bold = min(math.ceil(knobs[b.BOLDNESS] * s.DRAWS), s.DRAWS)
        wins = 0.0
        for draw in range(min(bold + 1, s.DRAWS)):  # the draws behind the bold ones are all alike
            best_score, tied, is_best = -math.inf, 0, False
            for i in range(rows.shape[0]):
                if codes[i] == 0:
                    value = s.sum_of_parts(i, table) + s.drawn(
                        kind, i, rows[i], slots[rows[i]], draw, table, beliefs, knobs
                    )
                    if value > best_score:
                        best_score, tied, is_best = value, 0, False
                    if value == best_score:  # equal offers take turns
                        tied, is_best = tied + 1, is_best or i == chosen
            if is_best:
                wins += (1.0 if draw < bold else s.DRAWS - bold) / tied
        return wins / s.DRAWS
    best_score, tied = -math.inf, 0
    for i in range(rows.shape[0]):
        if codes[i] == 0:
            feasible += 1
            plain = table[i, k.SCORE] - table[i, k.DRAW]
            if plain > best_score:
                best_score, tied = plain, 0
            tied += plain == best_score
    greedy = 1.0 / tied if table[chosen, k.SCORE] - table[chosen, k.DRAW] == best_score else 0.0
    if kind != s.QLEARNING:
        return greedy
    epsilon = float(knobs[b.EPSILON])
    return (1.0 - epsilon) * greedy + epsilon / feasible


@compiled(
    "UniTuple(int64, 3)(int64, int64[::1], float64[:, ::1], float64[:, ::1], float64[::1], int64[::1],"
    " float64, float64, float64, float64, float64[:, ::1], int64[::1], int64[::1],"
    " int64[::1], int64[::1], float64[:, :, ::1], float64[:, ::1], float64[:, ::1], float64[::1])"
)
def rank(
    kind: int,
    rows: Ints,
    static: Floats,
    live: Floats,
    ask: Floats,
    excluded: Ints,
    weight_price: float,
    weight_latency: float,
    weight_reputation: float,
    weight_availability: float,
    table: Floats,
    codes: Ints,
    order: Ints,
    slots: Ints,
    groups: Ints,
    sums: Floats,
    beliefs: Floats,
    values: Floats,
    knobs: Floats,
) -> tuple[int, int, int]:
    """Filter, score and order the offers ``rows`` for the workload ``ask``, by a policy of any kind.

    Parameters
    ----------
    rows, static, live, ask, excluded, table, codes
        See ``kernels.look``.
    order
        Written: the feasible rows, best first.
    slots, groups, sums, beliefs, values, knobs
        What was learned; see ``score`` and ``belief_kernels``. Rules read none of them.

    Returns
    -------
    feasible, tied, transient
        How many offers are feasible; how many share the best score (the first was drawn among them); how many were
        refused only for a cause that passes by itself.
    """
    feasible, transient = k.look(rows, static, live, ask, excluded, table, codes, order)
    if kind in (s.THOMPSON, s.HYBRID):
        for place in range(feasible):
            row = rows[order[place]]
            b.refresh(slots[row], groups[row], ask[k.WALL], sums, beliefs, knobs)
    weights = (weight_price, weight_latency, weight_reputation, weight_availability)
    best_price, best_latency = s.references(rows.shape[0], table)
    s.score(
        kind, rows, feasible, weights, best_price, best_latency, ask[k.LOT], table, order, slots, beliefs, values, knobs
    )
    tied = arrange(feasible, rows, ask[k.LOT], table, order)
    return feasible, tied, transient


@compiled("float64(int64, int64, int64[::1], int64[::1], float64[:, ::1], int64[::1], float64[:, ::1], float64[::1])")
def share(
    kind: int, chosen: int, rows: Ints, codes: Ints, table: Floats, slots: Ints, beliefs: Floats, knobs: Floats
) -> float:
    """See ``share_of``."""
    return share_of(kind, chosen, rows, codes, table, slots, beliefs, knobs)
