"""OpenAI's whole answers: what an answer tells about itself, and whether it is one at all.

An answer is forwarded as it came; here it is only read. What a provider gets wrong beside the answer proper (its usage)
is left out; what makes the answer unusable is a ``ValueError``.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from amaru.domain import Kind, Provenance, ServiceTier, Usage, UsageDetails
from amaru.protocols.wire_errors import BROKEN_OFF, WireError, read_error

MAX_TOKENS = 1_000_000_000
"""Of one answer; one that is said to hold more was miscounted. Costs are doubles, which end where integers do not."""

MAX_ID_CHARS = 200


class WireUsage(Struct, gc=False):
    """``usage`` as providers send it: the two counts that matter must be counts, of all else what is none is left out.

    Finer kinds stand in OpenAI's details. Others have more names: cached input is ``prompt_cache_hit_tokens`` for
    DeepSeek and ``cached_tokens`` for Moonshot, cache writes are ``cache_write_tokens`` for OpenRouter and
    ``cache_creation_input_tokens`` for Anthropic, LiteLLM and Alibaba.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: Any = None  # Any: this and all below may be anything, see above
    prompt_tokens_details: Any = None
    completion_tokens_details: Any = None
    prompt_cache_hit_tokens: Any = None
    cached_tokens: Any = None
    cache_creation_input_tokens: Any = None
    cache_creation: Any = None
    service_tier: Any = None


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
    id: Any = None  # Any: a text, or it is passed over
    usage: WireUsage | None = None
    service_tier: Any = None  # Any: OpenAI's names are read, others passed over
    error: Any = None  # Any: an object, or in some servers a string


class _AnswerWithoutUsage(Struct, gc=False):
    choices: list[_Choice] | None = None
    data: list[Raw] | None = None
    model: str | None = None
    id: Any = None  # Any: as above
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
    id: str | None = None
    """By which the provider knows the answer."""


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
            return AnswerFacts(answer.model, usage, id=answer_id(answer.id))
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
    return answer, to_usage(answer.usage, answer.service_tier)


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
    return AnswerFacts(answer.model, usage, tuple(reasons), texts, id=answer_id(answer.id))


def answer_id(value: object) -> str | None:
    """A provider's id of its answer; ``None`` where it gave none, or one that is no name of anything."""
    return value if type(value) is str and 0 < len(value) <= MAX_ID_CHARS and value.isprintable() else None


def to_usage(wire: WireUsage | None, service_tier: object = None) -> Usage | None:
    """The provider's figures; ``None`` where it gave none, or figures that cannot be (negative, or absurdly many).

    xAI and Gemini leave reasoning out of ``completion_tokens``, and charge it as output: it is what ``total_tokens``
    holds beyond the other two. ``service_tier`` is what the answer says beside its usage.
    """
    if wire is None or (wire.prompt_tokens is None and wire.completion_tokens is None):
        return None
    read, written = wire.prompt_tokens or 0, wire.completion_tokens or 0
    if not (0 <= read <= MAX_TOKENS and 0 <= written <= MAX_TOKENS):
        return None
    of_input, of_output = wire.prompt_tokens_details, wire.completion_tokens_details
    reasoning = _count(of_output, "reasoning_tokens")
    apart = wire.total_tokens - read - written if type(wire.total_tokens) is int else 0
    if 0 < apart <= MAX_TOKENS - written and reasoning in (0, apart):
        written, reasoning = written + apart, apart
    cached = _count(of_input, "cached_tokens") or _first_count(wire.prompt_cache_hit_tokens, wire.cached_tokens)
    cached = min(cached, read)
    tier = _service_tier(service_tier) or _service_tier(wire.service_tier)
    if not (of_input or reasoning or of_output or tier or wire.cache_creation_input_tokens):
        return Usage(read, written, cached)
    writes = _count(of_input, "cache_write_tokens") or _count(of_input, "cache_creation_input_tokens")
    writes = min(writes or _first_count(wire.cache_creation_input_tokens), read)
    details = UsageDetails(
        writes,
        min(_count(wire.cache_creation, "ephemeral_1h_input_tokens"), writes),
        min(_count(of_input, "audio_tokens"), read),
        min(_count(of_input, "image_tokens"), read),
        min(reasoning, written),
        min(_count(of_output, "audio_tokens"), written),
        min(_count(of_output, "image_tokens"), written),
        tier,
    )
    return Usage(read, written, cached, Provenance.PROVIDER, None if details == _PLAIN else details)


_PLAIN = UsageDetails()
_SERVICE_TIERS: dict[str, ServiceTier] = {tier.value: tier for tier in ServiceTier}


def _count(details: object, name: str) -> int:
    return _first_count(details.get(name)) if type(details) is dict else 0


def _first_count(*values: object) -> int:
    """The first that is a count; 0 where none is."""
    for value in values:
        if type(value) is int and value > 0:
            return value
    return 0


def _service_tier(value: object) -> ServiceTier | None:
    return _SERVICE_TIERS.get(value) if type(value) is str else None


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
