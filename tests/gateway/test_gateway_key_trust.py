"""A gateway that is cut off from its accounts' store trusts the keys it knows for a while, and then no longer."""

from __future__ import annotations

import asyncio
import logging
import time

import httpx
import pytest
from admin_world import accounts_of, admin_of, bearer
from gateway_world import KEY, OPERATOR_KEY, OTHER_KEY, MakeWorld, World, digest
from prometheus_client import CollectorRegistry
from store_places import Wire, postgresql_place

from amaru.accounts.directory_keys import Role
from amaru.config import load
from amaru.mesh.accounts_metrics import TrustCollector

__all__ = ["postgresql_place"]

WAIT_S = 30.0


async def status(world: World, key: str) -> int:
    return (await world.client.get("/v1/models", headers=bearer(key))).status_code


async def until_status(world: World, key: str, wanted: int) -> httpx.Response:
    async with asyncio.timeout(WAIT_S):
        while True:
            answer = await world.client.get("/v1/models", headers=bearer(key))
            if answer.status_code == wanted:
                return answer
            await asyncio.sleep(0.02)


async def make_keys(world: World) -> dict[str, str]:
    keys = accounts_of(world).directory.keys

    def make() -> dict[str, str]:
        made = {tenant: keys.create(tenant, by="ann").key for tenant in ("team", "other")}
        return {**made, "admin": keys.create_admin(Role.READ, by="ann").key}

    return await asyncio.to_thread(make)


def later(monkeypatch: pytest.MonkeyPatch, world: World, seconds: float) -> None:
    """Have the gateway believe that so much time has passed."""
    monkeypatch.setattr(accounts_of(world).trust, "clock", lambda: time.monotonic() + seconds)


def told(caplog: pytest.LogCaptureFixture, event: str) -> int:
    return sum(event in record.getMessage() for record in caplog.records)


def figure(world: World, name: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(TrustCollector(accounts_of(world).trust))
    return registry.get_sample_value(name)


async def test_known_keys_are_refused_once_the_store_was_silent_too_long(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tenants = {
        "team": {"keys": [{"sha256": digest(KEY)}]},
        "other": {"keys": [{"sha256": digest(OTHER_KEY)}], "when_store_gone": "open"},
    }
    async with make_world(with_accounts=True, tenants=tenants) as world:
        keys = await make_keys(world)
        accounts = accounts_of(world)
        await accounts.look()
        assert [await status(world, keys[name]) for name in ("team", "other")] == [200, 200]
        async with admin_of(world, keys["admin"]) as admin:
            await admin("GET", "/keys")
            place = world.config_path.with_name("accounts.db")
            place.rename(world.config_path.with_name("away"))
            later(monkeypatch, world, 250)
            await accounts.look()
            assert accounts.failure
            assert [await status(world, keys[name]) for name in ("team", "other")] == [200, 200]
            assert figure(world, "amaru_accounts_keys_trusted") == 1
            later(monkeypatch, world, 301)
            answer = await until_status(world, keys["team"], 503)
            error = answer.json()["error"]
            assert error["message"].startswith("Keys cannot be checked: the accounts' store has not answered for 30")
            assert (error["code"], answer.headers["retry-after"]) == ("accounts_unavailable", "1")
            assert (await world.chat(headers=bearer(keys["team"]))).status_code == 503
            assert await status(world, keys["other"]) == 200, "its tenant is served while the store is gone"
            assert await status(world, KEY) == 200, "keys of the file need no store"
            assert "cannot be checked" in await admin.refused("GET", "/decisions", status=503)
        assert (await world.client.get("/status", headers=bearer(OPERATOR_KEY))).status_code == 200
        assert figure(world, "amaru_accounts_keys_trusted") == 0
        assert (figure(world, "amaru_accounts_keys_unchecked_total") or 0) >= 3
        assert (figure(world, "amaru_accounts_silent_seconds") or 0) > 300
        async with asyncio.timeout(WAIT_S):
            while not told(caplog, "keys_not_trusted"):  # noqa: ASYNC110 - the gateway's own task tells
                await asyncio.sleep(0.02)
        world.config_path.with_name("away").rename(place)
        await until_status(world, keys["team"], 200)
        assert figure(world, "amaru_accounts_keys_trusted") == 1
        assert (told(caplog, "keys_not_trusted"), told(caplog, "keys_trusted_again")) == (1, 1)


async def test_a_store_that_hangs_is_silent_too(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_world(with_accounts=True) as world:
        keys = await make_keys(world)
        accounts = accounts_of(world)
        await accounts.look()
        for _ in range(2):  # asked of the store, and then remembered by its header
            assert await status(world, keys["team"]) == 200
        hanging = asyncio.Event()
        whole = accounts._keys.refresh

        async def hang() -> object:
            await hanging.wait()
            return await whole()

        monkeypatch.setattr(accounts._keys, "refresh", hang)
        later(monkeypatch, world, 400)
        try:
            await until_status(world, keys["team"], 503)
        finally:
            hanging.set()
        await until_status(world, keys["team"], 200)


async def test_how_long_is_configured_and_taken_up_by_a_reload(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_world(with_accounts=True, extra={"accounts": {"trust_known_keys_s": 60}}) as world:
        keys = await make_keys(world)
        accounts = accounts_of(world)
        await accounts.look()
        assert await status(world, keys["team"]) == 200
        world.config_path.with_name("accounts.db").rename(world.config_path.with_name("away"))
        later(monkeypatch, world, 61)
        await until_status(world, keys["team"], 503)
        world.reload(accounts={"trust_known_keys_s": 90})
        accounts.bind(load(world.config_path, {"SIM_KEY": "x"}))
        assert await status(world, keys["team"]) == 200
        world.reload(accounts={"when_store_gone": "open"})
        accounts.bind(load(world.config_path, {"SIM_KEY": "x"}))
        later(monkeypatch, world, 10_000)
        await accounts.look()
        assert await status(world, keys["team"]) == 200
        async with admin_of(world, keys["admin"]) as admin:
            assert "cannot be checked" in await admin.refused("GET", "/decisions", status=503)


async def test_a_postgresql_that_cannot_be_reached_and_comes_back(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, postgresql_place: str
) -> None:
    wire = Wire(postgresql_place)
    await wire.mend()
    try:
        async with make_world(with_accounts=True, extra={"accounts": {"url": wire.url}}) as world:
            keys = await make_keys(world)
            accounts = accounts_of(world)
            await accounts.look()
            assert await status(world, keys["team"]) == 200
            await wire.cut()
            async with asyncio.timeout(WAIT_S):
                while not accounts.failure:  # noqa: ASYNC110 - the gateway's own look finds it
                    await asyncio.sleep(0.02)
            assert await status(world, keys["team"]) == 200
            later(monkeypatch, world, 301)
            await until_status(world, keys["team"], 503)
            await wire.mend()
            await until_status(world, keys["team"], 200)
    finally:
        await wire.cut()
