"""What was spent, over the admin API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from admin_world import Admin, accounts_of, admin_of
from gateway_world import KEY, MakeWorld, World
from sqlalchemy import insert

from amaru.accounts.charges import Charge, ChargeStatus, row_of
from amaru.accounts.money import usd_text
from amaru.accounts.schema import charges

NOON = 1_793_534_400.0


@pytest.fixture
async def world(make_world: MakeWorld) -> AsyncIterator[World]:
    async with make_world(with_accounts=True) as made:
        accounts = accounts_of(made)
        await accounts.run(write, accounts.directory.store)
        yield made


@pytest.fixture
async def admin(world: World) -> AsyncIterator[Admin]:
    async with admin_of(world) as made:
        yield made


def charge(number: int, **changes: Any) -> Charge:
    values: dict[str, Any] = {
        "id": f"c{number}", "at": NOON + number / 3, "decision": f"d{number}", "attempt": 0, "tenant": "shop",
        "resource": "sim", "provider": "alpha", "offer": "alpha", "model": "sim-model", "kind": "chat",
        "usage_source": "provider", "cost_pusd": 1_000_000_000_001,
    }  # fmt: skip
    return Charge(**values | changes)


def write(store: Any) -> None:
    made = [charge(1), charge(2, tenant="web", status=ChargeStatus.STANDING), charge(3)]
    with store.writing() as connection:
        connection.execute(insert(charges), [row_of(one, "h", None) for one in made])


async def test_sums_are_exact_and_tell_where_they_come_from(admin: Admin) -> None:
    found = await admin("GET", "/spend?by=tenant,day&since=2026-11-01&until=1793620800")
    shop, web = found["rows"]
    assert (shop["tenant"], shop["day"], shop["requests"]) == ("shop", "2026-11-01", 2)
    assert (shop["cost_usd"], shop["provider_usd"]) == ("2.000000000002", "2.000000000002")
    assert (web["cost_usd"], web["standing_usd"]) == ("1.000000000001", "1.000000000001")
    assert (found["by"], found["since"], found["more"]) == (["tenant", "day"], 1_793_491_200.0, False)
    (only,) = (await admin("GET", "/spend?by=&since=2026-11-01&tenant=web"))["rows"]
    assert only["attempts"] == 1


async def test_charges_come_in_pages(admin: Admin) -> None:
    page = await admin("GET", "/charges?limit=2")
    assert [one["id"] for one in page["charges"]] == ["c1", "c2"]
    rest = await admin("GET", "/charges", params={"limit": 2, "cursor": page["next_cursor"]})
    assert ([one["id"] for one in rest["charges"]], rest["next_cursor"]) == (["c3"], None)
    (one,) = (await admin("GET", "/charges?decision=d2"))["charges"]
    assert (one["status"], one["cost_usd"]) == ("standing", "1.000000000001")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("/spend?by=colour", "by: 'colour' is none of tenant, team"),
        ("/spend?since=yesterday", "since: 'yesterday' is no time"),
        ("/spend?status=paid", "status must be one of settled, standing, reconciled"),
        ("/spend?colour=red", "Unknown query parameter 'colour'"),
        ("/spend?tenant=%00", "tenant must be printable"),
        ("/charges?cursor=7", "cursor must be the next_cursor"),
        ("/charges?limit=0", "limit must be a whole number"),
    ],
)
async def test_what_cannot_be_asked(admin: Admin, asked: str, said: str) -> None:
    assert said in await admin.refused("GET", asked, status=400)


async def test_a_charge_tells_its_decision_and_what_its_price_says(world: World, admin: Admin) -> None:
    decision = (await world.chat()).headers["x-amaru-decision"]
    async with asyncio.timeout(60.0):
        while True:  # the charge comes with the till's next turn
            found = (await admin("GET", f"/charges?decision={decision}"))["charges"]
            if found and found[0]["price_terms"]:
                break
            await asyncio.sleep(0.02)
    (one,) = found
    terms = json.loads(one["price_terms"])
    assert terms == {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
    tokens = one["input_tokens"] * 1_000_000 + one["output_tokens"] * 2_000_000
    assert one["cost_usd"] == usd_text(tokens)
    assert (await admin("GET", f"/spend?since={one['at']}&provider=alpha"))["rows"][0]["requests"] == 1


async def test_callers_see_nothing_of_it(world: World) -> None:
    async with admin_of(world, KEY) as caller:
        for path in ("/spend", "/charges"):
            await caller.refused("GET", path, status=403)
