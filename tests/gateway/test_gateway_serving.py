"""What a caller sees when all is well, and what is recorded of it."""

from __future__ import annotations

import asyncio
import json

import pytest
from gateway_world import KEY, OTHER_KEY, World, text_of, until


async def test_whole_answer_names_its_decision_provider_attempts_and_cost(world: World) -> None:
    response = await world.chat()
    assert response.status_code == 200
    body = response.json()
    assert body["choices"][0]["message"]["content"]
    usage = body["usage"]
    expected = (usage["prompt_tokens"] * 1.0 + usage["completion_tokens"] * 2.0) / 1e6
    assert float(response.headers["x-amaru-cost-usd"]) == pytest.approx(expected, abs=1e-9)
    assert response.headers["x-amaru-provider"] == "alpha"
    assert response.headers["x-amaru-attempts"] == "1"

    decision = await world.decision(response)
    assert [ranked["offer"] for ranked in decision["ranked"]] == ["alpha/sim", "beta/sim"]
    assert decision["outcome"]["ok"] is True
    assert decision["outcome"]["usage_source"] == "provider"
    assert decision["outcome"]["cost_usd"] == pytest.approx(expected)
    assert decision["attempts"][0]["offer"] == "alpha/sim"


async def test_stream_ends_with_a_receipt_and_done(world: World) -> None:
    response, lines = await world.stream()
    assert response.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]"
    assert text_of(lines)
    receipt = json.loads(lines[-2].removeprefix(": amaru "))
    assert receipt["decision"] == response.headers["x-amaru-decision"]
    assert receipt["provider"] == "alpha"
    assert receipt["cost_usd"] > 0
    # Usage was asked of the provider, but the caller did not ask for it and does not see it.
    assert not any('"usage":{' in line for line in lines)
    decision = await world.decision(response)
    assert decision["outcome"]["first_token_ms"] is not None
    assert decision["outcome"]["output_tokens"] == 12


async def test_stream_shows_usage_to_a_caller_that_asks_for_it(world: World) -> None:
    _, lines = await world.stream(stream_options={"include_usage": True})
    assert any('"usage":{' in line for line in lines)


async def test_alias_model_list_embeddings_and_completions(world: World) -> None:
    assert (await world.chat(model="fast")).status_code == 200
    models = (await world.client.get("/v1/models")).json()
    assert [model["id"] for model in models["data"]] == ["fast", "sim", "sim-embed"]
    embedding = await world.client.post("/v1/embeddings", json={"model": "sim-embed", "input": ["a", "b"]})
    assert embedding.status_code == 200
    assert len(embedding.json()["data"]) == 2
    completion = await world.client.post("/v1/completions", json={"model": "sim", "prompt": "Once", "max_tokens": 5})
    assert completion.status_code == 200
    assert completion.json()["choices"][0]["text"]


async def test_unknown_fields_reach_the_provider_untouched(world: World) -> None:
    response = await world.chat(seed=42, my_field={"deep": [1, 2.50, "ü"]}, temperature=0.70)
    assert response.status_code == 200
    received = world.providers["alpha"].received[-1]
    sent = json.loads(received.body)
    assert sent["my_field"] == {"deep": [1, 2.5, "ü"]}
    assert sent["model"] == "sim-model"


@pytest.mark.parametrize("stream", [False, True])
async def test_callers_key_never_reaches_a_provider(world: World, stream: bool) -> None:
    if stream:
        await world.stream()
    else:
        await world.chat()
    headers = world.providers["alpha"].received[-1].headers
    assert KEY.encode() not in b"".join(headers.values())


async def test_decisions_are_seen_by_their_tenant_only(world: World) -> None:
    response = await world.chat()
    url = f"/decisions/{response.headers['x-amaru-decision']}"
    assert (await world.client.get(url)).status_code == 200
    foreign = await world.client.get(url, headers={"authorization": f"Bearer {OTHER_KEY}"})
    assert foreign.status_code == 404
    page = (await world.client.get("/decisions", headers={"authorization": f"Bearer {OTHER_KEY}"})).json()
    assert page["decisions"] == []
    assert len((await world.client.get("/decisions?limit=5&ok=true")).json()["decisions"]) == 1


async def test_caller_that_goes_away_cancels_the_providers_call(world: World) -> None:
    world.break_("alpha", "hang")
    task = asyncio.create_task(world.chat())
    alpha = world.providers["alpha"]
    await until(lambda: alpha.requests == 1)
    task.cancel()
    await until(lambda: alpha.connection_count == 0 and world.mesh.in_flight == 0)
    page = (await world.client.get("/decisions")).json()["decisions"]
    assert page[0]["status"] == 499
    assert page[0]["ok"] is False
