"""Budgets and limits over real sockets: what is served, what is refused in which words, and what it all costs."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from gateway_world import KEY, PROVIDER_KEY, MakeWorld, World, until
from sqlalchemy import select

from amaru.accounts.allowances import Allowance, Metric, Scope
from amaru.accounts.estimate import bounds_of, upper_nusd, upper_tokens
from amaru.accounts.money import nusd_half_even
from amaru.accounts.periods import Period
from amaru.accounts.schema import charges
from amaru.accounts.usage import Usage, usage
from amaru.domain import Kind, Price
from amaru.errors import StorageError
from amaru.http1 import ServerSettings
from amaru.protocols.openai import parse_request
from amaru.simulation import Latency, ProviderProfile, serving

PRICE = {"input_usd_per_mtok": 10.0, "output_usd_per_mtok": 30.0}
OFFERS = {"alpha": {"price": PRICE, "max_output_tokens": 400}}
SOME = Latency(ttft_ms=1, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=0, itl_sigma=0, load_weight=0)
BODY: dict[str, Any] = {"model": "sim", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 12}


def profile(**fields: Any) -> ProviderProfile:
    return ProviderProfile(
        name="alpha", keys=(PROVIDER_KEY,), price=Price(**PRICE), caches_prompts=False, max_output_tokens=400, **fields
    )


@pytest.fixture
def told_to_answer(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Simulated providers whose latency is not zero answer when it is set, and not after a time."""
    told = asyncio.Event()

    async def sleep(_: float) -> None:
        await told.wait()

    monkeypatch.setattr(serving, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    return told


@pytest.fixture
async def world(make_world: MakeWorld) -> AsyncIterator[World]:
    async with make_world(("alpha",), profiles={"alpha": profile()}, offers=OFFERS, with_accounts=True) as made:
        yield made


async def allow(
    world: World,
    amount: int,
    *,
    scope: Scope = Scope.TENANT,
    subject: str = "team",
    metric: Metric = Metric.USD,
    period: Period = Period.TOTAL,
    hard: bool = True,
) -> Allowance:
    """Set a budget or a limit, as another process does, and have the gateway take it in."""
    assert world.accounts is not None
    assert world.till is not None
    wanted = Allowance(scope=scope, subject=subject, metric=metric, period=period, amount=amount, hard=hard)
    made = await asyncio.to_thread(world.accounts.directory.allowances.set, wanted, by="ann")
    await world.till.refresh()
    return made


def sent(body: dict[str, Any]) -> bytes:
    """As the client writes it."""
    return json.dumps(body, separators=(",", ":")).encode()


def most(world: World, **fields: Any) -> int:
    """The upper estimate of a request, in nano-USD."""
    offer = world.mesh.plan.board.offers[0]
    asked = parse_request(Kind.CHAT, sent({**BODY, **fields}))
    return upper_nusd(offer.price, bounds_of(asked), offer)


async def ask(world: World) -> httpx.Response:
    """A chat over a connection of its own, without the cost of a client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    body = sent(BODY)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    lines, _, content = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    status, *headers = lines.decode().split("\r\n")
    return httpx.Response(int(status.split()[1]), headers=[line.split(": ", 1) for line in headers], content=content)


async def state(world: World, allowance: Allowance) -> Usage:
    assert world.accounts is not None
    assert world.till is not None
    store = world.accounts.directory.store
    return (await asyncio.to_thread(usage, store, [allowance], world.till.till.now()))[0]


async def charged(world: World, count: int) -> list[Any]:
    """The charges, once there are so many."""
    assert world.accounts is not None
    store = world.accounts.directory.store

    def read() -> list[Any]:
        with store.reading() as connection:
            return list(connection.execute(select(charges).order_by(charges.c.at, charges.c.attempt)))

    async with asyncio.timeout(60.0):
        while len(rows := await asyncio.to_thread(read)) < count:  # noqa: ASYNC110 - a file's, which tells of no event
            await asyncio.sleep(0.02)
    return rows


async def test_500_at_once_against_a_budget_of_100_upper_estimates(
    make_world: MakeWorld, told_to_answer: asyncio.Event
) -> None:
    server = ServerSettings(max_connections=1000)
    routing = {"first_token_ms": 60_000, "answer_ms": 60_000}
    slow = {"alpha": profile(latency=SOME)}
    async with make_world(
        ("alpha",), profiles=slow, offers=OFFERS, with_accounts=True, server=server, routing=routing
    ) as world:
        amount = 100 * most(world)
        budget = await allow(world, amount)
        calls = [asyncio.create_task(ask(world)) for _ in range(500)]
        await until(lambda: sum(call.done() for call in calls) >= 400, 60.0)
        full = await state(world, budget)
        told_to_answer.set()
        answers = await asyncio.gather(*calls)
        assert full.held + full.used == amount
        assert Counter(answer.status_code for answer in answers) == {200: 100, 429: 400}
        for answer in answers:
            if answer.status_code == 200:
                continue
            error = answer.json()["error"]
            assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
            assert error["message"].startswith("The budget of tenant team, ")
            assert answer.headers["x-should-retry"] == "false"
            assert answer.headers["x-amaru-attempts"] == "0"
        rows = await charged(world, 100)
        bill = world.providers["alpha"].bill.total
        assert (len(rows), sum(row.cost_pusd for row in rows)) == (bill.requests, bill.pico_usd) == (100, bill.pico_usd)
        await world.till.aclose()
        ended = await state(world, budget)
        assert (ended.used, ended.held) == (sum(nusd_half_even(row.cost_pusd) for row in rows), 0)


async def test_what_a_charge_says(world: World) -> None:
    made = await asyncio.to_thread(lambda: world.accounts.directory.keys.create("team", by="ann", name="mine"))
    await world.accounts.look()
    answer = await world.chat(headers={"authorization": f"Bearer {made.key}"})
    assert answer.status_code == 200, answer.text
    (row,) = await charged(world, 1)
    page = await world.decision(answer)
    (attempt,) = page["attempts"]
    assert (row.decision, row.attempt) == (page["id"], 0)
    assert (row.tenant, row.team, row.key) == ("team", None, made.info.lineage)
    assert (row.resource, row.provider, row.offer, row.model, row.kind) == (
        "sim", "alpha", "alpha/sim", "sim-model", "chat",
    )  # fmt: skip
    assert (row.status, row.failure, row.usage_source, row.reserved) == ("settled", None, "provider", None)
    assert row.provider_ref == answer.json()["id"]
    assert (row.input_tokens, row.output_tokens) == (attempt["usage"]["input_tokens"], 12)
    assert row.cost_pusd == world.providers["alpha"].bill.total.pico_usd == attempt["cost_usd"] * 1e12
    assert row.price == world.mesh.plan.config.prices.record_at("alpha/sim", row.at).id


async def test_a_budget_that_is_spent_says_so_and_when_it_renews(world: World) -> None:
    need = most(world)
    budget = await allow(world, need - 1, period=Period.MONTH)
    answer = await world.chat()
    assert answer.status_code == 429
    today = datetime.datetime.now(datetime.UTC)
    renews = f"{today.year + today.month // 12}-{today.month % 12 + 1:02d}-01T00:00:00Z"
    message = answer.json()["error"]["message"]
    assert "a month, has $" in message
    assert f"It renews at {renews}." in message
    assert "retry-after" not in answer.headers
    assert answer.headers["x-amaru-budget-renews"] == renews
    assert answer.headers["x-amaru-budget-remaining-usd"] == f"0.{need - 1:09d}"
    page = await world.decision(answer)
    assert (page["outcome"]["status"], page["attempts"]) == (429, [])
    assert world.providers["alpha"].bill.total.requests == 0
    assert (await state(world, budget)).used == 0
    await allow(world, 10 * need, period=Period.MONTH)
    assert (await world.chat()).status_code == 200


async def test_a_soft_budget_refuses_nobody(world: World) -> None:
    budget = await allow(world, 1, hard=False)
    assert (await world.chat()).status_code == 200
    (row,) = await charged(world, 1)
    assert (await state(world, budget)).used == nusd_half_even(row.cost_pusd) > 1


async def test_budgets_of_providers_pass_their_offers_over(make_world: MakeWorld) -> None:
    async with make_world(with_accounts=True) as world:
        await allow(world, 1, scope=Scope.PROVIDER, subject="alpha")
        answer = await world.chat()
        assert (answer.status_code, answer.headers["x-amaru-provider"]) == (200, "beta")
        page = await world.decision(answer)
        assert [(one["offer"], one["constraint"]) for one in page["refused"]] == [("alpha/sim", "budget")]
        assert [one["offer"] for one in page["ranked"]] == ["beta/sim"]
        await allow(world, 1, scope=Scope.PROVIDER, subject="beta")
        answer = await world.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
        assert "The budget of provider alpha" in answer.json()["error"]["message"]
        page = await world.decision(answer)
        assert {(one["offer"], one["constraint"]) for one in page["refused"]} == {
            ("alpha/sim", "budget"), ("beta/sim", "budget"),
        }  # fmt: skip


async def test_requests_a_minute(world: World) -> None:
    await allow(world, 2, metric=Metric.REQUESTS, period=Period.MINUTE)
    first, second, third = [await world.chat() for _ in range(3)]
    # A minute of the clock may have ended in between.
    if (
        first.headers["x-ratelimit-remaining-requests"] == "1"
        and second.headers["x-ratelimit-remaining-requests"] == "0"
    ):
        assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
        assert third.json()["error"]["code"] == "rate_limit_exceeded"
        assert "The limit of tenant team, 2 requests a minute, has 0 left" in third.json()["error"]["message"]
        assert 1 <= int(third.headers["retry-after"]) <= 60
        assert third.headers["x-should-retry"] == "true"
    assert first.headers["x-ratelimit-limit-requests"] == "2"


async def test_tokens_a_minute_are_reserved_at_their_most_and_settled_at_what_was_used(world: World) -> None:
    offer = world.mesh.plan.board.offers[0]
    asked = parse_request(Kind.CHAT, sent(BODY))
    need = upper_tokens(bounds_of(asked), offer)
    limit = await allow(world, need, metric=Metric.TOKENS, period=Period.MINUTE)
    assert (await world.chat()).status_code == 200
    (row,) = await charged(world, 1)
    used = (await state(world, limit)).used
    assert used in (row.input_tokens + row.output_tokens, 0)  # 0: a minute has begun since
    refused = await world.chat(max_tokens=13)
    assert refused.status_code == 429
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    assert "It is more than the whole limit" in refused.json()["error"]["message"]


async def test_concurrency(make_world: MakeWorld, told_to_answer: asyncio.Event) -> None:
    async with make_world(
        ("alpha",), profiles={"alpha": profile(latency=SOME)}, offers=OFFERS, with_accounts=True
    ) as world:
        await allow(world, 1, metric=Metric.CONCURRENCY, period=Period.NONE)
        under_way = asyncio.create_task(world.chat())
        await until(lambda: world.mesh.in_flight == 1 and len(world.providers["alpha"].received) == 1)
        refused = await world.chat()
        assert refused.status_code == 429
        assert "1 requests at once" in refused.json()["error"]["message"]
        told_to_answer.set()
        assert (await under_way).status_code == 200
        assert (await world.chat()).status_code == 200


async def test_the_store_gone_from_the_start_lets_nobody_past_budgets_that_were_never_read(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    (tmp_path / "away").write_text("a file where a folder should be")
    extra = {"accounts": {"url": "away/accounts.db"}}
    async with make_world(
        ("alpha",), profiles={"alpha": profile()}, offers=OFFERS, extra=extra, with_accounts=True
    ) as world:
        assert world.till is not None
        assert world.accounts is not None
        need = most(world)
        closed = await world.chat()
        assert (closed.status_code, closed.json()["error"]["code"]) == (503, "accounts_unavailable")
        policy = {"when_store_gone": "open", "open_usd": f"{need / 1e9:.9f}"}
        world.reload(accounts={**extra["accounts"], **policy})
        assert [(await world.chat()).status_code for _ in range(2)] == [200, 503]
        (tmp_path / "away").unlink()
        await world.accounts.look()
        await until(lambda: world.till.is_known and not world.till.till.gone)  # type: ignore[union-attr]
        assert (await world.chat()).status_code == 200
        await allow(world, need - 1)
        assert (await world.chat()).status_code == 429
        rows = await charged(world, 2)
        assert sum(row.cost_pusd for row in rows) == world.providers["alpha"].bill.total.pico_usd


async def test_the_store_gone_closed_or_open(make_world: MakeWorld) -> None:
    async with make_world(("alpha",), profiles={"alpha": profile()}, offers=OFFERS, with_accounts=True) as world:
        need = most(world)
        await allow(world, 100 * need)
        assert world.till is not None
        assert world.accounts is not None
        till, directory = world.till.till, world.accounts.directory
        settings = {"when_store_gone": "open", "open_usd": f"{need / 1e9:.9f}"}
        await asyncio.to_thread(lambda: directory.tenants.create("shop", by="ann", settings=settings))
        shops = await asyncio.to_thread(lambda: directory.keys.create("shop", by="ann"))
        await world.accounts.look()
        await allow(world, 100 * need, subject="shop")

        def gone(_turn: object) -> None:
            raise StorageError("the disk was pulled out")

        turn, till._bank.turn = till._bank.turn, gone  # type: ignore[assignment]
        await until(lambda: bool(till.gone))
        closed = await world.chat()
        assert (closed.status_code, closed.json()["error"]["code"]) == (503, "accounts_unavailable")
        assert closed.headers["retry-after"] == "1"
        of_the_shop = {"authorization": f"Bearer {shops.key}"}
        assert [(await world.chat(headers=of_the_shop)).status_code for _ in range(2)] == [200, 503]
        world.reload(accounts={"when_store_gone": "open", "open_usd": f"{3 * need / 1e9:.9f}"})
        answers = [await world.chat() for _ in range(4)]
        served = [answer for answer in answers if answer.status_code == 200]
        assert len(served) >= 3
        till._bank.turn = turn  # type: ignore[method-assign]
        await until(lambda: not till.gone)
        rows = await charged(world, 1 + len(served))
        assert sum(row.cost_pusd for row in rows) == world.providers["alpha"].bill.total.pico_usd
