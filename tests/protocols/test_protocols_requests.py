"""Requests: what is read out of them, what is refused, and that all else stays the caller's bytes."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.domain import Capability, Kind, LimitField
from amaru.errors import RequestError
from amaru.protocols.openai import (
    TOKENS_PER_MEDIUM,
    Hold,
    OpenAIRequest,
    error_body,
    error_event,
    parse_request,
)
from amaru.protocols.openai_body import encode_request

USER = {"role": "user", "content": "Where is Paris?"}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


def chat(**fields: object) -> OpenAIRequest:
    return parse_request(Kind.CHAT, json.dumps({"model": "m", "messages": [USER], **fields}).encode())


def refused(kind: Kind, body: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_request(kind, body)
    assert caught.value.status == 400
    assert caught.value.type == "invalid_request_error"
    assert caught.value.message.endswith(".")
    return caught.value


def test_a_small_chat() -> None:
    request = chat()
    assert (request.kind, request.model, request.stream, request.n, request.choices) == (Kind.CHAT, "m", False, 1, 1)
    assert request.max_output_tokens is None
    assert request.needs is Capability.NONE
    assert request.hold is Hold.CALLS
    assert request.input_tokens_estimate == -(-len(json.dumps([USER])) // 4)


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"stream": True}, Capability.STREAM),
        ({"stream": None, "tools": None, "functions": None, "response_format": None}, Capability.NONE),
        ({"tools": []}, Capability.NONE),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, Capability.TOOLS),
        ({"functions": [{"name": "f"}]}, Capability.TOOLS),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, Capability.JSON_SCHEMA),
        ({"response_format": {"type": "json_object"}}, Capability.NONE),
        ({"messages": [USER, {"role": "assistant", "content": "It is"}]}, Capability.PREFILL),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, Capability.NONE),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, Capability.VISION),
        ({"messages": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, Capability.VISION),
        ({"stream": True, "tools": [{}], "response_format": {"type": "json_schema"}},
         Capability.STREAM | Capability.TOOLS | Capability.JSON_SCHEMA),
    ],
)  # fmt: skip
def test_what_a_chat_needs(fields: dict[str, object], needs: Capability) -> None:
    assert chat(**fields).needs == needs


def test_limits_and_choices() -> None:
    assert chat(max_tokens=10, n=3).max_output_tokens == 30
    assert chat(max_tokens=10, max_completion_tokens=7).max_output_tokens == 7
    assert chat(logprobs=True).hold is Hold.CHOICES
    completion = parse_request(Kind.COMPLETION, b'{"model":"m","prompt":["a","b"],"n":2,"max_tokens":5,"logprobs":0}')
    assert (completion.choices, completion.max_output_tokens, completion.hold) == (4, 20, Hold.CHOICES)


def test_a_completion_may_generate_nothing_and_score_its_prompt() -> None:
    scoring = b'{"model":"m","prompt":"x","max_tokens":0,"echo":true,"logprobs":1}'
    request = parse_request(Kind.COMPLETION, scoring)
    assert (request.max_output_tokens, request.hold) == (0, Hold.CHOICES)
    assert encode_request(request, "m") == scoring
    with pytest.raises(RequestError, match=">= 0"):
        parse_request(Kind.COMPLETION, scoring.replace(b":0", b":-1"))
    with pytest.raises(RequestError, match=">= 1"):
        chat(max_tokens=0)


@pytest.mark.parametrize(
    ("value", "choices", "tokens"),
    [("four char", 1, 3), (["ab", "cd"], 2, 3), ([1, 2, 3], 1, 3), ([[1, 2], [3]], 2, 3)],
)
def test_prompts_and_inputs(value: object, choices: int, tokens: int) -> None:
    completion = parse_request(Kind.COMPLETION, msgspec.json.encode({"model": "m", "prompt": value}))
    embedding = parse_request(Kind.EMBEDDING, msgspec.json.encode({"model": "m", "input": value}))
    assert (completion.choices, completion.input_tokens_estimate) == (choices, tokens)
    assert (embedding.choices, embedding.input_tokens_estimate) == (choices, tokens)
    assert not embedding.stream


def test_an_image_counts_the_same_whatever_its_bytes() -> None:
    def estimate(url: str) -> int:
        parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
        return chat(messages=[{"role": "user", "content": parts}]).input_tokens_estimate

    assert estimate("data:image/png;base64," + "A" * 400_000) == estimate("https://example.com/a.png")
    assert TOKENS_PER_MEDIUM < estimate("x") < TOKENS_PER_MEDIUM + 50


@pytest.mark.parametrize(
    ("kind", "body", "param", "words"),
    [
        (Kind.CHAT, b"", None, "is empty"),
        (Kind.CHAT, b" \n", None, "is empty"),
        (Kind.CHAT, b"[]", None, "is an array: send an object"),
        (Kind.CHAT, b"{", None, "not valid JSON"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}]} x', None, "not valid JSON"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"x":NaN}', None, "not valid JSON"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"x":Infinity}', None, "not valid JSON"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"x":"\xff"}', None, "UTF-8"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u","content":"\xc3"}]}', None, "UTF-8"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"x":"\\ud800"}', None, "not valid JSON"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u","content":"\\udc00 "}]}', None, "not valid JSON"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"x":' + b"[" * 200_000, None, "too deeply"),
        (Kind.CHAT, b'{"model":"m","messages":' + b'[{"role":' * 200_000, None, ""),
        (Kind.CHAT, b'\xef\xbb\xbf{"model":"m"}', None, "not valid JSON"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"model":"n"}', "model", "appears twice"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}], "n":1, "n":12}', "n", "appears twice"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}], "n":12, "n":1}', "n", "appears twice"),
        (Kind.CHAT, b'{"messages":[{"role":"u"}]}', "model", "is missing"),
        (Kind.CHAT, b'{"model":5,"messages":[{"role":"u"}]}', "model", "is an integer: send a string"),
        (Kind.CHAT, b'{"model":" ","messages":[{"role":"u"}]}', "model", "is empty"),
        (Kind.CHAT, b'{"model":"m"}', "messages", "is missing"),
        (Kind.CHAT, b'{"model":"m","messages":[]}', "messages", "is empty"),
        (Kind.CHAT, b'{"model":"m","messages":"hi"}', "messages", "is a string: send an array"),
        (Kind.CHAT, b'{"model":"m","messages":["hi"]}', "messages[0]", "is a string: send an object"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"},{"content":"x"}]}', "messages[1].role", "is missing"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u","content":5}]}', "messages[0].content", "is an integer"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"n":0}', "n", "send an integer >= 1"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"n":1.5}', "n", "is a number"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"n":true}', "n", "is true or false"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"n":1e999}', "n", "is out of range"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"max_tokens":-1}', "max_tokens", "send an integer >= 1"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"max_completion_tokens":""}', "max_completion_tokens", ""),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"max_tokens":9999999999}', "max_tokens", "<= 2147483647"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"stream":"yes"}', "stream", "true or false"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"tools":{}}', "tools", "is an object"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"tools":["f"]}', "tools[0]", "send an object"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"response_format":""}', "response_format", "a string"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u"}],"stream_options":1}', "stream_options", "is an integer"),
        (Kind.COMPLETION, b'{"model":"m"}', "prompt", "is missing"),
        (Kind.COMPLETION, b'{"model":"m","prompt":[]}', "prompt", "is empty"),
        (Kind.COMPLETION, b'{"model":"m","prompt":["a",1]}', "prompt", "mixes"),
        (Kind.EMBEDDING, b'{"model":"m","input":{}}', "input", "is an object"),
        (Kind.EMBEDDING, b'{"model":"m","input":[[1],"a"]}', "input", "mixes"),
        (Kind.EMBEDDING, b'{"model":"m","input":[["a"]]}', "input[0][0]", "send an integer"),
    ],
)  # fmt: skip
def test_a_bad_request_is_told_where_and_what(kind: Kind, body: bytes, param: str | None, words: str) -> None:
    error = refused(kind, body)
    assert words in error.message
    if words:
        assert error.param == param


def test_errors_do_not_repeat_the_callers_text() -> None:
    secret = "the-prompt-that-nobody-may-see"
    bodies = [
        json.dumps({"model": "m", "messages": [{"role": {"x": secret}}]}),
        json.dumps({"model": "m", "messages": secret}),
        json.dumps({"model": "m", "messages": [USER], "stream": secret}),
        json.dumps({"model": "m", "messages": [USER], "response_format": {"type": [secret]}}),
        json.dumps({"model": "m", "messages": [{"role": "u", "content": secret}]}) + secret,
        json.dumps({"model": "m", "messages": [USER]})[:-1] + f', "{secret} !": 1, "{secret} !": 2}}',
    ]
    for body in bodies:
        assert secret not in refused(Kind.CHAT, body.encode()).message


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    statuses = set()
    for kind in (Kind.CHAT, Kind.COMPLETION, Kind.EMBEDDING):
        try:
            parse_request(kind, body)
        except RequestError as error:
            statuses.add(error.status)
    assert statuses <= {400}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
names = st.text(min_size=1).filter(lambda name: name not in ("model", "messages", "stream", "stream_options"))


@given(
    st.dictionaries(names.map(lambda name: "x-" + name), json_values, max_size=5),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_unknown_fields_pass_untouched(extra: dict[str, object], indent: int | None, ascii_only: bool) -> None:
    values = {name: json.dumps(value, indent=indent, ensure_ascii=ascii_only) for name, value in extra.items()}
    members = [f"{json.dumps(name)} : {value}" for name, value in values.items()]
    body = '{"model":"m",\n' + "".join(member + " ,\n" for member in members) + f'"messages":[{json.dumps(USER)}] }}'
    request = parse_request(Kind.CHAT, body.encode())
    sent = msgspec.json.decode(encode_request(request, "their-name"), type=dict[str, msgspec.Raw])
    assert list(sent) == ["model", *extra, "messages"]
    assert bytes(sent["model"]) == b'"their-name"'
    assert bytes(sent["messages"]) == f"[{json.dumps(USER)}]".encode()
    for name, value in values.items():
        assert bytes(sent[name]) == value.encode()


@given(
    st.dictionaries(st.text(max_size=3), st.integers(), min_size=1, max_size=4),
    st.data(),
    st.sampled_from(["", " ", "\n\t"]),
)
def test_a_name_that_comes_twice_is_always_found(members: dict[str, int], data: st.DataObject, space: str) -> None:
    twice = data.draw(st.sampled_from(sorted(members)))
    pairs = [*members.items(), (twice, data.draw(st.integers()))]
    pairs = data.draw(st.permutations(pairs))
    written = [f"{json.dumps('x-' + name)}{space}:{space}{value}" for name, value in pairs]
    body = "{" + space + f"{space},{space}".join([*written, '"model":"m"', '"messages":[{"role":"u"}]']) + space + "}"
    assert "twice" in refused(Kind.CHAT, body.encode()).message


@pytest.mark.parametrize(
    ("options", "sent", "asked"),
    [
        (b"", {"include_usage": True}, False),
        (b',"stream_options":null', {"include_usage": True}, False),
        (b',"stream_options":{}', {"include_usage": True}, False),
        (b',"stream_options":{"include_usage":false,"x":[1]}', {"include_usage": True, "x": [1]}, False),
        (b',"stream_options":{ "include_usage":true }', {"include_usage": True}, True),
    ],
)  # fmt: skip
def test_a_stream_always_asks_for_its_usage(options: bytes, sent: dict[str, object], asked: bool) -> None:
    request = parse_request(Kind.CHAT, b'{"model":"m","stream":true,"messages":[{"role":"u"}]' + options + b"}")
    assert request.include_usage is asked
    body = json.loads(encode_request(request, "n"))
    assert body["stream_options"] == sent
    assert "stream_options" not in json.loads(encode_request(chat(), "n"))


@pytest.mark.parametrize(
    ("limits", "older", "newer"),
    [
        ({"max_tokens": 7}, 7, None),
        ({"max_completion_tokens": 8}, None, 8),
        ({"max_tokens": 7, "max_completion_tokens": 8}, None, 8),
        ({"max_tokens": 7, "max_completion_tokens": None}, 7, None),
        ({"max_tokens": None, "max_completion_tokens": 8}, None, 8),
        ({"max_tokens": None}, None, None),
        ({}, None, None),
    ],
)
def test_a_limit_is_written_once_in_the_field_that_is_heeded(
    limits: dict[str, int | None], older: int | None, newer: int | None
) -> None:
    request, limit = chat(**limits), newer or older
    assert request.max_output_tokens == limit
    for field, expected in {
        LimitField.BOTH: (older, newer),
        LimitField.MAX_TOKENS: (limit, None),
        LimitField.MAX_COMPLETION_TOKENS: (None, limit),
    }.items():
        body = json.loads(encode_request(request, "n", field))
        assert (body.get("max_tokens"), body.get("max_completion_tokens")) == expected
    assert json.loads(encode_request(request, "m")).keys() <= {"model", "messages", *limits}


def test_one_request_can_be_written_for_several_providers() -> None:
    request = chat(stream=True)
    assert json.loads(encode_request(request, "a"))["model"] == "a"
    assert json.loads(encode_request(request, 'b"\n'))["model"] == 'b"\n'
    assert bytes(request.fields["model"]) == b'"m"'


def test_errors_have_openais_shape() -> None:
    error = RequestError(400, 'no "x"\n', param="messages", code="c")
    shape = {"error": {"message": 'no "x"\n', "type": "invalid_request_error", "param": "messages", "code": "c"}}
    assert json.loads(error_body(error)) == shape
    event = error_event(error)
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    assert json.loads(event[6:]) == shape
    own_words = RequestError(400, "m", body=b'{"error":{"message":"theirs"}}')
    assert error_event(own_words) == b'data: {"error":{"message":"theirs"}}\n\n'
    assert json.loads(error_event(RequestError(400, "m", body=b"two\nlines"))[6:])["error"]["message"] == "m"
