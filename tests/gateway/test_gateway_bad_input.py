"""Bad input gets a clear 4xx in OpenAI's shape, and the server lives."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from gateway_world import KEY, OPERATOR_KEY, PROVIDER_KEY, MakeWorld, World

from amaru.http1 import ServerSettings

CHAT = "/v1/chat/completions"
GOOD = {"model": "sim", "messages": [{"role": "user", "content": "hi"}]}


def deep(levels: int) -> bytes:
    return b'{"model":"sim","messages":[{"role":"user","content":"x"}],"x":' + b"[" * levels + b"]" * levels + b"}"


BODIES: dict[str, bytes] = {
    "empty": b"",
    "not json": b"model=sim",
    "cut": b'{"model": "sim", "mess',
    "trailing garbage": json.dumps(GOOD).encode() + b"}",
    "array": b"[]",
    "null": b"null",
    "nan": b'{"model":"sim","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    "model missing": b'{"messages":[{"role":"user","content":"x"}]}',
    "model a number": b'{"model":3,"messages":[{"role":"user","content":"x"}]}',
    "messages missing": b'{"model":"sim"}',
    "messages empty": b'{"model":"sim","messages":[]}',
    "messages a string": b'{"model":"sim","messages":"hi"}',
    "role missing": b'{"model":"sim","messages":[{"content":"x"}]}',
    "stream a string": b'{"model":"sim","messages":[{"role":"user","content":"x"}],"stream":"yes"}',
    "n zero": b'{"model":"sim","messages":[{"role":"user","content":"x"}],"n":0}',
    "max_tokens negative": b'{"model":"sim","messages":[{"role":"user","content":"x"}],"max_tokens":-1}',
    "invalid utf-8": b'{"model":"sim","messages":[{"role":"user","content":"\xff\xfe"}]}',
    "invalid utf-8 in an unknown field": b'{"model":"sim","messages":[{"role":"user","content":"x"}],"y":"\xc3("}',
    "deep nesting": deep(100_000),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_malformed_bodies_get_a_clear_400(world: World, body: bytes) -> None:
    response = await world.client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert len(error["message"]) > 10
    assert error["type"] == "invalid_request_error"
    assert (await world.chat()).status_code == 200


async def test_huge_body_is_refused(make_world: MakeWorld) -> None:
    async with make_world(server=ServerSettings(max_body_bytes=10_000)) as world:
        response = await world.client.post(CHAT, content=b"x" * 20_000)
        assert response.status_code == 413
        assert response.json()["error"]["message"]
        assert (await world.chat()).status_code == 200


async def test_unknown_model_names_near_ones(world: World) -> None:
    response = await world.chat(model="simm")
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "model_not_found"
    assert "sim" in error["message"]


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", "Basic abc", f"Bearer {OPERATOR_KEY}"])
async def test_without_a_tenants_key_nothing_is_served(world: World, authorization: str | None) -> None:
    async with httpx.AsyncClient(base_url=world.base_url) as client:
        headers = {} if authorization is None else {"authorization": authorization}
        response = await client.post(CHAT, json=GOOD, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "wrong" not in response.text


async def test_x_api_key_is_a_key_too(world: World) -> None:
    async with httpx.AsyncClient(base_url=world.base_url) as client:
        assert (await client.post(CHAT, json=GOOD, headers={"x-api-key": KEY})).status_code == 200


@pytest.mark.parametrize("value", ["0", "-5", "abc", "1.5", "99999999999999", ""])
async def test_bad_deadline_is_named(world: World, value: str) -> None:
    response = await world.chat(headers={"x-amaru-deadline-ms": value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-amaru-deadline-ms"


async def test_tenant_may_use_only_its_resources(make_world: MakeWorld) -> None:
    from gateway_world import digest

    tenants = {"team": {"keys": [{"sha256": digest(KEY)}], "resources": ["sim-embed"]}}
    async with make_world(tenants=tenants) as world:
        response = await world.chat()
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "resource_not_allowed"
        assert (await world.chat(model="nope")).status_code == 404
        models = (await world.client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in models] == ["sim-embed"]


async def test_hard_limits_bind_and_are_named(make_world: MakeWorld) -> None:
    from gateway_world import digest

    tenants = {"team": {"keys": [{"sha256": digest(KEY)}], "limits": {"max_price": 0.01}}}
    async with make_world(tenants=tenants) as world:
        response = await world.chat()
        assert response.status_code == 400
        assert "price" in response.json()["error"]["message"]
        decision = await world.decision(response)
        assert {refusal["constraint"] for refusal in decision["refused"]} == {"max_price"}


@pytest.mark.parametrize("path", ["/status", "/metrics"])
async def test_operators_endpoints_need_an_operators_key(world: World, path: str) -> None:
    assert (await world.client.get(path)).status_code == 403
    async with httpx.AsyncClient(base_url=world.base_url) as client:
        assert (await client.get(path)).status_code == 401
    response = await world.client.get(path, headers={"authorization": f"Bearer {OPERATOR_KEY}"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1/nothing", "/v1/chat/completions/x", "/providers/none", "/decisions/no"]
)
async def test_unknown_paths_answer_404_in_openais_shape(world: World, path: str) -> None:
    response = await world.client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", CHAT), ("POST", "/v1/models"), ("DELETE", "/health"), ("PUT", "/route")]
)
async def test_wrong_method_answers_405_and_names_the_right_one(world: World, method: str, path: str) -> None:
    response = await world.client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=501", "ok=maybe", "since=yesterday", "colour=red", "cursor=%00"]
)
async def test_bad_page_queries_are_named(world: World, query: str) -> None:
    response = await world.client.get(f"/decisions?{query}")
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
async def test_providers_key_never_reaches_a_caller(make_world: MakeWorld, status: int) -> None:
    """A provider that repeats our key in its error message must not leak it."""
    async with make_world(("alpha",)) as world:
        world.break_("alpha", "status", status=status, message=f"Incorrect API key provided: {PROVIDER_KEY}.")
        response = await world.chat()
        assert response.status_code >= 400
        found: list[Any] = [response.text, dict(response.headers), await world.decision(response)]
        assert PROVIDER_KEY not in json.dumps(found)
