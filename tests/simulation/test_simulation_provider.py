"""A simulated provider, seen through the official client and through bare HTTP."""

import asyncio
import base64
import json
import struct
from pathlib import Path

import httpx
import jsonschema
import openai
import pytest

from amaru.accounts.exports import Export
from amaru.domain import Price
from amaru.simulation import Latency, ProviderProfile, SimulatedProvider, builtin
from amaru.simulation.text import count_tokens

HELLO = [{"role": "user", "content": "Hello, who are you?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def client_of(provider: SimulatedProvider, key: str = "any") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=provider.base_url, api_key=key, max_retries=0)


async def ask(provider: SimulatedProvider, **fields):
    return await client_of(provider).chat.completions.create(**{"model": "sim-model", "messages": HELLO, **fields})


async def streamed(provider: SimulatedProvider, **fields):
    return [chunk async for chunk in await ask(provider, stream=True, **fields)]


def text_of(chunks) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_the_same_answer_whole_and_streamed_and_from_another_provider() -> None:
    async with SimulatedProvider() as one, SimulatedProvider(ProviderProfile(name="b"), seed=9) as two:
        whole = (await ask(one)).choices[0]
        assert whole.finish_reason == "stop"
        assert whole.message.content
        assert text_of(await streamed(one)) == whole.message.content == text_of(await streamed(two))
        assert (await ask(one, seed=5)).choices[0].message.content != whole.message.content


async def test_usage_is_reported_and_billed_exactly() -> None:
    price = Price(input_usd_per_mtok=0.3, cached_input_usd_per_mtok=0.1, output_usd_per_mtok=0.7)
    async with SimulatedProvider(ProviderProfile(price=price)) as provider:
        answer = await ask(provider, max_tokens=7)
        assert answer.usage.prompt_tokens == count_tokens(HELLO[0]["content"])
        assert answer.usage.completion_tokens == 7 == count_tokens(answer.choices[0].message.content)
        assert answer.choices[0].finish_reason == "length"
        chunks = await streamed(provider, max_tokens=7, stream_options={"include_usage": True})
        assert chunks[-1].usage == answer.usage
        assert chunks[-1].choices == []
        total = provider.bill.total
        assert (total.requests, total.input_tokens, total.output_tokens) == (2, 2 * answer.usage.prompt_tokens, 14)
        assert total.pico_usd == 2 * (answer.usage.prompt_tokens * 300_000 + 7 * 700_000)
        async with httpx.AsyncClient(verify=False) as http:
            bill = (await http.get(f"{provider.url}/sim/bill")).json()
        assert bill["total"]["usd"] == total.usd
        assert list(bill["by_key"].values()) == [bill["total"]]
        assert "any" not in bill["by_key"]  # a label, never the key


async def test_every_billed_request_is_told_as_a_usage_export(tmp_path: Path) -> None:
    profile = ProviderProfile(
        price=Price(input_usd_per_mtok=0.3, output_usd_per_mtok=0.7), embedding_models=("vector",)
    )
    export = tmp_path / "usage.csv"
    async with SimulatedProvider(profile, clock=lambda: 1.8e9) as provider, httpx.AsyncClient(verify=False) as http:
        answer = await ask(provider, max_tokens=7)
        await streamed(provider, max_tokens=3)
        await client_of(provider).embeddings.create(model="vector", input="one two")
        export.write_bytes((await http.get(f"{provider.url}/sim/usage")).content)
        whole, stream, vector = (billed for _, billed in Export(export).lines())
        assert (whole.ref, whole.at, whole.model) == (answer.id, 1.8e9, "sim-model")
        assert (whole.input_tokens, whole.output_tokens, stream.output_tokens) == (answer.usage.prompt_tokens, 7, 3)
        assert (vector.ref, vector.model, vector.output_tokens) == (None, "vector", 0)
        assert sum(billed.cost_pusd for billed in (whole, stream, vector)) == provider.bill.total.pico_usd


async def test_without_being_asked_a_stream_reports_no_usage() -> None:
    async with SimulatedProvider() as provider:
        assert all(chunk.usage is None for chunk in await streamed(provider))


async def test_an_exact_length_can_be_asked_for() -> None:
    async with SimulatedProvider() as provider:
        answer = await ask(provider, max_tokens=333, extra_body={"ignore_eos": True})
        assert answer.usage.completion_tokens == 333


async def test_a_repeated_prefix_is_cached_and_cheaper() -> None:
    prompt = [{"role": "user", "content": "word " * 1500}]
    async with SimulatedProvider() as provider:
        first = await ask(provider, messages=prompt, max_tokens=2)
        second = await ask(provider, messages=[{"role": "user", "content": "word " * 1500 + "?"}], max_tokens=2)
        assert first.usage.prompt_tokens_details.cached_tokens == 0
        cached = second.usage.prompt_tokens_details.cached_tokens
        assert 1024 <= cached <= 1500
        assert cached % 128 == 0
        assert provider.bill.total.cached_input_tokens == cached


async def test_several_choices_stop_words_and_max_completion_tokens() -> None:
    async with SimulatedProvider() as provider:
        answer = await ask(provider, n=3, max_completion_tokens=4)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert len({choice.message.content for choice in answer.choices}) == 3
        chunks = await streamed(provider, n=3, max_completion_tokens=4)
        for index in range(3):
            text = "".join(
                choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index
            )
            assert text == answer.choices[index].message.content
        whole = (await ask(provider)).choices[0].message.content
        stop = " " + whole.split(" ")[3]
        stopped = (await ask(provider, stop=[stop])).choices[0]
        assert stopped.finish_reason == "stop"
        assert stopped.message.content == whole[: whole.index(stop)]


async def test_tools_are_called_when_demanded_or_marked() -> None:
    async with SimulatedProvider() as provider:
        answer = (await ask(provider, tools=[TOOL], tool_choice="required")).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert answer.message.content is None
        call = answer.message.tool_calls[0]
        jsonschema.validate(json.loads(call.function.arguments), TOOL["function"]["parameters"])
        chunks = await streamed(
            provider, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "weather"}}
        )
        pieces = [c.choices[0].delta.tool_calls[0] for c in chunks if c.choices and c.choices[0].delta.tool_calls]
        assert pieces[0].id == call.id
        assert pieces[0].function.name == "weather"
        assert "".join(piece.function.arguments for piece in pieces) == call.function.arguments
        marked = [{"role": "user", "content": "Please call:weather now"}]
        assert (await ask(provider, messages=marked, tools=[TOOL])).choices[0].finish_reason == "tool_calls"
        assert (await ask(provider, tools=[TOOL])).choices[0].finish_reason == "stop"
        assert (await ask(provider, messages=marked, tools=[TOOL], tool_choice="none")).choices[0].message.content


async def test_structured_output_follows_its_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"steps": {"type": "array", "items": {"type": "string"}}, "answer": {"type": "integer"}},
        "required": ["steps", "answer"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}
    async with SimulatedProvider() as provider:
        answer = (await ask(provider, response_format=wanted)).choices[0]
        jsonschema.validate(json.loads(answer.message.content), schema)
        assert text_of(await streamed(provider, response_format=wanted)) == answer.message.content
        assert json.loads((await ask(provider, response_format={"type": "json_object"})).choices[0].message.content)
        cut = (await ask(provider, response_format=wanted, max_tokens=2)).choices[0]
        assert cut.finish_reason == "length"


async def test_logprobs_come_with_every_token() -> None:
    async with SimulatedProvider() as provider:
        answer = (await ask(provider, logprobs=True, top_logprobs=2, max_tokens=5)).choices[0]
        assert "".join(entry.token for entry in answer.logprobs.content) == answer.message.content
        assert all(len(entry.top_logprobs) == 2 for entry in answer.logprobs.content)
        chunks = await streamed(provider, logprobs=True, max_tokens=5)
        tokens = [c.choices[0].logprobs.content[0].token for c in chunks if c.choices and c.choices[0].logprobs]
        assert "".join(tokens) == answer.message.content


async def test_images_are_accepted() -> None:
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}},
    ]
    async with SimulatedProvider() as provider:
        answer = await ask(provider, messages=[{"role": "user", "content": parts}])
        assert answer.usage.prompt_tokens == 3 + 85


async def test_completions_and_embeddings() -> None:
    async with SimulatedProvider() as provider:
        client = client_of(provider)
        answer = await client.completions.create(model="sim-model", prompt="Once upon", max_tokens=6, logprobs=1)
        assert answer.usage.completion_tokens == 6
        assert "".join(answer.choices[0].logprobs.tokens) == answer.choices[0].text
        stream = await client.completions.create(model="sim-model", prompt="Once upon", max_tokens=6, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == answer.choices[0].text
        made = await client.embeddings.create(model="sim-embed", input=["a b", "c"], dimensions=5)
        plain = await client.embeddings.create(
            model="sim-embed", input=["a b", "c"], dimensions=5, encoding_format="float"
        )
        assert [len(row.embedding) for row in made.data] == [5, 5]
        assert made.data[0].embedding == pytest.approx(plain.data[0].embedding)
        assert made.usage.prompt_tokens == 3
        raw = await client.embeddings.with_raw_response.create(model="sim-embed", input="a", encoding_format="base64")
        packed = json.loads(raw.content)["data"][0]["embedding"]
        assert len(struct.unpack("<64f", base64.b64decode(packed))) == 64


async def test_an_answer_is_continued_from_its_own_beginning() -> None:
    async with SimulatedProvider() as provider:
        whole = (await ask(provider)).choices[0].message.content
        half = whole[: len(whole) // 2]
        rest = (await ask(provider, messages=[*HELLO, {"role": "assistant", "content": half}])).choices[0]
        assert half + rest.message.content == whole
    async with SimulatedProvider(ProviderProfile(prefill="reject")) as provider:
        with pytest.raises(openai.BadRequestError):
            await ask(provider, messages=[*HELLO, {"role": "assistant", "content": half}])


async def test_models_health_and_what_is_not_there() -> None:
    async with SimulatedProvider() as provider, httpx.AsyncClient(base_url=provider.url, verify=False) as http:
        assert [model.id for model in (await client_of(provider).models.list()).data] == ["sim-model", "sim-embed"]
        assert (await http.get("/health")).json()["status"] == "ok"
        assert (await http.get("/nothing")).status_code == 404
        assert (await http.get("/v1/chat/completions")).status_code == 405
        assert (await http.post("/v1/chat/completions", content=b"{")).json()["error"][
            "type"
        ] == "invalid_request_error"
        assert (await http.get("/sim/state")).json()["requests"] == 1


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "other"}, 404, "model_not_found"),
        ({"messages": []}, 400, None),
        ({"n": 0}, 400, None),
        ({"max_tokens": 0}, 400, None),
        ({"max_tokens": 200_000}, 400, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "w " * 1001}]}, 400, "context_length_exceeded"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, 400, None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/x"}}}},
            400,
            "invalid_schema",
        ),
    ],
)
async def test_refusals_have_openais_shape(fields: dict, status: int, code: str | None) -> None:
    async with SimulatedProvider(ProviderProfile(context_window_tokens=1000)) as provider:
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(provider, **fields)
        assert caught.value.status_code == status
        assert caught.value.code == code
        assert provider.bill.total.requests == 0


async def test_keys_are_checked_and_billed_apart() -> None:
    async with SimulatedProvider(ProviderProfile(keys=("alpha", "beta"))) as provider:
        with pytest.raises(openai.AuthenticationError):
            await ask(provider)
        for key in ("alpha", "beta", "beta"):
            await client_of(provider, key).chat.completions.create(model="sim-model", messages=HELLO)
        assert sorted(account.requests for account in provider.bill.by_key.values()) == [1, 2]


async def test_rate_limits_refuse_say_when_and_refill() -> None:
    now = [1000.0]
    profile = ProviderProfile(requests_per_min=2, tokens_per_min=6000)
    async with SimulatedProvider(profile, clock=lambda: now[0]) as provider:
        raw = await client_of(provider).chat.completions.with_raw_response.create(model="sim-model", messages=HELLO)
        assert raw.headers["x-ratelimit-limit-requests"] == "2"
        assert raw.headers["x-ratelimit-remaining-requests"] == "1"
        await ask(provider)
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(provider)
        assert caught.value.response.headers["retry-after"] == "30"
        assert caught.value.code == "rate_limit_exceeded"
        now[0] += 30
        await ask(provider)
        now[0] += 60
        await ask(provider, max_tokens=6000)
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(provider, max_tokens=3000)
        assert caught.value.type == "tokens"


async def test_capacity_queues_then_turns_away() -> None:
    profile = ProviderProfile(capacity=1, queue=1, latency=Latency(ttft_ms=60, itl_ms=0))
    async with SimulatedProvider(profile) as provider:
        results = await asyncio.gather(*(ask(provider) for _ in range(4)), return_exceptions=True)
        refused = [result for result in results if isinstance(result, openai.InternalServerError)]
        assert len(refused) == 2
        assert all(error.status_code == 503 and error.response.headers["retry-after"] for error in refused)
        assert provider.in_flight == 0


async def test_a_client_that_leaves_frees_its_slot_and_pays_what_was_made() -> None:
    profile = ProviderProfile(latency=Latency(ttft_ms=0, itl_ms=2, itl_sigma=0), capacity=1)
    async with SimulatedProvider(profile) as provider:
        stream = await ask(provider, stream=True, max_tokens=10_000, extra_body={"ignore_eos": True})
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == 5:
                break
        await stream.close()
        await ask(provider, max_tokens=1)  # capacity 1: served only once the slot is free
        assert provider.in_flight == 0
        assert 4 <= provider.bill.total.output_tokens < 200


async def test_latency_rises_with_load() -> None:
    profile = ProviderProfile(capacity=2, latency=Latency(ttft_ms=30, ttft_sigma=0, itl_ms=0, load_weight=3))
    async with SimulatedProvider(profile) as provider:
        inference = provider.inference
        idle_s = inference._speed.first_token_s(0)
        inference.slots.in_flight = 2
        assert idle_s == pytest.approx(0.030)
        assert inference._speed.first_token_s(0) == pytest.approx(0.120)
        inference.slots.in_flight = 0


async def test_latencies_are_those_of_the_seed() -> None:
    profile = builtin(1)[0]
    draws = []
    for _ in range(2):
        speed = SimulatedProvider(profile, seed=3).inference._speed
        draws.append([speed.first_token_s(100), speed.tokens_s(8), speed.tokens_s(1)])
    assert draws[0] == draws[1]


def test_builtin_providers_repeat_under_new_names() -> None:
    names = [profile.name for profile in builtin(9)]
    assert len(set(names)) == 9
    with pytest.raises(ValueError, match="at least one"):
        builtin(0)


@pytest.mark.parametrize(
    "fields",
    [{"name": ""}, {"capacity": 0}, {"requests_per_min": 0}, {"queue": -1}, {"models": (), "embedding_models": ()}],
)
def test_an_impossible_profile_is_refused(fields: dict) -> None:
    with pytest.raises(ValueError, match=r"."):
        ProviderProfile(**fields)
    with pytest.raises(ValueError, match="itl_ms"):
        Latency(itl_ms=-1)
