"""Every kind of token over real HTTP: what amaru books is what the provider bills, to the pico-dollar."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from gateway_world import PROVIDER_KEY, MakeWorld

from amaru.accounts.cost import cost_pusd
from amaru.accounts.estimate import bounds_of, upper_nusd
from amaru.domain import Kind, Price, PriceTier, ServiceTier, Usage
from amaru.protocols.openai import parse_request
from amaru.simulation import ProviderProfile

USUAL = Price(0.3, 0.03, 2.5, 0.0, 0.375, 0.6, 1.0, 0.35, 3.5)
PRICE = msgspec.structs.replace(
    USUAL,
    tiers=(
        PriceTier(msgspec.structs.replace(USUAL, input_usd_per_mtok=0.6, output_usd_per_mtok=5.0), 1500),
        PriceTier(msgspec.structs.replace(USUAL, output_usd_per_mtok=1.25), service_tier=ServiceTier.FLEX),
    ),
)
PROFILE = ProviderProfile(
    name="alpha", keys=(PROVIDER_KEY,), price=PRICE, reasoning_tokens=40.0, cache_writes=True, max_output_tokens=400
)
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/i.png"}}


def as_written(price: Price) -> dict[str, Any]:
    """As it stands in amaru.yaml."""
    told = {name: usd for name, usd in msgspec.to_builtins(price).items() if name.endswith("_mtok") and usd is not None}
    tiers = [
        {"above_input_tokens": t.above_input_tokens, "service_tier": t.service_tier, "price": as_written(t.price)}
        for t in price.tiers
    ]
    return {**told, "tiers": msgspec.to_builtins(tiers)} if tiers else told


def random_body(rng: random.Random) -> dict[str, Any]:
    text = {"type": "text", "text": "word " * rng.choice([3, 700, 1600]) + str(rng.randrange(3))}
    kept = rng.choice([{}, {"cache_control": {"type": "ephemeral", "ttl": rng.choice(["5m", "1h"])}}])
    content = [{**text, **kept}, *[IMAGE] * rng.choice([0, 0, 1, 3])]
    return {
        "messages": [{"role": "user", "content": content}],
        **rng.choice([{}, {"max_tokens": rng.randrange(1, 200)}]),
        **rng.choice([{}, {"service_tier": rng.choice(["flex", "priority"])}]),
        **rng.choice([{}, {}, {"n": 2}]),
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_random_traffic_is_booked_as_it_is_billed_and_within_its_estimate(
    make_world: MakeWorld, stream: bool
) -> None:
    rng = random.Random(11)
    offers = {"alpha": {"price": as_written(PRICE), "max_output_tokens": 400, "max_image_tokens": 85}}
    seen: set[str] = set()
    async with make_world(("alpha",), profiles={"alpha": PROFILE}, offers=offers) as world:
        offer = world.mesh.plan.board.offers[0]
        assert offer.price == PRICE
        booked = 0
        for _ in range(40):
            body = {"max_tokens": None, **random_body(rng)}
            response = (await world.stream(**body))[0] if stream else await world.chat(**{"content": "", **body})
            assert response.status_code == 200, response.text
            (attempt,) = (await world.decision(response))["attempts"]
            usage = msgspec.convert(attempt["usage"], Usage)
            cost = cost_pusd(offer.price, usage)
            assert attempt["cost_usd"] == cost / 10**12
            request = parse_request(Kind.CHAT, json.dumps({"model": "sim", **body}).encode())
            assert cost <= 1000 * upper_nusd(offer.price, bounds_of(request), offer)
            booked += cost
            seen |= {name for name, value in (attempt["usage"]["details"] or {}).items() if value}
        assert booked == world.providers["alpha"].bill.total.pico_usd
    assert seen >= {
        "cache_write_tokens", "cache_write_1h_tokens", "image_input_tokens", "reasoning_tokens", "service_tier"
    }  # fmt: skip
