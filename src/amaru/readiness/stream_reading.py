"""Reads a chat's answer as a careful client does: its first token, its tokens, and whether the answer is whole."""

from __future__ import annotations

import msgspec

from amaru.accounts.tokens import estimate_tokens
from amaru.protocols.sse import EventSplitter, EventTooLargeError, parse_event

RECEIPT = b": amaru "
"""Begins the comment by which amaru says, at the end of a stream, who served it and what it cost."""


class _Delta(msgspec.Struct):
    content: str | list[msgspec.Raw] | None = None
    """A list of parts at some providers."""
    tool_calls: list[msgspec.Raw] | None = None
    function_call: msgspec.Raw = msgspec.Raw()
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: msgspec.Raw = msgspec.Raw()

    def says(self) -> bool:
        """Whether it holds a part of the answer: text, a refusal, reasoning, or a call."""
        return bool(
            self.content
            or self.tool_calls
            or self.reasoning_content
            or self.refusal
            or bytes(self.reasoning) not in _NOTHING
            or bytes(self.function_call) not in _NOTHING
        )

    def text(self) -> bytes:
        """All of it, parts and calls as the JSON that they are."""
        content = self.content.encode("utf-8", "surrogatepass") if isinstance(self.content, str) else b""
        parts = self.content if isinstance(self.content, list) else []
        reasoning = (self.reasoning_content or "").encode("utf-8", "surrogatepass")
        return b"".join((content, reasoning, *map(bytes, parts), *map(bytes, self.tool_calls or ())))


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    """In place of the delta, where the answer is not streamed."""
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """What a server reports. ``cost`` is USD, where it is told: OpenRouter does, LiteLLM's proxy where it is set to."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    cost: float | None = None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that came from a cache; ``None``: it does not say."""
        return None if self.prompt_tokens_details is None else self.prompt_tokens_details.cached_tokens

    def counts(self, *, something: bool) -> bool:
        """Whether it counts an answer that said ``something``: servers that count nothing may report noughts."""
        return self.prompt_tokens is not None and bool(self.completion_tokens or not something)


class _Error(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    error: _Error | str | None = None


class Receipt(msgspec.Struct):
    """What amaru says of a stream at its end."""

    decision: str = ""
    provider: str | None = None
    attempts: int = 1
    cost_usd: float | None = None
    joined: str | None = None
    """How a break was rescued."""


_NOTHING = (b"", b"null", b'""', b"{}", b"[]")
_CHUNK = msgspec.json.Decoder(_Chunk)
_RECEIPT = msgspec.json.Decoder(Receipt)


class StreamReading:
    """The state of one stream being read.

    Attributes
    ----------
    events
        Events that carried anything; comments, which only keep a connection open, are none.
    content_events
        Events that carried content.
    finish_reason, done
        Why the model stopped; and whether ``[DONE]`` came.
    usage
        As reported last, or ``None``.
    error
        What went wrong in the stream itself: ``error_event``, or ``malformed``; else empty. ``detail`` has the words.
    receipt
        amaru's own, where the server is amaru.
    """

    __slots__ = (
        "_splitter",
        "content_events",
        "detail",
        "done",
        "error",
        "events",
        "finish_reason",
        "receipt",
        "usage",
    )

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self.events = 0
        self.content_events = 0
        self.finish_reason: str | None = None
        self.done = False
        self.usage: Usage | None = None
        self.error = ""
        self.detail = ""
        self.receipt: Receipt | None = None

    def feed_whole(self, body: bytes) -> int:
        """Take an answer that was not streamed; returns an estimate of its tokens."""
        chunk = self._decode(body, "an answer that is no chat completion")
        if chunk is None:
            return 0
        self._take(chunk)
        messages = [choice.message for choice in chunk.choices or () if choice.message is not None]
        return sum(estimate_tokens(message.text()) for message in messages)

    def feed(self, data: bytes) -> int:
        """Take what arrived; returns how many events with content it completed."""
        before = self.content_events
        try:
            blocks = self._splitter.feed(data)
        except EventTooLargeError:
            self._fail("malformed", "an event without an end")
            return 0
        for block in blocks:
            self._block(block)
        return self.content_events - before

    @property
    def whole(self) -> bool:
        """Whether the answer is complete: it named its finish reason, and nothing went wrong."""
        return not self.error and self.finish_reason is not None

    def _block(self, block: bytes) -> None:
        if block.startswith(b":"):
            if block.startswith(RECEIPT):
                self._read_receipt(block)
            return
        data = parse_event(block).data
        if not data or self.error:
            return
        self.events += 1
        if data == b"[DONE]":
            self.done = True
            return
        chunk = self._decode(data, "an event that is no chunk")
        if chunk is not None:
            self._take(chunk)

    def _decode(self, data: bytes, what: str) -> _Chunk | None:
        try:
            return _CHUNK.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._fail("malformed", f"{what} ({error})")
            return None

    def _take(self, chunk: _Chunk) -> None:
        told = chunk.error
        if told is not None:
            words = told if isinstance(told, str) else f"{told.code or told.type or 'error'}: {told.message or ''}"
            self._fail("error_event", words)
            return
        if chunk.usage is not None:
            self.usage = chunk.usage
        for choice in chunk.choices or ():
            said = choice.delta or choice.message
            if said is not None and said.says():
                self.content_events += 1
            if choice.finish_reason is not None:
                self.finish_reason = choice.finish_reason

    def _read_receipt(self, block: bytes) -> None:
        try:
            self.receipt = _RECEIPT.decode(block[len(RECEIPT) :].strip())
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.receipt = None  # a comment of somebody else's; comments may say anything

    def _fail(self, error: str, detail: str) -> None:
        self.error = self.error or error
        self.detail = self.detail or detail[:300]
