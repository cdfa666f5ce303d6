"""What is reserved is never less than the bill: providers that heed a limit in their own way, or not at all."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import msgspec
import pytest
import yaml
from gateway_world import OPERATOR_KEY, PROVIDER_KEY, MakeWorld, World, until
from test_gateway_budgets import BODY, PRICE, allow, charged, most, sent, state

from amaru.accounts.allowances import Allowance
from amaru.accounts.estimate import bounds_of, upper_nusd
from amaru.accounts.money import nusd_half_even
from amaru.accounts.usage import Usage
from amaru.domain import Kind, Price, PriceTier, ServiceTier
from amaru.errors import StorageError
from amaru.protocols.openai import parse_request
from amaru.simulation import ProviderProfile
from amaru.simulation.gateway_config import gateway_config

LONGEST = 400
BOTH = ("max_tokens", "max_completion_tokens")
OLDER_ONLY = ProviderProfile(
    name="alpha",
    keys=(PROVIDER_KEY,),
    price=Price(**PRICE),
    caches_prompts=False,
    max_output_tokens=LONGEST,
    limit_fields=("max_tokens",),
    answer_tokens=300,
    answer_sigma=0.0,
)
"""Passes ``max_completion_tokens`` over, as it does whatever it does not know."""
HEEDLESS = msgspec.structs.replace(OLDER_ONLY, limit_fields=())
AS_OPERATOR = {"authorization": f"Bearer {OPERATOR_KEY}"}
THOUGHTFUL = msgspec.structs.replace(OLDER_ONLY, reasoning_tokens=100, limits_reasoning=False)
NEWER: dict[str, Any] = {"max_tokens": None, "max_completion_tokens": 5}


def offers(**fields: Any) -> dict[str, dict[str, Any]]:
    return {"alpha": {"price": PRICE, "max_output_tokens": LONGEST, **fields}}


def received(world: World) -> dict[str, Any]:
    """The body that the provider was sent last."""
    body: dict[str, Any] = json.loads(world.providers["alpha"].received[-1].body)
    return body


@pytest.mark.parametrize(
    ("limit_field", "heeded", "sent"),
    [
        (None, ("max_tokens",), {"max_tokens": 5}),
        ("max_tokens", ("max_tokens",), {"max_tokens": 5}),
        ("max_completion_tokens", ("max_completion_tokens",), {"max_completion_tokens": 5}),
        ("both", ("max_tokens", "max_completion_tokens"), None),
    ],
)
@pytest.mark.parametrize("written", [NEWER, {"max_tokens": 5}, {"max_tokens": 9, "max_completion_tokens": 5}])
async def test_a_limit_is_sent_in_the_field_that_the_provider_heeds(
    make_world: MakeWorld,
    limit_field: str | None,
    heeded: tuple[str, ...],
    sent: dict[str, int] | None,
    written: dict[str, Any],
) -> None:
    profiles = {"alpha": msgspec.structs.replace(OLDER_ONLY, limit_fields=heeded)}
    said = {} if limit_field is None else {"limit_field": limit_field}
    async with make_world(("alpha",), profiles=profiles, offers=offers(**said)) as world:
        answer = await world.chat(**written)
        assert answer.json()["usage"]["completion_tokens"] == 5
        body = received(world)
        limits = {name: body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name)}
        as_written = {"max_tokens": 5} if written == {"max_tokens": 5} else {"max_completion_tokens": 5}
        assert limits == (sent or as_written)


SEARCH: dict[str, Any] = {"web_search_options": {}}


async def test_what_no_price_tells_goes_to_the_offer_whose_price_covers_it(make_world: MakeWorld) -> None:
    priced = {
        "alpha": {"price": PRICE},
        "beta": {"price": PRICE, "price_covers": ["web_search_options"], "reputation": 1},
    }
    async with make_world(("alpha", "beta"), offers=priced, with_accounts=True) as world:
        served = await world.chat(**SEARCH)
        assert (served.status_code, served.headers["x-amaru-provider"]) == (200, "alpha"), "no budget binds it"
        await allow(world, 10**12)
        assert (await world.chat()).headers["x-amaru-provider"] == "alpha"
        answer = await world.chat(**SEARCH)
        assert (answer.status_code, answer.headers["x-amaru-provider"]) == (200, "beta")
        page = await world.decision(answer)
        assert [one["offer"] for one in page["ranked"]] == ["beta/sim"]
        (refused,) = page["refused"]
        assert (refused["offer"], refused["constraint"]) == ("alpha/sim", "budget")
        assert "price does not say what web_search_options may cost" in refused["detail"]


async def test_what_no_price_tells_is_served_without_the_store_where_no_budget_binds(make_world: MakeWorld) -> None:
    async with make_world(("alpha",), offers=offers(), with_accounts=True) as world:
        assert world.till is not None
        till = world.till.till

        def gone(_turn: object) -> None:
            raise StorageError("the disk was pulled out")

        turn, till._bank.turn = till._bank.turn, gone  # type: ignore[assignment]
        await until(lambda: bool(till.gone))
        assert [(await world.chat(**fields)).status_code for fields in ({}, SEARCH)] == [200, 200]
        till._bank.turn = turn  # type: ignore[method-assign]
        await charged(world, 2)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (SEARCH, "web_search_options"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"models": ["sim-model", "dear"]}, "models"),
        ({"provider": {"order": ["dear"]}}, "provider"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
    ],
)
async def test_what_no_price_tells_is_refused_in_words_where_a_budget_binds(
    make_world: MakeWorld, fields: dict[str, Any], field: str
) -> None:
    tiers = [{"service_tier": "priority", "factor": 2}]
    async with make_world(("alpha",), offers=offers(price={**PRICE, "tiers": tiers}), with_accounts=True) as world:
        await allow(world, 10**12)
        for stream in (False, True):
            answer = await world.chat(stream=stream, **fields)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["code"]) == (400, field, "unpriced_request")
            assert f"price_covers: [{field}]" in error["message"]
        assert world.providers["alpha"].bill.total.requests == 0
        assert (await world.chat(service_tier="priority")).status_code == 200


async def settled(world: World, budget: Allowance, charges: int) -> Usage:
    """The budget, once so many calls are settled and nothing else is."""
    rows = await charged(world, charges)
    spent = sum(nusd_half_even(row.cost_pusd) for row in rows)
    async with asyncio.timeout(30.0):
        while (found := await state(world, budget)).used != spent:  # noqa: ASYNC110 - a file's, which tells of no event
            await asyncio.sleep(0.02)
    return found


async def test_a_newer_limit_bounds_the_bill_of_a_provider_that_knows_only_the_older(make_world: MakeWorld) -> None:
    async with make_world(("alpha",), profiles={"alpha": OLDER_ONLY}, offers=offers(), with_accounts=True) as world:
        need = most(world, **NEWER)
        budget = await allow(world, need)
        assert (await world.chat(**NEWER)).json()["usage"]["completion_tokens"] == 5
        assert (await settled(world, budget, 1)).used <= need
        assert (await world.chat(**NEWER)).status_code == 429, "what is left of the budget bounds no second one"
        assert "amaru_bills_above_estimate_total{" not in (await world.client.get("/metrics", headers=AS_OPERATOR)).text


@pytest.mark.parametrize("profile", [HEEDLESS, THOUGHTFUL], ids=["heedless", "thoughtful"])
async def test_an_offer_that_is_said_to_bill_beyond_a_limit_reserves_its_longest_answer(
    make_world: MakeWorld, profile: ProviderProfile
) -> None:
    said = offers(bills_beyond_limit=True)
    async with make_world(("alpha",), profiles={"alpha": profile}, offers=said, with_accounts=True) as world:
        need = most(world, max_tokens=5)
        assert need >= LONGEST * PRICE["output_usd_per_mtok"] * 1000
        budget = await allow(world, need)
        answer = await world.chat(max_tokens=5)
        assert answer.json()["usage"]["completion_tokens"] > 5
        assert (await settled(world, budget, 1)).used <= need


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bill_above_its_estimate_is_told_and_the_next_reservation_learns_from_it(
    make_world: MakeWorld, stream: bool
) -> None:
    """It ignores every limit, and nobody said so."""
    async with make_world(("alpha",), profiles={"alpha": HEEDLESS}, offers=offers(), with_accounts=True) as world:
        assert world.till is not None
        need, offer = most(world, max_tokens=5), world.mesh.plan.board.offers[0]
        budget = await allow(world, 10**12)
        assert (await world.chat(max_tokens=5, stream=stream)).status_code == 200
        used = (await settled(world, budget, 1)).used
        assert used > need
        shown = (await world.client.get("/metrics", headers=AS_OPERATOR)).text
        assert 'amaru_bills_above_estimate_total{offer="alpha/sim"} 1.0' in shown
        body = {**BODY, "max_tokens": 5}
        upper = world.till.excesses.upper_nusd(offer, bounds_of(parse_request(Kind.CHAT, sent(body))))
        assert upper >= need + (LONGEST - 5) * PRICE["output_usd_per_mtok"] * 1000
        assert (await world.chat(max_tokens=5, stream=stream)).status_code == 200
        await settled(world, budget, 2)
        shown = (await world.client.get("/metrics", headers=AS_OPERATOR)).text
        assert 'amaru_bills_above_estimate_total{offer="alpha/sim"} 1.0' in shown, "the second was within its estimate"
        await allow(world, used + upper)
        assert (await world.chat(max_tokens=5)).status_code == 429


HABITS: list[dict[str, Any]] = [
    {"limit_fields": ("max_tokens",)},
    {"limit_fields": ("max_completion_tokens",)},
    {"limit_fields": ()},
    {"limits_reasoning": False, "reasoning_tokens": 60.0},
    {"caches_prompts": True, "cache_writes": True, "reasoning_tokens": 20.0},
]
USUAL = Price(
    input_usd_per_mtok=3.0,
    cached_input_usd_per_mtok=0.3,
    cache_write_usd_per_mtok=3.75,
    cache_write_1h_usd_per_mtok=6.0,
    image_input_usd_per_mtok=4.0,
    output_usd_per_mtok=15.0,
    reasoning_usd_per_mtok=20.0,
)
LONG = msgspec.structs.replace(USUAL, input_usd_per_mtok=6.0, output_usd_per_mtok=22.5)
PRIORITY = msgspec.structs.replace(USUAL, input_usd_per_mtok=9.0, output_usd_per_mtok=45.0)
EVERY_PRICE = msgspec.structs.replace(
    USUAL,
    tiers=(PriceTier(LONG, above_input_tokens=500), PriceTier(PRIORITY, service_tier=ServiceTier.PRIORITY)),
)


def drawn(rng: random.Random) -> dict[str, Any]:
    """A request of any shape that a simulated provider serves."""
    part: dict[str, Any] = {"type": "text", "text": "tell me " * rng.randrange(1, 300)}
    if rng.random() < 0.3:
        part["cache_control"] = {"type": "ephemeral", "ttl": rng.choice(["5m", "1h"])}
    parts = [part]
    if rng.random() < 0.3:
        parts.append({"type": "image_url", "image_url": {"url": "https://example.org/i.png", "detail": "high"}})
    body: dict[str, Any] = {"model": "sim", "messages": [{"role": "user", "content": parts}], "n": rng.randrange(1, 4)}
    for name in ("max_tokens", "max_completion_tokens"):
        if rng.random() < 0.5:
            body[name] = rng.randrange(1, 60)
    if rng.random() < 0.3:
        body["service_tier"] = rng.choice(["auto", "default", "priority"])
    if rng.random() < 0.3:
        body["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    if rng.random() < 0.4:
        body.update(stream=True, stream_options={"include_usage": True})
    return body


@pytest.mark.parametrize("habits", HABITS, ids=["older", "newer", "heedless", "thoughtful", "caching"])
async def test_no_provider_that_does_what_its_offer_says_bills_above_an_estimate(
    make_world: MakeWorld, habits: dict[str, Any]
) -> None:
    profile = msgspec.structs.replace(OLDER_ONLY, price=EVERY_PRICE, **{"limit_fields": BOTH, **habits})
    text = gateway_config([(profile, "http://127.0.0.1:9/v1")])
    said = next(offer for offer in yaml.safe_load(text)["offers"] if "chat" in offer["kinds"])
    said = {name: value for name, value in said.items() if name not in ("provider", "resource", "model", "id")}
    rng = random.Random(7)
    async with make_world(("alpha",), profiles={"alpha": profile}, offers={"alpha": said}, with_accounts=True) as world:
        await allow(world, 10**15)
        offer, estimates = world.mesh.plan.board.offers[0], []
        for _ in range(40):
            body = drawn(rng)
            estimates.append(upper_nusd(offer.price, bounds_of(parse_request(Kind.CHAT, sent(body))), offer))
            answer = await world.client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
        rows = await charged(world, 40)
        assert sum(row.cost_pusd for row in rows) == world.providers["alpha"].bill.total.pico_usd
        assert all(nusd_half_even(row.cost_pusd) <= most for row, most in zip(rows, estimates, strict=True))
        shown = (await world.client.get("/metrics", headers=AS_OPERATOR)).text
        assert "amaru_bills_above_estimate_total{" not in shown
