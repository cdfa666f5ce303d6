"""Budgets and limits of the store and of the configuration: set, listed, archived."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection, Row

from amaru.accounts.allowances import Allowance, Metric, Scope, mistakes
from amaru.accounts.changes import Change, plain, require_text
from amaru.accounts.directory_base import Check, Desk, unchecked
from amaru.accounts.directory_keys import Keys
from amaru.accounts.directory_tenants import Teams, Tenants
from amaru.accounts.keys import HOUSE
from amaru.accounts.pages import MAX_PAGE, Page, both, bounded
from amaru.accounts.periods import Period
from amaru.accounts.schema import allowances
from amaru.errors import AccountConflict, AccountError, UnknownAccount
from amaru.files.problems import shown, suggest

_COLUMNS = tuple(allowances.c[name] for name in ("scope", "subject", "metric", "period", "amount", "hard", "alerts"))


class Allowances:
    """How much of what each subject may use. One that is set again goes on with what was used of it."""

    def __init__(self, desk: Desk, teams: Teams, tenants: Tenants, keys: Keys) -> None:
        self._desk = desk
        self._teams = teams
        self._tenants = tenants
        self._keys = keys

    def page(
        self,
        *,
        scope: Scope | None = None,
        subject: str | None = None,
        cursor: str | None = None,
        limit: int = MAX_PAGE,
    ) -> Page[Allowance]:
        """Those of the file, then those of the store, by id; of a scope and a subject, if given."""
        wanted = {name: value for name, value in (("scope", scope), ("subject", subject)) if value is not None}
        filed = self._desk.from_file.allowances

        def stored(after: str, most: int) -> list[Allowance]:
            query = select(*_COLUMNS).where(allowances.c.archived_at.is_(None), allowances.c.id > plain(after))
            for name, value in wanted.items():
                query = query.where(allowances.c[name] == plain(value))
            with self._desk.store.reading() as connection:
                rows = connection.execute(query.order_by(allowances.c.id).limit(most))
                return [_allowance(row) for row in rows]

        these = (one for one in filed if all(getattr(one, name) == value for name, value in wanted.items()))
        return both(these, stored, cursor, bounded(limit))

    def stored(self) -> list[Allowance]:
        """Those of the store alone."""
        query = select(*_COLUMNS).where(allowances.c.archived_at.is_(None)).order_by(allowances.c.id)
        with self._desk.store.reading() as connection:
            return [_allowance(row) for row in connection.execute(query)]

    def get(self, id: str) -> Allowance:
        """One of them. Raises UnknownAccount."""
        found = next((one for one in self._desk.from_file.allowances if one.id == id), None)
        if found is not None:
            return found
        with self._desk.store.reading() as connection:
            return _require(_find(connection, id), id)

    def set(self, wanted: Allowance, *, by: str, check: Check[Allowance | None] = unchecked) -> Allowance:
        """Set one, in place of what there was of its id. ``subject`` of a key is any key's id of its lineage.

        ``check`` gets ``None`` where there was none. Raises AccountError: it cannot be; UnknownAccount: its subject is
        not there.
        """
        require_text(f"a {wanted.scope}'s name", wanted.subject)
        if wanted.scope is Scope.KEY:
            wanted = msgspec.structs.replace(wanted, subject=self._keys.get(wanted.subject).lineage)
        if problems := mistakes(wanted):
            raise AccountError(f"{wanted.id}: {'; '.join(problems)}.")
        self._refuse_of_file(wanted.id)
        with self._desk.log.changing(by) as change:
            self._require_subject(change.connection, wanted)
            before = _find(change.connection, wanted.id)
            check(before)
            self._write(change, wanted)
            change.note("allowance.set", f"allowance:{wanted.id}", before, wanted)
        return wanted

    def archive(self, id: str, *, by: str, check: Check[Allowance] = unchecked) -> Allowance:
        """Have one bind nobody from now on; what was used of it stays known. Raises AccountError."""
        self._refuse_of_file(id)
        with self._desk.log.changing(by) as change:
            before = _require(_find(change.connection, id), id)
            check(before)
            row = {"archived_at": change.at}
            change.connection.execute(update(allowances).where(allowances.c.id == id).values(row))
            change.note("allowance.archive", f"allowance:{id}", before, None)
        return before

    def _write(self, change: Change, wanted: Allowance) -> None:
        row = {name: str(getattr(wanted, name)) for name in ("id", "scope", "subject", "metric", "period")}
        values: dict[str, Any] = {"amount": wanted.amount, "hard": wanted.hard, "archived_at": None}  # Any: a row's
        values["alerts"] = msgspec.json.encode(wanted.alerts).decode()
        done = change.connection.execute(update(allowances).where(allowances.c.id == wanted.id).values(values))
        if not done.rowcount:
            change.connection.execute(insert(allowances).values(**row, **values, created_at=change.at))

    def _require_subject(self, connection: Connection, wanted: Allowance) -> None:
        if wanted.scope is Scope.TENANT:
            if wanted.subject != HOUSE.id:
                self._tenants.require(connection, wanted.subject)
        elif wanted.scope is Scope.TEAM:
            tenant, slash, team = wanted.subject.partition("/")
            if not slash:
                raise AccountError(f"name a team as TENANT/TEAM, not {shown(wanted.subject)}.")
            self._teams.require(connection, tenant, team)
        elif wanted.scope in (Scope.MODEL, Scope.PROVIDER):
            file = self._desk.from_file
            known = file.resources if wanted.scope is Scope.MODEL else file.providers
            if wanted.subject not in known:
                hint = suggest(wanted.subject, known, f"add it to {file.path} first")
                raise UnknownAccount(f"there is no {wanted.scope} {shown(wanted.subject)}: {hint}.")

    def _refuse_of_file(self, id: str) -> None:
        if any(one.id == id for one in self._desk.from_file.allowances):
            raise AccountConflict(f"{id} is in {self._desk.from_file.path}; change it there.")


def _find(connection: Connection, id: str) -> Allowance | None:
    row = connection.execute(
        select(*_COLUMNS).where(allowances.c.id == plain(id), allowances.c.archived_at.is_(None))
    ).first()
    return None if row is None else _allowance(row)


def _require(found: Allowance | None, id: str) -> Allowance:
    if found is None:
        raise UnknownAccount(f"there is no allowance {shown(id)}. Give its id, as `amaru budgets list` shows it.")
    return found


def _allowance(row: Row[Any]) -> Allowance:
    return Allowance(
        scope=Scope(row.scope),
        subject=row.subject,
        metric=Metric(row.metric),
        period=Period(row.period),
        amount=row.amount,
        hard=row.hard,
        alerts=msgspec.json.decode(row.alerts, type=tuple[float, ...]),
    )
