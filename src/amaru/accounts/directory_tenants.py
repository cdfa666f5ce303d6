"""Tenants of the store and of the configuration, and their teams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, and_, insert, select, tuple_, update
from sqlalchemy.engine import Connection, Row

from amaru.accounts.changes import plain, require_text
from amaru.accounts.directory_base import Check, Desk, require_identifier, unchecked
from amaru.accounts.keys import ANONYMOUS, HOUSE
from amaru.accounts.pages import MAX_PAGE, Page, both, bounded, cut
from amaru.accounts.profile import TenantProfile, profile_of
from amaru.accounts.schema import teams, tenants
from amaru.domain import Tenant
from amaru.errors import AccountConflict, UnknownAccount
from amaru.files.problems import shown

Settings = Mapping[str, Any]  # Any: raw JSON


class TenantInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant, as lists show it."""

    id: str
    name: str = ""
    settings: dict[str, Any] = {}  # Any: JSON; the fields of TenantProfile that were given
    created_at: float | None = None
    archived_at: float | None = None
    from_file: bool = False

    def tenant(self) -> Tenant:
        """As the router knows it."""
        return TenantProfile.model_validate(self.settings).tenant(self.id)


class TeamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A team of a tenant, as lists show it."""

    tenant: str
    id: str
    name: str = ""
    created_at: float
    archived_at: float | None = None


class Tenants:
    """Who may ask. One that is archived may not, with all its keys, until it is restored; its history stays."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def page(self, *, archived: bool = False, cursor: str | None = None, limit: int = MAX_PAGE) -> Page[TenantInfo]:
        """Those of the file, then those of the store, by name; with the archived ones if wanted."""
        filed = (TenantInfo(id=id, from_file=True) for id in self._desk.from_file.tenants)

        def stored(after: str, most: int) -> list[TenantInfo]:
            query = select(tenants).where(tenants.c.id > plain(after)).order_by(tenants.c.id).limit(most)
            if not archived:
                query = query.where(tenants.c.archived_at.is_(None))
            with self._desk.store.reading() as connection:
                return [_tenant(row) for row in connection.execute(query)]

        return both(filed, stored, cursor, bounded(limit))

    def stored(self) -> frozenset[str]:
        """Names of those of the store that are not archived."""
        with self._desk.store.reading() as connection:
            return frozenset(connection.execute(select(tenants.c.id).where(tenants.c.archived_at.is_(None))).scalars())

    def get(self, id: str) -> TenantInfo:
        """One of them, archived or not. Raises UnknownAccount."""
        if id in self._desk.from_file.tenants:
            return TenantInfo(id=id, from_file=True)
        with self._desk.store.reading() as connection:
            return _find_tenant(connection, id)

    def create(self, id: str, *, by: str, name: str = "", settings: Settings | None = None) -> TenantInfo:
        """A new tenant; ``settings`` are fields of TenantProfile. Raises AccountError."""
        require_identifier("a tenant's name", id)
        require_text("a tenant's title", name, empty=True)
        if id == ANONYMOUS.id:
            raise AccountConflict(f"{id} is who calls without a key; choose another name.")
        if id == HOUSE.id:
            raise AccountConflict(f"{id} is whom amaru's own probes are charged to; choose another name.")
        made = TenantInfo(id=id, name=name, settings=_checked(settings or {}))
        self._refuse_of_file(id, "choose another name")
        with self._desk.log.changing(by) as change:
            if change.connection.execute(select(tenants.c.id).where(tenants.c.id == id)).first():
                raise AccountConflict(f"there is a tenant {id} already; change that one, or restore it.")
            made = msgspec.structs.replace(made, created_at=change.at)
            change.connection.execute(insert(tenants).values(_tenant_row(made)))
            change.note("tenant.create", f"tenant:{id}", None, made)
        return made

    def change(
        self,
        id: str,
        *,
        by: str,
        name: str | None = None,
        settings: Settings | None = None,
        check: Check[TenantInfo] = unchecked,
    ) -> TenantInfo:
        """Give it another title, or other settings in place of all that it had. Raises AccountError."""
        changes: dict[str, Any] = {} if settings is None else {"settings": _checked(settings)}  # Any: fields
        if name is not None:
            require_text("a tenant's title", name, empty=True)
            changes["name"] = name
        return self._change("tenant.change", id, by, lambda _: changes, check)

    def archive(self, id: str, *, by: str, check: Check[TenantInfo] = unchecked) -> TenantInfo:
        """Let it ask for nothing from now on. Raises AccountError."""
        return self._change("tenant.archive", id, by, lambda at: {"archived_at": at}, check)

    def restore(self, id: str, *, by: str, check: Check[TenantInfo] = unchecked) -> TenantInfo:
        """Let an archived one ask again. Raises AccountError."""
        return self._change("tenant.restore", id, by, lambda _: {"archived_at": None}, check)

    def require(self, connection: Connection, id: str) -> None:
        """Refuse a tenant that may not ask. Raises UnknownAccount, or AccountConflict: it is archived."""
        if id not in self._desk.from_file.tenants and _find_tenant(connection, id).archived_at is not None:
            raise AccountConflict(f"tenant {id} is archived; restore it first.")

    def _change(
        self,
        action: str,
        id: str,
        by: str,
        changes: Callable[[float], dict[str, Any]],
        check: Check[TenantInfo],
    ) -> TenantInfo:
        self._refuse_of_file(id, "change it there")
        with self._desk.log.changing(by) as change:
            before = _find_tenant(change.connection, id)
            check(before)
            after = msgspec.structs.replace(before, **changes(change.at))
            if (before.archived_at is None) == (after.archived_at is None) and action != "tenant.change":
                return before  # archived, or restored, already
            change.connection.execute(update(tenants).where(tenants.c.id == id).values(_tenant_row(after)))
            change.note(action, f"tenant:{id}", before, after)
        return after

    def _refuse_of_file(self, id: str, remedy: str) -> None:
        if id in self._desk.from_file.tenants:
            raise AccountConflict(f"tenant {id} is in {self._desk.from_file.path}; {remedy}.")


class Teams:
    """Parts of a tenant that have keys and budgets of their own."""

    def __init__(self, desk: Desk, tenants_: Tenants) -> None:
        self._desk = desk
        self._tenants = tenants_

    def page(
        self, tenant: str | None = None, *, archived: bool = False, cursor: str | None = None, limit: int = MAX_PAGE
    ) -> Page[TeamInfo]:
        """Those of a tenant, or of all, by name; with the archived ones if wanted."""
        limit = bounded(limit)
        query = select(teams).order_by(teams.c.tenant, teams.c.id).limit(limit + 1)
        if tenant is not None:
            query = query.where(teams.c.tenant == plain(tenant))
        if cursor is not None:
            after, _, id = plain(cursor).partition("/")
            query = query.where(tuple_(teams.c.tenant, teams.c.id) > (after, id))
        if not archived:
            query = query.where(teams.c.archived_at.is_(None))
        with self._desk.store.reading() as connection:
            found = [TeamInfo(**row._mapping) for row in connection.execute(query)]
        return cut(found, limit, lambda one: f"{one.tenant}/{one.id}")

    def get(self, tenant: str, id: str) -> TeamInfo:
        """One of them, archived or not. Raises UnknownAccount."""
        with self._desk.store.reading() as connection:
            return _find_team(connection, tenant, id)

    def create(self, tenant: str, id: str, *, by: str, name: str = "") -> TeamInfo:
        """A new team of a tenant, be it the file's or the store's. Raises AccountError."""
        require_identifier("a team's name", id)
        require_text("a team's title", name, empty=True)
        with self._desk.log.changing(by) as change:
            self._tenants.require(change.connection, tenant)
            if change.connection.execute(select(teams.c.id).where(_is_team(tenant, id))).first():
                raise AccountConflict(f"tenant {tenant} has a team {id} already; restore that one.")
            made = TeamInfo(tenant=tenant, id=id, name=name, created_at=change.at)
            change.connection.execute(insert(teams).values(msgspec.structs.asdict(made)))
            change.note("team.create", f"team:{tenant}/{id}", None, made)
        return made

    def archive(self, tenant: str, id: str, *, by: str, check: Check[TeamInfo] = unchecked) -> TeamInfo:
        """Let its keys open nothing from now on. Raises AccountError."""
        return self._set_archived("team.archive", tenant, id, by, check, archived=True)

    def restore(self, tenant: str, id: str, *, by: str, check: Check[TeamInfo] = unchecked) -> TeamInfo:
        """Let its keys open again what they did. Raises AccountError."""
        return self._set_archived("team.restore", tenant, id, by, check, archived=False)

    def require(self, connection: Connection, tenant: str, id: str) -> None:
        """Refuse a team that may not ask. Raises UnknownAccount, or AccountConflict: it is archived."""
        if _find_team(connection, tenant, id).archived_at is not None:
            raise AccountConflict(f"team {tenant}/{id} is archived; restore it first.")

    def _set_archived(
        self, action: str, tenant: str, id: str, by: str, check: Check[TeamInfo], *, archived: bool
    ) -> TeamInfo:
        with self._desk.log.changing(by) as change:
            before = _find_team(change.connection, tenant, id)
            check(before)
            if (before.archived_at is not None) == archived:
                return before
            after = msgspec.structs.replace(before, archived_at=change.at if archived else None)
            row = {"archived_at": after.archived_at}
            change.connection.execute(update(teams).where(_is_team(tenant, id)).values(row))
            change.note(action, f"team:{tenant}/{id}", before, after)
        return after


def _checked(settings: Settings) -> dict[str, Any]:  # Any: JSON
    """What was given, in plain values. Raises AccountError where it is no profile."""
    return profile_of(settings).model_dump(mode="json", exclude_unset=True)


def _find_tenant(connection: Connection, id: str) -> TenantInfo:
    row = connection.execute(select(tenants).where(tenants.c.id == plain(id))).first()
    if row is None:
        raise UnknownAccount(f"there is no tenant {shown(id)}.")
    return _tenant(row)


def _find_team(connection: Connection, tenant: str, id: str) -> TeamInfo:
    row = connection.execute(select(teams).where(_is_team(tenant, id))).first()
    if row is None:
        raise UnknownAccount(f"tenant {shown(tenant)} has no team {shown(id)}.")
    return TeamInfo(**row._mapping)


def _is_team(tenant: str, id: str) -> ColumnElement[bool]:
    return and_(teams.c.tenant == plain(tenant), teams.c.id == plain(id))


def _tenant(row: Row[Any]) -> TenantInfo:
    values = dict(row._mapping)
    return TenantInfo(**values | {"settings": msgspec.json.decode(values["settings"])})


def _tenant_row(info: TenantInfo) -> dict[str, Any]:
    row = msgspec.structs.asdict(info)
    del row["from_file"]
    return row | {"settings": msgspec.json.encode(info.settings).decode()}
