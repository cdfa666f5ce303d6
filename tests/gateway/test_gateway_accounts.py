"""amaru's accounts against the provider's own bill, attempt by attempt: what failed is booked at what it is billed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from gateway_world import PROVIDER_KEY, MakeWorld

from amaru.domain import Price
from amaru.simulation import ProviderProfile
from amaru.simulation.profiles import INSTANT

PRICE = {"input_usd_per_mtok": 10.0, "output_usd_per_mtok": 30.0}
# Four bytes a word: here the estimate of a prompt agrees with the simulator's count, one token a word.
PROMPT = " ".join(["abc"] * 100)
OUTPUT_TOKENS = 12
# Apart, so that a fault half-way strikes after the first content was handed on.
LATENCY = msgspec.structs.replace(INSTANT, itl_ms=3)
WHOLE_USD = (100 * 10 + OUTPUT_TOKENS * 30) / 1e6

STREAMED = [
    pytest.param({"kind": "stall", "at": "first_byte"}, id="silent after a 200"),
    pytest.param({"kind": "cut", "at": "first_byte"}, id="cut after a 200"),
    pytest.param({"kind": "cut", "after_events": 5}, id="cut half-way"),
    pytest.param({"kind": "stall", "after_events": 5}, id="silent half-way"),
    pytest.param({"kind": "error_in_stream", "status": 500, "after_events": 5}, id="an error event half-way"),
    pytest.param({"kind": "garbage", "after_events": 5}, id="garbage half-way"),
    pytest.param({"kind": "error_in_200"}, id="an error in a 200"),
    pytest.param({"kind": "status", "status": 500}, id="an error status"),
    pytest.param({"kind": "hang", "at": "head"}, id="no answer at all"),
]
WHOLE = [
    pytest.param({"kind": "cut"}, id="cut half-way"),
    pytest.param({"kind": "stall"}, id="silent half-way"),
    pytest.param({"kind": "garbage"}, id="garbage"),
    pytest.param({"kind": "error_in_200"}, id="an error in a 200"),
    pytest.param({"kind": "status", "status": 500}, id="an error status"),
    pytest.param({"kind": "hang", "at": "head"}, id="no answer at all"),
]


async def reckoned_and_billed(make_world: MakeWorld, fault: dict[str, Any], *, stream: bool) -> tuple[float, float]:
    """What amaru books for all attempts of a request that one fault struck, and what the provider bills; in USD."""
    profile = ProviderProfile(
        name="alpha", keys=(PROVIDER_KEY,), price=Price(**PRICE), latency=LATENCY, caches_prompts=False
    )
    routing = {"first_token_ms": 300, "answer_ms": 300, "idle_ms": 200}
    async with make_world(
        ("alpha",), profiles={"alpha": profile}, offers={"alpha": {"price": PRICE}}, routing=routing
    ) as world:
        world.break_("alpha", times=1, **fault)
        messages = [{"role": "user", "content": PROMPT}]
        if stream:
            response, _ = await world.stream(messages=messages, max_tokens=OUTPUT_TOKENS)
        else:
            response = await world.chat(PROMPT, max_tokens=OUTPUT_TOKENS)
        page = await world.decision(response)
        for attempt in page["attempts"]:
            if attempt["failure"] is not None and attempt["usage"] is not None:
                assert attempt["usage"]["source"] == "estimated"
        return sum(attempt["cost_usd"] for attempt in page["attempts"]), world.providers["alpha"].bill.total.usd


@pytest.mark.parametrize("fault", STREAMED)
async def test_a_failed_stream_is_booked_at_what_its_provider_bills(
    make_world: MakeWorld, fault: dict[str, Any]
) -> None:
    reckoned, billed = await reckoned_and_billed(make_world, fault, stream=True)
    # An event or two may have been under way when it broke; more of them on a busy machine.
    assert reckoned == pytest.approx(billed, abs=0.15 * WHOLE_USD)


@pytest.mark.parametrize("fault", WHOLE)
async def test_a_failed_answer_is_booked_at_what_its_provider_bills(
    make_world: MakeWorld, fault: dict[str, Any]
) -> None:
    reckoned, billed = await reckoned_and_billed(make_world, fault, stream=False)
    assert reckoned == pytest.approx(billed, abs=0.06 * WHOLE_USD)
