"""The text of a prompt, for counting."""

from __future__ import annotations

import json

import pytest

from amaru.domain import Kind
from amaru.protocols.openai import parse_request
from amaru.protocols.prompts import prompt_of

IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


def chat(*messages: dict[str, object], **fields: object) -> str | int:
    return prompt_of(parse_request(Kind.CHAT, json.dumps({"model": "m", "messages": messages, **fields}).encode()))


def test_a_chat_is_its_messages_and_its_tools() -> None:
    assert chat({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Où?"}) == (
        "system\nBe brief.\nuser\nOù?"
    )
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert chat({"role": "user", "content": parts}, {"role": "assistant", "content": None, "tool_calls": [call]}) == (
        "user\na\nb\nassistant\nf\n{}"
    )
    assert chat({"role": "user", "content": "a"}, tools=[{"type": "function"}]) == 'user\na\n[{"type": "function"}]'


def test_what_is_not_text_is_estimated() -> None:
    request = parse_request(
        Kind.CHAT, json.dumps({"model": "m", "messages": [{"role": "user", "content": [IMAGE]}]}).encode()
    )
    assert prompt_of(request) == request.input_tokens_estimate > 700


@pytest.mark.parametrize(
    ("value", "prompt"), [("a b", "a b"), (["a", "b"], "a\nb"), ([1, 2, 3], 3), ([[1], [2, 3]], 3)]
)
def test_prompts_and_inputs(value: object, prompt: str | int) -> None:
    body = json.dumps({"model": "m", "prompt": value, "input": value}).encode()
    assert prompt_of(parse_request(Kind.COMPLETION, body)) == prompt
    assert prompt_of(parse_request(Kind.EMBEDDING, body)) == prompt
