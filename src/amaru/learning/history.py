"""A policy that begins with what the gateway has seen: stored attempts, learned from in the order of their ends."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from amaru.domain import Experience, Offer, Workload
from amaru.learning.dataset import read_manifest, read_rows
from amaru.learning.dataset_schema import LoggedDecision
from amaru.routing.ranking import seen_of


class Learns(Protocol):
    """A policy, as far as history goes."""

    @property
    def name(self) -> str:
        """As ``routing.policy`` names it."""
        ...

    @property
    def learns(self) -> bool:
        """Whether it learns at all."""
        ...

    def learn(self, workload: Workload, offer: Offer, experience: Experience) -> None:
        """Take in what one attempt showed."""
        ...


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy learned from.

    Attributes
    ----------
    decisions
        Rows of the data set.
    learned, failed
        Attempts that it learned from, and those of them that failed.
    without_blame
        Attempts that say nothing of their offer: the request was at fault, or out of time.
    unknown_offers
        Attempts at offers that are not among those asked for.
    by_offer
        Attempts learned from, by the offer.
    sha256
        Of the data set's rows.
    """

    policy: str
    dataset: str
    sha256: str
    decisions: int
    learned: int
    failed: int
    without_blame: int
    unknown_offers: int
    by_offer: dict[str, int]
    first_at: float | None
    last_at: float | None


def warm_start(
    policy: Learns,
    dataset: Path,
    offers: Sequence[Offer] | None = None,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Have ``policy`` learn from every attempt of a data set, as it would have live.

    Parameters
    ----------
    policy
        On top of what it knows already. A rule learns nothing.
    offers
        Learn only of these, by id, and as they are now; left out: of all, as they were then.
    progress
        Told how many decisions were read, now and then.

    Raises
    ------
    DatasetError
        The data set cannot be read, or is not what its manifest says; what was learned up to a damaged row stays.

    Memory holds a page of rows and the attempts that were under way at once.
    """
    manifest = read_manifest(dataset)
    now = None if offers is None else {offer.id: offer for offer in offers}
    decisions = attempts = learned = failed = unknown = 0
    by_offer: dict[str, int] = {}
    for item in in_order(read_rows(dataset), manifest.boards):
        if isinstance(item, LoggedDecision):
            decisions += 1
            attempts += len(item.further) + 1
            if decisions % 10_000 == 0:
                progress(decisions)
            continue
        workload, offer, experience = item
        if now is not None:
            if offer.id not in now:
                unknown += 1
                continue
            offer = now[offer.id]
        policy.learn(workload, offer, experience)
        learned += 1
        failed += not experience.ok
        by_offer[offer.id] = by_offer.get(offer.id, 0) + 1
    return Report(
        policy=policy.name,
        dataset=str(dataset),
        sha256=manifest.sha256,
        decisions=decisions,
        learned=learned,
        failed=failed,
        without_blame=attempts - learned - unknown,
        unknown_offers=unknown,
        by_offer=dict(sorted(by_offer.items())),
        first_at=manifest.first_at,
        last_at=manifest.last_at,
    )


def experiences(row: LoggedDecision, offers: tuple[Offer, ...]) -> Iterator[tuple[Workload, Offer, Experience]]:
    """What each attempt of a decision showed, as policies learn it live; attempts without blame are left out."""
    row_of = {offer.id: place for place, offer in enumerate(offers)}
    workload, figures = row.workload(), row.figures(row_of)
    for tried in row.attempts():
        place = row_of.get(tried.offer)
        if tried.blame and place is not None:
            seen = seen_of(figures, place) if tried.offer in row.offers else None
            yield workload, offers[place], tried.experience(seen)


def in_order(
    rows: Iterable[LoggedDecision], boards: Mapping[str, tuple[Offer, ...]]
) -> Iterator[LoggedDecision | tuple[Workload, Offer, Experience]]:
    """Decisions, and between them what their attempts showed, when it was known: at their end.

    Holds only what is under way: memory is bounded by the requests in flight at once.
    """
    under_way: list[tuple[float, int, tuple[Workload, Offer, Experience]]] = []
    numbers = itertools.count()  # no two alike: workloads have no order
    for row in rows:
        while under_way and under_way[0][0] <= row.at:
            yield heapq.heappop(under_way)[2]
        yield row
        for shown in experiences(row, boards[row.board]):
            heapq.heappush(under_way, (shown[2].at, next(numbers), shown))
    while under_way:
        yield heapq.heappop(under_way)[2]
