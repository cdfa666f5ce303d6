"""Official clients work unmodified: openai (sync, async, streaming, tools, structured output), langchain, litellm."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import openai
import pytest
from gateway_world import KEY, World
from pydantic import BaseModel

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
HELLO = [{"role": "user", "content": "Say hello."}]


class Answer(BaseModel):
    city: str
    degrees: int


@pytest.fixture
async def client(world: World) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{world.base_url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


async def test_openai_async(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="fast", messages=HELLO, max_tokens=8)  # type: ignore[arg-type]
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert [model.id async for model in client.models.list()] == ["fast", "sim", "sim-embed"]
    embeddings = await client.embeddings.create(model="sim-embed", input=["a", "b"])
    assert len(embeddings.data) == 2
    completion = await client.completions.create(model="sim", prompt="Once", max_tokens=4)
    assert completion.choices[0].text


async def test_openai_sync(world: World) -> None:
    def talk() -> str:
        with openai.OpenAI(base_url=f"{world.base_url}/v1", api_key=KEY, max_retries=0) as client:
            chunks = client.chat.completions.create(model="sim", messages=HELLO, stream=True, max_tokens=8)  # type: ignore[call-overload]
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    assert await asyncio.to_thread(talk)


async def test_openai_stream_with_usage_tools_and_n(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="sim", messages=HELLO, stream=True, stream_options={"include_usage": True}, n=2, max_tokens=6  # type: ignore[arg-type]
    )  # fmt: skip
    usage, choices = None, set()
    async for chunk in stream:
        usage = chunk.usage or usage
        choices |= {choice.index for choice in chunk.choices}
    assert usage is not None
    assert choices == {0, 1}
    stream = await client.chat.completions.create(
        model="sim", messages=HELLO, stream=True, tools=TOOLS, tool_choice="required"  # type: ignore[arg-type]
    )  # fmt: skip
    name, arguments = "", ""
    async for chunk in stream:
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or []:
                assert call.function is not None
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    assert name == "weather"
    assert arguments.startswith("{")


async def test_openai_structured_output_images_and_logprobs(client: openai.AsyncOpenAI) -> None:
    parsed = await client.chat.completions.parse(model="sim", messages=HELLO, response_format=Answer)  # type: ignore[arg-type]
    assert isinstance(parsed.choices[0].message.parsed, Answer)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    content = [{"type": "text", "text": "What is it?"}, image]
    seen = await client.chat.completions.create(
        model="sim", messages=[{"role": "user", "content": content}], logprobs=True, max_tokens=4  # type: ignore[misc, list-item]
    )  # fmt: skip
    assert seen.choices[0].logprobs is not None


async def test_openai_raises_its_own_errors(client: openai.AsyncOpenAI, world: World) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="none", messages=HELLO)  # type: ignore[arg-type]
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").models.list()
    for name in world.providers:
        world.break_(name, "status", status=429, retry_after="seconds", retry_after_s=500)
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.create(model="sim", messages=HELLO)  # type: ignore[arg-type]


async def test_openai_raises_on_a_stream_that_broke(client: openai.AsyncOpenAI, world: World) -> None:
    from amaru.simulation import Latency

    for name, provider in world.providers.items():
        provider.inference.latency = Latency(ttft_ms=1, itl_ms=20)
        world.break_(name, "cut", at="mid", how="close")
    stream = await client.chat.completions.create(model="sim", messages=HELLO, stream=True, max_tokens=20)  # type: ignore[call-overload]
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass


async def test_langchain(world: World) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="sim", base_url=f"{world.base_url}/v1", api_key=KEY, max_tokens=8, max_retries=0)  # type: ignore[arg-type, call-arg]
    assert (await model.ainvoke("Say hello.")).content
    assert "".join([str(chunk.content) async for chunk in model.astream("Say hello.")])
    tool_call = await model.bind_tools(TOOLS, tool_choice="required").ainvoke("Weather?")
    assert tool_call.tool_calls[0]["name"] == "weather"  # type: ignore[attr-defined]


async def test_litellm(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no look-up on the network
    import litellm

    call = {
        "model": "openai/sim",
        "api_base": f"{world.base_url}/v1",
        "api_key": KEY,
        "messages": HELLO,
        "max_tokens": 8,
    }
    answer = await litellm.acompletion(**call)
    assert answer.choices[0].message.content
    stream = await litellm.acompletion(**call, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
