"""The gateway's stored decisions, as rows that can be learned from.

The store is only read, in short transactions of one page each, so the gateway may be running and its log does not grow
for our sake. Decisions that come while we read are left for the next time. What cannot be used is counted and named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from amaru.accounts.cost import cost_usd
from amaru.domain import Attempt, Capability, Experience, Kind, Offer, Outcome
from amaru.errors import StorageError
from amaru.learning.dataset_schema import CorruptRow, DatasetError, Filters, LoggedDecision, Tried
from amaru.routing import kernels as k
from amaru.routing.experience import experience_of, experience_of_report
from amaru.routing.explanation import CONSTRAINTS
from amaru.routing.ranking import Figures, unpack
from amaru.routing.score_kernels import references, utility
from amaru.storage.database import Database
from amaru.storage.records import DecisionRecord
from amaru.storage.schema import SCHEMA_VERSION, decisions, decode_offers, record_of

PAGE_ROWS = 1_000
CORRUPT_NAMED = 20

_COLUMNS = ", ".join(f"d.{column.name}" for column in decisions.columns)
_PAGE = (
    f"SELECT {_COLUMNS}, f.outcome FROM decisions d LEFT JOIN feedback f ON f.decision = d.id "  # noqa: S608 - columns
    "WHERE d.id > ? AND d.id <= ? ORDER BY d.id LIMIT ?"
)
_IDS = "SELECT id FROM decisions WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"


class StoredRows:
    """The decisions of a store that can be learned from, oldest first, as an iterator; and what was left out.

    Parameters
    ----------
    store
        The gateway's SQLite file.

    Attributes
    ----------
    seen, without_outcome, corrupt, corrupt_rows
        Decisions that passed the filters; those of them without an outcome; those that could not be used, and the
        first of these by name.
    boards
        Version → offers, of the rows given so far.
    schema
        Of the store.

    Raises
    ------
    DatasetError
        There is no such file, or it is not amaru's, or is of a newer amaru.
    StorageError
        While iterating: the file cannot be read.
    """

    def __init__(self, store: Path, filters: Filters | None = None, *, page_rows: int = PAGE_ROWS) -> None:
        if not store.is_file():
            raise DatasetError(f"{store}: there is no such file. Name the gateway's database (storage.path).")
        self.store = store
        self.filters = filters or Filters()
        self.seen = self.without_outcome = self.corrupt = 0
        self.corrupt_rows: list[CorruptRow] = []
        self.boards: dict[str, tuple[Offer, ...]] = {}
        self._page_rows = page_rows
        self._known_boards: dict[str, tuple[Offer, ...] | None] = {}
        self._database = Database(store, busy_timeout_s=5.0, clock=lambda: 0.0)
        self.schema = self._check()

    def __iter__(self) -> Iterator[LoggedDecision]:
        """Each decision with the outcome of its first attempt."""
        last: Any = ""  # Any: a key as SQLite gives it
        with self._database.reading() as connection:
            end = connection.exec_driver_sql("SELECT max(id) FROM decisions").scalar()
        while end is not None:
            page = self._page(last, end)
            for row in page:
                made = self._made_of(row)
                if made is not None:
                    yield made
            if not page:
                return
            last = page[-1][0]

    def _check(self) -> int:
        with self._database.reading() as connection:
            tables = set(connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars())
            if not {"amaru_meta", "decisions", "feedback", "boards"} <= tables:
                raise DatasetError(f"{self.store}: not a database of the gateway. Name the one in storage.path.")
            found = connection.exec_driver_sql("SELECT value FROM amaru_meta WHERE key = 'schema_version'").scalar()
        if found is None or int(found) > SCHEMA_VERSION:
            raise DatasetError(f"{self.store}: written by a newer amaru (schema {found}). Upgrade amaru.")
        return int(found)

    def _page(self, last: Any, end: Any) -> list[tuple[Any, ...]]:  # Any: values as SQLite gives them
        try:
            with self._database.reading() as connection:
                return [tuple(row) for row in connection.exec_driver_sql(_PAGE, (last, end, self._page_rows))]
        except StorageError:
            # Some value of the page cannot even be read: find out which, and read the others.
            with self._database.reading() as connection:
                ids = list(connection.exec_driver_sql(_IDS, (last, end, self._page_rows)).scalars())
            return [self._alone(before, key) for before, key in pairwise([last, *ids])]

    def _alone(self, before: Any, key: Any) -> tuple[Any, ...]:  # Any: as in _page
        try:
            with self._database.reading() as connection:
                rows = list(connection.exec_driver_sql(_PAGE, (before, key, 1)))
                return tuple(rows[0]) if rows else (key, "it was removed meanwhile")
        except StorageError as error:
            return (key, str(error))

    def _made_of(self, row: tuple[Any, ...]) -> LoggedDecision | None:  # Any: as in _page
        if len(row) == 2:
            self._count_corrupt(row[0], row[1])
            return None
        *columns, reported = row
        try:
            record = record_of(columns)
            if not self.filters.passes(record.at, record.tenant, record.resource):
                return None
            self.seen += 1
            offers = self._board(record.board_version)
            made = logged_decision(record, reported, offers)
        except (msgspec.MsgspecError, StorageError, ValueError) as error:
            self._count_corrupt(row[0], str(error))
            return None
        if made is None:
            self.without_outcome += 1
        else:
            self.boards[record.board_version] = offers
        return made

    def _board(self, version: str) -> tuple[Offer, ...]:
        if version not in self._known_boards:
            with self._database.reading() as connection:
                text = connection.exec_driver_sql("SELECT offers FROM boards WHERE version = ?", (version,)).scalar()
            self._known_boards[version] = None if text is None else decode_offers(str(text))
        offers = self._known_boards[version]
        if offers is None:
            raise ValueError(f"the offers of its time (board {version}) are no longer kept")
        return offers

    def _count_corrupt(self, key: object, why: str) -> None:
        self.corrupt += 1
        if len(self.corrupt_rows) < CORRUPT_NAMED:
            self.corrupt_rows.append(CorruptRow(str(key)[:64], why[:300]))


def logged_decision(
    record: DecisionRecord, reported: str | bytes | None, offers: tuple[Offer, ...]
) -> LoggedDecision | None:
    """The row of a stored decision; ``None`` where nothing is known of its first attempt.

    Parameters
    ----------
    reported
        The JSON of the outcome that a caller reported, where one did.
    offers
        Of the board that it was made on.

    Raises
    ------
    ValueError
        Its ranking is damaged, or is not of this board. Also msgspec.MsgspecError, where ``reported`` is no outcome.
    """
    figures = unpack(record.ranking)
    rows, order = figures.rows.tolist(), figures.order
    if figures.version != record.board_version:
        raise ValueError(f"its ranking is of board {figures.version}, not {record.board_version}")
    if not all(0 <= row < len(offers) for row in rows) or not set(order) <= set(rows) or len(set(order)) != len(order):
        raise ValueError("its ranking names offers that its board does not have")
    table = figures.table
    if not table[:, [k.POSTED_MS, k.SUCCESS_SEEN]].any():  # stored before these were kept
        table[:, k.POSTED_MS] = [offers[row].latency_ms for row in rows]
        table[:, k.SUCCESS_SEEN] = 1.0
    # Infinite figures are a refused offer's: a window without bound, or a probe under way.
    if not all(map(math.isfinite, table[:, [*range(k.SCORE, k.FIGURE), k.POSTED_MS, k.LOAD]].ravel().tolist())):
        raise ValueError("its ranking holds figures that are no numbers")
    if not (math.isfinite(record.at) and 0.0 <= record.propensity <= 1.0):
        raise ValueError(f"its time {record.at} or its propensity {record.propensity} is no such")
    tried = _reported(figures, reported, offers) if record.ok is None else _seen(record, figures)
    if not tried or tried[0] is None:
        return None
    first, further = tried[0], [attempt for attempt in tried[1:] if attempt is not None]
    workload, place = figures.workload, {row: place for place, row in enumerate(order)}
    column = table.T.tolist()
    return LoggedDecision(
        id=record.id,
        at=record.at,
        tenant=workload.tenant,
        kind=workload.kind,
        resource=workload.resource,
        region=workload.region,
        stream=Capability.STREAM in workload.needs,
        needs=int(workload.needs),
        input_tokens=workload.input_tokens,
        output_tokens=workload.output_tokens,
        gpu_hours=workload.gpu_hours,
        weights=workload.weights,
        limits=workload.limits,
        policy=record.policy,
        board=record.board_version,
        propensity=record.propensity,
        propensity_exact=record.propensity > 0.0 and bool(order) and offers[order[0]].id == first.offer,
        explored=record.explored,
        tied=figures.tied,
        offers=[offers[row].id for row in rows],
        rank=[place.get(row) for row in rows],
        refused_by=[CONSTRAINTS.get(k.Code(code)) for code in figures.codes.tolist()],
        score=column[k.SCORE],
        unit_price_usd=column[k.UNIT_PRICE],
        expected_cost_usd=column[k.COST],
        expected_ms=column[k.LATENCY],
        posted_ms=column[k.POSTED_MS],
        reputation=column[k.TRUST],
        availability=column[k.AVAILABILITY],
        load=column[k.LOAD],
        success_seen=column[k.SUCCESS_SEEN],
        reported=record.ok is None,
        first=first,
        further=further,
        utility=_worth(figures, offers, first),
        ok=first.ok if record.ok is None else record.ok,
        latency_ms=first.total_ms if record.latency_ms is None else record.latency_ms,
        cost_usd=first.cost_usd if record.ok is None else record.cost_usd,
    )


def _worth(figures: Figures, offers: tuple[Offer, ...], first: Tried) -> float | None:
    """Of the first attempt to its tenant: the utility by which the war-game scores too."""
    if not first.ok:
        return 0.0 if first.blame else None
    place = next((i for i, row in enumerate(figures.rows.tolist()) if offers[row].id == first.offer), None)
    if place is None or first.latency_ms is None:
        return None
    weights = figures.workload.weights
    best_price, best_ms = references(len(figures.rows), figures.table)
    charged = 1.0  # against what is posted
    if first.expected_cost_usd is not None and first.expected_cost_usd > 0.0:
        charged = first.cost_usd / first.expected_cost_usd
    worth = utility(
        (weights.price, weights.latency, weights.reputation, weights.availability),
        best_price,
        best_ms,
        float(figures.table[place, k.UNIT_PRICE]) * charged,
        first.latency_ms,
        float(figures.table[place, k.TRUST]),
    )
    return float(worth)


def _seen(record: DecisionRecord, figures: Figures) -> list[Tried | None]:
    """The attempts that amaru made; ``None`` for those that show nothing."""
    return [_tried(attempt, experience_of(figures.workload, attempt, record.at)) for attempt in record.attempts]


def _tried(attempt: Attempt, shown: Experience | None) -> Tried | None:
    if shown is None:
        return None
    return Tried(
        offer=attempt.offer,
        ended_at=shown.at,
        ok=shown.ok,
        failure=shown.failure,
        blame=shown.blame,
        latency_ms=shown.latency_ms,
        cost_usd=shown.cost_usd,
        expected_cost_usd=shown.expected_cost_usd,
        load=shown.load,
        total_ms=attempt.latency_ms,
        first_token_ms=attempt.first_token_ms,
        input_tokens=None if attempt.usage is None else attempt.usage.input_tokens,
        output_tokens=None if attempt.usage is None else attempt.usage.output_tokens,
    )


def _reported(figures: Figures, reported: str | bytes | None, offers: tuple[Offer, ...]) -> list[Tried | None]:
    """What a caller reported of the one offer that it used."""
    if reported is None:
        return []
    outcome = msgspec.json.decode(reported, type=Outcome)
    offer = next((offer for offer in offers if offer.id == outcome.offer), None)
    if offer is None:
        raise ValueError("the outcome reported for it names no offer of its board")
    workload, usage = figures.workload, outcome.usage
    expected_usd: float | None = None
    if workload.kind is Kind.GPU_JOB:
        expected_usd = workload.gpu_hours * offer.price.usd_per_gpu_hour
    elif usage is not None:
        expected_usd = cost_usd(offer.price, usage)
    shown = experience_of_report(workload, offer, outcome, expected_usd)
    attempt = Attempt(
        offer=offer.id,
        provider=offer.provider,
        started_ms=0.0,
        latency_ms=outcome.latency_ms,
        first_token_ms=outcome.first_token_ms,
        usage=usage,
    )
    return [_tried(attempt, shown)]
