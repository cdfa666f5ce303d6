"""What is reserved is never less than the bill: providers that heed a limit in their own way, or not at all."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from gateway_world import PROVIDER_KEY, MakeWorld, World
from test_gateway_budgets import PRICE, allow

from amaru.domain import Price
from amaru.simulation import ProviderProfile

LONGEST = 400
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
NEWER = {"max_tokens": None, "max_completion_tokens": 5}


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


SEARCH = {"web_search_options": {}}


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
