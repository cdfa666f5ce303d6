"""Providers drained, enabled and weighed by hand: over reloads and restarts, and by every gateway of a store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from admin_world import Admin, accounts_of, admin_of, bearer
from gateway_world import OPERATOR_KEY, MakeWorld, World, until

from amaru.gateway import Gateway
from amaru.http1 import ServerSettings
from amaru.mesh import Mesh
from amaru.mesh.accounts import MeshAccounts
from amaru.storage import DecisionStore, StoreSettings
from amaru.telemetry.metrics import Metrics


@pytest.fixture
async def world(make_world: MakeWorld) -> AsyncIterator[World]:
    async with make_world(("alpha", "beta", "gamma"), with_accounts=True) as made:
        yield made


@pytest.fixture
async def admin(world: World) -> AsyncIterator[Admin]:
    async with admin_of(world) as made:
        yield made


async def asked(world: World, times: int = 6) -> set[str]:
    """Which providers answered."""
    return {(await world.chat()).headers["x-amaru-provider"] for _ in range(times)}


def steered(mesh: Mesh, provider: str) -> tuple[bool, float]:
    """How its offer of the resource that others serve too is steered."""
    board = mesh.plan.board
    steering = board.steering(board.row_of[f"{provider}/sim"])
    assert steering is not None
    return steering.drained, steering.weight


async def test_a_drained_provider_is_asked_no_more_until_it_is_enabled(world: World, admin: Admin) -> None:
    assert await asked(world) == {"alpha"}, "the cheapest"
    answer = await admin("POST", "/providers/alpha/drain", {"reason": "its invoice is wrong"})
    order = answer["order"]
    assert list(answer["refused"]) == ["alpha/sim-embed"], "nobody else embeds"
    assert (order["drained"], order["weight"], order["reason"]) == (True, 1.0, "its invoice is wrong")
    assert "alpha" not in await asked(world)
    assert (await admin("GET", "/providers"))["orders"] == [order]
    await admin("POST", "/providers/alpha/enable")
    assert await asked(world) == {"alpha"}
    assert (await admin("GET", "/providers"))["orders"] == []
    rows = (await admin("GET", "/audit?subject=provider:alpha"))["changes"]
    assert [row["action"] for row in rows] == ["provider.enable", "provider.drain"]


async def test_a_weight_and_a_drain_stand_side_by_side(world: World, admin: Admin) -> None:
    await admin("POST", "/providers/alpha/weight", {"weight": 0.25})
    assert steered(world.mesh, "alpha") == (False, 0.25)
    await admin("POST", "/providers/alpha/drain")
    assert steered(world.mesh, "alpha") == (True, 0.25)
    await admin("POST", "/providers/alpha/weight", {"weight": 0.5})
    assert steered(world.mesh, "alpha") == (True, 0.5)
    await admin("POST", "/providers/alpha/enable")
    assert steered(world.mesh, "alpha") == (False, 0.5)
    await admin("POST", "/providers/alpha/weight", {"weight": 1})
    assert steered(world.mesh, "alpha") == (False, 1.0)
    assert world.mesh.sensing.acting.healer.active == {}


async def test_providers_are_drained_also_where_health_is_switched_off(make_world: MakeWorld) -> None:
    extra = {"health": {"enabled": False}}
    async with make_world(with_accounts=True, extra=extra) as world, admin_of(world) as admin:
        await admin("POST", "/providers/alpha/drain")
        assert await asked(world) == {"beta"}
        world.reload(aliases={"quick": ["sim"]})
        await accounts_of(world).look()
        assert await asked(world) == {"beta"}
        await admin("POST", "/providers/alpha/enable")
        assert await asked(world) == {"alpha"}


async def test_what_would_leave_too_few_is_refused_and_not_kept(world: World, admin: Admin) -> None:
    await admin("POST", "/providers/alpha/drain")
    done = [one for one in ("beta", "gamma") if "too few" not in str(await try_drain(admin, one))]
    assert len(done) < 2, "the last offers of a resource are never drained"
    orders = (await admin("GET", "/providers"))["orders"]
    assert {one["provider"] for one in orders} == {"alpha", *done}
    for name in ("beta", "gamma"):
        assert steered(world.mesh, name)[0] is (name in done)


async def try_drain(admin: Admin, provider: str) -> object:
    return (await admin.client.post(f"/admin/providers/{provider}/drain", json={})).json()


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("nobody/drain", {}, 404, "No provider is named"),
        ("alpha/weight", {}, 400, "weight: "),
        ("alpha/weight", {"weight": 1.5}, 400, "weight: must be at most 1"),
        ("alpha/weight", {"weight": "much"}, 400, "weight: not a number"),
        ("alpha/drain", {"why": "x"}, 400, "why: unknown field"),
        ("alpha/drain", {"reason": "a\nb"}, 400, "a reason must be"),
    ],
)
async def test_bad_orders_are_refused(
    world: World, admin: Admin, path: str, body: dict[str, object], status: int, said: str
) -> None:
    assert said.lower() in (await admin.refused("POST", f"/providers/{path}", body, status=status)).lower()
    assert (await admin("GET", "/providers"))["orders"] == []
    assert steered(world.mesh, "alpha") == (False, 1.0)


async def test_an_order_is_not_carried_out_where_it_cannot_be_kept(world: World, admin: Admin) -> None:
    world.config_path.with_name("accounts.db").rename(world.config_path.with_name("away"))
    await admin.refused("POST", "/providers/alpha/drain", {}, status=503)
    assert steered(world.mesh, "alpha") == (False, 1.0)


async def test_orders_outlive_reloads_also_for_offers_that_come(world: World, admin: Admin) -> None:
    await admin("POST", "/providers/alpha/drain")
    offers = [*world.settings["offers"], {**world.settings["offers"][0], "resource": "more"}]
    offers.append({**world.settings["offers"][1], "resource": "more"})
    offers.append({**world.settings["offers"][2], "resource": "more"})
    world.reload(offers=offers)
    await accounts_of(world).look()
    await until(lambda: drained(world.mesh) == {"alpha/sim", "alpha/more"})
    await admin("POST", "/providers/alpha/enable")
    assert drained(world.mesh) == set()


def drained(mesh: Mesh) -> set[str]:
    """Offers that are."""
    board = mesh.plan.board
    return {offer.id for row, offer in enumerate(board.offers) if (found := board.steering(row)) and found.drained}


async def test_orders_bind_every_gateway_of_the_store_and_outlive_restarts(
    world: World, admin: Admin, tmp_path: Path
) -> None:
    await admin("POST", "/providers/alpha/drain")
    config = world.mesh.plan.config
    store = DecisionStore(StoreSettings(path=tmp_path / "second.db", interval_s=0.01))
    store.start()
    accounts = MeshAccounts.of(config)
    mesh = Mesh(config, store, Metrics())
    gateway = Gateway(mesh, ServerSettings(), host="127.0.0.1", accounts=accounts)
    try:
        await accounts.start()
        await gateway.start(0)
        await until(lambda: steered(mesh, "alpha")[0])
        await admin("POST", "/providers/alpha/enable")
        await until(lambda: not steered(mesh, "alpha")[0])
        await admin("POST", "/providers/beta/weight", {"weight": 0.5})
        await until(lambda: steered(mesh, "beta") == (False, 0.5))
    finally:
        await gateway.drain(1.0)
        await mesh.aclose()
        await accounts.aclose()
        await store.close()


async def test_decisions_are_found_by_what_is_asked_for(world: World, admin: Admin) -> None:
    made = [(await world.chat()).headers["x-amaru-decision"] for _ in range(3)]
    world.break_("alpha", "status", status=500, times=8)
    broken = (await world.chat()).headers["x-amaru-decision"]
    await world.client.post("/agent/route", json={"model": "sim"})

    async def ids(query: str) -> list[str]:
        page = await admin("GET", f"/decisions?{query}")
        return [one["id"] for one in page["decisions"]]

    everything = await ids("")
    assert everything[1:] == [broken, *reversed(made)]
    assert await ids("provider=beta") == [broken]
    assert set(await ids("provider=alpha")) == {*made, broken}
    assert await ids("provider=alp") == []
    assert await ids("provider=%25") == []
    assert await ids("ok=true&limit=2") == everything[1:3]
    for team in ("web", "shop"):
        await admin("POST", "/tenants/team/teams", {"id": team}, expect=201)
    key = await admin("POST", "/keys", {"tenant": "team", "team": "web"}, expect=201)
    new = await admin("POST", f"/keys/{key['info']['id']}/rotate", {}, expect=201)
    asked_by = (await world.chat(headers=bearer(new["key"]))).headers["x-amaru-decision"]
    assert await ids("team=web") == await ids(f"key={key['info']['id']}") == [asked_by]
    assert await ids("team=shop") == []
    everything = await ids("")
    detail = await world.client.get(f"/decisions/{broken}", headers={"authorization": f"Bearer {OPERATOR_KEY}"})
    assert detail.status_code == 200
    costs = {one["id"]: one["cost_usd"] for one in (await admin("GET", "/decisions"))["decisions"]}
    least = max(costs.values())
    assert set(await ids(f"min_cost_usd={least}")) == {id for id, cost in costs.items() if cost >= least}
    at = {one["id"]: one["at"] for one in (await admin("GET", "/decisions"))["decisions"]}
    assert await ids(f"until={at[made[1]] + 0.001}") == [made[1], made[0]] or at[made[1]] + 0.001 > at[made[2]]
    assert await ids("until=1000") == []
    page = await admin("GET", "/decisions?tenant=team&limit=2")
    rest = await admin("GET", f"/decisions?tenant=team&cursor={page['next_cursor']}")
    assert [one["id"] for one in page["decisions"] + rest["decisions"]] == everything
    for query, said in (("until=x", "until must be"), ("min_cost_usd=-1", "min_cost_usd must be"), ("x=1", "Unknown")):
        assert said in await admin.refused("GET", f"/decisions?{query}", status=400)
