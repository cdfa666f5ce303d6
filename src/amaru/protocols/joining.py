"""How a later answer is put behind the part of an earlier one that the caller already has.

``Joint`` rewrites the events of the later stream: what the caller has is taken out, character for character, and what
remains carries the identity (``id``, ``model``, …) of the first. A later answer that does not begin with what was sent
cannot be joined: two answers would be mixed into one that nobody gave.

A later answer comes in two ways. A *continuation* goes on from the text that was sent, so nothing of it should come
again (but the white space at its end, which is left out of what is continued). An answer *begun anew* has to repeat all
of it. Some providers take the request for a continuation for an ordinary one and begin anew, with too low a token limit
at that; this is noticed by the repetition. Where it cannot be told, it is not joined either.
"""

from __future__ import annotations

import contextlib
import os.path
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from amaru.domain import Usage
from amaru.protocols.holding import MAX_HELD_BYTES
from amaru.protocols.sse import EventSplitter, parse_event
from amaru.protocols.stream import MAX_TEXT_CHARS, Sent

Json = dict[str, Any]  # Any: a JSON object

TELLING_CHARS = 12
"""A continuation that begins like what it should continue, for so many characters at least, was begun anew. Less may
well come twice in one answer, unless all that was sent is no more."""
TELLING_DISTINCT = 6
"""Of so many different characters at least: a ruled line goes on as it began."""
SETTLED_CHARS = 200
"""When so much has been repeated there is no doubt any more."""
_REASONING = ("reasoning_content", "reasoning")
_TEXT = frozenset(("role", "content", *_REASONING))
_IDENTITY = ("id", "object", "created", "model", "system_fingerprint", "service_tier")


class DivergedError(Exception):
    """The later answer does not repeat what was sent: it cannot be joined."""


class NotContinuedError(DivergedError):
    """The later answer should have been a continuation, and was begun anew.

    ``certain`` is false where it only looks so: the answer may go on the way it began. To join it would be a guess.
    """

    def __init__(self, *, certain: bool) -> None:
        super().__init__()
        self.certain = certain


def continued_part(sent: Sent) -> str:
    """The text to be continued: without the white space at its end, on which many models cannot build."""
    return sent.content.rstrip()


class Joint:
    """Joins one later stream to what was sent.

    Parameters
    ----------
    head
        The first event that the caller got: its identity is kept.
    sent
        What the caller has.
    continues
        The later answer was asked to go on from ``continued_part(sent)``; else it was begun anew.
    retell
        Turns the provider's ``usage`` into the caller's.

    Attributes
    ----------
    told_usage
        The caller was told the usage that came last.
    """

    def __init__(self, head: bytes, sent: Sent, *, continues: bool, retell: Callable[[Json], Json]) -> None:
        self._identity = _identity(head)
        self._reasoning_names = _reasoning_names(head)
        self._sent = sent
        self._retell = retell
        self._splitter = EventSplitter()
        self._expected = sent.content
        self._expected_reasoning = "" if sent.content or continues else sent.reasoning
        """The reasoning of an answer whose content has begun is over; only the content needs to be joined then."""
        self._drops_reasoning = bool(sent.content) or continues
        self._echo: list[bytes] | None = None
        """Events of a continuation so far, while they might be an answer begun anew; ``None``: that is settled."""
        self._echo_bytes = 0
        self._echoed = ""
        self._continues = continues
        if continues:
            self._expected = sent.content[len(continued_part(sent)) :]
            self._echo = []
        self.told_usage = False
        self._contents: list[str] = []
        self._reasonings: list[str] = []
        self._chars = len(sent.content) + len(sent.reasoning)
        self._choices: set[int] = set()
        self._opaque = False

    @property
    def sent(self) -> Sent:
        """What the caller has now, of all attempts together."""
        before = self._sent
        if self._choices:  # of several choices none is ever sent in part
            return Sent(choices=before.choices | self._choices)
        return Sent(
            before.content + "".join(self._contents),
            before.reasoning + "".join(self._reasonings),
            before.events + len(self._contents),
            before.reasoning_events + len(self._reasonings),
            before.choices,
            before.opaque or self._opaque,
        )

    def take(self, events: bytes) -> bytes:
        """The part of these whole events that the caller does not have yet; ``b""`` while it is all repetition.

        Raises
        ------
        DivergedError
            It is another answer; ``NotContinuedError``: the same or another, but begun anew.
        """
        out: list[bytes] = []
        try:
            for block in self._splitter.feed(events):
                data = parse_event(block).data
                if data is not None:
                    out += self._joined(self._settled(data))
        except (ValueError, OverflowError, RecursionError):  # read as a chunk, and yet not to be written again
            raise DivergedError from None
        return b"".join(out)

    def end(self) -> bytes:
        """The later stream is whole: what of it had to wait until now.

        Not every provider sends a finish reason, at which ``take`` would have noticed what is raised here.

        Raises
        ------
        DivergedError
            It ended before it had repeated all that was sent; ``NotContinuedError``: before one could tell whether it
            goes on from there.
        """
        held, self._echo = self._echo or [], None
        if self._echoed:
            raise NotContinuedError(certain=False)
        out = b"".join(self._joined(map(_read, held)))
        if not self._choices:
            self._must_be_through()
        return out

    def usage_event(self, usage: Usage) -> bytes:
        """A closing event with ``usage``, for a provider that told none."""
        return _event({**self._identity, "choices": [], "usage": _wire_usage(usage)})

    # ---- was the continuation begun anew? -----------------------------------------------------------------------

    def _settled(self, data: bytes) -> Iterable[Json]:
        """The events that may be joined now: none while it is open whether the answer was begun anew."""
        event = _read(data)
        if self._echo is None:
            return (event,)
        self._echo.append(data)
        self._echo_bytes += len(data)
        if self._echo_bytes > MAX_HELD_BYTES:
            raise DivergedError
        self._echoed += "".join(_content(choice) for choice in event.get("choices") or ())
        begun, sent = self._echoed, self._sent.content[:SETTLED_CHARS]
        reasons = [choice.get("finish_reason") for choice in event.get("choices") or ()]
        if len(begun) < len(sent) and sent.startswith(begun) and not any(reasons):
            return ()
        same = os.path.commonprefix((begun, sent))  # noqa: RUF071 - of texts, character by character
        repeats = bool(begun) and same in (begun, sent)
        # A provider that begins anew and stops on the way is out of tokens, of which it was allowed too few.
        if _is_telling(same) or (repeats and (same == sent or "length" in reasons)):
            raise NotContinuedError(certain=repeats and _is_telling(same))
        held, self._echo, self._echoed = self._echo, None, ""
        return map(_read, held)

    # ---- joining ------------------------------------------------------------------------------------------------

    def _joined(self, events: Iterable[Json]) -> list[bytes]:
        kept = [self._join(event) for event in events]
        return [_event(event) for event in kept if event is not None]

    def _join(self, event: Json) -> Json | None:
        event.update(self._identity)
        has_usage = isinstance(event.get("usage"), dict)
        if has_usage:
            event["usage"] = self._retell(event["usage"])
        given = event.get("choices")
        if given:
            event["choices"] = [choice for choice in given if self._join_choice(choice)]
            if not event["choices"]:  # its usage, which some send with every token, is none that the caller asked for
                self.told_usage = self.told_usage and not has_usage
                return None
        self.told_usage = self.told_usage or has_usage
        return event

    def _join_choice(self, choice: Json) -> bool:
        """Take out of one choice what the caller has; whether anything is left."""
        if (choice.get("index") or 0) in self._sent.choices:
            return False
        delta = choice.get("delta")
        reason = choice.get("finish_reason")
        content = _content(choice)
        if isinstance(delta, dict):
            if not self._sent.choices:  # else nothing of this choice was sent, not even its role
                delta.pop("role", None)
            self._join_reasoning(delta)
            if isinstance(delta.get("content"), str):
                delta["content"] = self._new_content(content)
            if any(value and not (name in _TEXT and isinstance(value, str)) for name, value in delta.items()):
                self._must_be_through()
                self._opaque = True
            left = any(delta.values())
        else:
            left = bool(choice["text"]) if isinstance(choice.get("text"), str) else False
            if left:
                choice["text"] = self._new_content(content)
                left = bool(choice["text"])
        if reason:
            self._must_be_through()
            self._choices.add(choice.get("index") or 0)
        return left or bool(reason)

    def _join_reasoning(self, delta: Json) -> None:
        """Of two names for one reasoning, as some providers send it, the first is read (as ``reasoning_of`` does)."""
        names = [name for name in _REASONING if delta.get(name)]
        if self._drops_reasoning:
            delta.pop("reasoning_details", None)  # OpenRouter: the same once more, in parts
            for name in names:
                delta[name] = ""
        elif names and isinstance(text := delta[names[0]], str):
            new, self._expected_reasoning = _beyond(text, self._expected_reasoning)
            for name in names:
                del delta[name]
            delta.update(dict.fromkeys(self._reasoning_names or names, new))
            self._note(new, self._reasonings)

    def _new_content(self, text: str) -> str:
        if text and self._expected_reasoning:
            raise DivergedError
        new, self._expected = _beyond(text, self._expected)
        self._note(new, self._contents)
        return new

    def _note(self, new: str, pieces: list[str]) -> None:
        """Remember what the caller gets, for a break to come; of too long an answer no more is kept."""
        self._chars += len(new)
        if self._chars > MAX_TEXT_CHARS:
            self._opaque = True
        elif new:
            pieces.append(new)

    def _must_be_through(self) -> None:
        """The end, and what is not text, may only follow when all that was sent has been repeated.

        A continuation need not repeat white space that it was not shown.
        """
        if self._expected_reasoning or (self._expected.strip() if self._continues else self._expected):
            raise DivergedError


def closing_events(head: bytes, chat: bool, reason: str, usage: Usage | None) -> bytes:
    """The end of an answer that is whole though its provider did not say so: the finish reason, and the usage."""
    identity = _identity(head)
    piece: Json = {"delta": {}} if chat else {"text": ""}
    events = _event({**identity, "choices": [{"index": 0, **piece, "logprobs": None, "finish_reason": reason}]})
    if usage is not None:
        events += _event({**identity, "choices": [], "usage": _wire_usage(usage)})
    return events


def _read(data: bytes) -> Json:
    return msgspec.json.decode(data)  # type: ignore[no-any-return]  # an object: the parser has read it as a chunk


def _beyond(text: str, expected: str) -> tuple[str, str]:
    """What ``text`` holds beyond ``expected``, and what of ``expected`` is still to come."""
    if not expected:
        return text, ""
    if expected.startswith(text):
        return "", expected[len(text) :]
    if text.startswith(expected):
        return text[len(expected) :], ""
    raise DivergedError


def _is_telling(text: str) -> bool:
    return len(text) >= TELLING_CHARS and len(set(text)) >= TELLING_DISTINCT


def _content(choice: Json) -> str:
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    return text if isinstance(text, str) else ""


def _identity(head: bytes) -> Json:
    """What every chunk of an answer repeats, from the first of ``head`` that has an id or a model."""
    for chunk in _chunks(head):
        found = {name: chunk[name] for name in _IDENTITY if name in chunk}
        if found.get("id") or found.get("model"):
            return found
    return {}


def _reasoning_names(head: bytes) -> list[str]:
    """By which names an answer that begins with reasoning calls it: who reads one of them must find all of it there."""
    for choice in (choice for chunk in _chunks(head) for choice in chunk.get("choices") or ()):
        names = [name for name in _REASONING if (choice.get("delta") or {}).get(name)]
        if names:
            return names
    return []


def _chunks(events: bytes) -> Iterator[Json]:
    for block in EventSplitter().feed(events):
        data = parse_event(block).data
        with contextlib.suppress(ValueError, RecursionError):  # a number out of range
            yield msgspec.json.decode(data) if data else {}


def _wire_usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _event(fields: Json) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(fields)
