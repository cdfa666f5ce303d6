"""Providers over HTTP: drained, enabled and weighed by hand, until somebody orders otherwise.

An order is kept in the accounts' store, so that it outlives reloads and restarts and binds every gateway over that
store. Each carries it out as a pinned healing, by the one path that there is for steering offers.
"""

from __future__ import annotations

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from amaru.accounts.changes import Changes
from amaru.accounts.directory_keys import Role
from amaru.accounts.provider_orders import ProviderOrder, ProviderOrders
from amaru.errors import RequestError, StorageError
from amaru.gateway.access import Admin
from amaru.gateway.admin_bodies import ProviderOrderOut, ProviderOrdersOut, ReasonIn, WeightIn, body_of
from amaru.gateway.admin_gate import Entry
from amaru.gateway.answers import json_answer
from amaru.gateway.queries import query_of
from amaru.health.healer import Healer
from amaru.health.healing import HealingKind
from amaru.mesh import Mesh
from amaru.mesh.accounts import MeshAccounts
from amaru.routing.steering import Steering
from amaru.telemetry.logs import get_logger

BY = "the admin API"
"""By which pinned healings are known as ours."""
_SUBJECT = "provider:"
log = get_logger("gateway")


class AdminProviders:
    """The endpoints about providers, and the hand that carries out what the store says about them."""

    def __init__(self, mesh: Mesh, accounts: MeshAccounts) -> None:
        self._mesh = mesh
        self._accounts = accounts
        self._orders = ProviderOrders(accounts.directory.store, accounts.directory.log)
        self._plan = mesh.plan
        self._stale = True
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        accounts.watchers.append(self._watch)

    def table(self) -> list[Entry]:
        """What it answers, and to whom."""
        return [
            Entry("GET", "/admin/providers", Role.READ, self.orders),
            Entry("POST", "/admin/providers/{id}/drain", Role.OPERATE, self.drain),
            Entry("POST", "/admin/providers/{id}/enable", Role.OPERATE, self.enable),
            Entry("POST", "/admin/providers/{id}/weight", Role.OPERATE, self.weigh),
        ]

    # ---- orders -------------------------------------------------------------------------------------------------

    async def orders(self, request: Request, _: Admin) -> Response:
        """The orders in force; ``GET /providers`` tells how each provider fares."""
        query_of(request, ())
        orders = await self._accounts.run(self._orders.all)
        return json_answer(ProviderOrdersOut(list(orders.values())))

    async def drain(self, request: Request, admin: Admin) -> Response:
        """Have it serve only what no other offer can take."""
        asked = await body_of(request, ReasonIn)
        return await self._order(request, admin, "provider.drain", asked.reason, drained=True)

    async def enable(self, request: Request, admin: Admin) -> Response:
        """Have it serve again; its weight stays."""
        asked = await body_of(request, ReasonIn)
        return await self._order(request, admin, "provider.enable", asked.reason, drained=False)

    async def weigh(self, request: Request, admin: Admin) -> Response:
        """Have its scores count so much."""
        asked = await body_of(request, WeightIn)
        return await self._order(request, admin, "provider.weight", asked.reason, weight=asked.weight)

    async def _order(
        self, request: Request, admin: Admin, action: str, reason: str, **changes: bool | float
    ) -> Response:
        provider: str = request.path_params["id"]
        if provider not in self._mesh.plan.settings:
            raise RequestError(
                404, f"No provider is named {provider[:128]!r}; GET /providers lists them.", code="not_found"
            )
        async with self._turn:
            before = await self._accounts.run(self._orders.all)
            none = ProviderOrder(provider=provider, by="", at=0.0)
            order = msgspec.structs.replace(
                before.get(provider, none), by=admin.id, at=self._mesh.wall(), reason=reason, **changes
            )
            try:
                refused = (await self._carry_out({**before, provider: order})).get(provider, {})
                if len(refused) == len(self._offers_of(provider)) > 0:
                    raise RequestError(409, f"Not done: {next(iter(refused.values()))}.", code="not_possible")
                await self._accounts.run(self._orders.set, order, action)
            except BaseException:
                await self._carry_out(before)
                raise
        await self._accounts.look()
        return json_answer(ProviderOrderOut(order, refused))

    # ---- carrying them out --------------------------------------------------------------------------------------

    def _watch(self, changes: Changes) -> None:
        """Called after each look at the store: carry out what others ordered, and all anew under another plan."""
        subjects = changes.subjects
        self._stale |= subjects is None or any(one.startswith(_SUBJECT) for one in subjects)
        self._stale |= self._mesh.plan is not self._plan
        if self._stale and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        async with self._turn:
            self._stale, self._plan = False, self._mesh.plan
            try:
                refused = await self._carry_out(await self._accounts.run(self._orders.all))
            except StorageError:  # the look says so; the next one tries again
                self._stale = True
                return
            for provider, offers in refused.items():
                log.warning("provider_order_not_carried_out", provider=provider, offers=offers)

    def _offers_of(self, provider: str) -> list[str]:
        board = self._mesh.plan.board
        return [board.offers[row].id for row in board.rows_of_provider.get(provider, ())]

    async def _carry_out(self, orders: dict[str, ProviderOrder]) -> dict[str, dict[str, str]]:
        """Pin what is ordered, and nothing else; by provider, which offers go on as they were, and why.

        Each offer by itself: one that a resource cannot do without does not keep the others from being drained.
        """
        wanted: dict[tuple[HealingKind, tuple[str, ...]], tuple[ProviderOrder, Steering]] = {
            (kind, (offer,)): (order, steering)
            for name, order in orders.items()
            for offer in self._offers_of(name)
            for kind, steering in _steerings(order)
        }
        refused: dict[str, dict[str, str]] = {}

        def pin(healer: Healer, now: float) -> None:
            for action in list(healer.active.values()):
                if action.by != BY or action.until is not None:
                    continue
                found = wanted.pop((action.kind, action.offers), None)
                if found is not None and action.reason == _reason(found[0]):
                    continue  # it is in force already
                healer.unpin(action.id, now)
                if found is not None:
                    wanted[action.kind, action.offers] = found
            for (kind, ids), (order, steering) in wanted.items():
                try:
                    healer.pin(kind, ids, now, by=BY, reason=_reason(order), steering=steering)
                except ValueError as error:
                    refused.setdefault(order.provider, {})[ids[0]] = str(error)

        await self._mesh.sensing.order(pin)
        return refused


def _steerings(order: ProviderOrder) -> list[tuple[HealingKind, Steering]]:
    found = []
    if order.drained:
        found.append((HealingKind.DRAIN, Steering(drained=True)))
    if order.weight != 1.0:
        found.append((HealingKind.WEIGHT, Steering(weight=order.weight)))
    return found


def _reason(order: ProviderOrder) -> str:
    """Tells one order from the next."""
    drained = "drained, " if order.drained else ""
    return f"{drained}weight {order.weight:g} by {order.by} at {order.at:.3f}: {order.reason}".rstrip(": ")
