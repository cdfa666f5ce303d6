"""kill -9 of a gateway under load: its log passes the audit, and nothing whose receipt a caller holds is missing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import httpx
from gateway_world import KEY
from test_gateway_process import Served, settings_for, start

from amaru.ledger.audit import audit
from amaru.ledger.merkle import leaf_hash
from amaru.ledger.place import Place, open_view, trust_of
from amaru.ledger.receipts import Decision, Deploy, read_leaf
from amaru.ledger.remembrancer import Remembrancer
from amaru.simulation import INSTANT, ProviderProfile, SimulatedProvider

KILLS = 4
CALLERS = 8
REQUEST: dict[str, Any] = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


async def serve(folder: Path, settings: dict[str, Any], *options: str) -> Served:
    process = await start(folder, settings, *options)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(300.0):  # several interpreters may have to start, and few cores for them
            words = (await process.stdout.readline()).decode()
    except TimeoutError:
        process.kill()
        raise
    return Served(process, words.split("serves at ")[1].split("/v1")[0], folder / "amaru.yaml", settings)


async def call_until_it_ends(client: httpx.AsyncClient, held: set[str], *, stream: bool) -> None:
    """Ask on and on; every receipt that an answer's head named is put into ``held``."""
    with contextlib.suppress(httpx.TransportError):
        while True:
            async with client.stream("POST", "/v1/chat/completions", json={**REQUEST, "stream": stream}) as answer:
                held.add(answer.headers["x-amaru-receipt"])
                await answer.aread()


def leaves_of(place: Place) -> list[bytes]:
    view = open_view(place, trust_of(place)[0].verifiers)
    report = audit(view.store, view.verifiers)
    assert report.ok, report
    return list(view.entries(0, view.size))


async def test_a_gateway_that_is_killed_under_load_loses_no_receipt_that_a_caller_holds(tmp_path: Path) -> None:
    place = Place.of(str(tmp_path / "amaru-data" / "ledger"), tmp_path / "amaru-data")
    held: set[str] = set()
    async with SimulatedProvider(ProviderProfile(name="slow", latency=INSTANT)) as provider:
        settings = settings_for(provider.base_url) | {"ledger": {"enabled": True}}
        for kill in range(KILLS):
            before = len(held)
            served = await serve(tmp_path, settings)
            calls = asyncio.gather(
                *(call_until_it_ends(served.client, held, stream=caller % 2 == 0) for caller in range(CALLERS))
            )
            async with asyncio.timeout(60.0):
                while len(held) < before + 50 + 37 * kill:  # noqa: ASYNC110 - told by no event
                    await asyncio.sleep(0.005)
            assert await served.stop(signal.SIGKILL) == -signal.SIGKILL
            await calls
        served = await serve(tmp_path, settings)  # takes in what the queue still holds
        assert await served.stop() == 0
    found = [leaf_hash(leaf).hex() for leaf in leaves_of(place)]
    assert held <= set(found)
    assert len(found) == len(set(found))  # and none is logged twice


async def test_others_record_through_a_gateway_that_holds_the_log(tmp_path: Path) -> None:
    place = Place.of(str(tmp_path / "amaru-data" / "ledger"), tmp_path / "amaru-data")
    async with SimulatedProvider(ProviderProfile(name="slow", latency=INSTANT)) as provider:
        served = await serve(tmp_path, settings_for(provider.base_url) | {"ledger": {"enabled": True}})
        try:
            headers = {"authorization": f"Bearer {KEY}"}
            answer = await served.client.post("/v1/chat/completions", json=REQUEST, headers=headers)
            deploy = Deploy(
                at="2026-11-21T12:00:00.000000Z", component="gateway", digest="sha256:" + "0" * 64, version="1"
            )
            with Remembrancer(place) as remembrancer:
                recorded = await asyncio.to_thread(remembrancer.record, deploy)
        finally:
            assert await served.stop() == 0
    leaves = leaves_of(place)
    assert leaf_hash(leaves[recorded.entry.leaf]) == recorded.entry.hash
    assert answer.headers["x-amaru-receipt"] in {leaf_hash(leaf).hex() for leaf in leaves}
    assert {type(read_leaf(leaf)) for leaf in leaves} == {Deploy, Decision}


async def test_a_second_gateway_on_one_log_serves_without_receipts(tmp_path: Path) -> None:
    async with SimulatedProvider(ProviderProfile(name="slow", latency=INSTANT)) as provider:
        settings = settings_for(provider.base_url) | {"ledger": {"enabled": True}}
        first = await serve(tmp_path, settings)
        second = await serve(tmp_path, settings)
        try:
            told = await second.logged("ledger_not_written")
            assert f"process {first.process.pid} writes this log" in told["reason"]
            assert "x-amaru-receipt" in (await first.client.post("/v1/chat/completions", json=REQUEST)).headers
            answer = await second.client.post("/v1/chat/completions", json=REQUEST)
            assert answer.status_code == 200
            assert "x-amaru-receipt" not in answer.headers
        finally:
            assert await first.stop() == 0
            assert await second.stop() == 0
