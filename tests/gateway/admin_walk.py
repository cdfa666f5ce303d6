"""One request to each endpoint of administrators, with all that it needs to be done; and what the audit calls it."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from admin_world import Admin, alerted
from gateway_world import World
from sqlalchemy import func, select

from amaru.accounts.schema import outbox
from amaru.gateway.access import Access
from amaru.gateway.admin_api import AdminApi
from amaru.gateway.health_api import HealthApi
from amaru.mesh import Views

Place = tuple[str, str]
"""Method and path, as the gateway's table has it."""


class Step(NamedTuple):
    """A request that is done where its key may."""

    path: str
    body: Any = None  # Any: JSON
    status: int = 200
    changes: str = ""
    """The action, as the audit has it; empty: it changes nothing."""


class Ground:
    """Makes what requests are about, anew for each."""

    def __init__(self, world: World, owner: Admin) -> None:
        self.world = world
        self.owner = owner
        self._names = itertools.count()

    def name(self) -> str:
        return f"n{next(self._names)}"

    async def tenant(self) -> str:
        id = self.name()
        await self.owner("POST", "/tenants", {"id": id}, expect=201)
        return id

    async def team(self) -> str:
        """Its path."""
        tenant, id = await self.tenant(), self.name()
        await self.owner("POST", f"/tenants/{tenant}/teams", {"id": id}, expect=201)
        return f"/tenants/{tenant}/teams/{id}"

    async def key(self) -> str:
        made = await self.owner("POST", "/keys", {"tenant": await self.tenant()}, expect=201)
        return str(made["info"]["id"])

    async def allowance(self) -> str:
        made = await self.owner("POST", "/allowances", budget(await self.tenant()))
        return str(made["id"])

    async def alert(self) -> int:
        alerted(self.world)
        assert self.world.accounts is not None
        with self.world.accounts.directory.store.reading() as connection:
            return int(connection.execute(select(func.max(outbox.c.id))).scalar_one())

    async def archived(self, path: str) -> str:
        await self.owner("DELETE", path)
        return path


def budget(tenant: str) -> dict[str, Any]:
    return {"scope": "tenant", "subject": tenant, "metric": "usd", "period": "month", "amount": "5"}


VETO = {"kind": "drain", "provider": "alpha"}


async def _of_tenants(ground: Ground) -> dict[Place, Step]:
    team = await ground.team()
    tenant = team.removesuffix(team[team.index("/teams") :])
    teams = f"{tenant}/teams"
    return {
        ("GET", "/admin/tenants"): Step("/tenants"),
        ("GET", "/admin/tenants/{id}"): Step(tenant),
        ("GET", "/admin/tenants/{id}/teams"): Step(teams),
        ("GET", "/admin/tenants/{id}/teams/{team}"): Step(team),
        ("POST", "/admin/tenants"): Step("/tenants", {"id": ground.name()}, 201, "tenant.create"),
        ("PATCH", "/admin/tenants/{id}"): Step(tenant, {"name": "Other"}, 200, "tenant.change"),
        ("DELETE", "/admin/tenants/{id}"): Step(f"/tenants/{await ground.tenant()}", None, 200, "tenant.archive"),
        ("POST", "/admin/tenants/{id}/restore"): Step(
            await ground.archived(f"/tenants/{await ground.tenant()}") + "/restore", None, 200, "tenant.restore"
        ),
        ("POST", "/admin/tenants/{id}/teams"): Step(teams, {"id": ground.name()}, 201, "team.create"),
        ("DELETE", "/admin/tenants/{id}/teams/{team}"): Step(team, None, 200, "team.archive"),
        ("POST", "/admin/tenants/{id}/teams/{team}/restore"): Step(
            await ground.archived(await ground.team()) + "/restore", None, 200, "team.restore"
        ),
    }


async def _of_keys(ground: Ground) -> dict[Place, Step]:
    key = f"/keys/{await ground.key()}"
    return {
        ("GET", "/admin/keys"): Step("/keys"),
        ("GET", "/admin/keys/{id}"): Step(key),
        ("POST", "/admin/keys"): Step("/keys", {"tenant": "team"}, 201, "key.create"),
        ("DELETE", "/admin/keys/{id}"): Step(f"/keys/{await ground.key()}", None, 200, "key.revoke"),
        ("POST", "/admin/keys/{id}/rotate"): Step(f"{key}/rotate", {"overlap_s": 60}, 201, "key.rotate"),
        ("POST", "/admin/keys/{id}/expire"): Step(f"{key}/expire", {"expires_at": 4e9}, 200, "key.expire"),
    }


async def _of_budgets(ground: Ground) -> dict[Place, Step]:
    alert = f"/alerts/{await ground.alert()}"
    allowance = f"/allowances/{await ground.allowance()}"
    return {
        ("GET", "/admin/allowances"): Step("/allowances"),
        ("GET", "/admin/allowances/{id:path}"): Step(allowance),
        ("POST", "/admin/allowances"): Step("/allowances", budget(await ground.tenant()), 200, "allowance.set"),
        ("DELETE", "/admin/allowances/{id:path}"): Step(allowance, None, 200, "allowance.archive"),
        ("GET", "/admin/alerts"): Step("/alerts"),
        ("GET", "/admin/alerts/{id}"): Step(alert),
        ("POST", "/admin/alerts/{id}/retry"): Step(f"{alert}/retry", None, 200, "alert.retry"),
        ("GET", "/admin/audit"): Step("/audit"),
        ("GET", "/admin/spend"): Step("/spend"),
        ("GET", "/admin/charges"): Step("/charges"),
        ("GET", "/admin/decisions"): Step("/decisions"),
        ("GET", "/admin/events"): Step("/events"),
    }


async def _of_the_gateway(_: Ground) -> dict[Place, Step]:
    pin = {"kind": "nothing", "offers": ["alpha/sim"]}
    return {
        ("GET", "/admin/providers"): Step("/providers"),
        ("POST", "/admin/providers/{id}/drain"): Step("/providers/alpha/drain", {}, 200, "provider.drain"),
        ("POST", "/admin/providers/{id}/enable"): Step("/providers/alpha/enable", {}, 200, "provider.enable"),
        ("POST", "/admin/providers/{id}/weight"): Step(
            "/providers/alpha/weight", {"weight": 0.5}, 200, "provider.weight"
        ),
        ("GET", "/health/providers"): Step("/health/providers"),
        ("GET", "/health/patterns"): Step("/health/patterns"),
        ("GET", "/health/history"): Step("/health/history"),
        ("GET", "/health/healings"): Step("/health/healings"),
        ("GET", "/health/events"): Step("/health/events"),
        ("POST", "/health/healings/veto"): Step("/health/healings/veto", VETO, 200, "healing.veto"),
        ("POST", "/health/healings/lift"): Step("/health/healings/lift", {"veto": VETO}, 200, "healing.lift"),
        ("POST", "/health/healings/pin"): Step("/health/healings/pin", pin, 200, "healing.pin"),
        ("POST", "/health/guardian/nigredo"): Step("/health/guardian/nigredo", None, 200, "guardian.nigredo"),
        ("POST", "/health/guardian/albedo"): Step("/health/guardian/albedo", None, 200, "guardian.albedo"),
    }


_PARTS: tuple[Callable[[Ground], Awaitable[dict[Place, Step]]], ...] = (
    _of_tenants, _of_keys, _of_budgets, _of_the_gateway,
)  # fmt: skip


async def walk(ground: Ground) -> dict[Place, Step]:
    """A request to each endpoint; each may be made once."""
    found: dict[Place, Step] = {}
    for part in _PARTS:
        found |= await part(ground)
    return found


def places(world: World) -> dict[Place, str | None]:
    """Every endpoint of administrators, and the role that the admin API's table has for it."""
    assert world.accounts is not None
    access = Access(world.mesh)
    table = AdminApi(world.mesh, Views(world.mesh), access, world.accounts).table()
    health = {
        (method, route.path): None
        for route in HealthApi(world.mesh, access).routes()
        for method in (route.methods or set()) - {"HEAD"}
    }
    return {(entry.method, entry.path): entry.role.value for entry in table} | health
