"""What budgets do where providers fail, callers leave and keys are revoked; over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import random
from typing import Any

import httpx
import pytest
from gateway_world import OTHER_KEY, PROVIDER_KEY, MakeWorld, World, text_of, until
from test_gateway_budgets import BODY, allow, charged, profile, sent, state

from amaru.accounts.allowances import Scope
from amaru.accounts.estimate import bounds_of, upper_nusd
from amaru.accounts.journal import Journal
from amaru.accounts.money import nusd_half_even, nusd_of_amount
from amaru.domain import Kind, Price
from amaru.errors import JournalError
from amaru.protocols.openai import parse_request
from amaru.readiness.prompts import Prompts
from amaru.simulation import Latency, ProviderProfile
from amaru.simulation.trace_generator import TraceShape, generate

PRICES = {
    "alpha": {"input_usd_per_mtok": 0.37, "cached_input_usd_per_mtok": 0.11, "output_usd_per_mtok": 1.913},
    "beta": {"input_usd_per_mtok": 0.59, "output_usd_per_mtok": 2.3},
}
STREAM: dict[str, Any] = {**BODY, "stream": True}
SPACED = Latency(ttft_ms=5, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=5, itl_sigma=0, load_weight=0)
OF_THE_TRACE = TraceShape(duration_s=60.0, input_median=60.0, input_max=400, output_median=12.0, output_max=40)


def two(**fields: Any) -> dict[str, ProviderProfile]:
    return {
        name: ProviderProfile(name=name, keys=(PROVIDER_KEY,), price=Price(**price), **fields)
        for name, price in PRICES.items()
    }


def priced() -> dict[str, dict[str, Any]]:
    return {name: {"price": price, "max_output_tokens": 400} for name, price in PRICES.items()}


def at_most(world: World, body: dict[str, Any]) -> list[int]:
    """The upper estimate at each provider, in nano-USD."""
    asked = parse_request(Kind.CHAT, sent(body))
    return [upper_nusd(offer.price, bounds_of(asked), offer) for offer in world.mesh.plan.board.offers[:2]]


async def test_what_was_refused_or_not_connected_is_free_for_the_next_offer(make_world: MakeWorld) -> None:
    async with make_world(profiles=two(), offers=priced(), with_accounts=True) as world:
        budget = await allow(world, max(at_most(world, BODY)))
        world.break_("alpha", "status", status=403, times=1)
        assert (await world.chat()).headers["x-amaru-provider"] == "beta"
        refused, served = await charged(world, 2)
        assert (refused.provider, refused.cost_pusd, refused.status) == ("alpha", 0, "settled")
        assert (refused.failure, served.provider, served.attempt) == ("bad_credentials", "beta", 1)
        assert served.cost_pusd == world.providers["beta"].bill.total.pico_usd
        world.break_("alpha", "refuse")
        await allow(world, max(at_most(world, BODY)) + nusd_half_even(served.cost_pusd))
        assert (await world.chat()).status_code == 200
        rows = await charged(world, 3)
        assert [row.provider for row in rows] == ["alpha", "beta", "beta"], "what could not be connected cost nothing"
        assert (await state(world, budget)).used == sum(nusd_half_even(row.cost_pusd) for row in rows)


async def test_a_stream_that_breaks_stands_and_is_rescued_within_the_budget_alone(make_world: MakeWorld) -> None:
    async with make_world(profiles=two(latency=SPACED), offers=priced(), with_accounts=True) as world:
        world.break_("alpha", "cut", after_events=4)
        budget = await allow(world, sum(at_most(world, STREAM)) - 1)
        response, lines = await world.stream(messages=BODY["messages"])
        assert response.status_code == 200
        assert lines[-1] != "data: [DONE]"
        assert "error" in json.loads(lines[-1].removeprefix("data: "))
        assert world.providers["beta"].bill.total.requests == 0
        (row,) = await charged(world, 1)
        assert (row.status, row.failure, row.usage_source) == ("standing", "stream_cut", "estimated")
        assert row.output_tokens > 0
        ((name, _, reserved),) = json.loads(row.reserved)
        assert (name, reserved) == (budget.id, (await state(world, budget)).held)
        await allow(world, 10 * max(at_most(world, STREAM)))
        _, lines = await world.stream(messages=BODY["messages"])
        assert lines[-1] == "data: [DONE]"
        rows = await charged(world, 3)
        assert [(row.provider, row.status) for row in rows[1:]] == [("alpha", "standing"), ("beta", "settled")]


async def test_a_caller_that_leaves_leaves_a_charge_that_stands(make_world: MakeWorld) -> None:
    slow = Latency(ttft_ms=60_000, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=0, itl_sigma=0)
    routing = {"answer_ms": 120_000}
    async with make_world(
        ("alpha",), profiles={"alpha": profile(latency=slow)}, routing=routing, with_accounts=True
    ) as world:
        budget = await allow(world, nusd_of_amount("5"))
        leaving = asyncio.create_task(world.chat())
        await until(lambda: len(world.providers["alpha"].received) == 1)
        leaving.cancel()
        (row,) = await charged(world, 1)
        assert (row.status, row.failure) == ("standing", None)
        assert (await state(world, budget)).held >= json.loads(row.reserved)[0][2] > 0


async def test_a_key_that_is_revoked_ends_nothing_under_way_and_opens_nothing_new(make_world: MakeWorld) -> None:
    async with make_world(("alpha",), profiles={"alpha": profile(latency=SPACED)}, with_accounts=True) as world:
        assert world.accounts is not None
        keys = world.accounts.directory.keys
        made = await asyncio.to_thread(lambda: keys.create("team", by="ann"))
        await world.accounts.look()
        budget = await allow(world, nusd_of_amount("5"), scope=Scope.KEY, subject=made.info.lineage)
        headers = {"authorization": f"Bearer {made.key}"}
        lines = []
        async with world.client.stream("POST", "/v1/chat/completions", json=STREAM, headers=headers) as response:
            async for line in response.aiter_lines():
                if not lines:
                    await asyncio.to_thread(lambda: keys.revoke(made.info.id, by="ann"))
                    await world.accounts.look()
                    assert (await world.chat(headers=headers)).status_code == 401
                lines.append(line)
        assert "data: [DONE]" in lines
        assert text_of(lines)
        (row,) = await charged(world, 1)
        assert (row.key, row.status) == (made.info.lineage, "settled")
        assert (await state(world, budget)).used == nusd_half_even(row.cost_pusd)


async def test_a_trace_with_failures_is_charged_as_it_is_billed(make_world: MakeWorld) -> None:
    rng, prompts = random.Random(5), Prompts(5)
    faults = [
        ("alpha", "cut", {"after_events": 3, "probability": 0.2, "only": "stream"}),
        ("alpha", "status", {"status": 500, "probability": 0.15}),
        ("beta", "garbage", {"probability": 0.1}),
        ("beta", "reset", {"probability": 0.1}),
        ("alpha", "error_in_200", {"probability": 0.1}),
    ]
    async with make_world(
        profiles=two(latency=SPACED), offers=priced(), routing={"policy": "random"}, with_accounts=True
    ) as world:
        assert world.till is not None
        budget = await allow(world, nusd_of_amount("100"))
        for name, kind, fields in faults:
            world.break_(name, kind, **fields)

        async def ask(prompt: str, tokens: int, *, stream: bool, leaves_after_s: float) -> None:
            body = {**BODY, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "stream": stream}
            with contextlib.suppress(TimeoutError, httpx.TransportError):
                async with asyncio.timeout(leaves_after_s):
                    await world.client.post("/v1/chat/completions", json=body)

        trace = list(generate(OF_THE_TRACE, 5))
        for first in range(0, len(trace), 20):
            await asyncio.gather(
                *(
                    ask(
                        prompts.for_request(one),
                        one.output_tokens,
                        stream=rng.random() < 0.5,
                        leaves_after_s=0.05 if rng.random() < 0.1 else 30.0,
                    )
                    for one in trace[first : first + 20]
                )
            )
        await until(lambda: world.mesh.in_flight == 0)
        await world.till.aclose()
        rows = await charged(world, 0)
        ended = await state(world, budget)
        bills = {name: provider.bill for name, provider in world.providers.items()}
    billed = {
        (name, line["id"]): int(
            line["cost_usd"].replace(".", "").ljust(len(line["cost_usd"].partition(".")[0]) + 12, "0")
        )
        for name, bill in bills.items()
        for line in csv.DictReader(bill.as_csv().splitlines())
    }
    settled = {(row.provider, row.provider_ref): row.cost_pusd for row in rows if row.usage_source == "provider"}
    standing = [row for row in rows if row.status == "standing"]
    assert len(settled) > 100
    assert {of: billed[of] for of in settled} == settled, "to the pico-dollar, where usage arrived"
    assert 0 < len(billed.keys() - settled.keys()) <= len(standing), "and everything else is listed"
    assert sum(bill.total.pico_usd for bill in bills.values()) == sum(billed.values())
    assert ended.used == sum(nusd_half_even(row.cost_pusd) for row in rows if row.status == "settled")
    assert ended.held == sum(amount for row in standing for _, _, amount in json.loads(row.reserved))


async def test_a_journal_that_cannot_be_written_refuses_what_is_bound_and_serves_the_rest(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_journal: Journal, _record: bytes, *, reserve_bytes: int = 0) -> None:
        raise JournalError(f"no room for {reserve_bytes} bytes")

    async with make_world(("alpha",), profiles={"alpha": profile()}, with_accounts=True) as world:
        assert world.till is not None
        other = {"authorization": f"Bearer {OTHER_KEY}"}
        budget = await allow(world, nusd_of_amount("5"))
        assert (await world.chat()).status_code == 200
        monkeypatch.setattr(Journal, "append", full)
        refused = await world.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "accounts_unavailable")
        assert (await world.chat(headers=other)).status_code == 200
        rows = await charged(world, 2)
        assert [row.tenant for row in rows] == ["team", "other"], "the store took it all the same"
        monkeypatch.setattr(world.till.till, "gone", "and the store is away")
        assert (await world.chat(headers=other)).status_code == 200
        assert world.till.lost == 1
        shown, _ = world.mesh.metrics.render()
        assert b"amaru_accounts_charges_lost_total 1.0" in shown
        monkeypatch.undo()
        assert (await world.chat()).status_code == 200
        await world.till.aclose()
        assert (await state(world, budget)).held == 0
