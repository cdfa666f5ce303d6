"""The admin API: tenants, keys, budgets, providers, decisions and events, for admin keys, each by its role.

Cold code, on Starlette like ``operator_api``: mounted with it, or on a port of its own.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from amaru.accounts.directory_keys import Role
from amaru.errors import StorageError
from amaru.gateway.access import Access, Admin
from amaru.gateway.admin_accounts import AdminAccounts
from amaru.gateway.admin_alerts import AdminAlerts
from amaru.gateway.admin_allowances import AdminAllowances
from amaru.gateway.admin_desk import AdminDesk
from amaru.gateway.admin_events import AdminEvents
from amaru.gateway.admin_gate import Entry, routes_of
from amaru.gateway.admin_keys import AdminKeys
from amaru.gateway.admin_providers import AdminProviders
from amaru.gateway.answers import json_answer, store_unavailable
from amaru.gateway.queries import DECISION_FILTERS, decisions_page, query_of
from amaru.gateway.spend_api import AdminSpend
from amaru.mesh import Mesh, Views
from amaru.mesh.accounts import MeshAccounts


class AdminApi:
    """The endpoints below ``/admin/``."""

    def __init__(self, mesh: Mesh, views: Views, access: Access, accounts: MeshAccounts) -> None:
        self._views = views
        self._access = access
        self.events = AdminEvents(mesh, accounts, access)
        desk = AdminDesk(accounts, mesh.wall)
        self._parts = (
            AdminAccounts(desk),
            AdminKeys(desk),
            AdminAllowances(desk),
            AdminAlerts(desk),
            AdminSpend(accounts, mesh.wall),
            AdminProviders(mesh, accounts),
            self.events,
        )

    def table(self) -> list[Entry]:
        """Every endpoint, and the role that it needs."""
        found = [entry for part in self._parts for entry in part.table()]
        return [*found, Entry("GET", "/admin/decisions", Role.READ, self.decisions)]

    def routes(self) -> list[Route]:
        """What to mount."""
        return routes_of(self._access, self.table())

    async def decisions(self, request: Request, _: Admin) -> Response:
        """Stored decisions of all tenants, newest first, a page at a time, as filtered."""
        page = decisions_page(query_of(request, DECISION_FILTERS))
        try:
            return json_answer(await self._views.decisions(**page))
        except StorageError as error:
            raise store_unavailable(error) from None
