"""Tenants, teams, keys and budgets over the admin API, on real sockets."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from admin_world import Admin, accounts_of, admin_of, bearer
from gateway_world import OPERATOR_KEY, MakeWorld, World, digest


@pytest.fixture
async def world(make_world: MakeWorld) -> AsyncIterator[World]:
    async with make_world(with_accounts=True) as made:
        yield made


@pytest.fixture
async def admin(world: World) -> AsyncIterator[Admin]:
    async with admin_of(world) as made:
        yield made


# ---- tenants and keys -----------------------------------------------------------------------------------------------


async def test_a_tenant_and_its_keys_from_the_first_to_the_last(world: World, admin: Admin) -> None:
    settings = {"weights": {"price": 1}, "limits": {"max_price": 5}, "resources": ["sim"]}
    tenant = await admin("POST", "/tenants", {"id": "shop", "name": "The shop", "settings": settings}, expect=201)
    assert (tenant["id"], tenant["settings"], tenant["from_file"]) == ("shop", settings, False)
    assert [one["id"] for one in (await admin("GET", "/tenants"))["tenants"]] == ["other", "team", "shop"]
    team = await admin("POST", "/tenants/shop/teams", {"id": "web"}, expect=201)
    assert (await admin("GET", "/tenants/shop/teams"))["teams"] == [team]
    made = await admin("POST", "/keys", {"tenant": "shop", "team": "web", "name": "till"}, expect=201)
    key, info = made["key"], made["info"]
    assert (await world.chat(headers=bearer(key))).status_code == 200, "at once"
    assert (await admin("GET", f"/keys/{info['id']}"))["last4"] == key[-4:]

    rotated = await admin("POST", f"/keys/{info['id']}/rotate", {"overlap_s": 60}, expect=201)
    for one in (key, rotated["key"]):
        assert (await world.chat(headers=bearer(one))).status_code == 200
    assert rotated["info"]["lineage"] == info["id"]
    revoked = await admin("DELETE", f"/keys/{info['id']}")
    assert revoked["revoked_at"] is not None
    refused = await world.chat(headers=bearer(key))
    assert (refused.status_code, "revoked" in refused.text) == (401, True)

    at = time.time() + 3600
    assert (await admin("POST", f"/keys/{rotated['info']['id']}/expire", {"expires_at": at}))["expires_at"] == at
    lasting = await admin("POST", f"/keys/{rotated['info']['id']}/expire", {"lasts": True})
    assert lasting["expires_at"] is None
    await admin("DELETE", "/tenants/shop/teams/web")
    assert (await world.chat(headers=bearer(rotated["key"]))).status_code == 401
    await admin("POST", "/tenants/shop/teams/web/restore")
    assert (await world.chat(headers=bearer(rotated["key"]))).status_code == 200
    await admin("DELETE", "/tenants/shop")
    assert (await world.chat(headers=bearer(rotated["key"]))).status_code == 401
    assert (await admin("GET", "/tenants/shop"))["archived_at"] is not None
    await admin("POST", "/tenants/shop/restore")
    changed = await admin("PATCH", "/tenants/shop", {"name": "Shop"})
    assert (changed["name"], changed["settings"]) == ("Shop", settings)


async def test_a_tenant_is_changed_only_as_it_was_read(admin: Admin) -> None:
    await admin("POST", "/tenants", {"id": "shop"}, expect=201)
    read = (await admin.client.get("/admin/tenants/shop")).headers["etag"]
    first = await admin.client.patch("/admin/tenants/shop", json={"name": "one"}, headers={"if-match": read})
    assert first.status_code == 200
    said = await admin.refused("PATCH", "/tenants/shop", {"name": "two"}, status=412, headers={"if-match": read})
    assert "changed by somebody else" in said
    assert (await admin("GET", "/tenants/shop"))["name"] == "one"
    for name, match in (("three", "*"), ("four", '"x", {}'), ("five", "{}")):
        current = (await admin.client.get("/admin/tenants/shop")).headers["etag"]
        await admin("PATCH", "/tenants/shop", {"name": name}, headers={"if-match": match.format(current)})
    assert len((await admin("GET", "/audit?subject=tenant:shop"))["changes"]) == 5


async def test_keys_come_a_page_at_a_time(admin: Admin) -> None:
    made = {(await admin("POST", "/keys", {"tenant": "team"}, expect=201))["info"]["id"] for _ in range(5)}
    await admin("DELETE", f"/keys/{max(made)}")
    found, cursor = [], ""
    for _ in range(3):
        page = await admin("GET", f"/keys?limit=2&over=true&tenant=team{cursor}")
        found += [one["id"] for one in page["keys"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert (found, page["next_cursor"]) == (sorted(made), None)
    assert len((await admin("GET", "/keys"))["keys"]) == 4
    assert (await admin("GET", "/keys?tenant=other"))["keys"] == []


async def test_a_request_that_is_repeated_makes_one_key(admin: Admin) -> None:
    once = {"headers": {"idempotency-key": "8f1c-7"}}
    made = await admin("POST", "/keys", {"tenant": "team"}, expect=201, **once)
    said = await admin.refused("POST", "/keys", {"tenant": "team"}, status=409, **once)
    assert made["info"]["id"] in said
    assert "rotate it" in said
    assert len((await admin("GET", "/keys"))["keys"]) == 1
    bad = {"headers": {"idempotency-key": "a b"}}
    assert "idempotency-key" in await admin.refused("POST", "/keys", {"tenant": "team"}, status=400, **bad)


async def test_what_the_file_has_is_shown_and_left_alone(admin: Admin) -> None:
    assert (await admin("GET", "/tenants/team"))["from_file"] is True
    said = await admin.refused("PATCH", "/tenants/team", {"name": "x"}, status=409)
    assert "amaru.yaml; change it there" in said
    assert "choose another name" in await admin.refused("POST", "/tenants", {"id": "team"}, status=409)


# ---- budgets --------------------------------------------------------------------------------------------------------


async def test_budgets_and_limits_are_exact(admin: Admin) -> None:
    budget = {"scope": "tenant", "subject": "team", "metric": "usd", "period": "month", "amount": "12.345678901"}
    made = await admin("POST", "/allowances", {**budget, "alerts": [0.5, 1]})
    assert (made["amount"], made["used"], made["left"]) == ("12.345678901", "0", "12.345678901")
    assert made["renews_at"] > time.time()
    assert (await admin("POST", "/allowances", {**budget, "amount": 20}))["amount"] == "20"
    await admin("POST", "/tenants/team/teams", {"id": "web"}, expect=201)
    limit = {"scope": "team", "subject": "team/web", "metric": "requests", "period": "minute", "amount": 7}
    assert (await admin("POST", "/allowances", limit))["left"] == 7
    assert await admin("GET", "/allowances/team:team/web:requests:minute") == await admin(
        "GET", "/allowances/team%3Ateam%2Fweb:requests:minute"
    )
    assert [one["id"] for one in (await admin("GET", "/allowances?scope=tenant"))["allowances"]] == [made["id"]]
    assert len((await admin("GET", "/allowances"))["allowances"]) == 2
    assert (await admin("GET", "/allowances?subject=nobody"))["allowances"] == []
    await admin("DELETE", f"/allowances/{made['id']}")
    assert "no allowance" in await admin.refused("GET", f"/allowances/{made['id']}", status=404)


async def test_what_is_held_is_null_where_redis_keeps_it_and_does_not_answer(make_world: MakeWorld) -> None:
    pytest.importorskip("redis")
    extra = {"accounts": {"redis_url": "redis://127.0.0.1:1/0"}}
    async with make_world(with_accounts=True, extra=extra) as world, admin_of(world) as admin:
        made = await admin("POST", "/allowances", BUDGET)
        assert (made["amount"], made["used"], made["held"], made["left"]) == ("1", "0", None, None)
        assert (await admin("GET", "/allowances"))["allowances"] == [made]


# ---- bad input ------------------------------------------------------------------------------------------------------

BUDGET = {"scope": "tenant", "subject": "team", "metric": "usd", "period": "month", "amount": 1}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/tenants", {}, 400, "id: "),
        ("POST", "/tenants", {"id": "a b"}, 400, "id: not a name"),
        ("POST", "/tenants", {"id": "a", "nmae": "x"}, 400, "nmae: "),
        ("POST", "/tenants", {"id": "anonymous"}, 409, "choose another name"),
        ("POST", "/tenants", {"id": "a", "settings": {"weights": {"price": -1}}}, 400, "settings.weights.price: "),
        ("POST", "/tenants", {"id": "a", "settings": {"weights": {"price": 0, "latency": 0, "reputation": 0,
         "availability": 0}}}, 400, "every weight is 0"),
        ("POST", "/tenants", {"id": "a", "name": "x" * 201}, 400, "name: "),
        ("POST", "/tenants", {"id": "a", "name": "x\ny"}, 400, "title must be"),
        ("POST", "/tenants", [], 400, "Expected `object`"),
        ("PATCH", "/tenants/nobody", {"name": "x"}, 404, "no tenant"),
        ("POST", "/tenants/nobody/teams", {"id": "a"}, 404, "no tenant"),
        ("GET", "/tenants/nobody/teams", None, 404, "no tenant"),
        ("DELETE", "/tenants/team/teams/nobody", None, 404, "no team"),
        ("GET", "/tenants?archived=maybe", None, 400, "archived must be"),
        ("GET", "/tenants?color=red", None, 400, "Unknown query parameter"),
        ("POST", "/keys", {}, 400, "Name a tenant"),
        ("POST", "/keys", {"tenant": "team", "role": "read"}, 400, "not both"),
        ("POST", "/keys", {"role": "read", "team": "web"}, 400, "has no team"),
        ("POST", "/keys", {"role": "king"}, 400, "role: "),
        ("POST", "/keys", {"tenant": "nobody"}, 404, "no tenant"),
        ("POST", "/keys", {"tenant": "team", "expires_at": 1}, 400, "in the past"),
        ("POST", "/keys", {"tenant": "team", "expires_at": "tomorrow"}, 400, "expires_at: "),
        ("POST", "/keys", {"tenant": "team", "expires_at": True}, 400, "expires_at: "),
        ("POST", "/keys/k-none/rotate", {}, 404, "no key"),
        ("POST", "/keys/k-none/rotate", {"overlap_s": -1}, 400, "overlap_s: must be at least 0"),
        ("POST", "/keys/k-none/expire", {}, 400, "Name expires_at"),
        ("DELETE", "/keys/k-none", None, 404, "no key"),
        ("GET", "/keys?limit=0", None, 400, "limit must be"),
        ("POST", "/allowances", {**BUDGET, "amount": -1}, 400, "amount: must be at least 0"),
        ("POST", "/allowances", {**BUDGET, "amount": "1.0000000001"}, 400, "amount: "),
        ("POST", "/allowances", {**BUDGET, "amount": 10**12}, 400, "amount"),
        ("POST", "/allowances", {**BUDGET, "amount": "NaN"}, 400, "amount: "),
        ("POST", "/allowances", {**BUDGET, "amount": True}, 400, "amount: "),
        ("POST", "/allowances", {**BUDGET, "amount": "1e400"}, 400, "amount: "),
        ("POST", "/allowances", {**BUDGET, "period": "minute"}, 400, "usd counts per"),
        ("POST", "/allowances", {**BUDGET, "metric": "requests", "period": "minute", "amount": 1.5}, 400, "whole"),
        ("POST", "/allowances", {**BUDGET, "subject": "nobody"}, 404, "no tenant"),
        ("POST", "/allowances", {**BUDGET, "scope": "team"}, 400, "TENANT/TEAM"),
        ("POST", "/allowances", {**BUDGET, "alerts": [1, 0.5]}, 400, "ascending"),
        ("POST", "/allowances", {**BUDGET, "alerts": [2]}, 400, "alerts"),
        ("GET", "/allowances?scope=world", None, 400, "scope must be one of key, team"),
        ("DELETE", "/allowances/tenant:team:usd:day", None, 404, "no allowance"),
        ("GET", "/audit?cursor=x", None, 400, "cursor must be"),
        ("GET", "/audit?cursor=" + "9" * 19, None, 400, "cursor must be"),
        ("PUT", "/keys", {}, 405, "PUT is not allowed"),
    ],
)  # fmt: skip
async def test_bad_input_is_refused_in_words_and_changes_nothing(
    world: World, admin: Admin, method: str, path: str, body: Any, status: int, said: str
) -> None:
    directory = accounts_of(world).directory
    assert said in await admin.refused(method, path, body, status=status)
    assert directory.log.version() <= 1, "but for the pepper, which the first key makes"
    assert [row.action for row in directory.log.page() if row.action != "pepper.create"] == []


async def test_every_mistake_is_named_at_once(admin: Admin) -> None:
    said = await admin.refused("POST", "/allowances", {"scope": "x", "amount": -1, "hard": 7, "much": 1}, status=400)
    for field in ("scope: ", "amount: ", "hard: ", "much: ", "subject: ", "metric: ", "period: "):
        assert field in said


async def test_bodies_are_bounded_and_json(admin: Admin) -> None:
    for content, status in ((b"{", 400), (b"\xff", 400), (b"[" * 20_000, 400), (b'{"id": "' + b"a" * 70_000, 413)):
        answer = await admin.client.post("/admin/tenants", content=content)
        assert answer.status_code == status, answer.text
        assert "error" in answer.json()


async def test_a_secret_that_is_sent_by_mistake_is_not_sent_back(admin: Admin) -> None:
    secret = "sk-proj-4f9d8e7c6b5a49382716"
    for body in ({"id": secret + "!"}, {"id": "a", secret: 1}, {"id": "a", "settings": {"rescue": secret}}):
        assert secret not in await admin.refused("POST", "/tenants", body, status=400)


# ---- who may --------------------------------------------------------------------------------------------------------


async def test_an_operator_gets_no_key_and_leaves_admins_keys_alone(world: World, admin: Admin) -> None:
    owner = await admin("POST", "/keys", {"role": "own"}, expect=201)
    operator = await admin("POST", "/keys", {"role": "operate"}, expect=201)
    tenants = await admin("POST", "/keys", {"tenant": "team"}, expect=201)
    async with admin_of(world, operator["key"]) as lesser:
        for made in (owner, operator):
            for method, path in (("POST", "/rotate"), ("POST", "/expire"), ("DELETE", "")):
                body = {"lasts": True} if path == "/expire" else {}
                said = await lesser.refused(method, f"/keys/{made['info']['id']}{path}", body or None, status=403)
                assert "role own" in said
        said = await lesser.refused("POST", f"/keys/{tenants['info']['id']}/rotate", {}, status=403)
        assert "role own" in said, "it would be shown a secret that opens"
        await lesser("DELETE", f"/keys/{tenants['info']['id']}")
    assert (await world.chat(headers=bearer(tenants["key"]))).status_code == 401
    await admin("DELETE", f"/keys/{operator['info']['id']}")
    async with admin_of(world, operator["key"]) as gone:
        assert "revoked" in await gone.refused("GET", "/keys", status=401)


async def test_pages_of_other_sites_order_nothing(make_world: MakeWorld) -> None:
    """Of a gateway that asks for no key, which listens on loopback, and to which any page can have a browser talk."""
    async with make_world(with_accounts=True, extra={"server": {"auth": "none"}}) as world:
        own = f"http://127.0.0.1:{world.gateway.port}"
        for headers, status in (
            ({"origin": "https://evil.example"}, 403),
            ({"sec-fetch-site": "cross-site", "origin": own}, 403),
            ({"sec-fetch-site": "same-site"}, 403),
            ({"origin": own}, 201),
            ({"sec-fetch-site": "same-origin", "origin": own}, 201),
            ({}, 201),
        ):
            async with httpx.AsyncClient(base_url=own, headers=headers) as client:
                answer = await client.post("/admin/keys", json={"tenant": "team"})
                assert answer.status_code == status, (headers, answer.text)
                assert (await client.get("/admin/keys")).status_code == 200
        assert {row.actor for row in accounts_of(world).directory.log.page()} == {"anonymous"}


# ---- the audit ------------------------------------------------------------------------------------------------------


async def test_every_change_is_audited_with_who_and_without_secrets(
    world: World, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    operator = f"operator:{digest(OPERATOR_KEY)[:8]}"
    made = await admin("POST", "/keys", {"role": "own", "name": "ada"}, expect=201)
    async with admin_of(world, made["key"]) as ada:
        await ada("POST", "/tenants", {"id": "shop"}, expect=201)
        key = await ada("POST", "/keys", {"tenant": "shop"}, expect=201)
        await ada("POST", "/allowances", {**BUDGET, "subject": "shop"})
        await ada("POST", f"/keys/{key['info']['id']}/rotate", {}, expect=201)
        await ada("POST", "/providers/alpha/weight", {"weight": 0.5, "reason": "dear"})
    rows = (await admin("GET", "/audit"))["changes"]
    told = [(row["action"], row["actor"]) for row in reversed(rows)]
    id = made["info"]["id"]
    assert told[-6:] == [
        ("tenant.create", id), ("key.create", id), ("allowance.set", id), ("key.expire", id), ("key.rotate", id),
        ("provider.weight", id),
    ]  # fmt: skip
    assert ("key.create", operator) in told
    page = await admin("GET", "/audit?limit=4")
    rest = await admin("GET", f"/audit?limit=100&cursor={page['next_cursor']}")
    assert page["changes"] + rest["changes"] == rows
    assert rest["next_cursor"] is None
    assert {row["subject"] for row in (await admin("GET", "/audit?subject=tenant:shop"))["changes"]} == {"tenant:shop"}
    everything = str([rows, await admin("GET", "/keys?over=true"), await admin("GET", "/tenants")]) + caplog.text
    for secret in (made["key"], key["key"], OPERATOR_KEY):
        assert secret not in everything
        assert secret[20:40] not in everything


async def test_orders_about_healings_are_audited_with_who(world: World, admin: Admin) -> None:
    made = await admin("POST", "/keys", {"role": "operate"}, expect=201)
    for path, body in (
        ("veto", {"kind": "drain", "provider": "alpha"}),
        ("lift", {"veto": {"kind": "drain", "provider": "alpha"}}),
        ("pin", {"kind": "nothing", "offers": ["alpha/sim"], "by": "somebody else"}),
    ):
        answer = await world.client.post(f"/health/healings/{path}", json=body, headers=bearer(made["key"]))
        assert answer.status_code == 200, answer.text
    await world.client.post("/health/guardian/albedo", headers=bearer(made["key"]))
    rows = (await admin("GET", "/audit"))["changes"][:4]
    assert [row["action"] for row in rows] == ["guardian.albedo", "healing.pin", "healing.lift", "healing.veto"]
    assert {row["actor"] for row in rows} == {made["info"]["id"]}
    assert rows[1]["after"]["offers"] == ["alpha/sim"]
    world.config_path.with_name("accounts.db").rename(world.config_path.with_name("away"))
    answer = await world.client.post("/health/guardian/albedo", headers=bearer(OPERATOR_KEY))
    assert answer.status_code == 200, "the night shift can act without the store"


# ---- the store gone, and a port of its own --------------------------------------------------------------------------


async def test_with_the_store_gone_nothing_is_changed_and_it_is_said(world: World, admin: Admin) -> None:
    await admin("POST", "/tenants", {"id": "shop"}, expect=201)
    place = world.config_path.with_name("accounts.db")
    place.rename(world.config_path.with_name("away"))
    for method, path, body in (
        ("GET", "/tenants", None),
        ("POST", "/keys", {"tenant": "shop"}),
        ("GET", "/audit", None),
    ):
        assert "nothing was changed" in await admin.refused(method, path, body, status=503)
    assert (await admin("GET", "/decisions"))["decisions"] == []
    world.config_path.with_name("away").rename(place)
    assert (await admin("GET", "/tenants/shop"))["id"] == "shop"


async def test_on_a_port_of_its_own_it_is_served_there_alone(make_world: MakeWorld) -> None:
    async with make_world(with_accounts=True, extra={"accounts": {"admin_port": 0}}) as world:
        port = world.gateway.admin_port
        assert port not in (None, world.gateway.port)
        async with admin_of(world) as elsewhere, admin_of(world, port=port) as admin:
            assert "No endpoint" in await elsewhere.refused("GET", "/tenants", status=404)
            assert (await admin("GET", "/tenants"))["tenants"]
            for path in ("/status", "/v1/models", "/health/providers", "/providers", "/decisions"):
                assert (await admin.client.get(path)).status_code == 404
            for path in ("/health/live", "/health/ready", "/openapi.json"):
                assert (await admin.client.get(path)).status_code == 200
