"""The reading side: bounded queries on connections of their own. Blocking; the store runs them in threads."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, func, select

from amaru.errors import StorageError
from amaru.storage.database import Database
from amaru.storage.records import DecisionRecord, Page, PolicyState
from amaru.storage.schema import boards, decisions, digest_of, feedback, policy_states, record_of

MAX_PAGE = 1_000
ROWS_SCANNED_PER_PAGE = 20_000
"""A page looks at no more rows than this, so that a filter that matches nothing cannot read the whole file."""


def read_decision(database: Database, decision_id: str) -> tuple[DecisionRecord, msgspec.Raw | None] | None:
    """The record and its feedback; ``None`` where there is none. Raises StorageError."""
    query = (
        select(decisions, feedback.c.outcome)
        .select_from(decisions.outerjoin(feedback, feedback.c.decision == decisions.c.id))
        .where(decisions.c.id == decision_id)
    )
    with database.reading() as connection:
        row = connection.execute(query).first()
    if row is None:
        return None
    *columns, outcome = row
    return _record(database, columns), None if outcome is None else msgspec.Raw(str(outcome).encode())


def read_page(
    database: Database,
    *,
    limit: int,
    cursor: str | None,
    tenant: str | None,
    team: str | None = None,
    key: str | None = None,
    resource: str | None,
    offer: str | None,
    provider: str | None = None,
    ok: bool | None,
    since: float | None,
    until: float | None = None,
    min_cost_usd: float | None = None,
) -> Page:
    """One page, newest first, of the decisions that pass every filter given. Raises StorageError.

    ``provider`` is one that was asked, whether it answered or not; ``until`` bounds the search itself, since ids sort
    by time.
    """
    limit = max(1, min(limit, MAX_PAGE))
    window = select(decisions).order_by(decisions.c.id.desc()).limit(ROWS_SCANNED_PER_PAGE)
    if cursor is not None:
        window = window.where(decisions.c.id < cursor)
    if until is not None:
        window = window.where(decisions.c.id < f"{int(until * 1e3):012x}")
    seen = window.subquery()
    passes: list[ColumnElement[bool]] = [
        seen.c[name] == wanted
        for name, wanted in (
            ("tenant", tenant),
            ("team", team),
            ("key", key),
            ("resource", resource),
            ("offer", offer),
        )
        if wanted is not None
    ]
    if ok is not None:
        passes.append(seen.c.ok == int(ok))
    if since is not None:
        passes.append(seen.c.at >= since)
    if min_cost_usd is not None:
        passes.append(seen.c.cost_usd >= min_cost_usd)
    if provider is not None:
        named = msgspec.json.encode(provider).decode()
        passes.append(func.instr(seen.c.attempts, f'"provider":{named}') > 0)
    page = select(seen).where(*passes).order_by(seen.c.id.desc()).limit(limit + 1)
    edge = select(seen.c.id, seen.c.at).order_by(seen.c.id.desc()).offset(ROWS_SCANNED_PER_PAGE - 1).limit(1)
    with database.reading() as connection:
        rows = connection.execute(page).all()
        last_seen = connection.execute(edge).first() if len(rows) <= limit else None
    items = tuple(_record(database, row) for row in rows[:limit])
    if len(rows) > limit:
        return Page(items, items[-1].id)
    ended = last_seen is None or (since is not None and last_seen.at < since)
    return Page(items, None if ended or last_seen is None else last_seen.id)


def read_board(database: Database, version: str) -> str | None:
    """The offers' JSON of a board. Raises StorageError."""
    with database.reading() as connection:
        return connection.execute(select(boards.c.offers).where(boards.c.version == version)).scalar()


def read_policy(database: Database, name: str) -> PolicyState | None:
    """The kept state of a policy; ``None`` where there is none. Raises StorageError, also where it is damaged."""
    columns = policy_states.c
    query = select(columns.at, columns.state, columns.digest, columns.settings, columns.artifact, columns.outcomes)
    with database.reading() as connection:
        row = connection.execute(query.where(columns.name == name)).first()
    if row is None:
        return None
    at, state, digest, settings, artifact, outcomes = row
    if not isinstance(state, bytes) or digest_of(state) != digest:
        raise StorageError(f"{database.path}: the kept state of policy {name!r} is damaged (its digest differs).")
    try:
        return PolicyState(
            policy=name,
            at=float(at),
            state=state,
            settings=msgspec.json.decode(str(settings), type=dict[str, int | float]),
            artifact=str(artifact),
            outcomes=int(outcomes),
        )
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise StorageError(f"{database.path}: the kept state of policy {name!r} cannot be read: {error}") from error


def count_decisions(database: Database, at_most: int) -> int:
    """How many decisions are stored, counted up to ``at_most``. Raises StorageError."""
    some = select(decisions.c.id).limit(at_most).subquery()
    with database.reading() as connection:
        return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def _record(database: Database, row: Sequence[object]) -> DecisionRecord:
    try:
        return record_of(row)
    except msgspec.MsgspecError as error:
        raise StorageError(f"{database.path}: decision {row[0]!r} cannot be read back: {error}") from error
