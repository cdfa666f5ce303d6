"""A whole answer told as a stream: the same words, in chunks that OpenAI could have sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.domain import Kind, Usage
from amaru.protocols.openai import parse_request
from amaru.protocols.openai_body import encode_request
from amaru.protocols.stream import StreamParser
from amaru.protocols.whole_as_stream import PIECE_CHARS, as_whole, chunks_of, sent_by

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ur"}'}}


def answer(*choices: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "m",
        "choices": list(choices), "usage": USAGE, **fields,
    }  # fmt: skip


def choice(index: int = 0, reason: str | None = "stop", logprobs: Any = None, **message: Any) -> dict[str, Any]:
    whole = {"role": "assistant", "content": "Hello", **message}
    return {"index": index, "message": whole, "logprobs": logprobs, "finish_reason": reason}


def told(whole: dict[str, Any], kind: Kind = Kind.CHAT, *, include_usage: bool = False, **format: Any) -> list[Any]:
    events = chunks_of(kind, json.dumps(whole, **format).encode(), include_usage=include_usage)
    assert events.endswith(b"\n\n")
    return [json.loads(event.removeprefix(b"data: ")) for event in events.removesuffix(b"\n\n").split(b"\n\n")]


def test_the_role_the_content_and_the_reason_come_one_after_another() -> None:
    chunks = told(answer(choice(refusal=None), system_fingerprint="fp"))
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hello"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    for chunk in chunks:
        assert {name: chunk[name] for name in ("id", "object", "created", "model", "system_fingerprint")} == {
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m",
            "system_fingerprint": "fp",
        }  # fmt: skip
        assert "usage" not in chunk


def test_usage_comes_last_and_only_where_it_was_asked_for() -> None:
    chunks = told(answer(choice()), include_usage=True)
    assert [chunk["usage"] for chunk in chunks] == [None, None, None, USAGE]
    assert chunks[-1]["choices"] == []
    unreported = told(answer(choice(), usage=None), include_usage=True)
    assert [chunk["usage"] for chunk in unreported] == [None, None, None]


def test_calls_of_tools_are_numbered() -> None:
    opening, closing = told(answer(choice(reason="tool_calls", content=None, tool_calls=[CALL, CALL])))
    assert opening["choices"][0]["delta"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"index": 0, **CALL}, {"index": 1, **CALL}],
    }
    assert closing["choices"][0]["finish_reason"] == "tool_calls"


def test_several_choices_keep_their_places_and_their_log_probabilities() -> None:
    logprobs = {"content": [{"token": "Hello", "logprob": -1.5}]}
    chunks = told(answer(choice(0, logprobs=logprobs), choice(1, content="Bye", logprobs=logprobs)))
    places = [(chunk["choices"][0]["index"], chunk["choices"][0]["delta"].get("content")) for chunk in chunks]
    assert places == [(0, ""), (0, "Hello"), (0, None), (1, ""), (1, "Bye"), (1, None)]
    kept = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert kept == [None, logprobs, None, None, logprobs, None]


def test_what_is_not_known_is_told_once_and_lines_are_joined() -> None:
    odd = {**choice(), "stop_reason": 128_001, "index": None, "finish_reason": None}
    chunks = told(answer(odd, citations=["a"], created=None), indent=2)
    assert [chunk.get("citations") for chunk in chunks] == [["a"], None, None]
    assert [chunk["choices"][0].get("stop_reason") for chunk in chunks] == [None, None, 128_001]
    assert [chunk["choices"][0]["index"] for chunk in chunks] == [0, 0, 0]
    assert chunks[-1]["choices"][0]["finish_reason"] is None  # nobody said why it ended, and nobody makes it up


def test_typed_content_stays_as_it_is() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"type": "text", "text": "Yes"}]
    opening, _ = told(answer(choice(content=parts)))
    assert opening["choices"][0]["delta"]["content"] == parts


def test_completions_have_texts() -> None:
    whole = {
        "id": "c",
        "choices": [{"text": "Once", "index": 0, "logprobs": {"tokens": ["Once"]}, "finish_reason": "length"}],
    }
    chunks = told(whole, Kind.COMPLETION)
    assert [chunk["object"] for chunk in chunks] == ["text_completion"] * 2
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Once", ""]
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks] == [{"tokens": ["Once"]}, None]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


@given(
    contents=st.lists(st.text(max_size=40) | st.just("x" * (PIECE_CHARS + 1)), min_size=1, max_size=3),
    reason=st.sampled_from(["stop", "length", "content_filter"]),
    calls=st.booleans(),
    include_usage=st.booleans(),
)
def test_read_as_a_stream_it_says_what_the_whole_answer_says(
    contents: list[str], reason: str, calls: bool, include_usage: bool
) -> None:
    choices = [choice(place, reason, content=content) for place, content in enumerate(contents)]
    if calls:
        choices[0]["message"]["tool_calls"] = [CALL]
    events = chunks_of(Kind.CHAT, json.dumps(answer(*choices)).encode(), include_usage=include_usage)
    parser = StreamParser(include_usage=include_usage)
    assert parser.feed(events) + parser.let_go() == events
    assert (parser.malformed, parser.error) == (None, None)
    assert parser.finish_reasons == dict.fromkeys(range(len(contents)), reason)
    assert parser.finished_choices == len(contents)
    said = "".join(contents) + ("weather" + '{"city":"Ur"}' if calls else "")
    assert sorted("".join(parser.texts)) == sorted(said)
    assert parser.usage == (Usage(3, 2) if include_usage else None)
    if len(contents) == 1 and not calls:
        sent = sent_by(events)
        assert (sent.content, sent.opaque, sent.anything) == (contents[0], False, bool(contents[0]))


@pytest.mark.parametrize("message", [{"content": "x", "tool_calls": ["weather"]}])
def test_what_no_chunk_can_hold_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        told(answer(choice(**message)))


def test_the_provider_is_asked_without_stream_and_with_all_else() -> None:
    sent = {
        "model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "n": 2, "seed": 1,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    request = parse_request(Kind.CHAT, json.dumps(sent).encode())
    whole = as_whole(request)
    assert (whole.stream, whole.include_usage, whole.choices, whole.hold) == (False, False, 2, request.hold)
    assert json.loads(encode_request(whole, "theirs")) == {
        "model": "theirs", "messages": sent["messages"], "temperature": 0.5, "n": 2, "seed": 1,
    }  # fmt: skip
    assert request.stream  # as it was
