"""A provider that falls and comes back under steady traffic: hardly asked while it is down, soon used again.

The preferred one of three is down in several ways in turn: it refuses connections, answers 500, hangs. In the normal
run times are a tenth of life's (the breaker's, and for how long it is down), in the slow one three tenths.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from gateway_world import KEY, OPERATOR_KEY, MakeWorld, World, until
from scripted_provider import Caller

from amaru.simulation import Fault

DOWN_S = 60.0
BACK_WITHIN_S = 30.0
MOST_TOUCHES = 10
"""Attempts at the provider while it is down: its first failures, and the probes."""
WAYS = (Fault(kind="refuse", under_way=True), Fault(kind="status", status=500), Fault(kind="hang"))
PREFERRED = "alpha"


@dataclass
class Served:
    """One request: when it was sent, in seconds, and who answered."""

    at: float
    provider: str


@dataclass
class Traffic:
    """Streams at a steady rate, each of which must come whole."""

    caller: Caller
    served: list[Served] = field(default_factory=list)
    failed: list[bytes] = field(default_factory=list)

    async def flow(self, rate_per_s: float) -> None:
        """Send until cancelled; what is under way then is waited for."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            due = loop.time()
            try:
                while True:
                    tasks.create_task(self._ask())
                    due += 1.0 / rate_per_s
                    await asyncio.sleep(due - loop.time())
            except asyncio.CancelledError:
                pass  # the group waits for the rest

    async def _ask(self) -> None:
        at = asyncio.get_running_loop().time()
        received = await self.caller.ask(model="sim", stream=True, max_tokens=4)
        if received.is_stream and received.done:
            self.served.append(Served(at, received.provider))
        else:
            self.failed.append(received.body)

    def share_of(self, provider: str, since: float) -> float:
        """Of the requests sent since then, how many it served; 0 where there are too few to tell."""
        lately = [one.provider == provider for one in self.served if one.at >= since]
        return sum(lately) / len(lately) if len(lately) >= 5 else 0.0


async def failed_attempts_at(world: World, provider: str) -> int:
    """How often the gateway has called a provider in vain so far."""
    answer = await world.client.get("/metrics", headers={"authorization": f"Bearer {OPERATOR_KEY}"})
    counts = re.findall(rf'amaru_attempts_total{{offer="{provider}/sim",outcome="(\w+)"}} (\S+)', answer.text)
    assert counts
    return sum(int(float(count)) for outcome, count in counts if outcome != "ok")


async def fall_and_come_back(world: World, rate_per_s: float, scale: float) -> None:
    caller = Caller(world.gateway.port, KEY)
    traffic = Traffic(caller)
    loop = asyncio.get_running_loop()
    faults = world.providers[PREFERRED].faults
    flow = asyncio.create_task(traffic.flow(rate_per_s))
    try:
        start = loop.time()
        await until(lambda: traffic.share_of(PREFERRED, start) >= 0.8, 60.0)
        for way in WAYS:
            faults.clear()
            faults.add(way)
            if way is WAYS[0]:
                down_at, under_way = loop.time(), world.mesh.in_flight
            await asyncio.sleep(DOWN_S * scale / len(WAYS))
        faults.clear()
        up_at = loop.time()
        # Longer than it may take in life: a machine that is slow is not sped up with the times.
        await until(lambda: traffic.share_of(PREFERRED, up_at) > 0.0, BACK_WITHIN_S)
        back_at = loop.time()
        await until(lambda: traffic.share_of(PREFERRED, back_at) >= 0.8, BACK_WITHIN_S)
    finally:
        flow.cancel()
        await flow
        await caller.close()

    assert not traffic.failed, traffic.failed[0]
    while_down = [one for one in traffic.served if down_at <= one.at < up_at]
    assert len(while_down) > 0.8 * rate_per_s * DOWN_S * scale
    assert PREFERRED not in {one.provider for one in while_down}
    assert traffic.share_of("beta", down_at) > 0.0, "the next best served"
    touches = await failed_attempts_at(world, PREFERRED)
    assert 0 < touches <= MOST_TOUCHES + 2 * under_way  # those may each be tried once more


def settings(scale: float) -> dict[str, Any]:
    """The breaker as it comes, and limits that are short for a hang, at this scale of time."""
    return {
        "first_token_ms": 10_000 * scale,
        "least_first_token_ms": 2_000 * scale,
        "breaker": {"cool_down_s": 5.0 * scale, "max_cool_down_s": 25.0 * scale, "window_s": 60.0 * scale},
    }


async def test_a_provider_that_falls_is_left_alone_and_used_again_soon(make_world: MakeWorld) -> None:
    async with make_world((PREFERRED, "beta", "gamma"), routing=settings(0.1)) as world:
        await fall_and_come_back(world, 25.0, 0.1)


@pytest.mark.slow
async def test_a_provider_that_is_down_for_longer_under_less_traffic(make_world: MakeWorld) -> None:
    async with make_world((PREFERRED, "beta", "gamma"), routing=settings(0.3)) as world:
        await fall_and_come_back(world, 10.0, 0.3)
