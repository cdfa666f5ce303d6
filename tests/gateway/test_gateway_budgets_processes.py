"""Budgets of gateways that are processes: several that share one, and one that is killed under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_world import KEY
from sqlalchemy import select
from store_places import postgresql_place
from test_gateway_ledger_kill import serve
from test_gateway_process import Served, settings_for

from amaru.accounts.estimate import bounds_of, upper_nusd
from amaru.accounts.money import nusd_half_even
from amaru.accounts.schema import charges, counters, leases
from amaru.accounts.store import Store
from amaru.domain import Kind, Offer, Price
from amaru.protocols.openai import parse_request
from amaru.simulation import Latency, ProviderProfile, SimulatedProvider
from amaru.simulation.serving import Job

__all__ = ["postgresql_place"]

BODY: dict[str, Any] = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 12}
OFFER = Offer("slow/sim", "slow", "sim", "sim-model", price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0))
MOST_NUSD = upper_nusd(
    OFFER.price, bounds_of(parse_request(Kind.CHAT, json.dumps(BODY, separators=(",", ":")).encode())), OFFER
)
SERVED, ASKED = 100, 500
KILLS = 3


def budgeted(base_url: str, amount_nusd: int, **accounts: Any) -> dict[str, Any]:
    settings = settings_for(base_url) | {"accounts": accounts}
    settings["tenants"]["team"]["budgets"] = [{"usd": f"{amount_nusd / 1e9:.9f}", "per": "total"}]
    return settings


def slow(ttft_ms: float) -> ProviderProfile:
    latency = Latency(ttft_ms=ttft_ms, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=1, itl_sigma=0, load_weight=0)
    return ProviderProfile(name="slow", latency=latency, price=OFFER.price, caches_prompts=False)


def rows_of(url: str) -> tuple[list[Any], Any, list[Any]]:
    """Charges, the one counter, and leases."""
    store = Store(url)
    try:
        with store.reading() as connection:
            return (
                list(connection.execute(select(charges))),
                connection.execute(select(counters)).one(),
                list(connection.execute(select(leases))),
            )
    finally:
        store.close()


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """Of a Redis of the test's own: gateways share its keys by name."""
    redis = pytest.importorskip("redis")
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = subprocess.Popen(
        ["redis-server", "--port", port, "--save", "", "--dir", tmp_path], stdout=subprocess.DEVNULL
    )
    try:
        with redis.Redis(port=int(port), retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 200)) as client:
            client.ping()
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


async def ask(address: str) -> httpx.Response:
    """A chat over a connection of its own; asked again, as clients do, where nobody can say now what is left."""
    body = json.dumps(BODY, separators=(",", ":")).encode()
    host, port = address.removeprefix("http://").split(":")
    while True:
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        lines, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        answer = httpx.Response(int(lines.split()[1]), content=content)
        if answer.status_code != 503:
            return answer
        assert answer.json()["error"]["code"] in ("accounts_unavailable", "accounts_busy"), answer.text
        await asyncio.sleep(0.1)


def hold_answers(provider: SimulatedProvider) -> asyncio.Event:
    """Have a provider begin no answer before this is set: so long nothing is settled, and all that is asked stands."""
    gate = asyncio.Event()
    begin = provider.inference._first_token

    async def begin_then(job: Job) -> None:
        await gate.wait()
        await begin(job)

    provider.inference._first_token = begin_then  # type: ignore[method-assign]
    return gate


@pytest.mark.parametrize(
    ("kept_in", "gateways", "workers"),
    [
        pytest.param("sqlite", 2, 1, id="two processes, SQLite"),
        pytest.param("sqlite", 1, 4, id="four workers, SQLite", marks=pytest.mark.slow),
        pytest.param("postgresql", 1, 4, id="four workers, PostgreSQL", marks=pytest.mark.slow),
        pytest.param("postgresql", 2, 2, id="two machines, PostgreSQL", marks=pytest.mark.slow),
        pytest.param("redis", 2, 2, id="two machines, Redis", marks=pytest.mark.slow),
    ],
)
async def test_500_at_once_against_a_budget_for_100(
    tmp_path: Path, request: pytest.FixtureRequest, kept_in: str, gateways: int, workers: int
) -> None:
    url = str(tmp_path / "shared" / "accounts.db")
    shared = {"url": str(request.getfixturevalue("postgresql_place")) if kept_in == "postgresql" else url}
    if kept_in == "redis":
        shared["redis_url"] = str(request.getfixturevalue("redis_url"))
    async with SimulatedProvider(slow(1.0)) as provider:
        gate = hold_answers(provider)
        settings = budgeted(provider.base_url, SERVED * MOST_NUSD, **shared, pepper_file=str(tmp_path / "p"))
        settings["routing"] = {"first_token_ms": 300_000, "answer_ms": 300_000, "deadline_ms": 300_000}
        served: list[Served] = []
        for number in range(gateways):
            (tmp_path / str(number)).mkdir()
            served.append(await serve(tmp_path / str(number), settings, "--workers", str(workers)))
        try:
            calls = [
                asyncio.create_task(ask(str(served[number % gateways].client.base_url))) for number in range(ASKED)
            ]
            async with asyncio.timeout(300.0):
                while sum(call.done() for call in calls) < ASKED - SERVED:  # noqa: ASYNC110 - told by no event
                    await asyncio.sleep(0.05)
            gate.set()
            answers = await asyncio.gather(*calls)
        finally:
            gate.set()
            stopped = await asyncio.gather(*(gateway.stop() for gateway in served))
        assert stopped == [0] * gateways
        assert Counter(answer.status_code for answer in answers) == {200: SERVED, 429: ASKED - SERVED}
        assert provider.bill.total.requests == SERVED
        rows, counter, leased = rows_of(shared["url"])
        assert {row.status for row in rows} == {"settled"}
        assert sum(row.cost_pusd for row in rows) == provider.bill.total.pico_usd
        assert (counter.settled, counter.leased) == (sum(nusd_half_even(row.cost_pusd) for row in rows), 0)
        assert counter.overrun == 0
        assert leased == []


async def call_until_it_ends(client: httpx.AsyncClient, answered: list[int], *, stream: bool) -> None:
    with contextlib.suppress(httpx.TransportError):
        while True:
            answer = await client.post("/v1/chat/completions", json={**BODY, "stream": stream})
            assert answer.status_code == 200, answer.text
            answered.append(len(answer.content))


async def test_a_gateway_that_is_killed_under_load_forgets_nothing_that_went_out(tmp_path: Path) -> None:
    url = str(tmp_path / "accounts.db")
    answered: list[int] = []
    async with SimulatedProvider(slow(5.0)) as provider:
        settings = budgeted(provider.base_url, 10**6 * MOST_NUSD, url=url)
        for kill in range(KILLS):
            before = len(answered)
            served = await serve(tmp_path, settings)
            calls = asyncio.gather(
                *(call_until_it_ends(served.client, answered, stream=caller % 2 == 0) for caller in range(8))
            )
            async with asyncio.timeout(60.0):
                while len(answered) < before + 40 + 23 * kill:  # noqa: ASYNC110 - told by no event
                    await asyncio.sleep(0.005)
            assert await served.stop(signal.SIGKILL) == -signal.SIGKILL
            await calls
        served = await serve(tmp_path, settings)  # takes in what the journals still hold
        assert await served.stop() == 0
        billed = provider.bill.total
        usage = {line.split(",")[0] for line in provider.bill.as_csv().splitlines()[1:]}
    rows, counter, leased = rows_of(url)
    settled = [row for row in rows if row.status == "settled"]
    standing = [row for row in rows if row.status == "standing"]
    assert len({row.id for row in rows}) == len(rows)
    assert len(settled) >= len(answered), "whatever a caller got is settled"
    assert {row.provider_ref for row in settled} <= usage
    # What was under way when it was killed stands: its provider may have billed it, or not have begun.
    assert KILLS <= len(standing) <= 8 * KILLS
    assert len(settled) <= billed.requests <= len(rows)
    assert counter.settled == sum(nusd_half_even(row.cost_pusd) for row in settled)
    assert counter.leased == sum(amount for row in standing for _, _, amount in json.loads(row.reserved))
    assert leased == []
