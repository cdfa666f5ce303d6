"""A streamed answer of OpenAI's API, followed event by event.

``StreamParser`` takes the bytes as they arrive and gives back the events to hand on, verbatim. What the stream tells on
the way (content, finish reasons, usage, an error) it remembers. It decides nothing: whether a stream is whole, cut or
late is judged in ``providers/``.

Not handed on: ``[DONE]``, the usage that the caller did not ask for, and events that cannot carry content (comments,
events without data). An event that could carry content but cannot be read makes the stream malformed.

Handed on late: what is of no use in halves, and could not be joined if it broke (``Hold``). Its events wait here until
their piece is whole.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Raw, Struct

from amaru.domain import Usage
from amaru.protocols.answers import Delta, WireUsage, answer_id, reasoning_of, texts_of, to_usage
from amaru.protocols.holding import MAX_HELD_BYTES, Holder
from amaru.protocols.openai import Hold
from amaru.protocols.sse import MAX_EVENT_BYTES, EventSplitter, EventTooLargeError, parse_event
from amaru.protocols.wire_errors import BROKEN_OFF, WireError, read_error

MAX_TEXT_CHARS = 1024 * 1024
"""Text kept for counting and joining; of an answer beyond it (some 250,000 tokens) only the length is known."""


class _Choice(Struct, gc=False):
    index: int | None = None
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: WireUsage | None = None
    model: str | None = None
    id: str | None = None
    error: Any = None  # Any: an object, or in some servers a string
    service_tier: Any = None  # Any: see ``answers``


class _OddUsage(Struct, gc=False):
    """A chunk whose usage is none that we know, which is no reason to lose the stream."""

    usage: Raw
    choices: list[_Choice] | None = None
    model: str | None = None
    id: str | None = None
    error: Any = None  # Any: as above


class Sent(Struct, frozen=True, gc=False):
    """What of a streamed answer was handed on."""

    content: str = ""
    reasoning: str = ""
    events: int = 0
    """Those that carried content: each a token at least."""
    reasoning_events: int = 0
    choices: frozenset[int] = frozenset()
    """The choices that were handed on whole."""
    opaque: bool = False
    """Content was handed on that cannot be compared: a refusal, an image, typed parts, or too much of it."""

    @property
    def anything(self) -> bool:
        """Whether the caller has any part of the answer."""
        return bool(self.events or self.reasoning_events or self.choices or self.opaque)


NO_CHOICES = "an event has no choices"
"""``StreamParser.malformed`` where an event is JSON, but no chunk: another shape of answer, perhaps."""

_read = msgspec.json.Decoder(_Chunk).decode
_read_odd_usage = msgspec.json.Decoder(_OddUsage).decode
_CR = 0x0D
_NO_CONTENT = ("role", "reasoning_details")
_UNNAMED = (b"", b"message")  # an event of another name is an extension, and no part of the answer


class StreamParser:
    """The state of one streamed answer.

    Attributes
    ----------
    done
        ``[DONE]`` has come; nothing after it counts.
    error
        The error object that ended the stream.
    malformed
        Why the stream cannot be read on, in words without its content; ``None`` while it can.
    ended
        One of these three: nothing more will be read.
    has_content
        Generated content has come: text, a refusal, reasoning or a call of a tool; a role alone is none.
    events
        Chunks read so far: what breaks the silence.
    holder
        What is held back; ``None`` while nothing is.
    finish_reasons
        By choice index.
    usage_closed
        Usage has come in an event of its own behind the choices, as OpenAI sends it: all that may still come is
        ``[DONE]``.
    text_chars
        Length of all generated text, in characters.
    """

    __slots__ = (
        "_contents", "_include_usage", "_opaque", "_open", "_others", "_reasonings", "_sent_until", "_splitter",
        "done", "ended", "error", "events", "finish_reasons", "has_content", "holder", "id", "malformed", "model",
        "text_chars", "usage", "usage_closed",
    )  # fmt: skip

    def __init__(self, *, include_usage: bool, hold: Hold = Hold.CALLS, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._include_usage = include_usage
        self._splitter = EventSplitter(max_event_bytes)
        self._open: set[int] = set()
        self.holder: Holder | None = None if hold is Hold.CALLS else Holder(hold)
        # The generated text in pieces, up to MAX_TEXT_CHARS.
        self._contents: list[str] = []
        self._reasonings: list[str] = []
        self._others: list[str] = []
        self._sent_until: tuple[int, int] | None = None if hold is Hold.CALLS else (0, 0)
        """How many pieces of content and of reasoning had been handed on when holding began."""
        self._opaque = False
        self.ended = False
        self.done = False
        self.error: WireError | None = None
        self.malformed: str | None = None
        self.has_content = False
        self.events = 0
        self.finish_reasons: dict[int, str] = {}
        self.text_chars = 0
        self.model: str | None = None
        self.id: str | None = None
        self.usage: Usage | None = None
        self.usage_closed = False

    @property
    def finished_choices(self) -> int:
        """How many choices have finished, if none of those that began is still open; else 0."""
        return 0 if self._open else len(self.finish_reasons)

    @property
    def texts(self) -> list[str]:
        """The generated text in pieces: content, reasoning, refusals, calls; up to ``MAX_TEXT_CHARS``."""
        if not (self._reasonings or self._others):
            return self._contents
        return [*self._reasonings, *self._contents, *self._others]

    @property
    def sent(self) -> Sent:
        """What of the answer was handed on so far: all but what is held."""
        if self._sent_until is None:
            contents, reasonings = self._contents, self._reasonings
        else:
            contents, reasonings = self._contents[: self._sent_until[0]], self._reasonings[: self._sent_until[1]]
        # Nor can the texts of several choices, which a provider may send unasked.
        incomparable = self.text_chars > MAX_TEXT_CHARS or len(self._open | self.finish_reasons.keys()) > 1
        return Sent(
            "".join(contents),
            "".join(reasonings),
            len(contents),
            len(reasonings),
            frozenset() if self.holder is None else self.holder.whole_choices,
            self._opaque or (incomparable and bool(contents or reasonings)),
        )

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; gives back the events to hand on, ``b""`` if there are none.

        When ``ended`` turns true, the events before the one that ended it are still given back.
        """
        if self.ended:
            return b""
        splitter = self._splitter  # sees the first event itself, for its byte order mark
        if _CR not in data and data.endswith(b"\n\n") and splitter.begun and not splitter.rest:
            lines = data.split(b"\n")
            if not any(lines[1::2]):  # whole events of one line each: nearly all that providers send
                events = self._take_lines(data, lines[:-1:2])
                return events if self.holder is None else events + self.holder.take()
        try:
            blocks = splitter.feed(data)
        except EventTooLargeError as error:
            self.malformed = str(error)
            self.ended = True
            return b""
        events = self._take_blocks(blocks)
        return events if self.holder is None else events + self.holder.take()

    def let_go(self) -> bytes:
        """The stream is whole: the events that are still held."""
        return b"" if self.holder is None else self.holder.let_go()

    def feed_eof(self) -> bytes:
        """The bytes are over: a last event that lacks only its blank line still counts, half of one does not.

        Gives back what there is to hand on, once.
        """
        rest = self._splitter.rest.rstrip(b"\r\n")
        if not rest or self.ended:
            return b""
        self._splitter = EventSplitter()
        kept = self._take_block(rest)
        if self.malformed is not None:
            self.malformed = None
            self.ended = False
        events = rest + b"\n\n" if kept else b""
        return events if self.holder is None else events + self.holder.take()

    def _take_lines(self, data: bytes, lines: list[bytes]) -> bytes:
        kept = []
        for line in lines:
            if self._take(line[5:], b"") if line.startswith(b"data:") else self._take_block(line):
                kept.append(line)
            elif self.ended:
                break
        return data if len(kept) == len(lines) else b"".join([line + b"\n\n" for line in kept])

    def _take_blocks(self, blocks: list[bytes]) -> bytes:
        kept = []
        for block in blocks:
            if self._take_block(block):
                kept.append(block)
            elif self.ended:
                break
        return b"".join(kept)

    def _take_block(self, block: bytes) -> bool:
        event = parse_event(block)
        if event.data is not None:
            return self._take(event.data, event.event)
        if block.lstrip().startswith(b"{"):  # a server that fails in mid-stream may forget the frame around its error
            self._take_error(block, b"", "an event lacks its frame")
        return False

    def _take(self, data: bytes, name: bytes) -> bool:
        """Read the data of one event; whether to hand it on. Each token of each stream passes here."""
        try:
            if not data.isascii():
                data.decode()  # the decoder checks UTF-8 only in the fields that it keeps
            chunk = _read(data)
        except (ValueError, RecursionError) as error:
            odd = self._take_unreadable(data, name, error)
            if odd is None:
                return False
            chunk = odd
        choices = chunk.choices
        if chunk.error or not choices:
            return self._take_without_choices(data, name, chunk)
        if chunk.usage is not None:
            self.usage = to_usage(chunk.usage, chunk.service_tier) or self.usage
        if self.model is None:
            self.model = chunk.model
        if self.id is None and chunk.id:
            self.id = answer_id(chunk.id)
        self.events += 1
        for choice in choices:
            self._take_choice(data, choice)
        if self.holder is None or self.ended:
            return not self.ended
        indices = [choice.index or 0 for choice in choices]
        self.holder.keep(data, indices, self.finish_reasons, all_finished=self.finished_choices > 0)
        self._check_size(self.holder)
        return False

    def _check_size(self, holder: Holder) -> None:
        if holder.size_bytes > MAX_HELD_BYTES:
            self.malformed = f"more than {MAX_HELD_BYTES} bytes have to be held back"
            self.ended = True

    def _take_choice(self, data: bytes, choice: _Choice) -> None:
        index = choice.index or 0
        reason = choice.finish_reason
        if reason == "error":
            self.error = BROKEN_OFF
            self.ended = True
            return
        text = choice.text
        delta = choice.delta
        if delta is not None:
            content = delta.content
            if (
                type(content) is str
                and content
                and not (delta.reasoning or delta.reasoning_content or delta.tool_calls)
            ):
                text = content
            else:
                text = self._take_more_than_content(data, delta)
        if text:
            self._note(text, self._contents)
        if reason:
            self.finish_reasons[index] = reason
            self._open.discard(index)
        elif index not in self.finish_reasons:
            self._open.add(index)

    def _note(self, text: str, pieces: list[str]) -> None:
        self.has_content = True
        self.text_chars += len(text)
        if self.text_chars <= MAX_TEXT_CHARS:
            pieces.append(text)

    def _take_more_than_content(self, data: bytes, delta: Delta) -> str:
        """Note what else a delta holds: reasoning, calls, a refusal, typed parts; gives back its plain content."""
        if self.holder is None and (delta.tool_calls or delta.function_call):
            self.holder = Holder(Hold.CALLS)
            self._sent_until = (len(self._contents), len(self._reasonings))
        reasoning = reasoning_of(delta)
        if reasoning:
            self._note(reasoning, self._reasonings)
        content = delta.content if type(delta.content) is str else ""
        others = "".join(texts_of(delta))
        if len(others) > len(reasoning) + len(content):
            # Counted as it is; which part is which does not matter, since none of it can be joined.
            self._note(others[len(reasoning) :] if not content else others, self._others)
            self._opaque = self._opaque or self.holder is None
        elif not (others or self._opaque or (self.has_content and self.holder)) and _more_than_a_role(data):
            self.has_content = True
            self._opaque = self.holder is None
        return content

    def _take_unreadable(self, data: bytes, name: bytes, error: ValueError | RecursionError) -> _Chunk | None:
        """What is no chunk: ``[DONE]``, nothing at all, a chunk with odd usage, an error, or a malformed event."""
        text = data.strip()
        if text == b"[DONE]":
            self.done = self.ended = True
        elif text:
            if isinstance(error, msgspec.ValidationError):
                with suppress(ValueError):
                    odd = _read_odd_usage(data)
                    return _Chunk(odd.choices, WireUsage(), odd.model, odd.id, odd.error)
            self._take_error(data, name, f"an event is no chunk of an answer: {error}")
        return None

    def _take_without_choices(self, data: bytes, name: bytes, chunk: _Chunk) -> bool:
        if chunk.error or (chunk.usage is None and chunk.choices is None):
            self._take_error(data, name, NO_CHOICES)
            return False
        self.events += 1
        wanted = True  # such as Azure's first event, which tells how the prompt was filtered
        if chunk.usage is not None:
            self.usage = to_usage(chunk.usage, chunk.service_tier) or self.usage
            self.usage_closed = self.usage is not None and self.finished_choices > 0
            wanted = self._include_usage
        if self.holder is None or not wanted:
            return wanted
        self.holder.keep_rest(data)
        self._check_size(self.holder)
        return False

    def _take_error(self, data: bytes, name: bytes, otherwise: str) -> None:
        """An error by its shape, or by its name; else malformed, unless its name marks it as an extension."""
        with suppress(ValueError, RecursionError):
            self.error = read_error(msgspec.json.decode(data))
        if self.error is None and name == b"error":
            self.error = BROKEN_OFF
        if self.error is None and name in _UNNAMED:
            self.malformed = otherwise
        self.ended = self.error is not None or self.malformed is not None


def _more_than_a_role(data: bytes) -> bool:
    """Whether a delta holds anything but its role: providers have more fields for content than we know.

    OpenRouter's ``reasoning_details`` are known, and no part of what is joined.
    """
    try:
        deltas = [choice.get("delta") for choice in msgspec.json.decode(data)["choices"]]
    except (ValueError, RecursionError):  # a number out of range, which the chunk's own decoder passed over
        return True
    return any(value for delta in deltas if delta for name, value in delta.items() if name not in _NO_CONTENT)
