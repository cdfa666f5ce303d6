"""A streamed answer on its way: waits for it, follows it, and judges how it ends.

How a stream ends (DESIGN.md, the failure taxonomy):

===========================================  ==========================================================================
``[DONE]``                                   whole
the body ends cleanly                        whole, if every choice that was asked for has its finish reason; else cut
every choice has finished, usage has come    whole at once; where usage stood in the choices' own events, one of its own
                                             may follow them, and gets ``LINGER_S``
every choice has finished, and no            whole after ``tail_s``: only usage and ``[DONE]`` are still to come, and
more comes                                   neither is worth more of the caller's time
no event for ``idle_s``                      stalled; comments and keep-alives are no events
an event that cannot be read                 malformed
an error object                              by its code
either, after every finish reason            whole: nothing of the answer is missing
===========================================  ==========================================================================
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.protocols.openai import OpenAIRequest
from amaru.protocols.stream import NO_CHOICES, Sent, StreamParser
from amaru.protocols.wire_errors import WireError
from amaru.providers.base import MAX_STREAM_SAMPLE_BYTES, Facts, StreamReply, Timing
from amaru.providers.transport import HttpResponse

LINGER_S = 0.05
"""How long the framing of a stream that has ended may take to end as well, so that its connection can be kept."""
MAX_OPENING_BYTES = 1024 * 1024
"""Events before the first content; more is no answer."""

_STALLED = FailureKind.STREAM_STALLED
FailureOf = Callable[[WireError, HttpResponse], Failure]


class OpenAIStreamReply(StreamReply):
    """See ``base.StreamReply``. ``open()`` once, then ``next()``; ``failure_of`` maps the provider's error objects.

    ``wordless`` is given a sample of a stream that ends without a word, or without a reason for ending.
    """

    __slots__ = (
        "_begun", "_choices", "_events", "_failure_of", "_finished", "_first_token_at", "_last", "_longest_gap_s",
        "_opening", "_parser", "_response", "_room", "_tail", "_time", "_timing", "_waits_since", "_whole",
        "_wordless", "first", "unread",
    )  # fmt: skip

    def __init__(
        self,
        response: HttpResponse,
        request: OpenAIRequest,
        timing: Timing,
        failure_of: FailureOf,
        wordless: Callable[[bytes], None] | None = None,
    ) -> None:
        self.first = self._last = self.unread = b""
        self._begun: list[bytes] = []
        """The first events, as far as a sample has room; further ones are ``_last`` in turn."""
        self._room = MAX_STREAM_SAMPLE_BYTES // 2
        self._response = response
        self._choices = request.choices
        self._timing = timing
        self._failure_of = failure_of
        self._wordless = wordless
        self._parser = StreamParser(include_usage=request.include_usage, hold=request.hold)
        self._opening = b""
        """Events without content that came before any that is handed on: they go out with it, or not at all."""
        self._time = asyncio.get_running_loop().time
        self._first_token_at: float | None = None
        self._waits_since = 0.0
        self._longest_gap_s = 0.0
        self._events = 0
        self._finished = False
        """Every choice that was asked for has its finish reason: no event can carry content any more."""
        self._tail = False
        """``_finished``, and its deadline is set."""
        self._whole = False

    @property
    def facts(self) -> Facts:
        parser = self._parser
        reasons = parser.finish_reasons
        return Facts(
            model=parser.model,
            id=parser.id,
            usage=parser.usage,
            finish_reasons=tuple([reasons[index] for index in sorted(reasons)]),
            output_text=parser.texts,
            output_chars=parser.text_chars,
            first_token_at=self._first_token_at,
            longest_gap_s=self._longest_gap_s or None,
            bytes_received=self._response.bytes_received,
        )

    def sample(self) -> tuple[bytes, bool]:
        half = MAX_STREAM_SAMPLE_BYTES // 2
        return _whole_events(b"".join(self._begun), half) + _whole_events(self._last, half), self._room > 0

    @property
    def sent(self) -> Sent:
        return self._parser.sent

    async def open(self) -> None:
        """Wait for the first content, or for an end without any; the response's deadline bounds it.

        Raises
        ------
        Failure
            Whatever goes wrong until then, or has gone wrong in the bytes that are there: nothing was handed on yet.
            The response is still open; ``unread`` holds what came with an event that is of another shape.
        """
        parser = self._parser
        held: list[bytes] = []
        held_bytes = 0
        while not (parser.has_content or self._finished or self._whole):
            events = await self.next()
            self._raise_trouble()
            held.append(events)
            held_bytes += len(events)
            if held_bytes > MAX_OPENING_BYTES:
                raise self._failure(FailureKind.MALFORMED_BODY, f"no content in the first {held_bytes} bytes of events")
        if not (parser.has_content or parser.finish_reasons):
            raise self._failure(FailureKind.MALFORMED_BODY, "the stream ended without an answer")
        self.first = b"".join(held)
        if parser.holder is not None and not (self._whole or parser.sent.anything):
            self.first, self._opening = b"", self.first
        self._first_token_at = self._time()
        self._wait_on()

    async def next(self) -> bytes:
        parser = self._parser
        self._waits_since = self._time()
        try:
            while not self._whole:
                if parser.ended:
                    self._raise_trouble()
                try:
                    data = await self._response.chunk()
                except Failure:
                    if not self._finished:
                        raise
                    self._end()
                    return self._released(b"")
                events = parser.feed(data) if data else self._feed_eof()
                if parser.ended or parser.finish_reasons:
                    self._judge_end()
                    if parser.malformed is NO_CHOICES and self._first_token_at is None:
                        self.unread = data
                if parser.events != self._events and self._first_token_at is not None:  # before it, its limit holds
                    self._wait_on()
                if parser.holder is not None:
                    events = self._released(events)
                if events or (self._first_token_at is None and parser.has_content):  # which may be held back
                    if self._room > 0:
                        self._begun.append(events)
                        self._room -= len(events)
                    else:
                        self._last = events
                    return events
        except BaseException:
            self._note_gap(self._time())
            if self._first_token_at is not None:
                self._response.close()
            raise
        if self._wordless is not None and not (parser.text_chars and parser.finish_reasons):
            # Of a long one its first and last events: they show where its text stands as well as all of them would.
            self._wordless(self.sample()[0])
            self._wordless = None
        return b""

    def close(self) -> None:
        self._response.close()

    def _released(self, events: bytes) -> bytes:
        """``events`` with those that had to wait for them; at the whole end, with all that is held."""
        if self._whole:
            events += self._parser.let_go()
        if events:
            events, self._opening = self._opening + events, b""
        return events

    def _feed_eof(self) -> bytes:
        """The body ended cleanly: the stream is whole, cut, or ends in an error that lacks its blank line."""
        parser = self._parser
        events = parser.feed_eof()
        if parser.error is None:
            if parser.done or parser.finished_choices >= self._choices:
                self._end()
            elif not events or self._first_token_at is None:  # else they go out first: what was read counts as sent
                raise self._cut()
        return events

    def _judge_end(self) -> None:
        """After ``[DONE]`` nothing comes; after every finish reason, nothing that can carry content."""
        parser = self._parser
        if not self._finished:
            self._finished = bool(parser.finish_reasons) and parser.finished_choices >= self._choices
        if parser.done or (self._finished and (parser.ended or parser.usage_closed)):
            self._end()

    def _end(self) -> None:
        self._whole = True
        parser = self._parser
        self._response.close(LINGER_S if parser.done or parser.usage_closed else 0.0)

    def _wait_on(self) -> None:
        """An event came: from now on the next one is waited for. Once all choices have finished, the end is, once."""
        self._events = self._parser.events
        now = self._time()
        if now - self._waits_since > self._longest_gap_s:
            self._note_gap(now)
        self._waits_since = now
        if self._tail or self._whole:
            return
        self._tail = self._finished
        timing = self._timing
        wait_s = timing.idle_s
        if self._tail:
            wait_s = timing.tail_s if self._parser.usage is None else min(LINGER_S, timing.tail_s)
        at = now + wait_s
        if at < timing.deadline_at:
            self._response.set_deadline(at, _STALLED, "no event came within the idle limit")
        else:
            self._response.set_deadline(timing.deadline_at, _STALLED, "the request's deadline passed")

    def _note_gap(self, now: float) -> None:
        """How long the last wait took, if it was the longest: waiting alone, not a caller who reads slowly."""
        if self._first_token_at is not None and self._first_token_at <= self._waits_since:
            self._longest_gap_s = max(now - self._waits_since, self._longest_gap_s)

    def _raise_trouble(self) -> None:
        parser = self._parser
        if self._finished:
            return
        if parser.error is not None:
            raise self._failure_of(parser.error, self._response)
        if parser.malformed is not None:
            raise self._failure(FailureKind.MALFORMED_EVENT, parser.malformed)

    def _cut(self) -> Failure:
        if self._response.bytes_received == 0:
            return self._failure(FailureKind.MALFORMED_BODY, "the stream is empty")
        return self._failure(FailureKind.STREAM_CUT, "the stream ended without a finish reason")

    def _failure(self, kind: FailureKind, message: str) -> Failure:
        response = self._response
        return Failure(kind, message, status=response.status, bytes_received=response.bytes_received)


def _whole_events(events: bytes, most: int) -> bytes:
    """``events``, or as many whole ones of their beginning as have room in ``most`` bytes."""
    return events if len(events) <= most else b"".join(events[:most].rpartition(b"\n\n")[:2])
