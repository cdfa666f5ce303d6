"""Recommendations name the budgets that would not cover the work, and reserve nothing of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from gateway_world import OTHER_KEY, MakeWorld, World
from sqlalchemy import select
from test_gateway_agents import GPU_OFFERS, route
from test_gateway_budgets import OFFERS as TOKEN_OFFERS
from test_gateway_budgets import allow, charged, profile, state

from amaru.accounts.allowances import Metric, Scope
from amaru.accounts.money import nusd_of_amount
from amaru.accounts.periods import Period
from amaru.accounts.schema import charges, counters
from amaru.errors import StorageError

EXTRA = {"offers": GPU_OFFERS, "aliases": {}}
BOTH = {"alpha/A100", "beta/A100"}


def refused(decision: dict[str, Any]) -> dict[str, str]:
    return {one["offer"]: one["detail"] for one in decision["refused"] if one["constraint"] == "budget"}


async def booked(world: World) -> list[Any]:
    """Every counter and charge that the store has."""

    def read() -> list[Any]:
        assert world.accounts is not None
        with world.accounts.directory.store.reading() as connection:
            return [*connection.execute(select(counters)), *connection.execute(select(charges))]

    return await asyncio.to_thread(read)


async def test_offers_that_a_budget_cannot_carry_are_refused_with_what_it_has_left(make_world: MakeWorld) -> None:
    async with make_world(extra=EXTRA, with_accounts=True) as world:
        await allow(world, nusd_of_amount("4"), period=Period.MONTH)
        decision = (await route(world, gpu_hours=2.0)).json()  # 3.60 and 5.00
        assert [one["offer"] for one in decision["ranked"]] == ["alpha/A100"]
        (words,) = refused(decision).values()
        assert words.startswith(
            "The budget of tenant team, $4.00 a month, has $4.00 left, and this work is expected to"
        )
        assert "cost $5.00. It renews at " in words
        stored = (await world.client.get(f"/decisions/{decision['id']}")).json()
        assert [one["constraint"] for one in stored["refused"]] == ["budget"]
        assert [one["offer"] for one in stored["ranked"]] == ["alpha/A100"]
        other = await world.client.post(
            "/agent/route",
            json={"workload_type": "x", "gpu_type": "A100", "gpu_hours": 2.0},
            headers={"authorization": f"Bearer {OTHER_KEY}"},
        )
        assert len(other.json()["ranked"]) == 2, "it is another tenant's"
        assert await booked(world) == [], "nothing is reserved, and nothing is charged"


async def test_where_nothing_is_left_no_offer_is_ranked_and_the_best_is_a_429(make_world: MakeWorld) -> None:
    async with make_world(extra=EXTRA, with_accounts=True) as world:
        await allow(world, nusd_of_amount("1"))
        answer = await route(world)
        assert (answer.status_code, answer.json()["ranked"]) == (200, [])
        assert refused(answer.json()).keys() == BOTH
        best = await route(world, "/route")
        error = best.json()["error"]
        assert (best.status_code, error["code"], error["type"]) == (429, "insufficient_quota", "insufficient_quota")
        assert error["message"].startswith("The budget of tenant team, $1.00 in total, has $1.00 left, and this work ")
        assert best.headers["x-should-retry"] == "false"
        assert (await route(world, "/route", gpu_hours=0.5)).json()["best"]["offer"] == "alpha/A100"


@pytest.mark.parametrize(
    ("scope", "subject", "left"),
    [(Scope.PROVIDER, "alpha", {"beta/A100"}), (Scope.MODEL, "A100", set()), (Scope.PROVIDER, "beta", {"alpha/A100"})],
)
async def test_budgets_of_models_and_providers(
    make_world: MakeWorld, scope: Scope, subject: str, left: set[str]
) -> None:
    async with make_world(extra=EXTRA, with_accounts=True) as world:
        await allow(world, 0, scope=scope, subject=subject)
        decision = (await route(world)).json()
        assert {one["offer"] for one in decision["ranked"]} == left
        assert refused(decision).keys() == BOTH - left
        assert all(f"The budget of {scope} {subject}" in words for words in refused(decision).values())


async def test_a_batch_is_held_to_them_too_each_workload_by_itself(make_world: MakeWorld) -> None:
    async with make_world(extra=EXTRA, with_accounts=True) as world:
        await allow(world, nusd_of_amount("2"))
        work = [{"gpu_type": "A100", "gpu_hours": hours} for hours in (0.5, 1.0, 2.0)]
        answer = await world.client.post("/agent/route/batch", json={"workloads": work})
        found = [len(one["decision"]["ranked"]) for one in answer.json()["results"]]
        assert found == [2, 1, 0]


async def test_a_key_has_budgets_of_its_own_and_soft_ones_and_limits_refuse_nothing(make_world: MakeWorld) -> None:
    async with make_world(extra=EXTRA, with_accounts=True) as world:
        assert world.accounts is not None
        directory = world.accounts.directory
        made = await asyncio.to_thread(lambda: directory.keys.create("team", by="ann"))
        await world.accounts.look()
        await allow(world, 0, hard=False)
        await allow(world, 1, metric=Metric.REQUESTS, period=Period.MINUTE)
        for _ in range(3):
            assert len((await route(world)).json()["ranked"]) == 2
        await allow(world, 0, scope=Scope.KEY, subject=made.info.id)
        assert len((await route(world)).json()["ranked"]) == 2
        body = {"workload_type": "x", "gpu_type": "A100"}
        answer = await world.client.post("/agent/route", json=body, headers={"authorization": f"Bearer {made.key}"})
        assert (answer.json()["ranked"], refused(answer.json()).keys()) == ([], BOTH)


async def test_what_was_spent_and_what_stands_is_gone_and_leases_are_not(make_world: MakeWorld) -> None:
    async with make_world(("alpha",), profiles={"alpha": profile()}, offers=TOKEN_OFFERS, with_accounts=True) as world:
        cost = nusd_of_amount("0.04")  # 1,000 tokens of each
        budget = await allow(world, cost + 1_000_000)
        body = {"model": "sim", "input_tokens": 1000, "output_tokens": 1000}

        async def ranked() -> int:
            return len((await world.client.post("/agent/route", json=body)).json()["ranked"])

        assert await ranked() == 1
        assert (await world.chat()).status_code == 200
        await charged(world, 1)
        assert (await state(world, budget)).used > 0, "and some is leased for what comes next"
        async with asyncio.timeout(30.0):
            while await ranked():
                used = (await state(world, budget)).used
                if used <= 1_000_000:
                    await world.chat()
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("policy", ["closed", "open"])
async def test_the_store_gone_closed_or_open(make_world: MakeWorld, policy: str) -> None:
    extra = {**EXTRA, "accounts": {"when_store_gone": policy}}
    async with make_world(extra=extra, with_accounts=True) as world:
        await allow(world, 0)
        assert refused((await route(world)).json()).keys() == BOTH
        assert world.till is not None

        async def gone(_keys: object) -> dict[Any, int]:
            raise StorageError("the disk was pulled out")

        world.till.spent = gone  # type: ignore[method-assign]
        assert world.mesh.prospects is not None
        world.mesh.prospects._spent.clear()
        answer = await route(world)
        if policy == "open":
            assert len(answer.json()["ranked"]) == 2
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "accounts_unavailable")
            assert answer.headers["retry-after"] == "1"


async def test_feedback_with_a_cost_settles_nothing(make_world: MakeWorld) -> None:
    async with make_world(extra=EXTRA, with_accounts=True) as world:
        await allow(world, nusd_of_amount("4"))
        decision = (await route(world, gpu_hours=2.0)).json()
        told = {"decision_id": decision["id"], "ok": True, "cost_usd": 3.6, "latency_ms": 10}
        assert (await world.client.post("/agent/feedback", json=told)).status_code == 200
        assert await booked(world) == []
        assert len((await route(world, gpu_hours=2.0)).json()["ranked"]) == 1
