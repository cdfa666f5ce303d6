"""`amaru serve --workers N` over real processes: orders, signals, options and limits reach every worker."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from test_gateway_process import refused, settings_for, start, stream_request
from test_gateway_workers import BODY, OPERATOR, QUICK, SLOW, eventually, provider, serving

from amaru.simulation import SimulatedProvider

__all__ = ["provider"]

pytestmark = pytest.mark.slow


async def test_drained_by_a_person_is_drained_in_every_worker(tmp_path: Path, provider: SimulatedProvider) -> None:
    async with SimulatedProvider(QUICK) as other:
        settings = settings_for(provider.base_url, workers=2)
        settings["providers"]["other"] = {"base_url": other.base_url}
        settings["offers"].append({**settings["offers"][0], "provider": "other",
                                   "price": {"input_usd_per_mtok": 9, "output_usd_per_mtok": 9}})  # fmt: skip
        async with serving(tmp_path, settings) as workers:
            order = {"kind": "drain", "offers": ["slow/sim"], "reason": "maintenance"}
            async with workers.by_worker[1].stream("GET", "/health/events", headers=OPERATOR) as events:
                lines = events.aiter_lines()  # handed on as it comes
                await _until_event(lines, "report")
                pinned = await workers.by_worker[0].post("/health/healings/pin", json=order, headers=OPERATOR)
                assert pinned.status_code < 300, pinned.text
                await _until_event(lines, "healing")

            async def goes_elsewhere() -> bool:
                served = await workers.by_worker[1].post("/v1/chat/completions", json=BODY)
                return served.headers["x-amaru-provider"] == "other"

            await eventually(goes_elsewhere)


async def _until_event(lines: AsyncIterator[str], kind: str) -> None:
    async with asyncio.timeout(60.0):
        async for line in lines:
            if line == f"event: {kind}":
                return
    raise AssertionError(f"no {kind} came")


async def test_sigterm_lets_streams_of_every_worker_end(tmp_path: Path) -> None:
    async with (
        SimulatedProvider(SLOW) as slow,
        serving(tmp_path, settings_for(slow.base_url, drain_s=15, workers=2)) as workers,
    ):

        async def read(client: httpx.AsyncClient, begun: asyncio.Event) -> list[str]:
            async with client.stream("POST", "/v1/chat/completions", json=stream_request(20)) as response:
                lines = []
                async for line in response.aiter_lines():
                    begun.set()
                    lines.append(line)
                return lines

        begun = [asyncio.Event() for _ in workers.by_worker]
        reading = [
            asyncio.create_task(read(client, event))
            for client, event in zip(workers.by_worker.values(), begun, strict=True)
        ]
        for event in begun:
            await event.wait()
        workers.process.send_signal(signal.SIGTERM)
        for lines in await asyncio.gather(*reading):
            assert "data: [DONE]" in lines
        assert await workers.ended() == 0


async def test_the_option_wins_over_the_file(tmp_path: Path, provider: SimulatedProvider) -> None:
    async with serving(tmp_path, settings_for(provider.base_url, workers=1), "--workers", "2") as workers:
        assert sorted(workers.pids()) == [0, 1]


async def test_what_prevents_the_start_is_said_once(tmp_path: Path) -> None:
    settings = {**settings_for("http://127.0.0.1:9", workers=3), "storage": {"path": "/proc/nowhere/amaru.db"}}
    err = await refused(await start(tmp_path, settings))
    assert err.count("amaru: /proc/nowhere") == 1
    assert "Traceback" not in err


async def test_a_taken_port_is_said_as_by_one_process(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    process = await start(tmp_path, settings_for("http://127.0.0.1:9", workers=2), "--port", str(port))
    assert f"cannot listen on 127.0.0.1:{port}: the port is taken" in await refused(process)
    taken.close()


async def test_the_receipt_that_a_worker_gave_before_it_was_killed_is_logged(
    tmp_path: Path, provider: SimulatedProvider
) -> None:
    settings = {**settings_for(provider.base_url, workers=2), "ledger": {"enabled": True}}
    async with serving(tmp_path, settings) as workers:
        given = {}
        for client in workers.by_worker.values():
            served = await client.post("/v1/chat/completions", json=BODY)
            given[served.headers["x-amaru-decision"]] = served.headers["x-amaru-receipt"]
            assert (await client.get(f"/decisions/{served.headers['x-amaru-decision']}")).status_code == 200
        os.kill(workers.pids()[1], signal.SIGKILL)

        async def are_logged() -> bool:
            pages = [(await workers.by_worker[0].get(f"/decisions/{id}")).json() for id in given]
            found = [{one["hash"] for one in page["ledger"]["receipts"]} for page in pages]
            return all(receipt in hashes for receipt, hashes in zip(given.values(), found, strict=True))

        await eventually(are_logged)


async def test_a_tenants_limit_holds_over_all_workers(tmp_path: Path) -> None:
    async with SimulatedProvider(SLOW) as slow:
        settings = settings_for(slow.base_url, workers=2)
        settings["tenants"]["team"]["limits"] = {"concurrency": 3}
        async with serving(tmp_path, settings) as workers:
            most = 0

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, slow.in_flight)
                    await asyncio.sleep(0.002)

            watching = asyncio.create_task(watch())
            body = {**BODY, "max_tokens": 10}
            asking = [
                client.post("/v1/chat/completions", json=body)
                for client in workers.by_worker.values()
                for _ in range(10)
            ]
            statuses = Counter(answer.status_code for answer in await asyncio.gather(*asking))
            watching.cancel()
            assert set(statuses) <= {200, 429}
            assert statuses[200] >= 3
            assert most <= 3
