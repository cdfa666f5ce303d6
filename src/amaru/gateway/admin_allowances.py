"""Budgets and limits over HTTP, with what is used of them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from amaru.accounts.allowances import Allowance, Scope
from amaru.accounts.directory_keys import Role
from amaru.accounts.usage import Usage, usage
from amaru.errors import RequestError, StorageError
from amaru.gateway.access import Admin
from amaru.gateway.admin_bodies import AllowanceIn, AllowancesOut, allowance_out, body_of
from amaru.gateway.admin_desk import AdminDesk, as_it_was, asked_page, id_of, tagged
from amaru.gateway.admin_gate import Entry
from amaru.gateway.answers import json_answer
from amaru.gateway.queries import query_of


class AdminAllowances:
    """The endpoints about budgets and limits."""

    def __init__(self, desk: AdminDesk) -> None:
        self._desk = desk
        self._allowances = desk.directory.allowances

    def table(self) -> list[Entry]:
        """What it answers, and to whom."""
        budgets = "/admin/allowances"
        return [
            Entry("GET", budgets, Role.READ, self.allowances),
            Entry("POST", budgets, Role.OWN, self.set),
            Entry("GET", f"{budgets}/{{id:path}}", Role.READ, self.allowance),
            Entry("DELETE", f"{budgets}/{{id:path}}", Role.OWN, self.archive),
        ]

    async def allowances(self, request: Request, _: Admin) -> Response:
        """Those of the file, then those of the store, by id and with what is left of them, a page at a time."""
        query = query_of(request, ("cursor", "limit", "scope", "subject"))
        (cursor, limit), scope = asked_page(query), query.get("scope")
        if scope is not None and scope not in list(Scope):
            raise RequestError(400, f"scope must be one of {', '.join(Scope)}.", param="scope")

        def read() -> AllowancesOut:
            page = self._allowances.page(
                scope=None if scope is None else Scope(scope), subject=query.get("subject"), cursor=cursor, limit=limit
            )
            return AllowancesOut([allowance_out(one) for one in self._used(*page.items)], page.next_cursor)

        return json_answer(await self._desk.read(read))

    async def allowance(self, request: Request, _: Admin) -> Response:
        """One of them."""
        return await self._shown(await self._desk.read(lambda: self._allowances.get(id_of(request))))

    async def set(self, request: Request, admin: Admin) -> Response:
        """Set one, in place of what there was; what was used of it stays used."""
        wanted, check = (await body_of(request, AllowanceIn)).allowance(), as_it_was(request)
        return await self._done(await self._desk.change(lambda: self._allowances.set(wanted, by=admin.id, check=check)))

    async def archive(self, request: Request, admin: Admin) -> Response:
        """It binds nobody from now on."""
        check = as_it_was(request)
        return await self._done(
            await self._desk.change(lambda: self._allowances.archive(id_of(request), by=admin.id, check=check))
        )

    async def _done(self, allowance: Allowance) -> Response:
        try:
            return await self._shown(allowance)
        except StorageError:
            said = f"{allowance.id} is changed, but what is used of it cannot be read now; read it again shortly."
            raise RequestError(503, said, type="api_error", code="store_unavailable", retry_after_s=1.0) from None

    async def _shown(self, allowance: Allowance) -> Response:
        (used,) = await self._desk.read(lambda: self._used(allowance))
        return tagged(allowance, allowance_out(used))

    def _used(self, *allowances: Allowance) -> list[Usage]:
        desk = self._desk
        return usage(desk.directory.store, allowances, desk.clock(), desk.accounts.leases)
