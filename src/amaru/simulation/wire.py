"""The provider's answers as bytes: whole bodies, and the events of a stream (OpenAI's shapes)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from amaru.domain import Kind, ServiceTier, Usage, UsageDetails
from amaru.simulation.answers import Choice, logprobs_of
from amaru.simulation.asks import Ask

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


class Event(msgspec.Struct, frozen=True):
    """One event of a stream, and the tokens that it carries."""

    data: bytes
    tokens: int = 0


class Identity(msgspec.Struct, frozen=True):
    """What every chunk of one answer repeats."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    service_tier: str | None = None
    """Told where the request names one."""


def usage_of(
    ask: Ask, choices: Sequence[Choice], *, cached_tokens: int, written_tokens: int, service_tier: ServiceTier | None
) -> Usage:
    """Tokens of a whole answer; ``written_tokens`` of the prompt were taken up into the cache."""
    cached = min(cached_tokens, ask.prompt_tokens)
    written = min(written_tokens, ask.prompt_tokens - cached)
    reasoning = sum(choice.reasoning_tokens for choice in choices)
    details = UsageDetails(
        cache_write_tokens=written,
        cache_write_1h_tokens=written if ask.cache_ttl == "1h" else 0,
        image_input_tokens=min(ask.image_tokens, ask.prompt_tokens - cached - written),
        reasoning_tokens=reasoning,
        service_tier=service_tier,
    )
    return Usage(ask.prompt_tokens, reasoning + sum(len(choice.tokens) for choice in choices), cached, details=details)


def usage_object(usage: Usage) -> dict[str, object]:
    """OpenAI's ``usage``; cache writes as OpenRouter and Anthropic tell them. Finer kinds that are 0 are left out."""
    details = usage.details or UsageDetails()
    of_input = {"cache_write_tokens": details.cache_write_tokens, "image_tokens": details.image_input_tokens}
    told: dict[str, object] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            **{name: count for name, count in of_input.items() if count},
        },
    }
    if details.cache_write_1h_tokens:
        told["cache_creation"] = {"ephemeral_1h_input_tokens": details.cache_write_1h_tokens}
    if details.reasoning_tokens:
        told["completion_tokens_details"] = {"reasoning_tokens": details.reasoning_tokens}
    return told


def whole_body(ask: Ask, identity: Identity, choices: Sequence[Choice], usage: Usage) -> bytes:
    """The answer to a request without ``stream``."""
    return _encode(
        {
            "id": identity.id,
            "object": "chat.completion" if ask.kind is Kind.CHAT else "text_completion",
            "created": identity.created,
            "model": identity.model,
            "choices": [_whole_choice(ask, choice) for choice in choices],
            "usage": usage_object(usage),
            **_last_fields(identity),
        }
    )


def _last_fields(identity: Identity) -> dict[str, object]:
    tier = {} if identity.service_tier is None else {"service_tier": identity.service_tier}
    return {"system_fingerprint": identity.system_fingerprint, **tier}


def _whole_choice(ask: Ask, choice: Choice) -> dict[str, object]:
    logprobs = None if ask.logprobs is None else logprobs_of(ask.kind, choice.tokens, ask.logprobs)
    whole: dict[str, object] = {"index": choice.index, "logprobs": logprobs, "finish_reason": choice.finish_reason}
    if ask.kind is Kind.COMPLETION:
        return {"text": choice.text, **whole}
    message: dict[str, object] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.call is not None:
        id, name = choice.call
        function = {"name": name, "arguments": choice.text}
        message = {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [{"id": id, "type": "function", "function": function}],
        }
    return {"message": message, **whole}


class StreamWriter:
    """The events of one streamed answer."""

    def __init__(self, ask: Ask, identity: Identity, choices: Sequence[Choice], usage: Usage | None) -> None:
        """``usage`` is reported in a chunk of its own, as OpenAI does where asked; ``None``: not reported."""
        self._ask = ask
        self._choices = choices
        self._usage = usage
        kind = "chat.completion.chunk" if ask.kind is Kind.CHAT else "text_completion"
        head = {
            "id": identity.id,
            "object": kind,
            "created": identity.created,
            "model": identity.model,
            **_last_fields(identity),
        }
        # Every chunk differs only behind this; joining bytes is many times cheaper than encoding each.
        self._head = b"data: " + _encode(head)[:-1]
        self._nothing_used = b',"usage":null' if usage is not None else b""

    def opening(self) -> list[Event]:
        """What comes before the first token: the role, for chats."""
        if self._ask.kind is not Kind.CHAT:
            return []
        return [self._chunk(choice.index, self._opening_delta(choice)) for choice in self._choices]

    def content(self, tokens_per_event: int) -> Iterator[Event]:
        """The answers, their events taking turns."""
        longest = max((len(choice.tokens) for choice in self._choices), default=0)
        for start in range(0, longest, tokens_per_event):
            for choice in self._choices:
                tokens = choice.tokens[start : start + tokens_per_event]
                if tokens:
                    yield self._content_event(choice, tokens)

    def closing(self) -> list[Event]:
        """The chunks with the finish reasons, and the usage."""
        events = [
            self._chunk(choice.index, b"{}" if self._ask.kind is Kind.CHAT else b'""', choice.finish_reason)
            for choice in self._choices
        ]
        if self._usage is not None:
            usage = _encode(usage_object(self._usage))
            events.append(Event(self._head + b',"choices":[],"usage":' + usage + b"}\n\n"))
        return events

    def _opening_delta(self, choice: Choice) -> bytes:
        if choice.call is None:
            return b'{"role":"assistant","content":"","refusal":null}'
        id, name = choice.call
        function = {"name": name, "arguments": ""}
        call = {"index": 0, "id": id, "type": "function", "function": function}
        return _encode({"role": "assistant", "content": None, "tool_calls": [call]})

    def _content_event(self, choice: Choice, tokens: Sequence[str]) -> Event:
        text = _encode("".join(tokens))
        if self._ask.kind is Kind.COMPLETION:
            delta = text
        elif choice.call is not None:
            delta = b'{"tool_calls":[{"index":0,"function":{"arguments":' + text + b"}}]}"
        else:
            delta = b'{"content":' + text + b"}"
        logprobs = None
        if self._ask.logprobs is not None:
            logprobs = _encode(logprobs_of(self._ask.kind, tokens, self._ask.logprobs))
        return self._chunk(choice.index, delta, None, len(tokens), logprobs)

    def _chunk(
        self, index: int, delta: bytes, reason: str | None = None, tokens: int = 0, logprobs: bytes | None = None
    ) -> Event:
        data = b'%b,"choices":[{"index":%d,"%b":%b,"logprobs":%b,"finish_reason":%b}]%b}\n\n' % (
            self._head,
            index,
            b"delta" if self._ask.kind is Kind.CHAT else b"text",
            delta,
            logprobs or b"null",
            b"null" if reason is None else b'"%b"' % reason.encode(),
            self._nothing_used,
        )
        return Event(data, tokens)
