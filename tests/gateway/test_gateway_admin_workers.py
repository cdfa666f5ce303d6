"""The admin API of several workers: through any of them on the main port, or on one of its own that outlives each."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from admin_world import Admin, bearer
from gateway_world import OPERATOR_KEY
from test_gateway_process import refused, settings_for, start
from test_gateway_workers import BODY, QUICK, Workers, serving

from amaru.simulation import SimulatedProvider

WAIT_S = 60.0


@pytest.fixture
async def provider() -> AsyncIterator[SimulatedProvider]:
    async with SimulatedProvider(QUICK) as made:
        yield made


def admins_of(workers: Workers) -> list[Admin]:
    """Who asks each of the workers on the main port."""
    for client in workers.by_worker.values():
        client.headers["authorization"] = f"Bearer {OPERATOR_KEY}"
    return [Admin(workers.by_worker[number]) for number in sorted(workers.by_worker)]


def listeners_of(pid: int) -> set[int]:
    """Ports that a process listens on."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[9] in inodes}


async def served_with(client: httpx.AsyncClient, key: str, status: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            answer = await client.post("/v1/chat/completions", json=BODY, headers=bearer(key))
            if answer.status_code == status:
                return
            await asyncio.sleep(0.05)


@pytest.mark.timeout(300)
async def test_through_any_worker_it_answers_alike(tmp_path: Path, provider: SimulatedProvider) -> None:
    async with serving(tmp_path, settings_for(provider.base_url, workers=2)) as workers:
        for number, admin in enumerate(admins_of(workers)):
            tenant = f"shop{number}"
            made = await admin("POST", "/tenants", {"id": tenant, "name": "The shop"}, expect=201)
            answer = await admin.client.get(f"/admin/tenants/{tenant}")
            assert (answer.status_code, answer.json()) == (200, made)
            tag = answer.headers["etag"]
            await admin("PATCH", f"/tenants/{tenant}", {"name": "Shop"}, headers={"if-match": tag})
            await admin("PATCH", f"/tenants/{tenant}", {"name": "x"}, expect=412, headers={"if-match": tag})
            once = {"idempotency-key": f"once-{number}"}
            key = await admin("POST", "/keys", {"tenant": tenant}, expect=201, headers=once)
            await admin("POST", "/keys", {"tenant": tenant}, expect=409, headers=once)
            team = await admin("POST", f"/tenants/{tenant}/teams", {"id": "web"}, expect=201)
            page = await admin("GET", "/tenants?limit=1")
            assert (len(page["tenants"]), page["next_cursor"]) == (1, "file:team")
            page = await admin("GET", "/tenants", params={"cursor": page["next_cursor"]})
            assert tenant in [one["id"] for one in page["tenants"]]
            budget = {"scope": "tenant", "subject": tenant, "metric": "usd", "period": "month", "amount": "5"}
            limit = await admin("POST", "/allowances", budget)
            for other in admins_of(workers):  # what one of them did, both show at once
                assert (await other("GET", f"/tenants/{tenant}/teams/web")) == team
                assert (await other("GET", f"/allowances/{limit['id']}"))["amount"] == "5"
                await served_with(other.client, key["key"], 200)
            await admin("DELETE", f"/keys/{key['info']['id']}")
            for other in admins_of(workers):
                await served_with(other.client, key["key"], 401)
            drained = await admin("POST", "/providers/slow/weight", {"weight": 0.5})
            assert drained["order"]["weight"] == 0.5
            async with admin.client.stream("GET", "/admin/events") as events:
                assert events.headers["content-type"].startswith("text/event-stream")
                async for line in events.aiter_lines():  # as it comes, and not once it ends
                    assert line == "event: open"
                    break
            assert (await admin.client.post("/admin/tenants", content=b"{")).status_code == 400


@pytest.mark.timeout(300)
async def test_a_port_of_its_own_is_the_owners_and_outlives_it(tmp_path: Path, provider: SimulatedProvider) -> None:
    settings: dict[str, Any] = {**settings_for(provider.base_url, workers=2), "accounts": {"admin_port": 0}}
    async with serving(tmp_path, settings) as workers:
        port = (await workers.logged("serving_admin"))["port"]
        pids = workers.pids()
        assert port in listeners_of(pids[0])
        assert port not in listeners_of(pids[1])
        for admin in admins_of(workers):
            assert "No endpoint" in await admin.refused("GET", "/tenants", status=404)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=bearer(OPERATOR_KEY), timeout=WAIT_S
        ) as client:
            await Admin(client)("POST", "/tenants", {"id": "shop"}, expect=201)
            assert (await client.get("/v1/models")).status_code == 404
        os.kill(pids[0], signal.SIGKILL)
        # Whoever connects now waits for the next owner, and is not refused.
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=bearer(OPERATOR_KEY), timeout=WAIT_S
        ) as client:
            await asyncio.to_thread(_gone, pids[0])
            assert (await Admin(client)("GET", "/tenants/shop"))["id"] == "shop"
        assert workers.pids()[0] != pids[0]
        assert await workers.stop() in (0, 1)
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                await client.get("/health/live")


def _gone(pid: int) -> None:
    import time

    for _ in range(int(WAIT_S / 0.01)):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.01)
    raise AssertionError("it lives")


@pytest.mark.timeout(300)
async def test_a_taken_admin_port_is_said_once_before_anything_is_served(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    settings = {**settings_for("http://127.0.0.1:9", workers=2), "accounts": {"admin_port": port}}
    err = await refused(await start(tmp_path, settings))
    assert err.count(f"cannot listen on 127.0.0.1:{port}: the port is taken") == 1
    assert "Traceback" not in err
    taken.close()
