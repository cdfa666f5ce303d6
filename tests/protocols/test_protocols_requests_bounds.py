"""Requests made to be a burden: refused before they cost anything, while large honest ones pass."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from amaru.domain import Kind
from amaru.errors import RequestError
from amaru.protocols import openai
from amaru.protocols.openai import (
    LARGE_BYTES,
    MAX_CONTAINERS,
    MAX_FIELDS,
    MAX_INPUTS,
    MAX_ITEMS,
    MAX_NAME_CHARS,
    MAX_TOOLS,
    MAX_VALUES,
    parse_request,
)

MESSAGES = b'"messages":[{"role":"user"}]'


def chat(fields: bytes) -> bytes:
    return b'{"model":"m",' + MESSAGES + b"," + fields + b"}"


def inputs(value: bytes) -> bytes:
    return b'{"model":"m","input":' + value + b"}"


def many(value: bytes, count: int) -> bytes:
    """An array of ``count`` times ``value``."""
    return b"[" + b",".join([value] * count) + b"]"


def members(count: int) -> bytes:
    return b",".join([b'"x%d":1' % number for number in range(count)])


def refused(kind: Kind, body: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_request(kind, body)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.EMBEDDING, inputs(many(b"[]", MAX_CONTAINERS + 1))),
        (Kind.EMBEDDING, inputs(many(b"1", MAX_VALUES + 2))),
        (Kind.EMBEDDING, inputs(many(b'""', MAX_VALUES + 2))),
        (Kind.EMBEDDING, inputs(many(rb'"\\"', MAX_VALUES + 2))),
        (Kind.EMBEDDING, inputs(many(rb'"\","', MAX_VALUES + 2))),
        (Kind.COMPLETION, b'{"model":"m","prompt":' + many(b"[1]", MAX_CONTAINERS + 1) + b"}"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"user","content":' + many(b"{}", MAX_CONTAINERS) + b"}]}"),
        (Kind.CHAT, b'{"model":"m","messages":' + many(b'{"role":""}', MAX_CONTAINERS) + b"}"),
        (Kind.CHAT, chat(members(MAX_VALUES))),
        (Kind.CHAT, chat(b'"x":' + many(b"[ ]", MAX_CONTAINERS + 1))),
    ],
)
def test_too_many_values_are_refused_unread(kind: Kind, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """No decoder sees them: what they would cost is the making of millions of objects."""

    def read(_: bytes) -> None:
        raise AssertionError("it was decoded")

    for name in ("_read_fields", "_read_chat", "_read_completion", "_read_embedding"):
        monkeypatch.setattr(openai, name, read)
    error = refused(kind, body)
    assert f"more than {MAX_VALUES} values" in error.message
    assert error.param is None


def test_what_stands_in_strings_is_no_value() -> None:
    for text in ("[{,", '[{,"\\', '\n",', "é[,"):
        message = {"role": "user", "content": text * MAX_CONTAINERS}
        for ascii_only in (True, False):
            body = json.dumps({"model": "m", "messages": [message]}, ensure_ascii=ascii_only).encode()
            assert parse_request(Kind.CHAT, body).model == "m"


def test_a_prompt_of_a_million_token_ids_is_read() -> None:
    ids = [0] * 1_000_000
    assert parse_request(Kind.EMBEDDING, inputs(json.dumps(ids).encode())).input_tokens_estimate == len(ids)


@pytest.mark.parametrize("count", [MAX_FIELDS, MAX_FIELDS + 1, 5_000, 200_000])
@pytest.mark.parametrize("blank", [b"", b" "])
def test_fields_are_bounded(count: int, blank: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before anybody looks for names that come twice, which takes a step for each."""
    body = chat(members(count - 2) + blank)
    if count <= MAX_FIELDS:
        assert len(parse_request(Kind.CHAT, body).fields) == count
        return
    monkeypatch.delattr(openai, "_refuse_duplicates")
    assert f"more than {MAX_FIELDS} fields" in refused(Kind.CHAT, body).message


def test_names_of_fields_are_bounded() -> None:
    name = b"n" * (MAX_NAME_CHARS + 1)
    pad = b',"pad":"' + b" " * LARGE_BYTES + b'"'
    error = refused(Kind.CHAT, chat(b'"' + name + b'":1' + pad))
    assert f"longer than {MAX_NAME_CHARS} characters" in error.message
    assert "nnn" not in error.message
    assert parse_request(Kind.CHAT, chat(b'"' + name[1:] + b'":1' + pad)).model == "m"


@pytest.mark.parametrize("filler", [b"a", rb"\\", rb"\"", rb"\u00e9"])
@pytest.mark.parametrize("twice", [False, True])
def test_searching_for_a_name_that_comes_twice_takes_no_more_than_the_body(filler: bytes, twice: bool) -> None:
    """One whose steps can be taken back remembers each of them: over a hundred bytes for each byte of a name."""
    size = LARGE_BYTES - 1024  # the largest that no bound on names refuses before
    name = filler * (size // len(filler))
    fields = b' "' + name + b'" : 1' + (b', "n" : 1, "n" : 2' if twice else b"")
    body = chat(fields)
    tracemalloc.start()
    try:
        if twice:
            assert "appears twice" in refused(Kind.CHAT, body).message
        else:
            assert len(parse_request(Kind.CHAT, body).fields) == 3
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * len(body)


@pytest.mark.parametrize(
    ("kind", "before", "item", "after", "limit", "param"),
    [
        (Kind.EMBEDDING, b'{"model":"m","input":', b'"a"', b"}", MAX_INPUTS, "input"),
        (Kind.EMBEDDING, b'{"model":"m","input":', b"[1,2]", b"}", MAX_INPUTS, "input"),
        (Kind.COMPLETION, b'{"model":"m","prompt":', b'"a"', b"}", MAX_INPUTS, "prompt"),
        (Kind.CHAT, chat(b'"tools":')[:-1], b"{}", b"}", MAX_TOOLS, "tools"),
        (Kind.CHAT, chat(b'"functions":')[:-1], b"{}", b"}", MAX_TOOLS, "functions"),
        (Kind.CHAT, b'{"model":"m","messages":', b'{"role":"u"}', b"}", MAX_ITEMS, "messages"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u","content":', b"{}", b"}]}", MAX_ITEMS,
         "messages[0].content"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"u","tool_calls":', b"{}", b"}]}", MAX_ITEMS,
         "messages[0].tool_calls"),
    ],
)  # fmt: skip
def test_lists_are_bounded(kind: Kind, before: bytes, item: bytes, after: bytes, limit: int, param: str) -> None:
    parse_request(kind, before + many(item, limit) + after)
    error = refused(kind, before + many(item, limit + 1) + after)
    assert error.param == param
    assert str(limit) in error.message


@pytest.mark.parametrize(
    "body", [b'"' * 100_000, rb'"\"' + rb"\"" * 100_000, b'{"a":"' + b"\\" * 100_001, b"," * 2**21]
)
def test_broken_bodies_are_refused(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "MAX_VALUES", 1)  # so that the strings are looked for, also the one that never ends
    refused(Kind.CHAT, body)


def test_strings_are_found_in_one_pass() -> None:
    """A string that never ends is one match to the end, not one for each quote in it."""
    body = b'{"a":"' + rb"\"" * 100_000
    found = openai._STRINGS.findall(body)
    assert [len(string) for string in found] == [3, len(body) - 5]
    assert openai._STRINGS.sub(b"", rb'["a\\",{"b\"":"\\\"[{,"}]') == b"[,{:}]"
