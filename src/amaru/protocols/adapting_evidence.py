"""Finds in a sample of answers what would make them OpenAI's: other names for fields, and fields that are missing.

Nothing is guessed. A field counts as renamed where it is missing throughout the sample, and exactly one other field in
its place has a name known for it and a value that it could hold. A field counts as an envelope where the sample has no
answer outside of it, and one in it. Where two could be an answer's content, or where the rules found do not make the
sample an answer, there is no adaptation. This runs outside of requests, on a sample that somebody kept.
"""

from __future__ import annotations

from amaru.domain import Kind
from amaru.protocols.adapting import (
    MAX_OBJECTS,
    Adaptation,
    Adapted,
    Adapter,
    Blanks,
    EventAdapter,
    Rule,
    rename,
    supplied,
)
from amaru.protocols.adapting_fields import (
    ENVELOPES,
    LEVELS,
    Field,
    Fields,
    Level,
    absent,
    fits,
    has_core,
    plain,
    read_fields,
    read_items,
    unwrapped,
)
from amaru.protocols.answers import parse_answer
from amaru.protocols.sse import EventSplitter, parse_event
from amaru.protocols.stream import StreamParser

MAX_SAMPLE_BYTES = 4 * 1024 * 1024
"""A larger sample is not looked at: one answer is enough."""

_BLANKS = Blanks("sample", 0, "sample")


class _AmbiguousError(ValueError):
    """Two fields could be the one that an answer cannot be without."""


def find_adaptation(kind: Kind, body: bytes, *, stream: bool) -> Adaptation | None:
    """What makes answers like ``body`` OpenAI's: a whole answer, or the events of a stream, its last ones or none.

    ``None``: it is OpenAI's already, it is an error, or it cannot be made an answer without guessing.
    """
    level = LEVELS.get((kind, stream))
    if level is None or len(body) > MAX_SAMPLE_BYTES or body.count(b"{") > MAX_OBJECTS:
        return None
    try:
        answers = _events(body) if stream else [read_fields(body)]
        if not answers or any(not absent(answer.get("error")) for answer in answers):
            return None
        rules = []
        envelope = _envelope(level, answers, stream=stream)
        if envelope is not None:
            answers = [unwrapped(envelope, answer) or answer for answer in answers]
            rules.append(Rule(kind, stream, "", envelope))
        rules += _Search(kind, stream).look(level, answers)
        adaptation = Adaptation(tuple(rules))
        return adaptation if rules and _is_answer(kind, body, adaptation, stream=stream) else None
    except (ValueError, RecursionError):  # no JSON, no object where one should be, or ambiguous
        return None


def _events(body: bytes) -> list[Fields]:
    """The chunks of a stream; an event that is cut off by the sample's end is passed over."""
    answers = []
    for block in EventSplitter().feed(body):
        event = parse_event(block)
        if event.data is not None and event.data.strip() not in (b"", b"[DONE]") and event.event in (b"", b"message"):
            answers.append(read_fields(event.data))
    return answers


def _envelope(level: Level, answers: list[Fields], *, stream: bool) -> str | None:
    """The one field that holds the answers, each of which stands in an object of its own."""
    if any(_could_be(level, answer, stream=stream) for answer in answers):
        return None
    found = {
        name
        for answer in answers
        for name in answer
        if plain(name) in ENVELOPES
        and (inside := unwrapped(name, answer)) is not None
        and _could_be(level, inside, stream=stream)
    }
    if len(found) > 1:
        raise _AmbiguousError(f"{len(found)} fields could hold the answer")
    return found.pop() if found else None


def _could_be(level: Level, fields: Fields, *, stream: bool) -> bool:
    """Whether an object holds what an answer cannot be without, under its own name or one known for it."""
    known = level.names()
    return has_core(level, fields, piece=stream) or any(
        (field := known.get(plain(name))) is not None and field.core and fits(field.holds, value, piece=False)
        for name, value in fields.items()
    )


def _is_answer(kind: Kind, body: bytes, adaptation: Adaptation, *, stream: bool) -> bool:
    """Whether the sample, adapted, says anything."""
    adapter = Adapter(Adapted(adaptation), kind, stream=stream, blanks=_BLANKS)
    if not stream:
        answer = parse_answer(kind, adapter.rewrite(body))
        return answer.error is None and (kind is Kind.EMBEDDING or any(answer.output_text))
    events = EventAdapter(adapter)
    parser = StreamParser(include_usage=True)
    parser.feed(events.feed(body) + events.end())
    return parser.malformed is None and parser.error is None and parser.has_content


class _Search:
    """Goes down the objects of a sample; those on the way are rewritten, so that what lies below is found."""

    def __init__(self, kind: Kind, stream: bool) -> None:
        self._kind = kind
        self._stream = stream

    def look(self, level: Level, objects: list[Fields]) -> list[Rule]:
        """The rules for ``objects``, which all stand at ``level``, and for what is in them."""
        renamed = [(field, source) for field in level.fields if (source := self._source(level, field, objects))]
        for fields in objects:
            rename(renamed, fields, piece=self._stream)
        rules = [self._rule(level, field, source) for field, source in renamed]
        rules += [self._rule(level, field, None) for field in level.fields if self._is_supplied(level, field, objects)]
        for field in level.fields:
            values = [value for fields in objects if (value := fields.get(field.name)) and not absent(value)]
            if field.core and not values and field.name != "content":  # a call of a tool comes without
                raise ValueError(f"no {level.place(field.name)}")
            if field.below is not None and values:
                many = field.below.path.endswith("[]")
                items = [item for value in values for item in read_items(value)] if many else values
                rules += self.look(field.below, [read_fields(item) for item in items])
        return rules

    def _rule(self, level: Level, field: Field, source: str | None) -> Rule:
        return Rule(self._kind, self._stream, level.place(field.name), source)

    def _source(self, level: Level, field: Field, objects: list[Fields]) -> str | None:
        """The one other name that the field has in the sample; ``None``: it has its own, or none that is known."""
        if any(not absent(fields.get(field.name)) for fields in objects):
            return None
        known = level.names()
        own = {each.name for each in level.fields}
        found = {
            name
            for fields in objects
            for name, value in fields.items()
            if name not in own and known.get(plain(name)) is field and fits(field.holds, value, piece=False)
        }
        if len(found) > 1 and field.core:
            raise _AmbiguousError(f"{level.place(field.name)}: {len(found)} fields could be it")
        return found.pop() if len(found) == 1 else None

    def _is_supplied(self, level: Level, field: Field, objects: list[Fields]) -> bool:
        lacking = [fields for fields in objects if absent(fields.get(field.name))]
        if not field.default or not lacking:
            return False
        if field.name == "usage":
            return True
        if field.name == "role" and self._stream:  # it stands in a stream's first event alone
            return len(lacking) == len(objects)
        return all(
            supplied(self._kind, level, field.name, fields, 0, _BLANKS, stream=self._stream) is not None
            for fields in lacking
        )
