"""No request keeps a simulated provider busy for long: what is too much is refused, as OpenAI refuses it."""

import json
import random
import time

import httpx
import jsonschema
import pytest

from amaru.domain import Kind
from amaru.errors import RequestError
from amaru.simulation import ProviderProfile, SimulatedProvider
from amaru.simulation.answers import choices_for, logprobs_of
from amaru.simulation.asks import understand, understand_embedding
from amaru.simulation.json_schema import instance
from amaru.simulation.text import words

CPU_S = 4.0
"""Far above what each case takes, far below the minutes that an unbounded one would."""

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {"model": "m", "prompt": "Hi"}


def answered(kind: Kind, **fields: object) -> list[str]:
    body = {**(CHAT if kind is Kind.CHAT else COMPLETION), **fields}
    return [choice.text for choice in choices_for(understand(kind, json.dumps(body).encode()), ProviderProfile())]


@pytest.mark.parametrize(("kind", "field", "most"), [(Kind.CHAT, "top_logprobs", 20), (Kind.COMPLETION, "logprobs", 5)])
def test_alternatives_are_bounded_in_openais_words(kind: Kind, field: str, most: int) -> None:
    also = {"logprobs": True} if kind is Kind.CHAT else {}
    assert answered(kind, **also, **{field: most})
    for value, code in (
        (most + 1, "integer_above_max_value"),
        (10**9, "integer_above_max_value"),
        (-1, "integer_below_min_value"),
    ):
        with pytest.raises(RequestError, match=f"Invalid '{field}'.*but got {value} instead") as raised:
            answered(kind, **also, **{field: value})
        assert (raised.value.status, raised.value.param, raised.value.code) == (400, field, code)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.CHAT, {"n": 128, "max_tokens": 16000, "ignore_eos": True}),
        (Kind.CHAT, {"n": 128, "max_tokens": 16000, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}),
        (Kind.COMPLETION, {"n": 128, "prompt": "a b " * 50_000, "echo": True, "max_tokens": 1}),
        (Kind.COMPLETION, {"n": 2, "prompt": ["a"] * 2000}),
    ],
)
def test_an_answer_that_would_be_too_long_is_refused_at_once(kind: Kind, fields: dict[str, object]) -> None:
    began = time.process_time()
    with pytest.raises(RequestError) as raised:
        answered(kind, **fields)
    assert raised.value.status == 400
    assert time.process_time() - began < CPU_S


def test_too_many_inputs_of_an_embedding_are_refused() -> None:
    assert understand_embedding(json.dumps({"model": "m", "input": ["a"] * 2048}).encode())
    with pytest.raises(RequestError, match="at most 2048 inputs, got 2049"):
        understand_embedding(json.dumps({"model": "m", "input": ["a"] * 2049}).encode())


def test_offsets_of_a_long_answer_take_no_longer_than_the_answer() -> None:
    tokens = words(100_000, random.Random(1))
    began = time.process_time()
    offsets = logprobs_of(Kind.COMPLETION, tokens, 0)["text_offset"]
    assert time.process_time() - began < CPU_S
    assert isinstance(offsets, list)
    text = "".join(tokens)
    assert all(text.startswith(token, offset) for token, offset in zip(tokens[:1000], offsets[:1000], strict=True))
    assert logprobs_of(Kind.COMPLETION, [], 0)["text_offset"] == []


async def test_a_completion_of_no_tokens_scores_its_prompt() -> None:
    fields = {"model": "sim-model", "prompt": "Hello there", "max_tokens": 0, "echo": True, "logprobs": 1}
    async with SimulatedProvider() as provider, httpx.AsyncClient(base_url=provider.base_url) as client:
        answer = (await client.post("/completions", json=fields)).json()
        streamed = (await client.post("/completions", json={**fields, "echo": False, "stream": True})).text
    (choice,) = answer["choices"]
    assert choice["text"] == "Hello there"
    assert choice["logprobs"]["tokens"] == ["Hello", " there"]
    assert choice["finish_reason"] == "length"
    assert streamed.endswith("data: [DONE]\n\n")


MANY = {f"p{place}": {"$ref": "#"} for place in range(12)}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 10**9},
        {"type": "array", "minItems": 10**9, "items": False},
        {"type": "array", "minItems": 4000, "items": {"type": "array", "minItems": 4000}},
        {"type": "string", "minLength": 10**9},
        {"type": "array", "items": {"minLength": -(10**9)}, "minItems": 10**6},
        {"allOf": [{"$ref": "#/x"}], "x": {"$ref": "#/x"}},
        {f"d{n}": {"allOf": [{"$ref": f"#/d{n + 1}"}] * 2} for n in range(40)} | {"$ref": "#/d0", "d40": {}},
        {"properties": MANY, "required": list(MANY)},
    ],
)
def test_a_schema_that_asks_for_too_much_is_refused_at_once(schema: dict[str, object]) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=r"larger than|without end"):
        instance(schema, random.Random(1))
    assert time.process_time() - began < CPU_S


def test_a_wide_recursive_schema_ends_with_its_optional_parts_left_out() -> None:
    schema = {"type": "object", "properties": MANY, "additionalProperties": False}
    began = time.process_time()
    jsonschema.validate(instance(schema, random.Random(1)), schema)
    assert time.process_time() - began < CPU_S


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number", "multipleOf": 0},
        {"type": "number", "minimum": 1e308, "multipleOf": 1e-320},
        {"properties": [1]},
        {"enum": {"a": 1}},
        {"type": "array", "minItems": None},
        {"anyOf": {"a": 1}},
    ],
)
def test_a_schema_that_is_none_is_the_callers_mistake(schema: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="Invalid schema") as raised:
        answered(Kind.CHAT, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
    assert raised.value.status == 400
