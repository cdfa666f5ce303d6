"""The ranks of learning policies in words: what they expect of each offer, from how much, and what the draw did."""

from __future__ import annotations

from collections.abc import Sequence

from amaru.routing import kernels as k
from amaru.routing.explanation_steered import steered_words
from amaru.routing.explanation_warm import warm_words
from amaru.routing.ranking import Figures

LEAST_EVIDENCE = 0.5
"""Outcomes, after forgetting, below which an expectation is the advertisement's."""
NOTABLE = 0.02
"""Relative difference between a posted figure and what is expected that is told."""


def is_learned(figures: Figures, figures_of: dict[int, list[float]]) -> bool:
    """Whether a policy that learns ranked: it predicted, drew, or knew the offers' states."""
    rows = [figures_of[row] for row in figures.order]
    return any(row[k.PREDICTED_SUCCESS] > 0.0 or row[k.EVIDENCE] > 0.0 or row[k.DRAW] != 0.0 for row in rows)


def learned_reasons(figures: Figures, figures_of: dict[int, list[float]], unit: str, strengths: str) -> list[str]:
    """Why each feasible offer stands where it does, in the ranking's order.

    ``unit`` is that of unit prices; ``strengths`` what the first is best at.
    """
    rows = [figures_of[row] for row in figures.order]
    first = rows[0]
    if first[k.PREDICTED_SUCCESS] <= 0.0:  # the values of states
        reasons = [_first_by_value(figures, first), *(_behind_by_value(figures, row, first) for row in rows[1:])]
    else:
        places = [_place(figures, rows, strengths), *(_behind(figures, row, first, unit) for row in rows[1:])]
        reasons = [f"{place}; {_expectation(row)}" for place, row in zip(places, rows, strict=True)]
    return [reason + steered_words(row) + warm_words(row) for reason, row in zip(reasons, rows, strict=True)]


def _place(figures: Figures, rows: Sequence[list[float]], strengths: str) -> str:
    n, first = len(rows), rows[0]
    if n == 1:
        return "the only feasible offer"
    if figures.explored:
        return f"drawn among {n} by the exploration floor"
    value = first[k.SCORE] - first[k.DRAW]
    if any(row[k.SCORE] - row[k.DRAW] > value for row in rows[1:]):
        return f"first of {n} by the draw, which tries what is uncertain in proportion to its promise"
    return f"first of {n}: {strengths or 'best in sum'}"


def _expectation(row: list[float]) -> str:
    """What is expected of it, and from how much."""
    evidence = row[k.EVIDENCE]
    if evidence < LEAST_EVIDENCE:
        return "nothing is learned of it yet, so it is taken as posted"
    words = f"expected to serve {row[k.PREDICTED_SUCCESS]:.1%} in {row[k.PREDICTED_MS]:.0f} ms"
    if _differs(row[k.PREDICTED_MS], row[k.POSTED_MS]):
        words += f" (posted {row[k.POSTED_MS]:.0f} ms)"
    if _differs(row[k.PREDICTED_PRICE], row[k.UNIT_PRICE]):
        words += f" at {row[k.PREDICTED_PRICE] / row[k.UNIT_PRICE]:.2f} times its price"
    return f"{words}, from {evidence:.1f} outcomes"


def _differs(expected: float, posted: float) -> bool:
    return posted > 0.0 and abs(expected - posted) > NOTABLE * posted


def _behind(figures: Figures, row: list[float], first: list[float], unit: str) -> str:
    """By what it loses most against the first.

    The utility is success times what a served request is worth, so a difference of two such products is told apart
    exactly: (s₁-s)·(u₁+u)/2 by success, and each term's share of (u₁-u)·(s₁+s)/2 by that term.
    """
    behind = first[k.SCORE] - row[k.SCORE]
    if behind <= 0.0:
        if figures.explored:
            return f"{-behind:.3g} ahead of the first by score; the exploration floor drew that one"
        return "level with the first"
    # What an offer is weighed by counts as its success does.
    s_1 = max(first[k.PREDICTED_SUCCESS] * first[k.CARED], 1e-9)
    s = max(row[k.PREDICTED_SUCCESS] * row[k.CARED], 1e-9)
    parts = range(k.PRICE_PART, k.AVAILABILITY_PART + 1)
    worth_1, worth = sum(first[part] for part in parts) / s_1, sum(row[part] for part in parts) / s
    losses = {
        "success": (s_1 - s) * (worth_1 + worth) / 2.0,
        "draw": first[k.DRAW] - row[k.DRAW],
        **{
            name: (first[part] / s_1 - row[part] / s) * (s_1 + s) / 2.0
            for name, part in (("price", k.PRICE_PART), ("latency", k.LATENCY_PART), ("reputation", k.REPUTATION_PART))
        },
    }
    words = f"{behind:.3g} behind the first, most by "
    match max(losses, key=lambda name: losses[name]):
        case "success":
            return f"{words}success: {s:.1%} against {s_1:.1%}"
        case "price":
            return f"{words}price: {row[k.PREDICTED_PRICE]:.4g} against {first[k.PREDICTED_PRICE]:.4g} {unit}"
        case "latency":
            return f"{words}latency: {row[k.PREDICTED_MS]:.0f} against {first[k.PREDICTED_MS]:.0f} ms"
        case "reputation":
            return f"{words}reputation: {row[k.TRUST]:g} against {first[k.TRUST]:g}"
    return f"{words}this decision's draw"


def _first_by_value(figures: Figures, first: list[float]) -> str:
    n = len(figures.order)
    if n == 1:
        return "the only feasible offer"
    if figures.explored:
        return f"drawn among {n} by the exploration floor"
    if first[k.DRAW] > 0.0:
        return f"drawn among {n} by the policy's own exploration; {_value(first)}"
    return f"first of {n}: {_value(first)}"


def _behind_by_value(figures: Figures, row: list[float], first: list[float]) -> str:
    behind = first[k.SCORE] - row[k.SCORE]
    if behind <= 0.0:
        return f"{-behind:.3g} ahead of the first by value; {_value(row)}" if figures.explored else _value(row)
    return f"{first[k.SCORE] - first[k.DRAW] - row[k.SCORE] + row[k.DRAW]:.3g} behind the first by value; {_value(row)}"


def _value(row: list[float]) -> str:
    value, visits = row[k.SCORE] - row[k.DRAW], row[k.EVIDENCE]
    if visits < LEAST_EVIDENCE:
        return f"value {value:.3f}, by the rule, since its state is new"
    return f"value {value:.3f}, from {visits:.0f} visits of its state"
