"""OpenAI's whole answers: what an answer tells about itself, and whether it is one at all.

An answer is forwarded as it came; here it is only read. What a provider gets wrong beside the answer proper (its usage)
is left out; what makes the answer unusable is a ``ValueError``.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from amaru.domain import Kind, Usage
from amaru.protocols.wire_errors import BROKEN_OFF, WireError, read_error

MAX_TOKENS = 1_000_000_000
"""Of one answer; one that is said to hold more was miscounted. Costs are doubles, which end where integers do not."""


class _InputDetails(Struct, gc=False):
    cached_tokens: int | None = None


class WireUsage(Struct, gc=False):
    """``usage`` as providers send it. Cached tokens: OpenAI's details, or DeepSeek's ``prompt_cache_hit_tokens``."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    prompt_cache_hit_tokens: int | None = None


class Delta(Struct, gc=False):
    """The generated part of a message, whole or a piece of it. Some providers send content in typed parts."""

    content: str | list[Any] | None = None  # Any: parts differ between providers (Mistral's thinking chunks)
    reasoning_content: str | list[Any] | None = None  # Any: as content
    reasoning: str | list[Any] | None = None  # Any: as content
    refusal: str | None = None
    tool_calls: list[Any] | None = None  # Any: only names and arguments are looked at, where they are strings
    function_call: Any = None  # Any: as tool_calls


class _Choice(Struct, gc=False):
    index: int | None = None
    message: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Answer(Struct, gc=False):
    choices: list[_Choice] | None = None
    data: list[Raw] | None = None
    model: str | None = None
    usage: WireUsage | None = None
    error: Any = None  # Any: an object, or in some servers a string


class _AnswerWithoutUsage(Struct, gc=False):
    choices: list[_Choice] | None = None
    data: list[Raw] | None = None
    model: str | None = None
    error: Any = None  # Any: as above


class AnswerFacts(Struct, gc=False):
    """What a whole answer told. ``output_text`` is in pieces, one or more for each choice.

    ``error`` is one that came in the answer's place; all else is empty then.
    """

    model: str | None = None
    usage: Usage | None = None
    finish_reasons: tuple[str, ...] = ()
    output_text: list[str] = []
    error: WireError | None = None


_read = msgspec.json.Decoder(_Answer).decode
_read_without_usage = msgspec.json.Decoder(_AnswerWithoutUsage).decode


def parse_answer(kind: Kind, body: bytes) -> AnswerFacts:
    """Read a whole answer.

    Raises
    ------
    ValueError
        It is no answer of this kind: not JSON, not UTF-8, or without the field that holds the answer. The message
        names the fault and never repeats the answer.
    """
    if not body or body.isspace():
        raise ValueError("the body is empty")
    try:
        if not body.isascii():
            body.decode()  # the decoder checks UTF-8 only in the fields that it keeps
        answer, usage = _read_tolerantly(body)
        field = "data" if kind is Kind.EMBEDDING else "choices"
        if answer.error or not (answer.data if kind is Kind.EMBEDDING else answer.choices):
            error = read_error(msgspec.json.decode(body))
            if error is not None:
                return AnswerFacts(error=error)
            raise ValueError(f"the field {field!r} is missing or empty")
        if kind is Kind.EMBEDDING:
            return AnswerFacts(answer.model, usage)
        return _facts(kind, answer, usage)
    except UnicodeDecodeError:
        raise ValueError("the body is not valid UTF-8") from None
    except RecursionError:
        raise ValueError("the body is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"the body is not an answer: {error}") from None


def _read_tolerantly(body: bytes) -> tuple[_Answer | _AnswerWithoutUsage, Usage | None]:
    try:
        answer = _read(body)
    except msgspec.ValidationError:
        return _read_without_usage(body), None
    return answer, to_usage(answer.usage)


def _facts(kind: Kind, answer: _Answer | _AnswerWithoutUsage, usage: Usage | None) -> AnswerFacts:
    texts: list[str] = []
    reasons: list[str] = []
    for choice in answer.choices or ():
        if kind is Kind.CHAT and choice.message is not None:
            texts += texts_of(choice.message)
        elif kind is Kind.COMPLETION and choice.text is not None:
            texts.append(choice.text)
        else:
            raise ValueError(f"a choice has no {'message' if kind is Kind.CHAT else 'text'}")
        if choice.finish_reason:
            if choice.finish_reason == "error":
                return AnswerFacts(error=BROKEN_OFF)
            reasons.append(choice.finish_reason)
    return AnswerFacts(answer.model, usage, tuple(reasons), texts)


def to_usage(wire: WireUsage | None) -> Usage | None:
    """The provider's figures; ``None`` where it gave none, or figures that cannot be (negative, or absurdly many)."""
    if wire is None or (wire.prompt_tokens is None and wire.completion_tokens is None):
        return None
    read, written = wire.prompt_tokens or 0, wire.completion_tokens or 0
    details = wire.prompt_tokens_details
    cached = wire.prompt_cache_hit_tokens if details is None or details.cached_tokens is None else details.cached_tokens
    if not (0 <= read <= MAX_TOKENS and 0 <= written <= MAX_TOKENS):
        return None
    return Usage(read, written, min(max(cached or 0, 0), read))


def texts_of(delta: Delta) -> list[str]:
    """All generated text of a message or a piece of one: content, reasoning, refusal, calls of tools."""
    texts: list[str] = []
    for content in (delta.reasoning_content or delta.reasoning, delta.content, delta.refusal):
        if type(content) is str:
            if content:
                texts.append(content)
        elif content:
            texts += _strings(content)
    if delta.tool_calls or delta.function_call:
        calls = [*(delta.tool_calls or ()), {"function": delta.function_call}]
        for function in (call.get("function") for call in calls if isinstance(call, dict)):
            if isinstance(function, dict):
                texts += [text for text in (function.get("name"), function.get("arguments")) if isinstance(text, str)]
    return texts


def reasoning_of(delta: Delta) -> str:
    """The reasoning in a message or a piece of one; ``""`` where there is none."""
    value = delta.reasoning_content or delta.reasoning
    return value if type(value) is str else "".join(_strings(value))


def _strings(value: Any) -> list[str]:  # Any: the parts of a message's content
    """The texts of typed content parts: ``text`` wherever it stands, not the names of the parts' types."""
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    if isinstance(value, dict):
        return [text for name, item in value.items() if name != "type" for text in _strings(item)]
    return [value] if isinstance(value, str) and value else []
