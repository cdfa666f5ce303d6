"""The text of a prompt, for counting its tokens where a provider reports no usage. Not in the path of a request."""

from __future__ import annotations

from typing import Any

import msgspec

from amaru.domain import Kind
from amaru.protocols.answers import Delta, texts_of
from amaru.protocols.openai import TEXT_PARTS, OpenAIRequest


class _Said(Delta, gc=False):
    role: str = ""


def prompt_of(request: OpenAIRequest) -> str | int:
    """All text that a request puts before the model, roles and tools included; never to be logged or stored (law 4).

    Where it is not all text, the request's own figure instead, in tokens: exact for token ids, an estimate for images.
    """
    if request.kind is Kind.CHAT:
        return _chat(request)
    value = msgspec.json.decode(request.fields["prompt" if request.kind is Kind.COMPLETION else "input"])
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return request.input_tokens_estimate


def _chat(request: OpenAIRequest) -> str | int:
    fields = request.fields
    pieces: list[str] = []
    for said in msgspec.json.decode(fields["messages"], type=list[_Said]):
        if isinstance(said.content, list) and not all(map(_is_text, said.content)):
            return request.input_tokens_estimate
        pieces.append(said.role)
        pieces += texts_of(said)
    pieces += [bytes(fields[name]).decode() for name in ("tools", "functions") if name in fields]
    return "\n".join(pieces)


def _is_text(part: Any) -> bool:  # Any: JSON
    return isinstance(part, dict) and part.get("type") in TEXT_PARTS
