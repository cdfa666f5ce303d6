"""Adapting in general: what is OpenAI's stays, what the table knows is undone, and nothing at all makes it raise."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from amaru.domain import Kind
from amaru.protocols.adapting import Adaptation, Adapted, Adapter, Blanks, EventAdapter, Rule
from amaru.protocols.adapting_evidence import find_adaptation
from amaru.protocols.adapting_fields import LEVELS, Level
from amaru.protocols.stream import StreamParser

BLANKS = Blanks("chatcmpl-own", 1_700_000_000, "their-model")
TEXT = st.text(min_size=1, max_size=20)
REASON = st.sampled_from(["stop", "length", "content_filter"])
COUNT = st.integers(0, 10**6)
UNKNOWN = st.dictionaries(st.sampled_from(["x_one", "citations", "service_tier"]), st.none() | COUNT | TEXT, max_size=2)
HEAD = {"id": TEXT, "object": TEXT, "created": COUNT, "model": TEXT}
CALLS = st.fixed_dictionaries({"id": TEXT, "function": st.fixed_dictionaries({"name": TEXT, "arguments": TEXT})})


@st.composite
def wholes(draw: st.DrawFn) -> dict[str, Any]:
    """OpenAI's whole chats."""
    choices = []
    for index in range(draw(st.integers(1, 3))):
        message: dict[str, Any] = {"role": "assistant", "content": draw(TEXT), **draw(UNKNOWN)}
        if draw(st.booleans()):
            message["tool_calls"] = [draw(CALLS)]
        choices.append({"index": index, "message": message, "finish_reason": draw(REASON), **draw(UNKNOWN)})
    read, written = draw(COUNT), draw(COUNT)
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    return {**draw(st.fixed_dictionaries(HEAD)), "choices": choices, "usage": usage, **draw(UNKNOWN)}


@st.composite
def streams(draw: st.DrawFn) -> list[dict[str, Any]]:
    """OpenAI's streamed chats, event by event."""
    head = draw(st.fixed_dictionaries(HEAD))
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": text} for text in draw(st.lists(TEXT, min_size=1, max_size=4))]
    chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": draw(REASON)}]})
    if draw(st.booleans()):
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        chunks.append({**head, "choices": [], "usage": usage})
    return chunks


def _names(level: Level) -> set[str]:
    names = {name for field in level.fields for name in (field.name, *field.others)}
    return names.union(*(_names(field.below) for field in level.fields if field.below is not None))


NAMES = st.sampled_from(sorted({"error"}.union(*map(_names, LEVELS.values()))))
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(NAMES, below, max_size=5),
    max_leaves=25,
)


def every_rule(kind: Kind, *, stream: bool) -> Adaptation:
    """All that could ever be found: each known name of each field, and each default."""

    def rules(level: Level) -> list[Rule]:
        found = []
        for field in level.fields:
            found += [Rule(kind, stream, level.place(field.name), name) for name in field.others]
            found += [Rule(kind, stream, level.place(field.name))] if field.default else []
            found += rules(field.below) if field.below is not None else []
        return found

    return Adaptation((Rule(kind, stream, "", "data"), *rules(LEVELS[kind, stream])))


def adapter_of(adaptation: Adaptation, kind: Kind = Kind.CHAT, *, stream: bool = False) -> Adapter:
    return Adapter(Adapted(adaptation), kind, stream=stream, blanks=BLANKS)


def events_of(chunks: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: %b\n\n" % msgspec.json.encode(chunk) for chunk in chunks) + b"data: [DONE]\n\n"


@given(wholes())
def test_an_answer_that_is_openais_stays_the_very_bytes(answer: dict[str, Any]) -> None:
    body = json.dumps(answer, indent=1).encode()
    assert adapter_of(every_rule(Kind.CHAT, stream=False)).rewrite(body) is body
    assert find_adaptation(Kind.CHAT, body, stream=False) is None


@given(streams(), st.data())
def test_a_stream_that_is_openais_stays_the_very_bytes(chunks: list[dict[str, Any]], data: st.DataObject) -> None:
    events = events_of(chunks)
    adapter = EventAdapter(adapter_of(every_rule(Kind.CHAT, stream=True), stream=True))
    cut = data.draw(st.integers(0, len(events)))
    assert adapter.feed(events[:cut]) + adapter.feed(events[cut:]) + adapter.end() == events
    assert find_adaptation(Kind.CHAT, events, stream=True) is None


def renamed(level: Level, value: dict[str, Any], data: st.DataObject, chosen: dict[str, str]) -> dict[str, Any]:
    """``value`` with fields under other names of the table, the same ones everywhere."""
    out = dict(value)
    for field in level.fields:
        if field.name not in out:
            continue
        if field.below is not None and out[field.name]:
            held = out[field.name]
            out[field.name] = (
                [renamed(field.below, item, data, chosen) for item in held]
                if isinstance(held, list)
                else renamed(field.below, held, data, chosen)
            )
        place = level.place(field.name)
        if place not in chosen:
            names = (field.name, *(name for name in field.others if name not in value))
            chosen[place] = data.draw(st.sampled_from(names), label=place)
        out[chosen[place]] = out.pop(field.name)
    return out


@given(wholes(), st.data())
def test_names_of_the_table_are_undone_in_whole_answers(answer: dict[str, Any], data: st.DataObject) -> None:
    chosen: dict[str, str] = {}
    envelope = data.draw(st.none() | st.sampled_from(["data", "Result", "response"]), label="envelope")
    sent = renamed(LEVELS[Kind.CHAT, False], answer, data, chosen)
    body = json.dumps(sent if envelope is None else {envelope: sent}).encode()
    if envelope is None and all(place.rpartition(".")[2] == name for place, name in chosen.items()):
        assert find_adaptation(Kind.CHAT, body, stream=False) is None
        return
    found = find_adaptation(Kind.CHAT, body, stream=False)
    assert found is not None
    assert json.loads(adapter_of(found).rewrite(body)) == answer
    renames = sum(place.rpartition(".")[2] != name for place, name in chosen.items())
    assert sum(rule.source is not None for rule in found.rules) == renames + (envelope is not None)


@given(streams(), st.data())
def test_names_of_the_table_are_undone_in_streams(chunks: list[dict[str, Any]], data: st.DataObject) -> None:
    chosen: dict[str, str] = {}
    sample = events_of([renamed(LEVELS[Kind.CHAT, True], chunk, data, chosen) for chunk in chunks])
    found = find_adaptation(Kind.CHAT, sample, stream=True)
    adapter = EventAdapter(adapter_of(found or Adaptation(()), stream=True))
    told = [
        json.loads(line.removeprefix(b"data: "))
        for line in (adapter.feed(sample) + adapter.end()).split(b"\n\n")
        if line and line != b"data: [DONE]"
    ]
    # A field that stays null moves nowhere, and means nothing.
    assert [_without_nulls(chunk) for chunk in told] == [_without_nulls(chunk) for chunk in chunks]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


MONSTERS = [
    b"[" * 100_000,
    b'{"choices":' * 50_000,
    b'{"a":1,"a":2}',
    b"\xff",
    b'{"\xff":1}',
    b"nul",
    b'{"outputs":[{}]}',
]
HOSTILE = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()) | st.sampled_from(MONSTERS)


@given(HOSTILE, st.sampled_from(sorted(LEVELS)))
def test_nothing_makes_it_raise(body: bytes, which: tuple[Kind, bool]) -> None:
    kind, stream = which
    sample = b"data: %b\n\n" % body if stream else body
    found = find_adaptation(kind, sample, stream=stream)
    for adaptation in (found or Adaptation(()), every_rule(kind, stream=stream)):
        if stream:
            adapter = EventAdapter(adapter_of(adaptation, kind, stream=True))
            parser = StreamParser(include_usage=True)
            parser.feed(adapter.feed(sample) + adapter.feed(body) + adapter.end())
        else:
            rewritten = adapter_of(adaptation, kind).rewrite(body)
            assert len(rewritten) <= len(body) + 200 * (1 + body.count(b"{"))
    if found is not None:
        assert all(len(words) < 200 and words.isprintable() for words in found.words)


def test_a_flood_of_objects_is_left_as_it_is() -> None:
    body = b'{"outputs":[' + b",".join([b"{}"] * 200_000) + b"]}"
    assert adapter_of(every_rule(Kind.CHAT, stream=False)).rewrite(body) is body
    assert find_adaptation(Kind.CHAT, body, stream=False) is None
