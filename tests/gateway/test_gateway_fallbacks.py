"""Official clients go on as if nothing were wrong: other shapes of answers, streams that break, a version that died."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from gateway_world import KEY, PROVIDER_KEY, MakeWorld, World, text_of

from amaru.mesh.levers import MeshLevers
from amaru.routing.steering import Steering
from amaru.simulation import Fault

HELLO = [{"role": "user", "content": "Say hello."}]
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": True}
TOOLS = [{"type": "function", "function": WEATHER}]
RENAMES = {
    "choices": "outputs",
    "choices[].message": "reply",
    "choices[].message.content": "output_text",
    "choices[].finish_reason": "stop_reason",
    "usage": "token_usage",
    "usage.prompt_tokens": "input_tokens",
    "usage.completion_tokens": "output_tokens",
}
LACKS = ("id", "object", "created", "model", "choices[].index", "choices[].message.role", "usage.total_tokens")
MINE = "alpha/sim"


@pytest.fixture
async def alone(make_world: MakeWorld) -> AsyncIterator[World]:
    async with make_world(("alpha",)) as made:
        yield made


def client_of(world: World) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{world.base_url}/v1", api_key=KEY, max_retries=0)


def reshape(world: World) -> None:
    """The provider's answers change all their names at once: the innermost first, since paths are by OpenAI's."""
    faults = world.providers["alpha"].faults
    for path in LACKS:
        faults.add(Fault(kind="missing_field", field=path))
    for path in sorted(RENAMES, key=lambda path: -path.count(".")):
        faults.add(Fault(kind="renamed_field", field=path, to=RENAMES[path]))
    faults.add(Fault(kind="renamed_field", field="choices[].delta", to="reply", only="stream"))


def learn(world: World) -> tuple[str, ...]:
    """Adapt to what the provider's latest answers were like; the rules in words."""
    levers = MeshLevers(world.mesh)
    found = levers.find_adaptation(MINE)
    assert found is not None
    levers.adapt(MINE, found)
    return found.words


async def test_the_openai_client_reads_whole_answers_of_another_shape(alone: World) -> None:
    reshape(alone)
    async with client_of(alone) as client:
        with pytest.raises(openai.APIStatusError):
            await client.chat.completions.create(model="sim", messages=HELLO, max_tokens=8)  # type: ignore[arg-type]
        assert "outputs read as choices" in learn(alone)
        answer = await client.chat.completions.create(model="sim", messages=HELLO, max_tokens=8)  # type: ignore[arg-type]
        openai.types.chat.ChatCompletion.model_validate(answer.model_dump())  # every required field, of its type
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


async def test_the_openai_client_reads_streams_of_another_shape(alone: World) -> None:
    reshape(alone)
    ask: dict[str, Any] = {
        "model": "sim",
        "messages": HELLO,
        "stream_options": {"include_usage": True},
    }
    async with client_of(alone) as client:
        with pytest.raises(openai.APIStatusError):
            await client.chat.completions.create(stream=True, **ask)
        assert "choices[].reply read as delta" in learn(alone)
        async with client.chat.completions.stream(**ask) as stream:
            answer = await stream.get_final_completion()
        openai.types.chat.ChatCompletion.model_validate(answer.model_dump())
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
        with pytest.raises(openai.APIStatusError):
            await client.chat.completions.create(model="sim", messages=HELLO)  # type: ignore[arg-type]
        learn(alone)  # whole answers too; streams go on
        assert (await client.chat.completions.create(model="sim", messages=HELLO)).choices[0].message.content  # type: ignore[arg-type]
        assert [chunk async for chunk in await client.chat.completions.create(stream=True, **ask)][-1].usage is not None


async def test_the_openai_client_reads_answers_out_of_an_envelope(alone: World) -> None:
    alone.providers["alpha"].faults.add(Fault(kind="wrapped_answer", to="result"))
    async with client_of(alone) as client:
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError):
                await client.chat.completions.create(model="sim", messages=HELLO, stream=stream)  # type: ignore[arg-type]
            assert "result read as the whole answer" in learn(alone)
        answer = await client.chat.completions.create(model="sim", messages=HELLO)  # type: ignore[arg-type]
        openai.types.chat.ChatCompletion.model_validate(answer.model_dump())
        async with client.chat.completions.stream(model="sim", messages=HELLO) as chunks:  # type: ignore[arg-type]
            told = await chunks.get_final_completion()
        assert told.choices[0].message.content == answer.choices[0].message.content


async def test_the_openai_client_gets_a_stream_of_a_provider_that_sends_none(alone: World) -> None:
    alone.providers["alpha"].faults.add(Fault(kind="unstreamed"))
    async with client_of(alone) as client:
        answer = await client.chat.completions.create(model="sim", messages=HELLO)  # type: ignore[arg-type]
        async with client.chat.completions.stream(
            model="sim", messages=HELLO, stream_options={"include_usage": True}  # type: ignore[arg-type]
        ) as chunks:  # fmt: skip
            told = await chunks.get_final_completion()
    assert told.choices[0].message.content == answer.choices[0].message.content
    assert told.usage == answer.usage
    assert len(alone.providers["alpha"].received) == 2  # nothing was asked twice


@pytest.mark.parametrize("hold", [False, True])
async def test_a_stream_is_asked_whole_where_streams_break(alone: World, hold: bool) -> None:
    alone.break_("alpha", "cut", only="stream", at="mid")
    row = alone.mesh.plan.board.row_of[MINE]
    alone.mesh.plan.board.steer(row, Steering(non_stream=True))
    headers = {"x-amaru-rescue": "hold"} if hold else {}
    response, lines = await alone.stream(headers=headers, stream_options={"include_usage": True})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert text_of(lines)
    assert lines[-1] == "data: [DONE]"
    assert (
        json.loads([line for line in lines if line.startswith("data: {")][-1][6:])["usage"]["completion_tokens"] == 12
    )
    asked = json.loads(alone.providers["alpha"].received[-1].body)
    assert "stream" not in asked
    assert "stream_options" not in asked
    decision = await alone.decision(response)
    assert decision["attempts"][0]["failure"] is None
    async with client_of(alone) as client:
        async with client.chat.completions.stream(model="sim", messages=HELLO, n=2) as stream:  # type: ignore[arg-type]
            answer = await stream.get_final_completion()
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert all(choice.message.content for choice in answer.choices)
        async with client.chat.completions.stream(
            model="sim", messages=HELLO, tools=TOOLS, tool_choice="required"  # type: ignore[arg-type]
        ) as stream:  # fmt: skip
            called = await stream.get_final_completion()
        assert called.choices[0].message.tool_calls is not None
        assert called.choices[0].message.tool_calls[0].function.name == "weather"
        assert called.choices[0].finish_reason == "tool_calls"


async def test_a_broken_stream_goes_on_from_an_offer_that_is_asked_whole(world: World) -> None:
    world.break_("alpha", "cut", only="stream", at="mid", after_events=4)
    row = world.mesh.plan.board.row_of["beta/sim"]
    world.mesh.plan.board.steer(row, Steering(non_stream=True))
    response, lines = await world.stream()
    decision = await world.decision(response)
    assert [attempt["provider"] for attempt in decision["attempts"]] == ["alpha", "beta"]
    _, unbroken = await world.stream()
    world.providers["alpha"].faults.clear()
    _, unbroken = await world.stream()
    assert text_of(lines) == text_of(unbroken)
    assert lines[-1] == "data: [DONE]"


async def test_another_version_of_the_api_serves_while_the_first_is_dead(alone: World) -> None:
    provider = alone.providers["alpha"]
    alone.reload(
        providers={
            "alpha": {
                "base_url": provider.base_url,
                "key_env": "SIM_KEY",
                "alternates": [{"base_url": provider.alternate_url, "headers": {"X-Api-Version": "2"}}],
            }
        }
    )
    alone.break_("alpha", "status", status=410, version="v1", error_shape="errors")
    assert (await alone.chat()).status_code >= 400
    assert alone.mesh.plan.endpoint("alpha", 1) == 0
    answer = await alone.chat()
    assert answer.status_code == 200
    asked = provider.received[-1]
    assert asked.path == "/v2/chat/completions"
    assert asked.headers[b"x-api-version"] == b"2"
    assert asked.headers[b"authorization"] == f"Bearer {PROVIDER_KEY}".encode()
    provider.faults.clear()
    assert alone.mesh.plan.endpoint("alpha", 0) == 1
    assert (await alone.chat()).status_code == 200
    assert provider.received[-1].path == "/v1/chat/completions"
    assert b"x-api-version" not in provider.received[-1].headers
