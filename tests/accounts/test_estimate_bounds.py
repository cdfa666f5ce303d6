"""Whatever a provider that keeps to its own limits bills for a request, no more than the estimate: random requests of
every kind, random prices, and the worst that each part of a request may be billed as."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import assume, example, given
from hypothesis import strategies as st
from price_samples import prices, usd_per_mtok

from amaru.accounts.cost import cost_pusd
from amaru.accounts.estimate import (
    MAX_OUTPUT_TOKENS,
    MAX_WINDOW_TOKENS,
    PROMPT_TOKENS,
    TOOLS_TOKENS,
    bounds_of,
    unpriced,
    upper_nusd,
    upper_tokens,
)
from amaru.accounts.estimate_media import MAX_IMAGE_TOKENS
from amaru.accounts.excess import Excesses
from amaru.accounts.money import nusd_half_even
from amaru.domain import Kind, LimitField, Offer, Price, ServiceTier, Usage, UsageDetails
from amaru.protocols.openai import OpenAIRequest, parse_request
from amaru.protocols.openai_body import encode_request
from amaru.protocols.surcharges import SURCHARGES

GEMINI_TOKENS_PER_S = 32
LEANEST_BYTES_PER_S = 375
"""A speech codec at 3 kbit/s."""
TEMPLATE_TOKENS = 8
"""Of a message, beside its text: its role and the marks around it. Its JSON has more bytes than that."""

Json = dict[str, Any]  # Any: JSON
of_answers = st.builds(Price, output_usd_per_mtok=usd_per_mtok, audio_output_usd_per_mtok=st.none() | usd_per_mtok)
"""Of nothing else, so that what the prompt is bounded too high by hides nothing of an answer."""
texts = st.text(max_size=80)
limits = st.none() | st.integers(1, 3000)
sizes = st.none() | st.integers(1, 200_000)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def up_to(most: int) -> st.SearchStrategy[int]:
    """Any number up to a bound; half the time the bound itself, where estimates are put to the test."""
    return st.just(most) | st.integers(0, most)


class Most:
    """The most that each kind of token of one request may be billed as, by the provider's own account."""

    def __init__(self) -> None:
        self.text = PROMPT_TOKENS
        self.images = 0
        self.audio = 0
        self.sees_all = True
        self.writes_cache = False
        self.speaks = False
        self.more_output = 0


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


@st.composite
def parts(draw: st.DrawFn, most: Most) -> Json:
    kind = draw(st.sampled_from(["text", "image", "wave", "flac", "file", "video", "cached"]))
    if kind in ("text", "cached"):
        text = draw(texts)
        most.text += _bytes(text)
        if kind == "text":
            return {"type": "text", "text": text}
        most.writes_cache = True
        return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}
    if kind == "image":
        most.images += 1
        detail = draw(st.sampled_from(["low", "high", "auto"]))
        return {"type": "image_url", "image_url": {"url": "https://example.org/i.png", "detail": detail}}
    if kind == "wave":
        data = b"RIFF\x00\x00\x00\x00WAVE" + bytes(draw(st.integers(0, 5000)))
        most.audio += len(data) * GEMINI_TOKENS_PER_S // LEANEST_BYTES_PER_S
        return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}
    most.sees_all = False
    if kind == "flac":
        return {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"fLaC" + bytes(40)).decode()}}
    if kind == "file":
        return {"type": "file", "file": {"file_id": "file-1"}}
    return {"type": "video_url", "video_url": {"url": "https://example.org/v"}}


@st.composite
def messages(draw: st.DrawFn, most: Most) -> list[Json]:
    made: list[Json] = []
    for _ in range(draw(st.integers(1, 3))):
        most.text += TEMPLATE_TOKENS
        if draw(st.integers(0, 9)) == 0:
            most.sees_all = False
            made.append({"role": "assistant", "audio": {"id": "audio-1"}})
        elif draw(st.booleans()):
            text = draw(texts)
            most.text += _bytes(text)
            made.append({"role": "user", "content": text})
        else:
            made.append({"role": "user", "content": draw(st.lists(parts(most), min_size=1, max_size=3))})
    return made


@st.composite
def chats(draw: st.DrawFn, most: Most) -> tuple[Json, int, int | None]:
    """A body, how many choices are generated, and the limit of each."""
    older, newer = draw(limits), draw(limits)
    body: Json = {"model": "m", "messages": draw(messages(most)), "max_tokens": older, "max_completion_tokens": newer}
    choices = draw(st.integers(1, 4))
    body["n"] = draw(st.integers(1, choices))
    if body["n"] < choices:
        body["best_of"] = choices
    if draw(st.integers(0, 3)) == 0:
        tools = [{"type": "function", "function": {"name": "f", "parameters": draw(json_values)}}]
        most.text += TOOLS_TOKENS + len(json.dumps(tools, ensure_ascii=False, indent=2).encode("utf-8", "replace"))
        body["tools"] = tools
    if draw(st.integers(0, 3)) == 0:
        predicted = draw(texts)
        most.more_output += choices * _bytes(predicted)
        body["prediction"] = {"type": "content", "content": predicted}
    if draw(st.integers(0, 3)) == 0:
        most.speaks = True
        body.update(modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"})
    if draw(st.integers(0, 5)) == 0:
        most.sees_all = False
        body.update(draw(st.sampled_from([{"web_search_options": {}}, {"tools": [{"type": "web_search"}]}])))
    if draw(st.booleans()):
        body["service_tier"] = draw(st.sampled_from(["auto", "default", "flex", "priority", "batch", "dearest"]))
    if draw(st.booleans()):
        body.update(logprobs=True, top_logprobs=5, stream=True, stream_options={"include_usage": True})
    return body, choices, newer or older


@st.composite
def completions(draw: st.DrawFn, most: Most) -> tuple[Json, int, int | None]:
    prompts = draw(st.lists(texts, min_size=1, max_size=3))
    n = draw(st.integers(1, 3))
    made = draw(st.integers(n, 5))
    read = sum(map(_bytes, prompts))
    most.text += read
    limit = draw(limits)
    body: Json = {"model": "m", "prompt": prompts, "n": n, "best_of": made, "max_tokens": limit}
    if draw(st.booleans()):
        body["echo"] = True
        most.more_output += n * read
    return body, made * len(prompts), limit


@st.composite
def bills(draw: st.DrawFn) -> tuple[OpenAIRequest, Offer, Usage]:
    """A request, an offer, and what that may bill for it where it keeps to what its settings say."""
    price = draw(prices | of_answers)
    offer = Offer(
        id="a/m",
        provider="a",
        resource="m",
        model="m",
        price=price,
        context_window_tokens=draw(sizes),
        max_output_tokens=draw(sizes),
        max_image_tokens=draw(sizes),
        bills_beyond_limit=draw(st.booleans()),
        limit_field=draw(st.sampled_from(LimitField)),
        price_covers=draw(st.sampled_from([(), ("web_search_options", "tools"), SURCHARGES])),
    )
    most = Most()
    kind = draw(st.sampled_from([Kind.CHAT, Kind.CHAT, Kind.COMPLETION]))
    body, choices, limit = draw(chats(most) if kind is Kind.CHAT else completions(most))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    written = json.dumps(body, ensure_ascii=draw(st.booleans()), separators=separators)
    request = parse_request(kind, written.encode("utf-8", "replace"))

    window = offer.context_window_tokens
    images = most.images * (offer.max_image_tokens or MAX_IMAGE_TOKENS)
    read = most.text + images + most.audio if most.sees_all else MAX_WINDOW_TOKENS
    prompts = choices if kind is Kind.COMPLETION else 1
    read = draw(up_to(read if window is None else min(read, window * prompts)))
    cached = draw(up_to(read))
    writes = draw(up_to(read - cached)) if most.writes_cache else 0
    left = read - cached - writes
    heard = draw(up_to(min(left, most.audio if most.sees_all else left)))
    shown = draw(up_to(min(left - heard, images if most.sees_all else left)))

    longest = offer.max_output_tokens or window or MAX_OUTPUT_TOKENS
    heeded = json.loads(encode_request(request, "m", offer.limit_field))
    sent = heeded.get("max_completion_tokens") or heeded.get("max_tokens")
    assert sent == limit, "the limit is sent"
    each = longest if limit is None or offer.bills_beyond_limit else min(limit, longest)
    answered = draw(up_to(each * choices + most.more_output))
    thought = draw(up_to(answered))
    spoken = draw(up_to(answered - thought)) if most.speaks else 0
    tier = draw(st.none() | st.sampled_from(ServiceTier))
    details = UsageDetails(
        cache_write_tokens=writes,
        cache_write_1h_tokens=draw(up_to(writes)),
        audio_input_tokens=heard,
        image_input_tokens=shown,
        reasoning_tokens=thought,
        audio_output_tokens=spoken,
        image_output_tokens=draw(up_to(answered - thought - spoken)),
        service_tier=tier,
    )
    return request, offer, Usage(read, answered, cached, details=details)


@given(bills())
def test_no_bill_of_a_provider_that_keeps_to_its_settings_is_above_the_estimate(
    bill: tuple[OpenAIRequest, Offer, Usage],
) -> None:
    request, offer, usage = bill
    bounds = bounds_of(request)
    assume(unpriced(bounds, offer) is None)
    assert upper_nusd(offer.price, bounds, offer) * 1000 >= cost_pusd(offer.price, usage)
    assert upper_tokens(bounds, offer) >= usage.input_tokens + usage.output_tokens


@given(bills(), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=4))
@example(
    (
        parse_request(Kind.CHAT, b'{"model":"m","messages":[{"role":"user"}],"max_tokens":5}'),
        Offer("a/m", "a", "m", "m", price=Price(output_usd_per_mtok=1.0), max_output_tokens=10),
        Usage(0, 0),
    ),
    [(0, 40), (0, 10**6)],
)
def test_a_bill_above_the_estimate_is_within_the_next_one(
    bill: tuple[OpenAIRequest, Offer, Usage], beyond: list[tuple[int, int]]
) -> None:
    """However far providers go beyond their settings: the same bill comes as a surprise once only."""
    request, offer, usage = bill
    bounds, told = bounds_of(request), []
    excesses = Excesses(lambda of, nusd: told.append((of, nusd)))
    first = excesses.upper_nusd(offer, bounds)
    for more_input, more_output in beyond:
        read, written = usage.input_tokens + more_input, usage.output_tokens + more_output
        billed = Usage(read, written, usage.cached_input_tokens, details=usage.details)
        reserved, cost = excesses.upper_nusd(offer, bounds), nusd_half_even(cost_pusd(offer.price, billed))
        before = len(told)
        if cost > reserved:
            excesses.learn(offer, bounds, billed, billed_nusd=cost, reserved_nusd=reserved)
            assert told[before:] == [("a/m", cost - reserved)]
        assert excesses.upper_nusd(offer, bounds) >= max(cost, first)
    excesses.keep([offer])
    assert (excesses.upper_nusd(offer, bounds) > first) == bool(told)
    excesses.keep([])
    assert excesses.upper_nusd(offer, bounds) == first
