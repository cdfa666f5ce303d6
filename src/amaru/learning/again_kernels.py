"""A stored decision scored again, by another policy: with which probability it would have put each offer first.

Nothing is scored here: the compiled code that serves is called on the figures as they were (law 5).
"""

from __future__ import annotations

from amaru.compiling import compiled
from amaru.routing import belief_kernels as b
from amaru.routing import rank_kernels
from amaru.routing import score_kernels as s
from amaru.routing.kernels import Floats, Ints

_ANY_LOT = 0.5


@compiled(
    "void(int64, int64[::1], int64[::1], float64[:, ::1], float64, float64, float64, float64, float64, int64[::1],"
    " int64[::1], float64[:, :, ::1], float64[:, ::1], float64[:, ::1], float64[::1], int64[::1],"
    " float64[::1])"
)
def shares(
    kind: int,
    rows: Ints,
    codes: Ints,
    table: Floats,
    weight_price: float,
    weight_latency: float,
    weight_reputation: float,
    weight_availability: float,
    now: float,
    slots: Ints,
    groups: Ints,
    sums: Floats,
    beliefs: Floats,
    values: Floats,
    knobs: Floats,
    order: Ints,
    out: Floats,
) -> None:
    """Probabilities of the feasible among ``rows``; 0 for the others.

    Parameters
    ----------
    kind, slots, groups, sums, beliefs, values, knobs
        The policy; see ``rank_kernels.rank``.
    rows, codes, table
        [n] rows, [n] 0 where feasible, and the figures as ``kernels.look`` left them; scores are written.
    now
        Unix seconds up to which what was learned fades.
    order, out
        Written: [n] each.
    """
    n = rows.shape[0]
    feasible = 0
    for i in range(n):
        out[i] = 0.0
        if codes[i] == 0:
            order[feasible] = i
            feasible += 1
    if kind in (s.THOMPSON, s.HYBRID):
        for place in range(feasible):
            row = rows[order[place]]
            b.refresh(slots[row], groups[row], now, sums, beliefs, knobs)
    weights = (weight_price, weight_latency, weight_reputation, weight_availability)
    best_price, best_latency = s.references(n, table)
    s.score(
        kind, rows, feasible, weights, best_price, best_latency, _ANY_LOT, table, order, slots, beliefs, values, knobs
    )
    for place in range(feasible):
        out[order[place]] = rank_kernels.share_of(kind, order[place], rows, codes, table, slots, beliefs, knobs)
