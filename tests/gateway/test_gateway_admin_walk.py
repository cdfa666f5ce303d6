"""Every endpoint of administrators, walked with a key of each role: who may, as the guide says; and what is audited."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from admin_walk import Ground, Step, places, walk
from admin_world import Admin, accounts_of, admin_of, bearer
from gateway_world import KEY, MakeWorld, World
from store_places import postgresql_place, store_place

from amaru.accounts.directory_keys import Role

__all__ = ["postgresql_place", "store_place"]
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "admin.md"
ROW = re.compile(r"^\| `([A-Z]+) (/[^`]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|", re.MULTILINE)


def told_by_the_guide() -> dict[tuple[str, str], dict[Role, bool]]:
    """By method and path, which roles may."""
    found = {}
    for method, path, *may in ROW.findall(GUIDE.read_text("utf-8")):
        found[method, path] = {role: said.startswith("yes") for role, said in zip(Role, may, strict=True)}
    return found


@pytest.fixture
async def world(make_world: MakeWorld, store_place: str) -> AsyncIterator[World]:
    async with make_world(with_accounts=True, extra={"accounts": {"url": store_place}}) as made:
        yield made


@pytest.fixture
async def ground(world: World) -> AsyncIterator[Ground]:
    async with admin_of(world) as owner:
        yield Ground(world, owner)


async def ask(client: httpx.AsyncClient, method: str, step: Step, key: str | None) -> int:
    headers = {} if key is None else bearer(key)
    path = step.path if step.path.startswith("/health/") else f"/admin{step.path}"
    if path.endswith("/events"):  # streams without an end
        async with client.stream(method, path, headers=headers) as answer:
            return answer.status_code
    answer = await client.request(method, path, json=step.body, headers=headers)
    if answer.status_code == 403:
        assert answer.json()["error"]["type"] == "permission_error"
    return answer.status_code


async def test_each_endpoint_opens_to_the_roles_that_the_guide_names(world: World, ground: Ground) -> None:
    told, roles = told_by_the_guide(), places(world)
    keys = {role: (await ground.owner("POST", "/keys", {"role": role}, expect=201))["key"] for role in Role}
    steps = await walk(ground)
    assert set(steps) == set(roles)
    assert {place for place in roles if place[0] != "GET"} == set(told), "the guide's table has each that changes"
    changes = accounts_of(world).directory.log
    async with httpx.AsyncClient(base_url=world.base_url, timeout=60.0) as client:
        for place, step in steps.items():
            may = told.get(place, dict.fromkeys(Role, True))
            needed = next(role for role in Role if may[role])
            assert [may[role] for role in Role] == [role in list(Role)[list(Role).index(needed) :] for role in Role]
            assert roles[place] in (needed, None), place
            before = changes.page(1)
            for stranger, status in ((None, 401), (KEY, 403), ("sk-amaru-unknown", 403)):
                assert await ask(client, place[0], step, stranger) == status, (place, stranger)
            for role in Role:
                if not may[role]:
                    assert await ask(client, place[0], step, keys[role]) == 403, (place, role)
            assert changes.page(1) == before, "whoever may not changes nothing"
            for role in Role:  # each endpoint once in a walk that changes things, and by the least that may
                if role is needed or (may[role] and not step.changes):
                    assert await ask(client, place[0], step, keys[role]) == step.status, (place, role)


@pytest.mark.parametrize("role", list(Role))
async def test_a_higher_role_may_what_a_lower_one_may(world: World, ground: Ground, role: Role) -> None:
    key = (await ground.owner("POST", "/keys", {"role": role}, expect=201))["key"]
    told = told_by_the_guide()
    for place, step in (await walk(ground)).items():
        may = told.get(place, dict.fromkeys(Role, True))[role]
        assert await ask(world.client, place[0], step, key) == (step.status if may else 403), (place, role)


async def test_every_change_leaves_a_row_of_audit_with_who_and_what(world: World, ground: Ground) -> None:
    made = await ground.owner("POST", "/keys", {"role": "own", "name": "ada"}, expect=201)
    log, ada = accounts_of(world).directory.log, made["info"]["id"]
    steps = await walk(ground)
    assert {place for place, step in steps.items() if step.changes} == {
        place for place in places(world) if place[0] != "GET"
    }
    newest = log.page(1)[0].id
    for place, step in steps.items():
        assert await ask(world.client, place[0], step, made["key"]) == step.status, place
        rows = [row for row in log.page(10) if row.id > newest]
        newest = max([newest, *(row.id for row in rows)])
        if not step.changes:
            assert rows == [], place
            continue
        assert step.changes in {row.action for row in rows}, place
        assert {row.actor for row in rows} == {ada}, place
        assert all(row.after is not None or row.before is not None or row.subject for row in rows)
        assert made["key"] not in str(rows)


# ---- changed only as it was read ------------------------------------------------------------------------------------


async def _tag(admin: Admin, path: str) -> str:
    answer = await admin.client.get(f"/admin{path}")
    assert answer.status_code == 200, answer.text
    return answer.headers["etag"]


async def test_teams_keys_budgets_and_tenants_are_changed_only_as_they_were_read(ground: Ground) -> None:
    owner = ground.owner
    team, key, allowance = await ground.team(), f"/keys/{await ground.key()}", f"/allowances/{await ground.allowance()}"
    tenant = f"/tenants/{await ground.tenant()}"
    subject = (await owner("GET", allowance))["subject"]

    async def set_to(amount: str, **fields: Any) -> Any:
        wanted = {"scope": "tenant", "subject": subject, "metric": "usd", "period": "month", "amount": amount}
        return await owner("POST", "/allowances", wanted, **fields)

    orders = (
        (team, (("DELETE", team, None), ("POST", f"{team}/restore", None))),
        (tenant, (("PATCH", tenant, {"name": "x"}), ("DELETE", tenant, None), ("POST", f"{tenant}/restore", None))),
        (key, (("POST", f"{key}/expire", {"expires_at": 4e9}), ("POST", f"{key}/rotate", {"overlap_s": 60}),
               ("DELETE", key, None))),
    )  # fmt: skip
    for thing, wishes in orders:
        stale = '"0123456789abcdef"'
        for method, path, body in wishes:
            current = await _tag(owner, thing)
            assert current != stale
            said = await owner.refused(method, path, body, status=412, headers={"if-match": stale})
            assert "changed by somebody else" in said, path
            assert await _tag(owner, thing) == current
            expect = 201 if path.endswith("/rotate") else 200
            answer = await owner.client.request(
                method, f"/admin{path}", json=body, headers={"if-match": f'"x", {current}'}
            )
            assert answer.status_code == expect, answer.text
            if not path.endswith("/rotate"):
                assert answer.headers["etag"] == await _tag(owner, thing)
            stale = current
    read = await _tag(owner, allowance)
    await set_to("6", headers={"if-match": read})
    assert "changed by" in (await set_to("7", expect=412, headers={"if-match": read}))["error"]["message"]
    assert (await owner("GET", allowance))["amount"] == "6"
    assert "changed by" in await owner.refused("DELETE", allowance, status=412, headers={"if-match": read})
    await owner("DELETE", allowance, headers={"if-match": await _tag(owner, allowance)})
    assert "there is none" in (await set_to("8", expect=412, headers={"if-match": "*"}))["error"]["message"]


async def test_use_of_a_key_does_not_change_its_tag(world: World, ground: Ground) -> None:
    key = await ground.key()
    before = await _tag(ground.owner, f"/keys/{key}")
    accounts_of(world).directory.keys.mark_used({key: 1_900_000_000.0})
    assert (await ground.owner("GET", f"/keys/{key}"))["last_used_at"] == 1_900_000_000.0
    assert await _tag(ground.owner, f"/keys/{key}") == before


# ---- pages ----------------------------------------------------------------------------------------------------------


async def test_every_list_comes_a_page_at_a_time(world: World, ground: Ground) -> None:
    for _ in range(3):
        await ground.team()
        await ground.key()
        await ground.allowance()
        await ground.alert()
    tenant = await ground.tenant()
    for name in "abcde":
        await ground.owner("POST", f"/tenants/{tenant}/teams", {"id": name}, expect=201)
    lists = {"/tenants": "tenants", f"/tenants/{tenant}/teams": "teams", "/keys": "keys", "/allowances": "allowances",
             "/alerts": "alerts", "/audit": "changes"}  # fmt: skip
    for path, name in lists.items():
        whole = await ground.owner("GET", f"{path}?limit=500")
        assert whole["next_cursor"] is None
        for limit in (1, 2, 500):
            found, cursor = [], None
            while True:
                query = {"limit": limit} | ({} if cursor is None else {"cursor": cursor})
                page = await ground.owner("GET", path, params=query)
                assert len(page[name]) <= limit
                found += page[name]
                cursor = page["next_cursor"]
                if cursor is None:
                    break
            assert found == whole[name], path
        assert "limit must be" in await ground.owner.refused("GET", f"{path}?limit=501", status=400)
    for path in ("/tenants", "/allowances", "/alerts"):
        assert "cursor must be" in await ground.owner.refused("GET", f"{path}?cursor=x", status=400)


async def test_a_list_is_bounded_unless_told_otherwise(world: World, ground: Ground) -> None:
    teams = accounts_of(world).directory.teams
    for number in range(51):
        teams.create("team", f"t{number:02}", by="ann")
    page = await ground.owner("GET", "/tenants/team/teams")
    assert (len(page["teams"]), page["next_cursor"]) == (50, "team/t49")


# ---- alerts ---------------------------------------------------------------------------------------------------------


async def test_alerts_are_listed_with_what_became_of_them_and_sent_anew(ground: Ground) -> None:
    id = await ground.alert()
    (shown,) = (await ground.owner("GET", "/alerts?state=given_up"))["alerts"]
    assert (shown["id"], shown["state"], shown["tries"], shown["error"]) == (id, "given_up", 12, "503")
    assert shown["body"]["data"]["budget"] == "tenant:shop:usd:day"
    assert shown["webhook_id"].startswith("msg_")
    assert (await ground.owner("GET", "/alerts?state=pending"))["alerts"] == []
    again = await ground.owner("POST", f"/alerts/{id}/retry")
    assert (again["state"], again["tries"], again["error"]) == ("pending", 0, None)
    assert (await ground.owner("GET", f"/alerts/{id}"))["state"] == "pending"
    assert "no alert 999" in await ground.owner.refused("POST", "/alerts/999/retry", status=404)
    assert "No alert" in await ground.owner.refused("GET", "/alerts/abc", status=404)
    assert "state must be" in await ground.owner.refused("GET", "/alerts?state=lost", status=400)
