"""Alerts of budgets over HTTP: what the webhook was told or will be, and whether it took it; one sent anew."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from amaru.accounts.directory_keys import Role
from amaru.accounts.outbox import Message, Outbox, State, find, retry
from amaru.errors import RequestError
from amaru.gateway.access import Admin
from amaru.gateway.admin_bodies import AlertsOut
from amaru.gateway.admin_desk import AdminDesk, before_of, id_of
from amaru.gateway.admin_gate import Entry
from amaru.gateway.answers import json_answer
from amaru.gateway.queries import limit_of, query_of

_ID = re.compile("[0-9]{1,18}")


class AdminAlerts:
    """The endpoints about alerts."""

    def __init__(self, desk: AdminDesk) -> None:
        self._desk = desk
        self._outbox = Outbox(desk.directory.store)

    def table(self) -> list[Entry]:
        """What it answers, and to whom."""
        return [
            Entry("GET", "/admin/alerts", Role.READ, self.alerts),
            Entry("GET", "/admin/alerts/{id}", Role.READ, self.alert),
            Entry("POST", "/admin/alerts/{id}/retry", Role.OPERATE, self.retry),
        ]

    async def alerts(self, request: Request, _: Admin) -> Response:
        """Newest first, a page at a time; of one state, if wanted."""
        query = query_of(request, ("cursor", "limit", "state"))
        limit, before, state = limit_of(query), before_of(query), query.get("state")
        if state is not None and state not in list(State):
            raise RequestError(400, f"state must be one of {', '.join(State)}.", param="state")
        wanted = None if state is None else State(state)
        found = await self._desk.read(lambda: self._outbox.newest(limit + 1, before=before, state=wanted))
        page = found[:limit]
        cursor = str(page[-1].id) if len(found) > limit else None
        return json_answer(AlertsOut([one.info() for one in page], cursor))

    async def alert(self, request: Request, _: Admin) -> Response:
        """One of them."""
        id = _number_of(request)
        return json_answer((await self._desk.read(lambda: find(self._desk.directory.store, id))).info())

    async def retry(self, request: Request, admin: Admin) -> Response:
        """Have one that was not delivered sent anew, as if it had never been tried."""
        id, directory = _number_of(request), self._desk.directory

        def again() -> Message:
            with directory.log.changing(admin.id) as change:
                retry(change, id)
            return find(directory.store, id)

        return json_answer((await self._desk.change(again)).info())


def _number_of(request: Request) -> int:
    if not _ID.fullmatch(id_of(request)):
        raise RequestError(404, "No alert has such an id; GET /admin/alerts lists them.", code="not_found")
    return int(id_of(request))
