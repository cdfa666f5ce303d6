"""The stream of events: what happens, from where a reader left off, with gaps named."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from admin_world import Admin, accounts_of, admin_of
from gateway_world import MakeWorld, World, until
from sqlalchemy import insert

from amaru.accounts.schema import outbox
from amaru.gateway import admin_events
from amaru.mesh import feed


@pytest.fixture
async def world(make_world: MakeWorld) -> AsyncIterator[World]:
    async with make_world(with_accounts=True) as made:
        yield made


@pytest.fixture
async def admin(world: World) -> AsyncIterator[Admin]:
    async with admin_of(world) as made:
        yield made


class Reader:
    """Reads a stream of events."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.id = ""
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, dict[str, Any]]:
        event, data = "", ""
        async with asyncio.timeout(60.0):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "id":
                    self.id = value
                elif name == "data":
                    data = value
                elif not line and event:
                    return event, json.loads(data)
        raise EOFError

    async def rest(self) -> list[tuple[str, dict[str, Any]]]:
        """All that comes before the end."""
        found = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(await self.next())
        return found

    async def until(self, kind: str) -> dict[str, Any]:
        while True:
            event, data = await self.next()
            if event == kind:
                return data


@contextlib.asynccontextmanager
async def reading(admin: Admin, last: str | None = None) -> AsyncIterator[Reader]:
    headers = {} if last is None else {"last-event-id": last}
    async with admin.client.stream("GET", "/admin/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Reader(response)


async def drain(admin: Admin, provider: str = "alpha") -> None:
    await admin("POST", f"/providers/{provider}/drain", {})


async def test_what_happens_is_told_as_it_happens(world: World, admin: Admin) -> None:
    async with reading(admin) as reader:
        assert (await reader.next())[0] == "open"
        made = await admin("POST", "/keys", {"tenant": "team"}, expect=201)
        change = await reader.until("change")
        while change["action"] != "key.create":
            change = await reader.until("change")
        assert change["subject"] == f"key:{made['info']['id']}"
        assert made["key"] not in str(change)
        await admin("POST", "/providers/alpha/weight", {"weight": 0.5})
        found: dict[str, dict[str, Any]] = {}
        while not {"change", "healing"} <= found.keys():
            kind, data = await reader.next()
            found[kind] = data
        assert found["healing"]["kind"] == "weight"
        world.reload(aliases={"quick": ["sim"]})
        assert (await reader.until("reload"))["digest"] == world.mesh.plan.config.digest.hex()[:16]
        world.break_("alpha", "status", status=500, times=100)
        world.break_("beta", "status", status=500, times=100)
        for _ in range(12):
            await world.chat()
        breaker = await reader.until("breaker")
        assert breaker["state"] == "open"


async def test_alerts_are_told_with_what_the_webhook_is_sent(world: World, admin: Admin) -> None:
    async with reading(admin) as reader:
        await reader.next()
        row = {"once": "a", "at": 1.0, "event": "budget.threshold", "body": '{"share": 0.8}', "tries": 0}
        with accounts_of(world).directory.store.writing() as connection:
            connection.execute(insert(outbox).values(row))
        assert await reader.until("alert") == {"id": 1, "at": 1.0, "event": "budget.threshold", "body": {"share": 0.8}}


async def test_who_comes_back_is_told_what_it_missed_and_nothing_twice(world: World, admin: Admin) -> None:
    async with reading(admin) as reader:
        await reader.next()
        await admin("POST", "/tenants", {"id": "one"}, expect=201)
        assert (await reader.until("change"))["subject"] == "tenant:one"
        left = reader.id
    await admin("POST", "/tenants", {"id": "two"}, expect=201)
    await admin("POST", "/providers/alpha/weight", {"weight": 0.5})
    events = world.gateway._admin.events  # what was gathered has no other face
    await until(
        lambda: len([one for one in events._kept if one.kind == "healing"]) == 2 and events._cursor.store.change >= 3
    )
    async with reading(admin, left) as reader:
        missed = [await reader.next() for _ in range(4)]
        assert [kind for kind, _ in missed] == ["change", "change", "healing", "healing"]
        assert [data["subject"] for kind, data in missed if kind == "change"] == ["tenant:two", "provider:alpha"]
        again = reader.id
        await admin("POST", "/tenants", {"id": "three"}, expect=201)
        assert (await reader.until("change"))["subject"] == "tenant:three"
    async with reading(admin, again) as reader:
        assert (await reader.next())[1]["subject"] == "tenant:three"
        last = reader.id
    async with reading(admin, last) as reader:
        assert (await reader.next())[0] == "open", "nothing was missed"
        assert reader.id == last


async def test_changes_outlive_a_restart_and_what_does_not_is_named(world: World, admin: Admin) -> None:
    await admin("POST", "/tenants", {"id": "one"}, expect=201)
    async with reading(admin, "0.0.00000000.7") as reader:
        assert (await reader.next())[1]["subject"] == "tenant:one"
        kind, data = await reader.next()
        assert kind == "reset"
        assert set(data["missed"]) == {"pattern", "healing", "guardian", "breaker", "reload"}
        assert "started anew" in data["missed"]["healing"]


async def test_a_gap_that_cannot_be_filled_is_named(
    world: World, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reading(admin) as reader:
        await reader.next()
        left = reader.id
    events = world.gateway._admin.events
    for digest in range(admin_events.KEPT + 1):
        events._tell("reload", {"digest": str(digest)})
    async with reading(admin, left) as reader:
        kind, data = await reader.next()
        assert (kind, "last 1000" in data["missed"]["reload"], "change" in data["missed"]) == ("reset", True, False)
        assert (await reader.next())[1] == {"digest": "1"}, "what is kept follows"
    monkeypatch.setattr(admin_events, "MAX_MISSED", 2)
    for id in ("a", "b", "c"):
        await admin("POST", "/tenants", {"id": id}, expect=201)
    run = events._cursor.run
    async with reading(admin, f"0.0.{run}.{events._cursor.number}") as reader:
        kind, data = await reader.next()
        assert (kind, set(data["missed"])) == ("reset", {"change"})
    async with reading(admin, f"999.0.{run}.{events._cursor.number}") as reader:
        kind, data = await reader.next()
        assert (kind, set(data["missed"])) == ("reset", {"change", "alert"})


async def test_one_who_reads_too_slowly_is_cut_with_words(
    world: World, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_WAITING", 4)
    async with reading(admin) as reader:
        await reader.next()
        for _ in range(6):
            world.gateway._admin.events._tell("reload", {"digest": "x"})
        data = await reader.until("end")
        assert (data["dropped"], data["reason"]) == (True, admin_events.TOO_SLOW)
        assert await reader.rest() == []


@pytest.mark.parametrize("path", ["/admin/events", "/health/events"])
async def test_a_key_that_was_revoked_reads_no_further(world: World, admin: Admin, path: str) -> None:
    made = await admin("POST", "/keys", {"role": "read"}, expect=201)
    async with (
        admin_of(world, made["key"]) as other,
        other.client.stream("GET", path) as response,
    ):
        reader = Reader(response)
        await reader.next()
        await admin("DELETE", f"/keys/{made['info']['id']}")
        await admin("POST", "/providers/alpha/weight", {"weight": 0.5})
        told = await reader.rest()
        assert told[-1][0] == "end"
        assert all(data.get("subject") != "provider:alpha" for _, data in told)
        assert "revoked" in told[-1][1].get("reason", "revoked")


async def test_streams_end_with_the_gateway(world: World, admin: Admin) -> None:
    async with reading(admin) as reader:
        await reader.next()
        draining = asyncio.create_task(world.gateway.drain(5.0))
        assert (await reader.until("end"))["dropped"] is False
        assert await draining == 0


@pytest.mark.parametrize("id", ["", "x", "1.2.3", "1.2.zzzzzzzz.4", "-1.0.00000000.0", "9" * 40])
async def test_an_id_that_is_none_is_refused(admin: Admin, id: str) -> None:
    said = await admin.refused("GET", "/events", status=400, headers={"last-event-id": id})
    assert "last-event-id" in said


async def test_with_the_store_gone_who_comes_back_is_told_to_come_again(world: World, admin: Admin) -> None:
    world.config_path.with_name("accounts.db").rename(world.config_path.with_name("away"))
    await admin.refused("GET", "/events", status=503, headers={"last-event-id": "0.0.00000000.0"})
    assert len(world.gateway._admin.events._feed) == 0, "nobody is left behind"
    async with reading(admin) as reader:
        assert (await reader.next())[0] == "open"
