"""Our costs and upper estimates against the simulated providers' own bills, over random traffic without a network."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from price_samples import prices, usages

from amaru.accounts.cost import cost_pusd
from amaru.accounts.estimate import bounds_of, upper_nusd
from amaru.domain import Kind, Offer, Price, ServiceTier, Usage
from amaru.protocols.answers import parse_answer
from amaru.protocols.openai import parse_request
from amaru.simulation.answers import choices_for
from amaru.simulation.asks import IMAGE_TOKENS, understand
from amaru.simulation.billing import Account, Bill
from amaru.simulation.profiles import ProviderProfile
from amaru.simulation.prompt_cache import PromptCache, kept_tokens
from amaru.simulation.wire import Identity, usage_of, whole_body


@given(st.lists(st.tuples(prices, usages()), max_size=20))
def test_a_bill_is_the_sum_of_our_costs_to_the_pico_dollar(requests: list[tuple[Price, Usage]]) -> None:
    bill = Bill()
    for price, usage in requests:
        bill.charge("key", price, usage)
    assert bill.total.pico_usd == sum(cost_pusd(price, usage) for price, usage in requests)
    assert bill.total == bill.by_key.get("key", Account())


@given(prices, usages())
def test_the_lines_of_a_bill_hold_every_token_once(price: Price, usage: Usage) -> None:
    account = Account()
    account.charge(price, usage)
    assert sum(line.tokens for line in account.lines.values()) == usage.input_tokens + usage.output_tokens


texts = st.text(max_size=40) | st.integers(100, 3000).map(lambda count: "words " * count)
parts = st.fixed_dictionaries(
    {"type": st.just("text"), "text": texts},
    optional={"cache_control": st.sampled_from([{"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}])},
) | st.just({"type": "image_url", "image_url": {"url": "https://example.org/i.png"}})
messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant"]),
            "content": texts | st.lists(parts, min_size=1, max_size=3),
        }
    ),
    min_size=1,
    max_size=3,
)
tools = st.just([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}])
chats = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": messages},
    optional={
        "max_tokens": st.integers(1, 60),
        "n": st.integers(1, 3),
        "tools": tools,
        "ignore_eos": st.booleans(),
        "service_tier": st.sampled_from(["auto", "flex", "priority", "batch"]),
    },
)
prompts = st.text(max_size=40) | st.lists(st.integers(0, 100_000), min_size=1, max_size=20)
completions = st.fixed_dictionaries(
    {"model": st.just("m"), "prompt": prompts | st.lists(st.text(max_size=20), min_size=1, max_size=3)},
    optional={"max_tokens": st.integers(0, 60), "n": st.integers(1, 3), "echo": st.booleans()},
)
requests = st.tuples(st.just(Kind.CHAT), chats) | st.tuples(st.just(Kind.COMPLETION), completions)


@settings(deadline=None)
@given(
    st.lists(requests, min_size=1, max_size=4),
    prices,
    st.sampled_from([0.0, 30.0, 3000.0]),
    st.booleans(),
    st.sampled_from([None, 4000, 16_384]),
)
def test_every_answer_is_billed_as_we_reckon_and_within_what_was_reserved(
    asked: list[tuple[Kind, dict[str, Any]]],
    price: Price,
    reasoning: float,
    ascii_only: bool,
    told_most: int | None,
) -> None:
    most = told_most or 500
    profile = ProviderProfile(reasoning_tokens=reasoning, cache_writes=True, max_output_tokens=most)
    told: dict[str, Any] = {"context_window_tokens": profile.context_window_tokens}
    if told_most is not None:
        told |= {"max_output_tokens": most, "max_image_tokens": IMAGE_TOKENS}
    offer = Offer(id="a/m", provider="a", resource="m", model="m", price=price, **told)
    bill, cache, ours = Bill(), PromptCache(), 0
    for kind, fields in asked:
        body = json.dumps(fields, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        ask = understand(kind, body)
        choices = choices_for(ask, profile)
        cached = cache.look_up(ask.prompt)
        served = ServiceTier(ask.service_tier) if ask.service_tier in set(ServiceTier) else None
        written = kept_tokens(ask.prompt) - cached if ask.cache_ttl else 0
        usage = usage_of(ask, choices, cached_tokens=cached, written_tokens=written, service_tier=served)
        bill.charge("key", price, usage)
        identity = Identity("1", 0, "m", "f", ask.service_tier)
        read = parse_answer(kind, whole_body(ask, identity, choices, usage)).usage
        assert read is not None
        cost = cost_pusd(price, read)
        ours += cost
        assert ours == bill.total.pico_usd
        assert upper_nusd(price, bounds_of(parse_request(kind, body)), offer) * 1000 >= cost


def test_finer_kinds_are_told_as_json_without_what_is_zero() -> None:
    ask = understand(Kind.CHAT, b'{"model":"m","messages":[{"role":"user","content":"a"}]}')
    choices = choices_for(ask, ProviderProfile(reasoning_tokens=5.0, answer_sigma=0.0))
    usage = usage_of(ask, choices, cached_tokens=0, written_tokens=0, service_tier=ServiceTier.FLEX)
    assert msgspec.json.encode(usage.details) == b'{"reasoning_tokens":5,"service_tier":"flex"}'


def test_an_answer_that_goes_on_with_words_of_the_caller_s_own_is_no_longer_than_its_limit() -> None:
    said = [{"role": "assistant", "content": "words " * 50}]
    body = json.dumps({"model": "m", "messages": said, "max_tokens": 3, "ignore_eos": True}).encode()
    (choice,) = choices_for(understand(Kind.CHAT, body), ProviderProfile())
    assert len(choice.tokens) == 3
