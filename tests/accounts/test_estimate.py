"""The most that an attempt may cost: never less than what it costs, and by what it is bounded."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from price_samples import flat_prices, prices

from amaru.accounts.cost import cost_pusd
from amaru.accounts.estimate import (
    MAX_OUTPUT_TOKENS,
    MAX_WINDOW_TOKENS,
    PROMPT_TOKENS,
    TOOLS_TOKENS,
    bounds_of,
    unpriced,
    upper_nusd,
)
from amaru.accounts.estimate_media import AUDIO_BYTES_PER_TOKEN, MAX_IMAGE_TOKENS
from amaru.domain import Kind, Offer, Price, PriceTier, ServiceTier, Usage, UsageDetails
from amaru.protocols.openai import OpenAIRequest, parse_request
from amaru.protocols.surcharges import SURCHARGES

PER_TOKEN = Price(input_usd_per_mtok=1000.0)
"""A million nano-dollars for each token of input, nothing for output: amounts are counts."""
PER_OUTPUT = Price(output_usd_per_mtok=1000.0)
HELLO = [{"role": "user", "content": "Hello"}]


OFFER = Offer(id="a/m", provider="a", resource="m", model="m")


def asked(kind: Kind = Kind.CHAT, **fields: Any) -> OpenAIRequest:  # Any: JSON
    body = {"model": "m", **({"messages": HELLO} if kind is Kind.CHAT else {}), **fields}
    return parse_request(kind, json.dumps(body, ensure_ascii=False).encode())


def served(**fields: Any) -> Offer:
    return Offer(id="a/m", provider="a", resource="m", model="m", **fields)


def tokens(request: OpenAIRequest, price: Price, offer: Offer = OFFER) -> int:
    """How many tokens are reserved of what ``price`` prices at a million nano-dollars."""
    counted, rest = divmod(upper_nusd(price, bounds_of(request), offer), 1_000_000)
    assert rest == 0
    return counted


def test_text_is_bounded_by_its_bytes() -> None:
    request = asked(messages=[{"role": "user", "content": "数据"}])
    raw = '"m"' + '[{"role": "user", "content": "数据"}]'
    assert tokens(request, PER_TOKEN) == PROMPT_TOKENS + len(raw.encode())


def test_tools_bring_instructions_of_the_providers() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    more = tokens(asked(tools=tools), PER_TOKEN) - tokens(asked(), PER_TOKEN)
    laid_out = 2 * json.dumps(tools).count(",") + 4 * 3
    assert more == TOOLS_TOKENS + len(json.dumps(tools)) + laid_out


@pytest.mark.parametrize(
    ("fields", "offer", "most"),
    [
        ({"max_tokens": 7}, {}, 7),
        ({"max_tokens": 7, "n": 3}, {}, 21),
        ({"max_tokens": 7, "max_completion_tokens": 9}, {}, 9),
        ({"max_tokens": 9, "max_completion_tokens": 7, "n": 2}, {}, 14),
        ({"max_tokens": 9, "max_completion_tokens": None}, {}, 9),
        ({"max_tokens": None, "max_completion_tokens": None}, {}, MAX_OUTPUT_TOKENS),
        ({"max_tokens": 700}, {"max_output_tokens": 500}, 500),
        ({}, {"max_output_tokens": 500}, 500),
        ({"n": 3}, {"max_output_tokens": 500}, 1500),
        ({"max_tokens": 7, "n": 3}, {"max_output_tokens": 500, "bills_beyond_limit": True}, 1500),
        ({}, {"context_window_tokens": 8000}, 8000),
        ({}, {}, MAX_OUTPUT_TOKENS),
        ({"max_tokens": 7, "prediction": "abc"}, {}, 7 + len('"abc"')),
    ],
)
def test_output_is_bounded_by_the_caller_else_by_the_offer(
    fields: dict[str, Any], offer: dict[str, Any], most: int
) -> None:
    assert tokens(asked(**fields), PER_OUTPUT, served(**offer)) == most


def test_completions_answer_each_prompt_and_throw_some_answers_away() -> None:
    prompts = {"prompt": ["a", "b"], "max_tokens": 5}
    assert tokens(asked(Kind.COMPLETION, **prompts), PER_OUTPUT) == 10
    assert tokens(asked(Kind.COMPLETION, n=2, **prompts), PER_OUTPUT) == 20
    assert tokens(asked(Kind.COMPLETION, n=2, best_of=4, **prompts), PER_OUTPUT) == 40
    assert tokens(asked(Kind.COMPLETION, n=2, best_of="4", **prompts), PER_OUTPUT) == 40
    assert tokens(asked(Kind.COMPLETION, n=2, best_of="four", **prompts), PER_OUTPUT) == 20
    assert tokens(asked(best_of=4, max_tokens=5), PER_OUTPUT) == 20
    echoed = asked(Kind.COMPLETION, echo=True, **prompts)
    assert tokens(echoed, PER_OUTPUT) == 10 + tokens(echoed, PER_TOKEN)


def test_embeddings_have_no_output() -> None:
    assert tokens(asked(Kind.EMBEDDING, input="abc"), PER_OUTPUT) == 0
    assert tokens(asked(Kind.EMBEDDING, input=[[1, 2], [3]]), PER_TOKEN) >= 3


def with_part(part: dict[str, Any], **fields: Any) -> OpenAIRequest:
    return asked(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, part]}], **fields)


DATA = base64.b64encode(bytes(3000)).decode()
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}}


def sound(start: bytes, prefix: str = "") -> dict[str, Any]:
    data = prefix + base64.b64encode(start + bytes(3000)).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


SOUND = sound(b"RIFF\x24\x00\x00\x00WAVEfmt ")


def test_media_count_by_what_providers_document_and_not_by_their_bytes() -> None:
    bare = tokens(asked(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}]}]), PER_TOKEN) + len(", ")
    assert tokens(with_part(IMAGE), PER_TOKEN) == bare + MAX_IMAGE_TOKENS
    assert tokens(with_part(IMAGE), PER_TOKEN, served(max_image_tokens=1600)) == bare + 1600
    assert tokens(with_part(IMAGE), PER_TOKEN, served(context_window_tokens=2000)) == 2000
    assert tokens(with_part(SOUND), PER_TOKEN) == bare + -(-len(json.dumps(SOUND)) // AUDIO_BYTES_PER_TOKEN)


@pytest.mark.parametrize(
    "request_",
    [
        with_part({"type": "file", "file": {"file_id": "f"}}),
        with_part({"type": "video_url", "video_url": {"url": "https://example.org/v"}}),
        asked(web_search_options={}),
        asked(tools=[{"type": "function", "function": {"name": "f"}}, {"type": "browser_search"}]),
        asked(tools=[{"google_search": {}}]),
        asked(tools=[{"type": 3}]),
        asked(messages=[*HELLO, {"role": "assistant", "audio": {"id": "audio_abc"}}]),
        asked(messages=[*HELLO, {"role": "assistant", "content": "", "images": [{"image_url": {"url": "x"}}]}]),
        asked(messages=[{"role": "user", "content": "Read.", "file_ids": ["f"]}]),
        with_part(sound(b"fLaC\x00\x00\x00\x22")),
        with_part(sound(b"OggS\x00\x02\x00\x00")),
        with_part({"type": "input_audio", "input_audio": {"data": "https://example.org/a.wav"}}),
        with_part({"type": "input_audio", "input_audio": {"id": "a"}}),
        asked(extra_body={"google": {"cached_content": "c"}}),
        asked(chat_template="{% for i in range(99) %}{{ messages }}{% endfor %}"),
    ],
)
def test_what_is_read_from_elsewhere_is_bounded_by_the_window(request_: OpenAIRequest) -> None:
    assert tokens(request_, PER_TOKEN) == MAX_WINDOW_TOKENS
    assert tokens(request_, PER_TOKEN, served(context_window_tokens=9000)) == 9000


@pytest.mark.parametrize(
    "start", [b"RIFF\x24\x00\x00\x00WAVEfmt ", b"ID3\x04", b"\xff\xfb\x90\x64", b"\xff\xe3\x18\xc4"]
)
@pytest.mark.parametrize("prefix", ["", "data:;base64,", "data:audio/wav;base64,"])
def test_sounds_of_which_each_second_takes_bytes_count_by_them(start: bytes, prefix: str) -> None:
    part = sound(start, prefix)
    rest = tokens(with_part(IMAGE), PER_TOKEN, served(max_image_tokens=1)) - 1
    assert tokens(with_part(part), PER_TOKEN) == rest + -(-len(json.dumps(part)) // AUDIO_BYTES_PER_TOKEN)


@pytest.mark.parametrize("nothing", [None, []])
def test_messages_that_could_refer_to_more_and_do_not_are_text(nothing: object) -> None:
    """As OpenAI's client writes an answer that is sent back."""
    answer = {"role": "assistant", "content": "Hi", "audio": nothing, "images": nothing}
    assert asked(messages=[answer]).only_text
    assert tokens(asked(messages=[answer]), PER_TOKEN) < 500


@pytest.mark.parametrize("field", ["n_predict", "max_new_tokens"])
def test_a_limit_does_not_hold_where_some_servers_heed_another_before_it(field: str) -> None:
    fields: dict[str, Any] = {"max_tokens": 5, field: 900}
    assert tokens(asked(**fields), PER_OUTPUT, served(max_output_tokens=1000)) == 1000


PRIORITY = Price(1.0, tiers=(PriceTier(Price(2.0), service_tier=ServiceTier.PRIORITY),))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"service_tier": "flex"}, "service_tier"),
        ({"service_tier": "priority"}, None),
        ({"service_tier": "auto"}, None),
        ({"service_tier": "default"}, None),
        ({"service_tier": None}, None),
        ({"service_tier": 7}, "service_tier"),
        ({"service_tier": "ultra"}, "service_tier"),
        ({"models": ["x/dear"]}, "models"),
        ({"models": []}, None),
        ({"models": ["x/dear"], "service_tier": "flex"}, "service_tier"),
        ({"route": "fallback"}, "route"),
        ({"provider": {"order": ["dear"]}}, "provider"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"web_search_options": None}, None),
        ({"enable_search": False}, None),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, None),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": None}, None),
        ({"speed": "fast"}, "speed"),
        ({"speed": "standard"}, None),
        ({"temperature": 1, "stream_options": {"include_usage": True}, "logprobs": True}, None),
    ],
)
def test_what_no_price_tells_is_found_unless_the_offer_says_that_its_price_covers_it(
    fields: dict[str, Any], field: str | None
) -> None:
    bounds = bounds_of(asked(**fields))
    assert unpriced(bounds, served(price=PRIORITY)) == field
    assert unpriced(bounds, served()) is None, "a free offer"
    covered = tuple(name for name in fields if name != "service_tier")
    left = unpriced(bounds, served(price=PRIORITY, price_covers=covered))
    assert left == ("service_tier" if field == "service_tier" else None)
    assert unpriced(bounds, served(price=PRIORITY, price_covers=SURCHARGES)) is None


def test_kinds_that_a_request_may_use_count_at_their_price() -> None:
    heard = Price(image_input_usd_per_mtok=1000.0, audio_input_usd_per_mtok=2000.0, audio_output_usd_per_mtok=1000.0)
    assert tokens(with_part(IMAGE, max_tokens=5), heard) == MAX_IMAGE_TOKENS
    assert tokens(with_part(SOUND, max_tokens=5), heard) == 2 * -(-len(json.dumps(SOUND)) // AUDIO_BYTES_PER_TOKEN)
    assert tokens(asked(modalities=["text", "audio"], max_tokens=5), heard) == 5
    assert tokens(asked(max_tokens=5), heard) == 0
    assert tokens(asked(max_tokens=5), Price(reasoning_usd_per_mtok=1000.0)) == 5


@pytest.mark.parametrize(
    ("content", "writes"),
    [
        ([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}], True),
        ([{"type": "text", "text": "a"}], False),
    ],
)
def test_cache_writes_count_where_they_are_asked_for(content: object, writes: bool) -> None:
    request = asked(messages=[{"role": "user", "content": content}])
    written = Price(input_usd_per_mtok=1000.0, cache_write_1h_usd_per_mtok=2000.0)
    assert tokens(request, written) == tokens(request, PER_TOKEN) * (2 if writes else 1)


def test_a_request_for_cache_writes_cannot_hide_behind_escapes() -> None:
    messages = b'[{"role":"user","content":[{"type":"text","text":"a","cache\\u005fcontrol":{"type":"ephemeral"}}]}]'
    request = parse_request(Kind.CHAT, b'{"model":"m","messages":' + messages + b"}")
    assert tokens(request, Price(1000.0, cache_write_usd_per_mtok=2000.0)) == 2 * tokens(request, PER_TOKEN)


def test_a_tier_counts_where_the_prompt_may_reach_it() -> None:
    tier = PriceTier(Price(input_usd_per_mtok=2000.0), above_input_tokens=1000)
    tiered = Price(input_usd_per_mtok=1000.0, tiers=(tier,))
    short, long = asked(), asked(messages=[{"role": "user", "content": "x" * 1000}])
    assert tokens(short, tiered) == tokens(short, PER_TOKEN)
    assert tokens(long, tiered) == 2 * tokens(long, PER_TOKEN)
    cheaper = Price(1000.0, tiers=(PriceTier(Price(500.0), 1000), PriceTier(Price(3000.0), 0, ServiceTier.PRIORITY)))
    assert tokens(long, cheaper) == 3 * tokens(long, PER_TOKEN)


text = st.text(max_size=300)


@st.composite
def attempts(draw: st.DrawFn) -> tuple[OpenAIRequest, Usage]:
    """A request of text, and a usage that its provider may report: no more than its bytes and its limit."""
    messages = [{"role": "user", "content": content} for content in draw(st.lists(text, min_size=1, max_size=3))]
    limit, n = draw(st.integers(1, 2000)), draw(st.integers(1, 3))
    body = {"model": "m", "messages": messages, "max_tokens": limit, "n": n}
    request = parse_request(Kind.CHAT, json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "replace"))
    most = sum(len(message["content"].encode("utf-8", "replace")) + 8 for message in messages) + PROMPT_TOKENS
    read, written = draw(st.integers(0, most)), draw(st.integers(0, limit * n))
    details = UsageDetails(
        image_input_tokens=0,
        reasoning_tokens=draw(st.integers(0, written)),
        service_tier=draw(st.none() | st.sampled_from(ServiceTier)),
    )
    return request, Usage(read, written, draw(st.integers(0, read)), details=details)


@given(attempts(), prices)
def test_no_usage_within_a_requests_bounds_costs_more(attempt: tuple[OpenAIRequest, Usage], price: Price) -> None:
    request, usage = attempt
    assert upper_nusd(price, bounds_of(request), OFFER) * 1000 >= cost_pusd(price, usage)


@given(flat_prices, st.integers(1, 300_000), st.integers(0, 9))
def test_bounds_are_computed_once_for_all_attempts(price: Price, window: int, most: int) -> None:
    request = with_part(IMAGE)
    bounds = bounds_of(request)
    for offer in (OFFER, served(context_window_tokens=window, max_image_tokens=most + 1)):
        assert upper_nusd(price, bounds, offer) == upper_nusd(price, bounds_of(request), offer)
