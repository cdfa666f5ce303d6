"""Tolerant decoding: an answer whose fields have other names, or lack what can be supplied, becomes OpenAI's.

An ``Adaptation`` is a list of rules that were found in answers which a provider really sent (``adapting_evidence.py``).
It changes what it has a rule for and nothing else: values keep their bytes, fields that we do not know stay, and an
answer that is OpenAI's already comes back as it is. It never raises: what cannot be rewritten is left to those who
judge answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec
from msgspec import Raw, Struct

from amaru.domain import Kind, Usage
from amaru.protocols.adapting_fields import (
    LEVELS,
    REASONS,
    Field,
    Fields,
    Holds,
    Level,
    absent,
    fits,
    has_core,
    read_fields,
    read_items,
    unwrapped,
)
from amaru.protocols.sse import EventSplitter, EventTooLargeError, parse_event

MAX_OBJECTS = 2**17
"""Of an answer that is rewritten; larger ones are left as they are. 2,048 embeddings are as many objects."""

_UNNAMED = (b"", b"message")
_OBJECTS = {
    (Kind.CHAT, False): "chat.completion",
    (Kind.CHAT, True): "chat.completion.chunk",
    (Kind.COMPLETION, False): "text_completion",
    (Kind.COMPLETION, True): "text_completion",
    (Kind.EMBEDDING, False): "list",
}
_SUPPLIED = {
    "id": "one of amaru's own",
    "object": "OpenAI's word for the kind of answer",
    "created": "the time of its arrival",
    "model": "the model that was asked for",
    "index": "its place in the list",
    "role": "assistant",
    "usage": "amaru's own count",
    "total_tokens": "the sum of the two",
}
_write = msgspec.json.encode


class Rule(Struct, frozen=True, gc=False):
    """How one field of one kind of answer is come by.

    ``path`` is where OpenAI has it (``choices[].message.content``); empty: it is the whole answer. ``source`` is the
    name under which the provider sends it, in the same place; ``None``: it does not, and amaru supplies it.
    """

    kind: Kind
    stream: bool
    path: str
    source: str | None = None

    @property
    def words(self) -> str:
        """For people: ``choices[].message.text read as content``."""
        if not self.path:
            return f"{self.source} read as the whole answer"
        place, _, name = self.path.rpartition(".")
        if self.source is None:
            return f"{self.path} missing or null: {_SUPPLIED[name]}"
        return f"{place}.{self.source} read as {name}" if place else f"{self.source} read as {name}"


class Adaptation(Struct, frozen=True, gc=False):
    """Rules for the answers of one offer; ``a | b`` are those of both, b's where both know a kind of answer."""

    rules: tuple[Rule, ...]

    def __or__(self, newer: Adaptation) -> Adaptation:
        known = {(rule.kind, rule.stream) for rule in newer.rules}
        return Adaptation((*(rule for rule in self.rules if (rule.kind, rule.stream) not in known), *newer.rules))

    @property
    def words(self) -> tuple[str, ...]:
        """Each rule in words, for people."""
        return tuple(dict.fromkeys(rule.words for rule in self.rules))

    def knows(self, kind: Kind, *, stream: bool) -> bool:
        """Whether it has a rule for such answers."""
        return any(rule.kind is kind and rule.stream is stream for rule in self.rules)


class Adapted(Struct, gc=False):
    """An adaptation in use. Where ``rewritten`` stands still while ``answers`` grows, it is needed no longer."""

    adaptation: Adaptation
    answers: int = 0
    rewritten: int = 0
    """Those of them that it changed."""


class Blanks(Struct, frozen=True, gc=False):
    """What an answer that lacks them is given. ``id`` is of this answer alone: clients tell answers apart by it."""

    id: str
    created: int
    model: str


class _Rules(Struct, gc=False):
    """The rules of one kind of answer, by the object that they concern."""

    envelope: str | None = None
    """The field in which the whole answer stands."""
    renamed: dict[str, list[tuple[Field, str]]] = {}
    supplied: dict[str, list[Field]] = {}
    paths: set[str] = set()
    """The objects that must be looked at."""


@lru_cache(maxsize=512)
def _compiled(adaptation: Adaptation, kind: Kind, stream: bool) -> _Rules:
    rules = _Rules()
    for rule in adaptation.rules:
        if rule.kind is not kind or rule.stream is not stream:
            continue
        if not rule.path:
            rules.envelope = rule.source
        else:
            _add(rules, LEVELS[kind, stream], rule)
    return rules


def _add(rules: _Rules, level: Level, rule: Rule) -> bool:
    found = False
    for field in level.fields:
        if level.place(field.name) == rule.path:
            if rule.source is None:
                rules.supplied.setdefault(level.path, []).append(field)
            else:
                rules.renamed.setdefault(level.path, []).append((field, rule.source))
            found = True
        elif field.below is not None:
            found |= _add(rules, field.below, rule)
    if found:
        rules.paths.add(level.path)
    return found


class Adapter:
    """Rewrites one answer, whole or event by event, as an adaptation has it, and counts it there.

    ``choices`` is how many the request asked for: which one an event belongs to can be supplied only where there is
    but one.
    """

    __slots__ = (
        "_adapted", "_blanks", "_changed", "_choice", "_choices", "_kind", "_level", "_opened", "_rules", "_stream",
        "counts_usage",
    )  # fmt: skip

    def __init__(self, adapted: Adapted, kind: Kind, *, stream: bool, blanks: Blanks, choices: int = 1) -> None:
        self._rules = _compiled(adapted.adaptation, kind, stream)
        adapted.answers += 1
        self._adapted = adapted
        self._changed = False
        self._level = LEVELS[kind, stream]
        self._kind = kind
        self._stream = stream
        self._blanks = blanks
        self._choices = choices
        self._choice = b"0"
        """The index of the choice that is being rewritten."""
        self._opened: set[bytes] = set()
        """Of a stream: the choices whose first event has passed."""
        self.counts_usage = any(field.name == "usage" for field in self._rules.supplied.get("", ()))
        """An answer without usage is to be given one: see ``with_usage``."""

    def rewrite(self, data: bytes) -> bytes:
        """A whole answer, or the data of one event; ``data`` itself where there is nothing to change."""
        if data.count(b"{") > MAX_OBJECTS:
            return data
        try:
            sent = read_fields(data)
            fields = self._unwrapped(sent)
            changed = self._object(self._level, fields, 0) and absent(fields.get("error"))
            if fields is sent and not (changed and has_core(self._level, fields, piece=self._stream)):
                return data  # no answer: an error without its frame, perhaps
            rewritten = _write(fields)
        except (ValueError, RecursionError):
            return data
        self.count()
        return rewritten

    def count(self) -> None:
        """The answer needed it: counted once, however often this is called."""
        if not self._changed:
            self._changed = True
            self._adapted.rewritten += 1

    def _unwrapped(self, sent: Fields) -> Fields:
        """The answer's own fields: ``sent``, unless that is but an envelope around them."""
        envelope = self._rules.envelope
        if envelope is None or has_core(self._level, sent, piece=self._stream):
            return sent
        return unwrapped(envelope, sent) or sent

    def _object(self, level: Level, fields: Fields, place: int) -> bool:
        """Rewrite one object in its place; whether anything changed."""
        changed = rename(self._rules.renamed.get(level.path, ()), fields, piece=self._stream)
        for field in self._rules.supplied.get(level.path, ()):
            if self._stream and field.name == "role" and not self._opens_choice():
                continue
            if absent(fields.get(field.name)):
                value = self._supplied(level, field.name, fields, place)
                if value is not None:
                    fields[field.name] = value
                    changed = True
        if level.path == "choices[]":
            self._choice = bytes(fields.get("index", b"0"))
        for field in level.fields:
            if field.below is not None and field.below.path in self._rules.paths:
                value = fields.get(field.name)
                rewritten = None if value is None or absent(value) else self._below(field.below, value)
                if rewritten is not None:
                    fields[field.name] = rewritten
                    changed = True
        return changed

    def _below(self, level: Level, value: Raw) -> Raw | None:
        if not level.path.endswith("[]"):
            fields = read_fields(value)
            return Raw(_write(fields)) if self._object(level, fields, 0) else None
        items = read_items(value)
        changed = False
        for place, item in enumerate(items):
            fields = read_fields(item)
            if self._object(level, fields, place):
                items[place] = Raw(_write(fields))
                changed = True
        return Raw(_write(items)) if changed else None

    def _opens_choice(self) -> bool:
        """Whether this is the first event of its choice, which is the one with the role."""
        if self._choice in self._opened or len(self._opened) >= self._choices:
            return False
        self._opened.add(self._choice)
        return True

    def _supplied(self, level: Level, name: str, fields: Fields, place: int) -> Raw | None:
        if name == "index" and self._stream and self._choices > 1:
            return None  # nobody knows which of the choices this is
        return supplied(self._kind, level, name, fields, place, self._blanks, stream=self._stream)


def rename(rules: Iterable[tuple[Field, str]], fields: Fields, *, piece: bool) -> bool:
    """Put values under OpenAI's names where those stand empty; whether any was moved."""
    moved = False
    for field, source in rules:
        value = fields.get(source)
        if value is None or not absent(fields.get(field.name)):
            continue
        if absent(value):
            if field.name not in fields:
                fields[field.name] = fields.pop(source)
                moved = True
            continue
        if not fits(field.holds, value, piece=piece):
            continue
        del fields[source]
        if field.holds is Holds.REASON:
            value = Raw(REASONS.get(bytes(value).lower(), bytes(value)))
        elif field.holds is Holds.MESSAGE and bytes(value).startswith(b'"'):
            value = Raw(_write({"content": value}))
        fields[field.name] = value
        moved = True
    return moved


def supplied(
    kind: Kind, level: Level, name: str, fields: Fields, place: int, blanks: Blanks, *, stream: bool
) -> Raw | None:
    """What an answer gets for the field ``name`` that it lacks; ``None`` where that cannot be told from it."""
    match name:
        case "id" | "model":
            return Raw(_write(getattr(blanks, name)))
        case "created":
            return Raw(b"%d" % blanks.created)
        case "object":
            return Raw(_write("embedding" if level.path else _OBJECTS[kind, stream]))
        case "index":
            return Raw(b"%d" % place)
        case "role":
            return Raw(b'"assistant"')
        case "total_tokens":
            both = [bytes(fields.get(each, Raw(b"null"))) for each in ("prompt_tokens", "completion_tokens")]
            return Raw(b"%d" % sum(map(int, both))) if all(part.isdigit() and len(part) < 11 for part in both) else None
    return None


def with_usage(kind: Kind, body: bytes, usage: Usage) -> bytes:
    """``body``, a whole answer without usage, with that of ``usage``."""
    told = {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens + usage.output_tokens}
    if kind is not Kind.EMBEDDING:
        told["completion_tokens"] = usage.output_tokens
    fields = read_fields(body)
    return _write({**fields, "usage": told}) if absent(fields.get("usage")) else body


class EventAdapter:
    """The events of one stream, rewritten as they pass.

    What is no event of an answer (comments, ``[DONE]``, events of another name) passes as it is.
    """

    __slots__ = ("_adapter", "_lost", "_splitter")

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._splitter = EventSplitter()
        self._lost = False
        """An event was larger than any may be: whoever reads the stream on will say so."""

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; gives back the events that are whole."""
        if self._lost:
            return data
        try:
            blocks = self._splitter.feed(data)
        except EventTooLargeError:
            self._lost = True
            return self._splitter.rest
        return b"".join([self._block(block) for block in blocks])

    def end(self) -> bytes:
        """The bytes are over: what stands behind the last whole event, which may lack only its blank line."""
        rest = b"" if self._lost else self._splitter.rest
        self._lost = True
        return self._block(rest).removesuffix(b"\n\n") if rest else b""

    def _block(self, block: bytes) -> bytes:
        event = parse_event(block)
        if event.data is None or event.event not in _UNNAMED:
            return block
        rewritten = self._adapter.rewrite(event.data)
        if rewritten is event.data:
            return block
        if b"\n" in rewritten or b"\r" in rewritten:  # the provider sent it in several lines
            rewritten = msgspec.json.format(rewritten, indent=-1)
        return b"data: %b\n\n" % rewritten
