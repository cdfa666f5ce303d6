"""What is reserved is never less than the bill: providers that heed a limit in their own way, or not at all."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from gateway_world import PROVIDER_KEY, MakeWorld, World
from test_gateway_budgets import PRICE

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
