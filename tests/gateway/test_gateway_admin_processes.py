"""Two `amaru serve` over one store: what the admin API of one changes, the other follows."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from admin_world import Admin, bearer
from gateway_world import OPERATOR_KEY
from test_gateway_process import SLOW, Served, settings_for, start

from amaru.simulation import SimulatedProvider


@contextlib.asynccontextmanager
async def serving(folder: Path, settings: dict[str, Any]) -> AsyncIterator[Served]:
    process = await start(folder, settings)
    assert process.stdout is not None
    async with asyncio.timeout(60.0):
        words = (await process.stdout.readline()).decode()
    address = words.partition("serves at ")[2].partition("/v1")[0]
    served = Served(process, address, folder / "amaru.yaml", settings)
    try:
        yield served
    finally:
        await served.stop(signal.SIGKILL)


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


async def answered(served: Served, key: str) -> int:
    body = {"model": "sim", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    return (await served.client.post("/v1/chat/completions", json=body, headers=bearer(key))).status_code


async def until_answered(served: Served, key: str, status: int) -> None:
    async with asyncio.timeout(60.0):
        while await answered(served, key) != status:  # noqa: ASYNC110 - it is asked over the wire
            await asyncio.sleep(0.02)


async def test_a_key_of_one_process_opens_the_other_until_it_is_revoked(tmp_path: Path) -> None:
    async with SimulatedProvider(SLOW) as provider:
        settings = settings_for(provider.base_url, drain_s=5)
        shared = {"url": str(tmp_path / "accounts.db"), "pepper_file": str(tmp_path / "pepper")}
        async with (
            serving(folder(tmp_path, "one"), {**settings, "accounts": {**shared, "admin_port": 0}}) as one,
            serving(folder(tmp_path, "two"), {**settings, "accounts": shared}) as two,
        ):
            port = (await one.logged("serving_admin"))["port"]
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=bearer(OPERATOR_KEY)) as client:
                admin = Admin(client)
                made = await admin("POST", "/keys", {"tenant": "team"}, expect=201)
                assert await answered(one, made["key"]) == 200, "at once where it was made"
                await until_answered(two, made["key"], 200)
                await admin("DELETE", f"/keys/{made['info']['id']}")
                assert await answered(one, made["key"]) == 401
                await until_answered(two, made["key"], 401)
                rows = (await admin("GET", "/audit"))["changes"]
                assert [row["action"] for row in rows[:2]] == ["key.revoke", "key.create"]
            on_main = await one.client.get("/admin/keys", headers=bearer(OPERATOR_KEY))
            assert on_main.status_code == 404, "it has a port of its own"
            theirs = Admin(two.client)
            assert (await theirs("GET", "/keys?over=true", headers=bearer(OPERATOR_KEY)))["keys"][0]["revoked_at"]
            for served in (one, two):
                assert await served.stop() == 0
        logs = str(one.logs) + str(two.logs)
        assert made["key"] not in logs
        assert made["key"][20:50] not in logs
