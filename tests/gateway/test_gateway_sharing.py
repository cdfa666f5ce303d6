"""`amaru serve` on two machines over one Redis: what a worker of one finds out, the workers of the other act on."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_gateway_process import Served, refused, settings_for, start
from test_gateway_workers import BODY, OPERATOR, QUICK, eventually, serving

from amaru.simulation import Fault, SimulatedProvider

REDIS = os.environ.get("AMARU_TEST_REDIS", "redis://127.0.0.1:6379/0")


@pytest.fixture
def prefix() -> Iterator[str]:
    """Of keys of the test's own in a Redis that answers; skips where there is none."""
    redis = pytest.importorskip("redis")
    prefix = f"amaru-test-{uuid.uuid4().hex}"
    with redis.Redis.from_url(REDIS, socket_connect_timeout=2.0) as client:
        try:
            client.ping()
        except redis.RedisError as error:
            pytest.skip(f"no Redis at AMARU_TEST_REDIS ({type(error).__name__})")
        yield prefix
        for key in client.scan_iter(f"{prefix}:*"):
            client.delete(key)


async def state_at(client: httpx.AsyncClient) -> str:
    state: str = (await client.get("/providers/slow")).json()["offers"][0]["now"]["state"]
    return state


@pytest.mark.timeout(600)  # four processes start
async def test_what_a_worker_finds_out_holds_for_all_workers_of_both_machines(tmp_path: Path, prefix: str) -> None:
    async with SimulatedProvider(QUICK) as provider:
        sharing = {"redis_url": REDIS, "prefix": prefix}
        settings: dict[str, Any] = {
            **settings_for(provider.base_url, drain_s=15, workers=2),
            "routing": {"policy": "hybrid"},
            "sharing": sharing,
        }
        (tmp_path / "two").mkdir()
        async with serving(tmp_path, settings) as one, serving(tmp_path / "two", settings) as two:

            async def both() -> bool:
                shown = (await two.by_worker[1].get("/metrics", headers=OPERATOR)).text
                return "amaru_sharing_machines 2.0" in shown and "amaru_sharing_up 1.0" in shown

            await eventually(both)
            for _ in range(5):
                await one.by_worker[1].post("/v1/chat/completions", json=BODY)

            async def learned() -> bool:
                shown = (await two.by_worker[1].get("/metrics", headers=OPERATOR)).text
                return "amaru_sharing_origins 2.0" in shown

            await eventually(learned)
            provider.faults.add(Fault(kind="status", status=401))  # broken until a person mends it
            await one.by_worker[1].post("/v1/chat/completions", json=BODY)
            for client in two.by_worker.values():

                async def opened(client: httpx.AsyncClient = client) -> bool:
                    return await state_at(client) == "open"

                await eventually(opened)
                turned_away = await client.post("/v1/chat/completions", json=BODY)
                assert turned_away.status_code == 502
                assert turned_away.headers["x-amaru-attempts"] == "0"


async def test_without_redis_a_gateway_starts_serves_and_stops(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    async with SimulatedProvider(QUICK) as provider:
        settings = {**settings_for(provider.base_url), "sharing": {"redis_url": "redis://127.0.0.1:1/0"}}
        process = await start(tmp_path, settings)
        assert process.stdout is not None
        words = (await process.stdout.readline()).decode()
        made = Served(process, words.split("serves at ")[1].split("/v1")[0], tmp_path / "amaru.yaml", settings)
        try:
            await made.logged("redis_gone")
            assert (await made.client.post("/v1/chat/completions", json=BODY)).status_code == 200
            shown = (await made.client.get("/metrics", headers=OPERATOR)).text
            assert "amaru_sharing_up 0.0" in shown
            assert await made.stop() == 0
        finally:
            await made.stop(signal.SIGKILL)


async def test_a_redis_that_cannot_be_one_is_said_at_the_start(tmp_path: Path) -> None:
    settings = {**settings_for("http://127.0.0.1:1/v1"), "sharing": {"redis_url": "http://127.0.0.1:1"}}
    assert "sharing.redis_url: not a Redis URL" in await refused(await start(tmp_path, settings))
