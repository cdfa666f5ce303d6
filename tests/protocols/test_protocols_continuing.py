"""The request for a continuation: the caller's own, with what was sent at its end and its limits reduced."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.domain import Kind, PrefillStyle
from amaru.protocols.continuing import continuation_of, may_be_continued
from amaru.protocols.openai import OpenAIRequest, parse_request
from amaru.protocols.openai_body import encode_request

QUESTION = {"role": "user", "content": "Where is Paris?"}


def chat(*messages: dict[str, Any], **fields: Any) -> OpenAIRequest:
    body = {"model": "m", "messages": list(messages) or [QUESTION], "stream": True, **fields}
    return parse_request(Kind.CHAT, msgspec.json.encode(body))


def completion(prompt: Any, **fields: Any) -> OpenAIRequest:
    return parse_request(Kind.COMPLETION, msgspec.json.encode({"model": "m", "prompt": prompt, **fields}))


def asked(
    request: OpenAIRequest, text: str = "In Fr", tokens: int = 2, style: PrefillStyle = PrefillStyle.PLAIN
) -> Any:
    """The body that a provider gets for the continuation of ``request``."""
    return msgspec.json.decode(encode_request(continuation_of(request, text, tokens, style), "their-model"))


# ---- which answers may be continued ---------------------------------------------------------------------------------

CALL = {"role": "assistant", "content": "Hm.", "tool_calls": [{"id": "t", "function": {"name": "f"}}]}


@pytest.mark.parametrize(
    ("request_", "own", "may"),
    [
        (chat(), False, True),
        (chat(QUESTION, CALL, {"role": "tool", "tool_call_id": "t", "content": "1"}), False, True),
        (chat(n=2), True, False),
        (chat(echo=True), True, False),
        (chat(echo=False), True, True),
        (chat(QUESTION, {"role": "assistant", "content": "In"}), False, False),
        (chat(QUESTION, {"role": "assistant", "content": "In"}), True, True),
        (chat(QUESTION, {"role": "assistant", "content": [{"type": "text", "text": "In"}]}), True, False),
        (chat(QUESTION, {"role": "assistant", "content": None}), True, False),
        (chat(QUESTION, CALL), True, False),
        (completion("Paris is"), False, True),
        (completion("Paris is", echo=True), False, False),
        (completion("Paris is", suffix="."), False, False),
        (completion("Paris is", echo=False, suffix=""), False, True),
        (completion("Paris is", echo=None, suffix=None), False, True),
        (completion(["Paris is"]), False, False),
        (completion([1, 2]), False, False),
        (completion("Paris is", n=2), False, False),
    ],
)
def test_which_answers_may_be_continued(request_: OpenAIRequest, own: bool, may: bool) -> None:
    assert may_be_continued(request_, continued_its_own=own) is may


def test_embeddings_are_not_continued() -> None:
    request = parse_request(Kind.EMBEDDING, b'{"model":"m","input":"x"}')
    assert not may_be_continued(request, continued_its_own=True)


# ---- what is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "top", "message"),
    [
        (PrefillStyle.PLAIN, {}, {}),
        (PrefillStyle.PREFIX, {}, {"prefix": True}),
        (PrefillStyle.CONTINUE_FINAL_MESSAGE, {"continue_final_message": True, "add_generation_prompt": False}, {}),
    ],
)
def test_what_was_sent_stands_at_the_end(style: PrefillStyle, top: dict[str, Any], message: dict[str, Any]) -> None:
    body = asked(chat(), style=style)
    assert body == {
        "model": "their-model",
        "messages": [QUESTION, {"role": "assistant", "content": "In Fr", **message}],
        "stream": True,
        "stream_options": {"include_usage": True},
        **top,
    }


@pytest.mark.parametrize("style", list(PrefillStyle))
def test_the_callers_own_beginning_grows(style: PrefillStyle) -> None:
    own = {"role": "assistant", "content": "It is ", "name": "guide"}
    *before, last = asked(chat(QUESTION, own), "in Fr", style=style)["messages"]
    assert before == [QUESTION]
    assert (last["content"], last["name"]) == ("It is in Fr", "guide")
    assert last.get("prefix") == (True if style is PrefillStyle.PREFIX else None)


def test_a_wish_for_a_new_message_gives_way_to_the_continuation() -> None:
    request = chat(add_generation_prompt=True, continue_final_message=False)
    body = asked(request, style=PrefillStyle.CONTINUE_FINAL_MESSAGE)
    assert (body["add_generation_prompt"], body["continue_final_message"]) == (False, True)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("limit", "tokens", "left"), [(10, 3, 7), (10, 10, 1), (10, 99, 1), (1, 0, 1), (None, 3, None)]
)
def test_limits_are_reduced_to_what_is_left(name: str, limit: int | None, tokens: int, left: int | None) -> None:
    assert asked(chat(**{name: limit}), tokens=tokens)[name] == left


def test_of_both_limits_the_newer_is_reduced_and_none_is_invented() -> None:
    body = asked(chat(max_tokens=10, max_completion_tokens=20), tokens=4)
    assert (body.get("max_tokens"), body["max_completion_tokens"]) == (None, 16)
    assert not {"max_tokens", "max_completion_tokens"} & asked(chat()).keys()


def test_a_prompt_grows() -> None:
    body = asked(completion("Paris is", max_tokens=8, stream=True), " in Fr")
    assert (body["prompt"], body["max_tokens"]) == ("Paris is in Fr", 6)
    assert "messages" not in body
    assert asked(completion("Größe: \U0001f680", stream=True), " é")["prompt"] == "Größe: \U0001f680 é"


def test_all_else_stays_the_bytes_that_the_caller_sent() -> None:
    body = (
        b'{"model":"m","stream":true,"temperature":0.70,"seed":12345678901234567890,"stop":["\\u0041"],'
        b'"vendor":{"b":1, "a":[1e3]},"messages":[{"role":"user","content":"x"}]}'
    )
    request = parse_request(Kind.CHAT, body)
    made = continuation_of(request, "y", 1, PrefillStyle.PLAIN)
    for name in ("temperature", "seed", "stop", "vendor", "stream", "model"):
        assert bytes(made.fields[name]) == bytes(request.fields[name])
    assert (made.hold, made.choices, made.include_usage) == (request.hold, request.choices, request.include_usage)


def test_the_request_itself_is_left_as_it_was() -> None:
    request = chat(QUESTION, {"role": "assistant", "content": "In"}, max_tokens=10)
    before = {name: bytes(value) for name, value in request.fields.items()}
    continuation_of(request, " Fr", 3, PrefillStyle.CONTINUE_FINAL_MESSAGE)
    assert {name: bytes(value) for name, value in request.fields.items()} == before


@given(st.text(), st.text(), st.integers(0, 100), st.sampled_from(list(PrefillStyle)))
def test_any_text_arrives_as_it_was(content: str, text: str, tokens: int, style: PrefillStyle) -> None:
    body = asked(chat({"role": "user", "content": content}, max_tokens=50), text, tokens, style)
    assert body["messages"][0] == {"role": "user", "content": content}
    assert body["messages"][1]["content"] == text
    assert body["max_tokens"] == max(1, 50 - tokens)
    assert asked(completion(content), text, tokens)["prompt"] == content + text
