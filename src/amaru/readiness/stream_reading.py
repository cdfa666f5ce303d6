"""Reads a streamed chat as a careful client does: its first token, its tokens, and whether the answer is whole."""

from __future__ import annotations

import msgspec

from amaru.protocols.sse import EventSplitter, EventTooLargeError, parse_event

RECEIPT = b": amaru "
"""Begins the comment by which amaru says, at the end of a stream, who served it and what it cost."""


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Error(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: _Error | None = None


class Receipt(msgspec.Struct):
    """What amaru says of a stream at its end."""

    decision: str = ""
    provider: str | None = None
    attempts: int = 1
    cost_usd: float = 0.0


_CHUNK = msgspec.json.Decoder(_Chunk)
_RECEIPT = msgspec.json.Decoder(Receipt)


class StreamReading:
    """The state of one stream being read.

    Attributes
    ----------
    content_events
        Events that carried content.
    finish_reason, done
        Why the model stopped; and whether ``[DONE]`` came.
    usage
        (prompt, completion) tokens as reported, or ``None``.
    error
        What went wrong in the stream itself: ``error_event``, or ``malformed``; else empty. ``detail`` has the words.
    receipt
        amaru's own, where the server is amaru.
    """

    __slots__ = ("_splitter", "content_events", "detail", "done", "error", "finish_reason", "receipt", "usage")

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self.content_events = 0
        self.finish_reason: str | None = None
        self.done = False
        self.usage: tuple[int, int] | None = None
        self.error = ""
        self.detail = ""
        self.receipt: Receipt | None = None

    def feed(self, data: bytes) -> bool:
        """Take what arrived; True where it held the first content."""
        before = self.content_events
        try:
            blocks = self._splitter.feed(data)
        except EventTooLargeError:
            self._fail("malformed", "an event without an end")
            return False
        for block in blocks:
            self._block(block)
        return before == 0 and self.content_events > 0

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
        if data == b"[DONE]":
            self.done = True
            return
        try:
            chunk = _CHUNK.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._fail("malformed", f"an event that is no chunk ({error})")
            return
        if chunk.error is not None:
            told = chunk.error
            self._fail("error_event", f"{told.code or told.type or 'error'}: {told.message or ''}")
            return
        if chunk.usage is not None:
            self.usage = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        for choice in chunk.choices or ():
            delta = choice.delta
            if delta.content or delta.tool_calls or delta.reasoning_content:
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
