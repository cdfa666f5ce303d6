"""Prices that change by their dates while the gateway serves: an answer costs what was valid when it was asked for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import httpx
import pytest
from gateway_world import MakeWorld, World

from amaru.mesh import follow_prices

CHANGE = datetime(2026, 7, 1, tzinfo=UTC).timestamp()
PRICES = [
    {"from": "2026-01-01", "input_usd_per_mtok": 0, "output_usd_per_mtok": 1},
    {"from": "2026-07-01", "input_usd_per_mtok": 0, "output_usd_per_mtok": 3},
]


def usd_per_mtok(response: httpx.Response) -> float:
    return float(response.headers["x-amaru-cost-usd"]) * 1e6 / float(response.json()["usage"]["completion_tokens"])


async def test_a_new_price_holds_from_its_date_and_changes_nothing_before(make_world: MakeWorld) -> None:
    now = CHANGE - 2.5
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        if world.mesh.plan.prices_until == float("inf"):
            raise asyncio.CancelledError
        now += seconds

    async with make_world(("alpha",), offers={"alpha": {"price": None, "prices": PRICES}}, wall=lambda: now) as world:
        first = await world.chat()
        old = world.mesh.plan
        with pytest.raises(asyncio.CancelledError):
            await follow_prices(world.mesh, sleep)
        second = await world.chat()
        assert waits == [1.0, 1.0, 0.5, 1.0]
        assert usd_per_mtok(first) == pytest.approx(1.0)
        assert usd_per_mtok(second) == pytest.approx(3.0)
        assert (await cost_on_record(world, first), await cost_on_record(world, second)) == (
            float(first.headers["x-amaru-cost-usd"]),
            float(second.headers["x-amaru-cost-usd"]),
        )
        assert world.mesh.plan.providers["alpha"] is old.providers["alpha"]  # connections and all
        assert world.mesh.plan.board.version != old.board.version  # decisions keep the prices that they were made at


async def cost_on_record(world: World, response: httpx.Response) -> float:
    return float((await world.decision(response))["attempts"][0]["cost_usd"])


async def test_a_configuration_that_is_taken_in_later_has_the_prices_of_its_time(make_world: MakeWorld) -> None:
    now = CHANGE - 1.0
    async with make_world(("alpha",), offers={"alpha": {"price": None, "prices": PRICES}}, wall=lambda: now) as world:
        assert world.mesh.plan.prices_until == CHANGE
        now = CHANGE
        world.reload()
        assert usd_per_mtok(await world.chat()) == pytest.approx(3.0)
