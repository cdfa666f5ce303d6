"""The finer kinds of tokens at a simulated provider: what it reports of them, and what it bills."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from amaru.config.load import parse
from amaru.domain import LimitField, Price, PriceTier, ServiceTier
from amaru.simulation import Fault, ProviderProfile, SimulatedProvider
from amaru.simulation.gateway_config import gateway_config
from amaru.simulation.text import count_tokens

PRICE = Price(
    input_usd_per_mtok=1.0,
    output_usd_per_mtok=2.0,
    cache_write_usd_per_mtok=1.25,
    cache_write_1h_usd_per_mtok=3.0,
    image_input_usd_per_mtok=4.0,
    reasoning_usd_per_mtok=5.0,
    tiers=(PriceTier(Price(0.5, output_usd_per_mtok=1.0), service_tier=ServiceTier.FLEX),),
)


async def asked(provider: SimulatedProvider, content: Any = "Hello there", **fields: Any) -> dict[str, Any]:
    body = {"model": "sim-model", "messages": [{"role": "user", "content": content}], **fields}
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{provider.base_url}/chat/completions", json=body)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def test_reasoning_is_not_shown_but_counted_limited_and_billed() -> None:
    profile = ProviderProfile(price=PRICE, reasoning_tokens=20.0, answer_sigma=0.0, answer_tokens=8.0)
    async with SimulatedProvider(profile) as provider:
        whole = await asked(provider)
        assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 20}
        assert whole["usage"]["completion_tokens"] == 28
        assert count_tokens(whole["choices"][0]["message"]["content"]) == 8
        assert provider.bill.total.lines["reasoning"].pico_usd == 20 * 5_000_000
        limited = await asked(provider, max_tokens=22)
        assert (limited["usage"]["completion_tokens"], limited["choices"][0]["finish_reason"]) == (22, "length")
        least = await asked(provider, max_tokens=3, n=2)
        assert least["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}
        assert all(count_tokens(choice["message"]["content"]) == 1 for choice in least["choices"])


async def test_thinking_changes_no_word_of_an_answer() -> None:
    texts = []
    for reasoning in (0.0, 50.0):
        async with SimulatedProvider(ProviderProfile(reasoning_tokens=reasoning)) as provider:
            texts.append((await asked(provider))["choices"][0]["message"]["content"])
    assert texts[0] == texts[1]


async def test_a_stream_that_is_cut_bills_the_thoughts_before_it() -> None:
    profile = ProviderProfile(price=PRICE, reasoning_tokens=20.0, answer_sigma=0.0)
    async with SimulatedProvider(profile) as provider:
        provider.faults.add(Fault(kind="cut", after_events=5))
        with pytest.raises(httpx.TransportError):
            await asked(provider, stream=True)
        assert provider.bill.total.lines["reasoning"].tokens == 20
        assert provider.bill.total.lines["output"].tokens == 5


@pytest.mark.parametrize(("ttl", "line"), [({}, "cache_write"), ({"ttl": "1h"}, "cache_write_1h")])
async def test_what_a_request_asks_to_keep_is_billed_as_written_once(ttl: dict[str, str], line: str) -> None:
    content = [{"type": "text", "text": "word " * 1500, "cache_control": {"type": "ephemeral", **ttl}}]
    async with SimulatedProvider(ProviderProfile(price=PRICE, cache_writes=True)) as provider:
        first, second = [(await asked(provider, content))["usage"] for _ in range(2)]
        written = first["prompt_tokens_details"]["cache_write_tokens"]
        assert written >= 1024
        assert first.get("cache_creation") == ({"ephemeral_1h_input_tokens": written} if ttl else None)
        assert second["prompt_tokens_details"] == {"cached_tokens": written}
        assert provider.bill.total.lines[line].tokens == written == provider.bill.total.lines["cached_input"].tokens


async def test_nothing_is_written_unless_it_is_asked_for_and_sold() -> None:
    kept = [{"type": "text", "text": "word " * 1500, "cache_control": {"type": "ephemeral"}}]
    for profile, content in ((ProviderProfile(), kept), (ProviderProfile(cache_writes=True), "word " * 1500)):
        async with SimulatedProvider(profile) as provider:
            assert (await asked(provider, content))["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


async def test_images_and_service_tiers_are_told_and_billed() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/i.png"}}
    async with SimulatedProvider(ProviderProfile(price=PRICE)) as provider:
        seen = await asked(provider, [image, {"type": "text", "text": "What?"}])
        assert seen["usage"]["prompt_tokens_details"] == {"cached_tokens": 0, "image_tokens": 85}
        assert "service_tier" not in seen
        assert provider.bill.total.lines["image_input"].pico_usd == 85 * 4_000_000
        before = provider.bill.total.pico_usd
        flex = await asked(provider, service_tier="flex", max_tokens=4)
        assert flex["service_tier"] == "flex"
        usage = flex["usage"]
        assert provider.bill.total.pico_usd - before == usage["prompt_tokens"] * 500_000 + 4 * 1_000_000
        assert (await asked(provider, service_tier="priority"))["service_tier"] == "default"


def test_the_gateways_configuration_has_all_that_is_billed() -> None:
    tier = PriceTier(msgspec.structs.replace(PRICE, input_usd_per_mtok=2.5, tiers=()), 200_000)
    long = msgspec.structs.replace(PRICE, tiers=(tier,))
    profile = ProviderProfile(price=long, max_output_tokens=77)
    chat, embedding = parse(gateway_config([(profile, "http://127.0.0.1:9/v1")]), env={}).offers()
    assert chat.price == long
    assert (chat.max_output_tokens, chat.max_image_tokens) == (77, 85)
    assert embedding.price.output_usd_per_mtok == 0.0


@pytest.mark.parametrize(
    ("fields", "limit_field", "beyond"),
    [
        ({}, LimitField.MAX_TOKENS, False),
        ({"limit_fields": ("max_tokens",)}, LimitField.MAX_TOKENS, False),
        ({"limit_fields": ("max_completion_tokens",)}, LimitField.MAX_COMPLETION_TOKENS, False),
        ({"limit_fields": ()}, LimitField.MAX_COMPLETION_TOKENS, True),
        ({"limits_reasoning": False}, LimitField.MAX_TOKENS, True),
    ],
)
def test_the_gateways_configuration_has_which_limits_are_heeded(
    fields: dict[str, Any], limit_field: LimitField, beyond: bool
) -> None:
    offer = parse(gateway_config([(ProviderProfile(**fields), "http://127.0.0.1:9/v1")]), env={}).offers()[0]
    assert (offer.limit_field, offer.bills_beyond_limit) == (limit_field, beyond)


@pytest.mark.parametrize(
    ("heeded", "sent", "written"),
    [
        (("max_tokens",), {"max_tokens": 4}, 4),
        (("max_tokens",), {"max_completion_tokens": 4}, 50),
        (("max_tokens",), {"max_tokens": 6, "max_completion_tokens": 4}, 6),
        (("max_completion_tokens",), {"max_tokens": 4}, 50),
        ((), {"max_tokens": 4, "max_completion_tokens": 4}, 50),
    ],
)
async def test_a_limit_holds_in_the_fields_that_are_heeded(
    heeded: tuple[str, ...], sent: dict[str, int], written: int
) -> None:
    profile = ProviderProfile(limit_fields=heeded, answer_tokens=50, answer_sigma=0.0)
    async with SimulatedProvider(profile) as provider:
        assert (await asked(provider, **sent))["usage"]["completion_tokens"] == written


async def test_thoughts_may_count_against_no_limit() -> None:
    profile = ProviderProfile(reasoning_tokens=30, limits_reasoning=False, answer_tokens=50, answer_sigma=0.0)
    async with SimulatedProvider(profile) as provider:
        assert (await asked(provider, max_tokens=4))["usage"]["completion_tokens"] == 34
        shorter = msgspec.structs.replace(profile, max_output_tokens=20)
    async with SimulatedProvider(shorter) as provider:
        assert (await asked(provider, max_tokens=4))["usage"]["completion_tokens"] <= 20


def test_a_profile_that_thinks_less_than_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="reasoning_tokens must be at least 0, got -1"):
        ProviderProfile(reasoning_tokens=-1.0)
