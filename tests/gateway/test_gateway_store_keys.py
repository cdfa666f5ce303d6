"""Keys of the accounts' store on the serving endpoints: served at once, and refused soon after they are revoked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from gateway_world import KEY, OPERATOR_KEY, MakeWorld, World, until

from amaru.accounts.directory import Directory
from amaru.accounts.directory_base import FromFile
from amaru.accounts.directory_keys import NewKey, Role
from amaru.accounts.pepper import Pepper
from amaru.accounts.store import Store
from amaru.errors import AccountConflict, RequestError
from amaru.mesh.accounts import EVERY_S, MeshAccounts

SERVING = ("/v1/chat/completions", "/v1/models", "/agent/route", "/agent/route/batch", "/route", "/providers")
BODY = {"model": "sim", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def stored(make_world: MakeWorld) -> AsyncIterator[World]:
    async with make_world(with_accounts=True) as made:
        yield made


@pytest.fixture
def elsewhere(stored: World) -> Directory:
    """The directory as another process has it."""
    config = stored.mesh.plan.config
    return Directory(Store(config.accounts.url), config.accounts.pepper, config.from_file())


def headers(made: NewKey) -> dict[str, str]:
    return {"authorization": f"Bearer {made.key}"}


async def status(world: World, made: NewKey) -> int:
    return (await world.client.get("/v1/models", headers=headers(made))).status_code


async def create(world: World, tenant: str = "team", **fields: Any) -> NewKey:
    assert world.accounts is not None
    made = await asyncio.to_thread(lambda: world.accounts.directory.keys.create(tenant, by="ann", **fields))
    await world.accounts.look()
    return made


async def refused_by_itself(world: World, made: NewKey) -> None:
    """After the next look, which nobody here asks for."""
    assert EVERY_S < 1.0
    async with asyncio.timeout(60.0):
        while await status(world, made) == 200:  # noqa: ASYNC110 - it is asked over the wire
            await asyncio.sleep(0.02)


async def test_a_key_of_the_store_opens_every_serving_endpoint(stored: World) -> None:
    made = await create(stored)
    workload = {"model": "sim"}
    bodies = {"/agent/route/batch": {"workloads": [workload]}, "/v1/chat/completions": BODY}
    for path in SERVING:
        for again in range(2):  # asked of the store, and then known
            if path in ("/v1/models", "/providers"):
                answer = await stored.client.get(path, headers=headers(made))
            else:
                answer = await stored.client.post(path, json=bodies.get(path, workload), headers=headers(made))
            assert answer.status_code == 200, (path, again, answer.text)
    bare = await stored.client.get("/v1/models", headers={"authorization": "", "x-api-key": made.key})
    assert bare.status_code == 401, "an Authorization header that is there counts"
    async with httpx.AsyncClient(base_url=stored.base_url) as client:
        assert (await client.get("/v1/models", headers={"x-api-key": made.key})).status_code == 200


async def test_decisions_are_the_tenants_of_the_store(stored: World, elsewhere: Directory) -> None:
    elsewhere.tenants.create("shop", by="ann", settings={"resources": ["sim"]})
    made = elsewhere.keys.create("shop", by="ann", name="till")
    await until(lambda: stored.accounts is not None and stored.accounts.directory.log.version() == 2)
    assert stored.accounts is not None
    await stored.accounts.look()
    answer = await stored.chat(headers=headers(made))
    assert answer.status_code == 200
    page = await stored.client.get(
        f"/decisions/{answer.headers['x-amaru-decision']}", headers={"authorization": f"Bearer {OPERATOR_KEY}"}
    )
    assert page.json()["tenant"] == "shop"
    refused = await stored.client.post(
        "/v1/embeddings", json={"model": "sim-embed", "input": "a"}, headers=headers(made)
    )
    assert refused.status_code == 403, "the tenant's own resources bind it"
    assert [one["id"] for one in (await stored.client.get("/v1/models", headers=headers(made))).json()["data"]] == [
        "sim"
    ]
    await asyncio.to_thread(lambda: elsewhere.tenants.change("shop", by="ann", settings={"resources": ["sim-embed"]}))
    await stored.accounts.look()
    assert (await stored.chat(headers=headers(made))).status_code == 403
    await asyncio.to_thread(lambda: elsewhere.tenants.archive("shop", by="ann"))
    await stored.accounts.look()
    gone = await stored.chat(headers=headers(made))
    assert (gone.status_code, "archived" in gone.text) == (401, True)


@pytest.mark.parametrize("how", ["revoke", "expire", "archive"])
async def test_a_key_opens_nothing_soon_after_another_process_took_it_away(
    stored: World, elsewhere: Directory, how: str
) -> None:
    elsewhere.tenants.create("shop", by="ann")
    made = elsewhere.keys.create("shop", by="ann")
    assert stored.accounts is not None
    await stored.accounts.look()
    assert await status(stored, made) == 200
    if how == "revoke":
        elsewhere.keys.revoke(made.info.id, by="ann")
    elif how == "expire":
        elsewhere.keys.expire(made.info.id, time.time() + 0.05, by="ann")
    else:
        elsewhere.tenants.archive("shop", by="ann")
    await refused_by_itself(stored, made)
    answer = await stored.client.get("/v1/models", headers=headers(made))
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert made.key not in answer.text
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_rotated_key_opens_during_the_overlap(stored: World) -> None:
    made = await create(stored)
    assert stored.accounts is not None
    keys = stored.accounts.directory.keys
    new = keys.rotate(made.info.id, by="ann", overlap_s=60)
    last = keys.rotate(new.info.id, by="ann")
    await stored.accounts.look()
    assert [await status(stored, one) for one in (made, new, last)] == [200, 401, 200]


async def test_keys_of_the_file_are_asked_of_no_store(stored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stored.accounts is not None
    monkeypatch.setattr(stored.accounts, "key", None)
    monkeypatch.setattr(stored.accounts, "known", None)
    assert (await stored.chat()).status_code == 200
    for foreign in ("sk-amaru-unknown", "sk-proj-" + "x" * 80, "x" * 61):
        answer = await stored.client.get("/v1/models", headers={"authorization": f"Bearer {foreign}"})
        assert answer.status_code == 401


async def test_well_formed_keys_of_another_store_are_refused_without_a_look(
    stored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(stored)
    assert stored.accounts is not None
    monkeypatch.setattr(stored.accounts.directory.keys, "find_digest", None)
    for _ in range(3):
        key = Pepper(b"x" * 32).new_key()
        answer = await stored.client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 401
        assert key not in answer.text


async def test_with_the_store_gone_known_keys_go_on_and_nobody_else_is_let_in(
    stored: World, caplog: pytest.LogCaptureFixture
) -> None:
    known, other = await create(stored), await create(stored)
    assert await status(stored, known) == 200
    assert stored.accounts is not None
    stored.mesh.plan.config.storage_path.with_name("accounts.db").rename(stored.config_path.with_name("away"))
    await stored.accounts.look()
    assert "cannot be opened" in stored.accounts.failure or "unable to open" in stored.accounts.failure
    assert await status(stored, known) == 200
    seen = await stored.client.get("/status", headers={"authorization": f"Bearer {OPERATOR_KEY}"})
    assert seen.json()["accounts"] == {"store": stored.accounts.failure}
    answer = await stored.client.get("/v1/models", headers=headers(other))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "accounts_unavailable"
    assert answer.headers["retry-after"] == "1"
    assert (await stored.chat()).status_code == 200, "keys of the file need no store"
    stored.config_path.with_name("away").rename(stored.config_path.with_name("accounts.db"))
    await stored.accounts.look()
    assert stored.accounts.failure == ""
    assert await status(stored, other) == 200
    assert known.key not in caplog.text
    assert other.key not in caplog.text


async def test_a_look_that_goes_wrong_is_said_and_ends_no_later_one(
    stored: World, elsewhere: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    made = await create(stored)
    assert stored.accounts is not None
    failing = True

    def watch(_: object) -> None:
        if failing:
            raise ValueError("a mistake of ours")

    stored.accounts.watchers.append(watch)
    await until(lambda: "ValueError: a mistake of ours" in caplog.text)
    failing = False
    await asyncio.to_thread(lambda: elsewhere.keys.revoke(made.info.id, by="ann"))
    await refused_by_itself(stored, made)


async def test_a_key_ends_in_time_also_while_the_store_is_gone(stored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await create(stored, expires_at=time.time() + 1000)
    assert stored.accounts is not None
    for _ in range(2):
        assert await status(stored, made) == 200
    stored.config_path.with_name("accounts.db").rename(stored.config_path.with_name("away"))
    await stored.accounts.look()
    assert await status(stored, made) == 200
    monkeypatch.setattr(stored.accounts, "_clock", lambda: time.time() + 2000)
    await stored.accounts.look()
    answer = await stored.client.get("/v1/models", headers=headers(made))
    assert (answer.status_code, "expired" in answer.text) == (401, True)


async def test_a_store_that_hangs_holds_up_only_those_who_need_it(
    stored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, other = await create(stored), await create(stored)
    assert await status(stored, known) == 200
    assert stored.accounts is not None
    hanging, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(_: bytes) -> None:
        loop.call_soon_threadsafe(hanging.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(60)

    monkeypatch.setattr("amaru.mesh.accounts.LOOKUP_S", 0.05)
    monkeypatch.setattr(stored.accounts.directory.keys, "find_digest", hang)
    waiting = asyncio.create_task(stored.client.get("/v1/models", headers=headers(other)))
    await hanging.wait()
    assert await status(stored, known) == 200
    assert (await waiting).status_code == 503
    go_on.set()


async def test_admin_keys_ask_nothing_and_open_what_operators_read(stored: World) -> None:
    assert stored.accounts is not None
    keys = stored.accounts.directory.keys
    read, operate = (keys.create_admin(role, by="ann") for role in (Role.READ, Role.OPERATE))
    await stored.accounts.look()
    refused = await stored.chat(headers=headers(read))
    assert (refused.status_code, "admin" in refused.text) == (403, True)
    for path in ("/status", "/policy", "/metrics", "/health/providers", "/decisions", "/providers"):
        assert (await stored.client.get(path, headers=headers(read))).status_code == 200, path
    veto = {"kind": "drain", "provider": "alpha"}
    answer = await stored.client.post("/health/healings/veto", json=veto, headers=headers(read))
    assert (answer.status_code, "operate" in answer.text) == (403, True)
    answer = await stored.client.post("/health/healings/veto", json=veto, headers=headers(operate))
    assert answer.status_code == 200, answer.text
    tenant = await stored.client.get("/status", headers={"authorization": f"Bearer {KEY}"})
    assert (tenant.status_code, "role read" in tenant.text) == (403, True)


async def test_a_reload_that_names_a_tenant_of_the_store_is_refused(stored: World) -> None:
    assert stored.accounts is not None
    stored.accounts.directory.tenants.create("shop", by="ann")
    tenant = stored.mesh.plan.config.from_file().by_id["team"]
    with pytest.raises(AccountConflict, match="both have tenant shop"):
        await stored.accounts.follow(FromFile(by_id={"shop": tenant}))


async def test_a_gateway_whose_file_and_store_contradict_each_other_does_not_start(stored: World) -> None:
    tenant = stored.mesh.plan.config.from_file().by_id["team"]
    config = stored.mesh.plan.config
    from_file = FromFile(by_id={"shop": tenant})
    assert stored.accounts is not None
    stored.accounts.directory.tenants.create("shop", by="ann")
    accounts = MeshAccounts(Directory(Store(config.accounts.url), config.accounts.pepper, from_file))
    with pytest.raises(AccountConflict, match="both have tenant shop"):
        await accounts.start()
    await accounts.aclose()


async def test_a_gateway_starts_without_its_store_and_takes_it_up_later(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with make_world() as world:
        place = world.config_path.with_name("accounts.db")
        place.mkdir()  # no database can be opened there
        accounts = MeshAccounts.of(world.mesh.plan.config)
        try:
            await accounts.start()
            assert accounts.failure
            with pytest.raises(RequestError, match="not available now"):
                await accounts.find(Pepper(b"x" * 32).new_key().encode())
            place.rmdir()
            await accounts.look()
            assert accounts.failure == ""
            made = await accounts.run(lambda: accounts.directory.keys.create("team", by="ann"))
            await accounts.look()
            assert (await accounts.find(made.key.encode())).tenant.id == "team"
        finally:
            await accounts.aclose()
