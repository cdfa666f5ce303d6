"""Faults of the answer itself, of the shape of errors, of one version of the API; and faults that come slowly."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
import pytest

from amaru.simulation import Fault, ProviderProfile, SimulatedProvider
from amaru.simulation.fault_errors import ErrorShape
from amaru.simulation.striking import Faults

BODY = {"model": "sim-model", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 12}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


async def post(provider: SimulatedProvider, path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=provider.url, verify=False) as http:
        return await http.post(path, json={**BODY, **fields})


async def whole(provider: SimulatedProvider, **fields: Any) -> dict[str, Any]:
    answer: dict[str, Any] = (await post(provider, **fields)).json()
    return answer


async def streamed(provider: SimulatedProvider, **fields: Any) -> list[dict[str, Any]]:
    answer = await post(provider, stream=True, **fields)
    assert answer.text.endswith("data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-2]]


async def test_a_field_has_another_name_whole_and_streamed() -> None:
    async with SimulatedProvider() as provider:
        good = await whole(provider)
        provider.faults.add(Fault(kind="renamed_field", to="output_text"))
        message = (await whole(provider))["choices"][0]["message"]
        assert "content" not in message
        assert message["output_text"] == good["choices"][0]["message"]["content"]
        deltas = [chunk["choices"][0]["delta"] for chunk in await streamed(provider)]
        assert "".join(delta.get("output_text", "") for delta in deltas) == message["output_text"]
        assert not any("content" in delta for delta in deltas)


@pytest.mark.parametrize(
    ("field", "where"),
    [("choices", ()), ("usage.prompt_tokens", ("usage",)), ("choices[].finish_reason", ("choices", 0))],
)
async def test_any_field_can_be_null_or_missing(field: str, where: tuple[str | int, ...]) -> None:
    name = field.rpartition(".")[2]
    async with SimulatedProvider(faults=[Fault(kind="null_field", field=field)]) as provider:
        answer: Any = await whole(provider)
        for step in where:
            answer = answer[step]
        assert answer[name] is None
        provider.faults.clear()
        provider.faults.add(Fault(kind="missing_field", field=field))
        answer = await whole(provider)
        for step in where:
            answer = answer[step]
        assert name not in answer
        assert await streamed(provider)


async def test_an_answer_stands_in_an_envelope_whole_and_streamed() -> None:
    async with SimulatedProvider() as provider:
        good, chunks = await whole(provider), await streamed(provider)
        provider.faults.add(Fault(kind="wrapped_answer", to="result"))
        provider.faults.add(Fault(kind="renamed_field", field="choices", to="outputs"))
        wrapped = await whole(provider)
        assert wrapped.keys() == {"status", "result"}
        assert wrapped["result"]["outputs"] == good["choices"]
        events = await streamed(provider)
        assert len(events) == len(chunks)
        assert all(event["result"]["outputs"] for event in events)


async def test_a_whole_answer_comes_where_a_stream_was_asked_for() -> None:
    async with SimulatedProvider(faults=[Fault(kind="unstreamed", times=1)]) as provider:
        assert (await post(provider)).json()["object"] == "chat.completion"  # which is none of the fault's
        answer = await post(provider, stream=True)
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.json()["object"] == "chat.completion"
        assert await streamed(provider)


async def test_several_fields_at_once_and_embeddings_too() -> None:
    faults = [Fault(kind="renamed_field", field="choices", to="outputs"), Fault(kind="missing_field", field="id")]
    faults.append(Fault(kind="renamed_field", field="data[].embedding", to="values"))
    async with SimulatedProvider(faults=faults) as provider:
        for answer in (await whole(provider), *await streamed(provider)):
            assert "outputs" in answer
            assert "id" not in answer
            assert "choices" not in answer
        vectors = (await post(provider, "/v1/embeddings", model="sim-embed", input="x")).json()
        assert set(vectors["data"][0]) == {"object", "index", "values"}


async def test_a_text_that_repeats_itself_whatever_was_asked_or_none() -> None:
    async with SimulatedProvider(faults=[Fault(kind="repeated_text")]) as provider:
        answers = [await whole(provider, messages=[{"role": "user", "content": ask}]) for ask in ("a", "b b")]
        texts = [answer["choices"][0]["message"]["content"] for answer in answers]
        words = texts[0].split()
        assert len(set(words)) <= 4 < len(words)
        assert texts[0][:20] == texts[1][:20]
        assert answers[0]["choices"][0]["finish_reason"] in ("stop", "length")
        provider.faults.clear()
        provider.faults.add(Fault(kind="empty_text"))
        answer = await whole(provider)
        assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]) == ("", "stop")
        assert answer["usage"]["completion_tokens"] == 0
        chunks = await streamed(provider)
        assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", None]
        called = await whole(provider, tools=[TOOL], tool_choice="required")
        assert called["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ("openai", {"error": {"message": "No.", "type": "server_error", "param": None, "code": "gone_fishing"}}),
        ("flat", {"message": "No.", "type": "server_error", "param": None, "code": "gone_fishing"}),
        ("detail", {"detail": "No."}),
        (
            "errors",
            {"success": False, "errors": [{"title": "server_error", "code": "gone_fishing", "detail": "No."}]},
        ),
        ("text", "No."),
    ],
)
async def test_errors_in_other_shapes_and_with_new_codes(shape: ErrorShape, told: object) -> None:
    fault = Fault(kind="status", status=418, code="gone_fishing", message="No.", error_shape=shape)
    async with SimulatedProvider(faults=[fault]) as provider:
        answer = await post(provider)
        assert answer.status_code == 418
        assert (answer.text if shape == "text" else answer.json()) == told
        provider.faults.clear()
        provider.faults.add(Fault(kind="error_in_200", code="gone_fishing", message="No.", error_shape=shape))
        answer = await post(provider)
        assert answer.status_code == 200
        assert (answer.text if shape == "text" else answer.json()) == told


async def test_one_version_of_the_api_fails_and_the_other_goes_on() -> None:
    fault = Fault(kind="status", status=404, version="v1")
    async with SimulatedProvider(ProviderProfile(name="p"), faults=[fault], keep_received=4) as provider:
        assert (provider.base_url, provider.alternate_url) == (f"{provider.url}/v1", f"{provider.url}/v2")
        assert (await post(provider)).status_code == 404
        assert (await post(provider, "/v2/chat/completions")).status_code == 200
        assert (await post(provider, "/v3/chat/completions")).status_code == 404
        provider.faults.add(Fault(kind="missing_field", field="choices", version="v2"))
        assert "choices" not in (await post(provider, "/v2/chat/completions")).json()
        assert [request.path[:3] for request in provider.received] == ["/v1", "/v2", "/v2"]
        async with httpx.AsyncClient(base_url=provider.url, verify=False) as http:
            assert (await http.get("/v2/models")).json() == (await http.get("/v1/models")).json()


# --- the rules, without sockets -------------------------------------------------------------------------------------


def test_a_latency_that_grows() -> None:
    now = [100.0]
    faults = Faults(lambda: now[0], random.Random(1))
    faults.add(Fault(kind="slow", factor=5.0, delay_ms=400.0, ramp_s=20.0))
    seen = []
    for at in (100.0, 105.0, 110.0, 120.0, 500.0):
        now[0] = at
        plan = faults.plan(model="m", stream=True)
        assert plan is not None
        seen.append((plan.factor, plan.delay_ms))
    assert seen == [(1.0, 0.0), (2.0, 100.0), (3.0, 200.0), (5.0, 400.0), (5.0, 400.0)]


def test_an_error_rate_that_grows() -> None:
    now = [0.0]
    faults = Faults(lambda: now[0], random.Random(1))
    faults.add(Fault(kind="status", status=500, probability=0.8, ramp_s=10.0))
    rates = []
    for at in (0.0, 5.0, 10.0, 60.0):
        now[0] = at
        rates.append(sum(faults.plan(model="m", stream=True) is not None for _ in range(2000)) / 2000)
    assert rates == pytest.approx([0.0, 0.4, 0.8, 0.8], abs=0.05)


def test_a_growing_fault_is_over_when_its_time_is() -> None:
    now = [0.0]
    faults = Faults(lambda: now[0], random.Random(1))
    faults.add(Fault(kind="reset", at="connect", ramp_s=0.0, duration_s=5.0))
    assert faults.strike_connection() is not None
    now[0] = 5.0
    assert faults.strike_connection() is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "slow", "ramp_s": -1}, "ramp_s must be at least 0"),
        ({"kind": "refuse", "ramp_s": 1}, "no ramp_s"),
        ({"kind": "refuse", "version": "v1"}, "does not know the version"),
        ({"kind": "hang", "at": "connect", "version": "v1"}, "does not know the version"),
        ({"kind": "null_field", "field": "choices[]..content"}, "field must be a path"),
        ({"kind": "null_field", "field": "[].content"}, "field must be a path"),
        ({"kind": "empty_text", "at": "mid"}, "it can at head"),
    ],
)
def test_a_fault_that_makes_no_sense_says_so(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Fault(**fields)


def test_what_it_does_in_words() -> None:
    assert Fault(kind="renamed_field").describe() == "calls choices[].message.content text"
    assert Fault(kind="wrapped_answer").describe() == "puts its answers into a field data"
    assert Fault(kind="unstreamed").describe() == "answers whole where a stream is asked for"
    assert Fault(kind="slow", factor=4, ramp_s=30).describe() == "answers 4 times slower, more and more over 30 s"
    assert Fault(kind="status", status=410, version="v1").describe() == "answers 410 (server_error) under /v1"
