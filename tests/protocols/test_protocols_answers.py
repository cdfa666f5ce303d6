"""Whole answers and error objects: what is read, what is no answer, and which shapes of error are known."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.domain import Kind, ServiceTier, Usage, UsageDetails
from amaru.protocols.answers import MAX_TOKENS, parse_answer
from amaru.protocols.wire_errors import read_error

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}


def answer(**fields: object) -> bytes:
    return json.dumps({"id": "1", "model": "m-2024", "choices": [CHOICE], **fields}).encode()


def test_a_chat_answer() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    facts = parse_answer(Kind.CHAT, answer(usage=usage))
    assert (facts.model, facts.finish_reasons, facts.output_text) == ("m-2024", ("stop",), ["Paris."])
    assert facts.usage == Usage(10, 2, 4)
    assert facts.error is None


@pytest.mark.parametrize(("told", "read"), [("chatcmpl-1", "chatcmpl-1"), (7, None), ("", None), ("x" * 201, None)])
def test_the_id_of_an_answer_never_spoils_it(told: object, read: str | None) -> None:
    facts = parse_answer(Kind.CHAT, answer(id=told, usage={"prompt_tokens": 1, "completion_tokens": 2}))
    assert (facts.id, facts.usage) == (read, Usage(1, 2))


def test_everything_that_was_generated_is_text() -> None:
    message = {
        "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}, {"type": "text", "text": "b"}],
        "reasoning": "c",
        "refusal": "d",
        "tool_calls": [{"id": "i", "type": "function", "function": {"name": "e", "arguments": "f"}}, 5],
        "function_call": {"name": "g", "arguments": None},
    }
    facts = parse_answer(Kind.CHAT, answer(choices=[{"message": message}, CHOICE]))
    assert facts.output_text == ["c", "a", "b", "d", "e", "f", "g", "Paris."]


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (None, None),
        ({}, None),
        ("none", None),
        ({"prompt_tokens": "3"}, None),
        ({"prompt_tokens": 1.5}, None),
        ({"prompt_tokens": -3, "completion_tokens": 1}, None),
        ({"prompt_tokens": 3, "completion_tokens": -1}, None),
        ({"prompt_tokens": MAX_TOKENS, "completion_tokens": MAX_TOKENS}, Usage(MAX_TOKENS, MAX_TOKENS)),
        ({"prompt_tokens": MAX_TOKENS + 1, "completion_tokens": 1}, None),
        ({"prompt_tokens": 1, "completion_tokens": 2**53 + 1}, None),
        ({"prompt_tokens": 10**400}, None),
        ({"prompt_tokens": 3, "completion_tokens": 10**400}, None),
        ({"prompt_tokens": 3, "completion_tokens": 1, "prompt_cache_hit_tokens": 10**400}, Usage(3, 1, 3)),
        ({"prompt_tokens": 3, "completion_tokens": 1, "prompt_cache_hit_tokens": -(10**400)}, Usage(3, 1, 0)),
        ({"prompt_tokens": 3}, Usage(3, 0)),
        ({"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": None}, Usage(3, 1)),
        ({"prompt_tokens": 3, "completion_tokens": 1, "prompt_cache_hit_tokens": 2}, Usage(3, 1, 2)),
        ({"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(3, 1, 3)),
    ],
)
def test_usage_never_spoils_an_answer(usage: object, read: Usage | None) -> None:
    facts = parse_answer(Kind.CHAT, answer(usage=usage))
    assert facts.usage == read
    assert facts.output_text == ["Paris."]


@pytest.mark.parametrize(
    ("told", "output", "details"),
    [
        (
            {"prompt_tokens_details": {"cached_tokens": 1, "audio_tokens": 2, "image_tokens": 3, "text_tokens": 4}},
            20,
            UsageDetails(audio_input_tokens=2, image_input_tokens=3),
        ),
        (
            {"completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 6, "rejected_prediction_tokens": 7}},
            20,
            UsageDetails(reasoning_tokens=5, audio_output_tokens=6),
        ),
        ({"total_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 8}}, 20, UsageDetails(0, 0, 0, 0, 8)),
        # xAI, then Gemini: reasoning stands apart, and only the total tells
        ({"total_tokens": 38, "completion_tokens_details": {"reasoning_tokens": 8}}, 28, UsageDetails(0, 0, 0, 0, 8)),
        ({"total_tokens": 38}, 28, UsageDetails(0, 0, 0, 0, 8)),
        # a total that nothing explains
        ({"total_tokens": 38, "completion_tokens_details": {"reasoning_tokens": 3}}, 20, UsageDetails(0, 0, 0, 0, 3)),
        ({"total_tokens": 3 * MAX_TOKENS}, 20, None),
        ({"total_tokens": 2}, 20, None),
        ({"total_tokens": "38"}, 20, None),
        ({"prompt_tokens_details": {"cache_write_tokens": 4}}, 20, UsageDetails(4)),
        ({"prompt_tokens_details": {"cache_creation_input_tokens": 4}}, 20, UsageDetails(4)),
        (
            {"cache_creation_input_tokens": 4, "cache_creation": {"ephemeral_1h_input_tokens": 3}},
            20,
            UsageDetails(4, 3),
        ),
        ({"service_tier": "priority"}, 20, UsageDetails(service_tier=ServiceTier.PRIORITY)),
        ({"service_tier": "standard"}, 20, None),
        ({"service_tier": ["flex"]}, 20, None),
        # more than the whole, and what is no count
        ({"prompt_tokens_details": {"cache_write_tokens": 99}}, 20, UsageDetails(10)),
        ({"completion_tokens_details": {"reasoning_tokens": 10**400}}, 20, UsageDetails(reasoning_tokens=20)),
        ({"completion_tokens_details": {"reasoning_tokens": -5, "audio_tokens": True}}, 20, None),
        ({"completion_tokens_details": [], "prompt_tokens_details": 5, "cache_creation": "x"}, 20, None),
        ({"completion_tokens_details": {"reasoning_tokens": 2.5}, "prompt_cache_hit_tokens": "3"}, 20, None),
    ],
)
def test_the_finer_kinds_of_tokens(told: dict[str, object], output: int, details: UsageDetails | None) -> None:
    usage = parse_answer(Kind.CHAT, answer(usage={"prompt_tokens": 10, "completion_tokens": 20, **told})).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.details) == (10, output, details)


def test_the_names_of_cached_input() -> None:
    for told in (
        {"prompt_tokens_details": {"cached_tokens": 4}},
        {"prompt_tokens_details": {"cached_tokens": None}, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6},
        {"cached_tokens": 4},
    ):
        usage = {"prompt_tokens": 10, "completion_tokens": 2, **told}
        assert parse_answer(Kind.CHAT, answer(usage=usage)).usage == Usage(10, 2, 4)


@pytest.mark.parametrize(("told", "read"), [("flex", ServiceTier.FLEX), ("default", None), (5, None), ({}, None)])
def test_an_answer_names_its_service_tier(told: object, read: ServiceTier | None) -> None:
    usage = parse_answer(Kind.CHAT, answer(usage={"prompt_tokens": 1}, service_tier=told)).usage
    assert usage == Usage(1, 0, details=None if read is None else UsageDetails(service_tier=read))


def test_a_count_of_thousands_of_digits_never_spoils_an_answer() -> None:
    body = answer(usage={"prompt_tokens": 0}).replace(b'"prompt_tokens": 0', b'"prompt_tokens": ' + b"9" * 5000)
    facts = parse_answer(Kind.CHAT, body)
    assert (facts.usage, facts.output_text) == (None, ["Paris."])


def test_completions_and_embeddings() -> None:
    completion = parse_answer(Kind.COMPLETION, b'{"choices":[{"text":"a","finish_reason":"length"},{"text":""}]}')
    assert (completion.output_text, completion.finish_reasons) == (["a", ""], ("length",))
    embedding = parse_answer(Kind.EMBEDDING, b'{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":5}}')
    assert embedding.usage == Usage(5, 0)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.CHAT, b""),
        (Kind.CHAT, b" \r\n"),
        (Kind.CHAT, b"<html></html>"),
        (Kind.CHAT, b"{"),
        (Kind.CHAT, b"[]"),
        (Kind.CHAT, b"null"),
        (Kind.CHAT, b'"text"'),
        (Kind.CHAT, b"{}"),
        (Kind.CHAT, b'{"choices":null}'),
        (Kind.CHAT, b'{"choices":[]}'),
        (Kind.CHAT, b'{"choices":[{}]}'),
        (Kind.CHAT, b'{"choices":[{"text":"x"}]}'),
        (Kind.CHAT, b'{"choices":[{"message":{"content":5}}]}'),
        (Kind.CHAT, b'{"choices":[{"message":{"content":"\xff"}}]}'),
        (Kind.CHAT, b'{"choices":[{"message":{"content":"a"}}],"x":"\xc3"}'),
        (Kind.CHAT, b"[" * 100_000),
        (Kind.CHAT, b'data: {"choices":[]}\n\n'),
        (Kind.COMPLETION, b'{"choices":[{"message":{"content":"x"}}]}'),
        (Kind.EMBEDDING, b'{"data":null}'),
        (Kind.EMBEDDING, b'{"data":[]}'),
        (Kind.EMBEDDING, b'{"choices":[{"message":{"content":"x"}}]}'),
    ],
)
def test_what_is_no_answer(kind: Kind, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(the body|the field|a choice)"):
        parse_answer(kind, body)


@pytest.mark.parametrize(
    ("body", "message", "type", "code", "status"),
    [
        ({"error": {"message": "m", "type": "t", "code": "c"}}, "m", "t", "c", None),
        ({"error": {"message": "m", "code": 429}}, "m", None, "429", 429),
        ({"error": {"message": "m", "code": "503"}}, "m", None, "503", 503),
        ({"error": {"message": "m", "code": 429, "status": "SAID"}}, "m", "SAID", "429", 429),
        ([{"error": {"message": "m", "code": 400}}], "m", None, "400", 400),
        ({"error": "m"}, "m", None, None, None),
        ({"error": "m", "error_type": "validation"}, "m", "validation", None, None),
        ({"error": ["m", "n"]}, "m; n", None, None, None),
        ({"error": {"code": 500}}, "", None, "500", 500),
        ({"object": "error", "message": "m", "type": "t", "code": 400}, "m", "t", "400", 400),
        ({"detail": "m"}, "m", None, None, None),
        ({"detail": [{"loc": ["body", 0], "msg": "bad", "input": "secret"}]}, "body.0: bad", None, None, None),
        ({"message": "m", "status_code": 401}, "m", None, None, 401),
        ({"error": {"message": ["a", {"msg": "b"}, 5]}}, "a; b", None, None, None),
    ],
)  # fmt: skip
def test_shapes_of_errors(body: object, message: str, type: str | None, code: str | None, status: int | None) -> None:
    error = read_error(body)
    assert error is not None
    assert (error.message, error.type, error.code, error.status) == (message, type, code, status)
    assert set(error.fields) >= {"message", "type", "param", "code"}
    assert "secret" not in str(error.fields)
    if isinstance(body, dict):
        assert parse_answer(Kind.CHAT, json.dumps(body).encode()).error == error


@pytest.mark.parametrize(
    "body",
    [None, 5, "x", [], [5], {}, {"error": None}, {"error": {}}, {"error": ""}, {"error": 5},
     {"choices": [], "message": "x"}, {"data": [1], "detail": "x"}],
)  # fmt: skip
def test_what_is_no_error(body: object) -> None:
    assert read_error(body) is None


def test_an_error_beside_choices_is_an_error() -> None:
    assert parse_answer(Kind.CHAT, answer(error={"message": "m"})).error is not None
    assert parse_answer(Kind.CHAT, answer(error=None)).error is None
    assert parse_answer(Kind.CHAT, answer(choices=[{**CHOICE, "finish_reason": "error"}])).error is not None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "type", "code", "status", "detail", "choices", "data", "loc", "msg"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_an_error_an_answer_or_refused(value: object) -> None:
    read_error(value)
    for kind in (Kind.CHAT, Kind.COMPLETION, Kind.EMBEDDING):
        try:
            parse_answer(kind, json.dumps(value).encode())
        except ValueError:
            continue
