"""The request that has an answer continued by another provider, from the text of it that the caller already has."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from amaru.domain import Kind, PrefillStyle
from amaru.protocols.openai import OpenAIRequest

_encode = msgspec.json.encode
_LIMITS = ("max_tokens", "max_completion_tokens")


def repeats_its_prompt(request: OpenAIRequest) -> bool:
    """Whether the answer begins with what was asked (``echo``), which counts against no token limit."""
    return _true(request.fields.get("echo"))


def may_be_continued(request: OpenAIRequest, *, continued_its_own: bool) -> bool:
    """Whether an answer to ``request`` has the form that a continuation needs.

    A chat's last message must not be the assistant's own, unless the provider whose answer broke has continued that
    (``continued_its_own``): whether it did cannot be told otherwise. A completion must have one prompt, in text. None
    may repeat its prompt (vLLM knows ``echo`` for chats, too): the part that was sent would come again.
    """
    fields = request.fields
    if request.choices != 1 or repeats_its_prompt(request):
        return False
    if request.kind is Kind.COMPLETION:
        return bytes(fields["prompt"])[:1] == b'"' and not _true(fields.get("suffix"))
    if request.kind is not Kind.CHAT:
        return False
    last = _messages(request)[-1]
    return last.get("role") != "assistant" or (
        continued_its_own and isinstance(last.get("content"), str) and not last.get("tool_calls")
    )


def continuation_of(request: OpenAIRequest, text: str, sent_tokens: int, style: PrefillStyle) -> OpenAIRequest:
    """``request``, asking to go on from ``text``, with its token limits reduced by ``sent_tokens`` (to 1 at least)."""
    fields: dict[str, Raw] = dict(request.fields)
    for name in _LIMITS:
        limit = fields.get(name)
        value = None if limit is None else msgspec.json.decode(limit)
        if value is not None:
            fields[name] = Raw(b"%d" % max(1, value - sent_tokens))
    if request.kind is Kind.COMPLETION:
        fields["prompt"] = Raw(_encode(msgspec.json.decode(fields["prompt"], type=str) + text))
    else:
        fields["messages"] = Raw(_encode(_prefilled(_messages(request), text, style)))
        if style is PrefillStyle.CONTINUE_FINAL_MESSAGE:
            fields["continue_final_message"] = Raw(b"true")
            fields["add_generation_prompt"] = Raw(b"false")
    return msgspec.structs.replace(request, fields=fields)


def _prefilled(messages: list[dict[str, Any]], text: str, style: PrefillStyle) -> list[dict[str, Any]]:  # Any: JSON
    if messages[-1].get("role") == "assistant":
        *messages, own = messages
        message = {**own, "content": own["content"] + text}
    else:
        message = {"role": "assistant", "content": text}
    if style is PrefillStyle.PREFIX:
        message["prefix"] = True
    return [*messages, message]


def _messages(request: OpenAIRequest) -> list[dict[str, Any]]:  # Any: JSON
    return msgspec.json.decode(request.fields["messages"], type=list[dict[str, Any]])


def _true(value: Raw | None) -> bool:
    return value is not None and bool(msgspec.json.decode(value))
