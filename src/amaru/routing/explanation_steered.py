"""What steering did to a rank, in words."""

from __future__ import annotations

from collections.abc import Iterable

from amaru.routing import kernels as k

_PARTS = range(k.PRICE_PART, k.AVAILABILITY_PART + 1)


def is_steered(rows: Iterable[list[float]]) -> bool:
    """Whether any of the feasible offers is steered."""
    return any(row[k.CARED] != 1.0 or row[k.FIGURE] != 0.0 for row in rows)


def steered_words(row: list[float]) -> str:
    """What is to be added to the reason of a feasible offer; empty where it is not steered."""
    words = "; it is drained, and serves since no other can" if row[k.FIGURE] else ""
    care, risk = row[k.CARED], row[k.RISKED]
    weight = care / (1.0 - risk) if risk < 1.0 else 1.0
    if abs(weight - 1.0) > 1e-6:
        words += f"; weighed down to {weight * 100.0:.0f} % by a healing"
    if risk > 0.0:
        words += f"; a failure within a minute is {risk * 100.0:.0f} % likely"
    return words


def behind_by_care(row: list[float], first: list[float]) -> str | None:
    """Why a rule puts an offer behind the first, where that is most by what it is weighed by; else None.

    Each part is a term times the offer's care, so a difference is told apart exactly: (c₁-c)·(t₁+t)/2 by care, and
    (t₁-t)·(c₁+c)/2 by the term, summed over the terms.
    """
    care_1, care = first[k.CARED], row[k.CARED]
    if care >= care_1:
        return None
    terms_1 = [first[part] / care_1 for part in _PARTS]
    terms = [row[part] / care if care > 0.0 else 0.0 for part in _PARTS]
    by_care = (care_1 - care) * (sum(terms_1) + sum(terms)) / 2.0
    by_term = max((one - other) * (care_1 + care) / 2.0 for one, other in zip(terms_1, terms, strict=True))
    if by_care < by_term:
        return None
    return f"{first[k.SCORE] - row[k.SCORE]:.3g} behind the first, most by what it is weighed by"
