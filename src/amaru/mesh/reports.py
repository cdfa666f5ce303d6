"""What callers report of decisions: which offer they mean, and what they are told where that cannot be."""

from __future__ import annotations

from collections.abc import Sequence

from amaru.domain import Offer
from amaru.errors import RequestError
from amaru.routing.ranking import Figures


def no_such_decision() -> RequestError:
    """404, for whoever asks after one that is not theirs too."""
    return RequestError(
        404, "No such decision: the id is unknown, or the decision is no longer kept.", code="not_found"
    )


def offer_meant(named: str | None, offers: Sequence[Offer], figures: Figures) -> str:
    """The offer that a report is about: the one it names, which must have been asked about, or the best-ranked one."""
    asked_about = [offers[row].id for row in figures.rows.tolist()]
    if named is None:
        if not figures.order:
            raise RequestError(
                400, "No offer was feasible in this decision: name the one that was used.", param="offer"
            )
        return offers[figures.order[0]].id
    if named not in asked_about:
        raise RequestError(
            400, f"Offer {named[:200]!r} was not part of this decision; it was about {asked_about}.", param="offer"
        )
    return named
