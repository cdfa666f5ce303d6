"""Tenants, teams and the audit over HTTP.

A change is taken in here before it is answered: a tenant that was archived asks for nothing more. Other gateways over
the same store follow within a second.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from amaru.accounts.directory_keys import Role
from amaru.accounts.directory_tenants import TeamInfo
from amaru.accounts.pages import Page
from amaru.gateway.access import Admin
from amaru.gateway.admin_bodies import AuditOut, TeamIn, TeamsOut, TenantChange, TenantIn, TenantsOut, body_of
from amaru.gateway.admin_desk import AdminDesk, as_it_was, asked_page, before_of, flag, id_of, tagged
from amaru.gateway.admin_gate import Entry
from amaru.gateway.answers import json_answer
from amaru.gateway.queries import limit_of, query_of

_LISTED = ("archived", "cursor", "limit")


class AdminAccounts:
    """The endpoints about tenants, their teams, and who changed what."""

    def __init__(self, desk: AdminDesk) -> None:
        self._desk = desk
        self._tenants = desk.directory.tenants
        self._teams = desk.directory.teams

    def table(self) -> list[Entry]:
        """What it answers, and to whom."""
        read, _, own = Role
        tenants, teams = "/admin/tenants", "/admin/tenants/{id}/teams"
        return [
            Entry("GET", tenants, read, self.tenants),
            Entry("POST", tenants, own, self.create_tenant),
            Entry("GET", f"{tenants}/{{id}}", read, self.tenant),
            Entry("PATCH", f"{tenants}/{{id}}", own, self.change_tenant),
            Entry("DELETE", f"{tenants}/{{id}}", own, self.archive_tenant),
            Entry("POST", f"{tenants}/{{id}}/restore", own, self.restore_tenant),
            Entry("GET", teams, read, self.teams),
            Entry("POST", teams, own, self.create_team),
            Entry("GET", f"{teams}/{{team}}", read, self.team),
            Entry("DELETE", f"{teams}/{{team}}", own, self.archive_team),
            Entry("POST", f"{teams}/{{team}}/restore", own, self.restore_team),
            Entry("GET", "/admin/audit", read, self.audit),
        ]

    # ---- tenants ------------------------------------------------------------------------------------------------

    async def tenants(self, request: Request, _: Admin) -> Response:
        """Those of the file, then those of the store, a page at a time; ``archived=true``: also who may not ask."""
        query = query_of(request, _LISTED)
        (cursor, limit), archived = asked_page(query), flag(query, "archived")
        page = await self._desk.read(lambda: self._tenants.page(archived=archived, cursor=cursor, limit=limit))
        return json_answer(TenantsOut(*page))

    async def tenant(self, request: Request, _: Admin) -> Response:
        """One of them, archived or not."""
        return tagged(await self._desk.read(lambda: self._tenants.get(id_of(request))))

    async def create_tenant(self, request: Request, admin: Admin) -> Response:
        """A new tenant."""
        asked = await body_of(request, TenantIn)
        id, settings = asked.id, asked.settings.model_dump(mode="json", exclude_unset=True)
        made = await self._desk.change(
            lambda: self._tenants.create(id, by=admin.id, name=asked.name, settings=settings)
        )
        return tagged(made, status=201)

    async def change_tenant(self, request: Request, admin: Admin) -> Response:
        """Another title, or other settings in place of all that it had."""
        asked, check = await body_of(request, TenantChange), as_it_was(request)
        settings = None if asked.settings is None else asked.settings.model_dump(mode="json", exclude_unset=True)
        made = await self._desk.change(
            lambda: self._tenants.change(id_of(request), by=admin.id, name=asked.name, settings=settings, check=check)
        )
        return tagged(made)

    async def archive_tenant(self, request: Request, admin: Admin) -> Response:
        """Its keys open nothing from now on; its history stays."""
        check = as_it_was(request)
        return tagged(await self._desk.change(lambda: self._tenants.archive(id_of(request), by=admin.id, check=check)))

    async def restore_tenant(self, request: Request, admin: Admin) -> Response:
        """An archived one may ask again."""
        check = as_it_was(request)
        return tagged(await self._desk.change(lambda: self._tenants.restore(id_of(request), by=admin.id, check=check)))

    # ---- teams --------------------------------------------------------------------------------------------------

    async def teams(self, request: Request, _: Admin) -> Response:
        """Teams of a tenant, a page at a time."""
        query = query_of(request, _LISTED)
        (cursor, limit), archived = asked_page(query), flag(query, "archived")

        def read() -> Page[TeamInfo]:
            self._tenants.get(id_of(request))
            return self._teams.page(id_of(request), archived=archived, cursor=cursor, limit=limit)

        return json_answer(TeamsOut(*await self._desk.read(read)))

    async def team(self, request: Request, _: Admin) -> Response:
        """One of them, archived or not."""
        return tagged(await self._desk.read(lambda: self._teams.get(*_team_of(request))))

    async def create_team(self, request: Request, admin: Admin) -> Response:
        """A new team."""
        asked, tenant = await body_of(request, TeamIn), id_of(request)
        made = await self._desk.change(lambda: self._teams.create(tenant, asked.id, by=admin.id, name=asked.name))
        return tagged(made, status=201)

    async def archive_team(self, request: Request, admin: Admin) -> Response:
        """Its keys open nothing from now on."""
        check = as_it_was(request)
        return tagged(
            await self._desk.change(lambda: self._teams.archive(*_team_of(request), by=admin.id, check=check))
        )

    async def restore_team(self, request: Request, admin: Admin) -> Response:
        """Its keys open again what they did."""
        check = as_it_was(request)
        return tagged(
            await self._desk.change(lambda: self._teams.restore(*_team_of(request), by=admin.id, check=check))
        )

    # ---- the audit ----------------------------------------------------------------------------------------------

    async def audit(self, request: Request, _: Admin) -> Response:
        """Who changed what, newest first, a page at a time."""
        query = query_of(request, ("cursor", "limit", "subject"))
        limit, before = limit_of(query), before_of(query)
        log = self._desk.directory.log
        found = await self._desk.read(lambda: log.page(limit + 1, before=before, subject=query.get("subject")))
        page = found[:limit]
        return json_answer(AuditOut(page, str(page[-1].id) if len(found) > limit else None))


def _team_of(request: Request) -> tuple[str, str]:
    return request.path_params["id"], request.path_params["team"]
