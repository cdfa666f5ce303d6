"""What the providers of the rescue's properties say, how they write it, and what they do with a prefill."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from scripted_provider import Cut, Stream

NAMES = ("alpha", "beta", "gamma")
WITHOUT_SURROGATES = st.characters(exclude_categories=["Cs"])
texts = st.one_of(
    st.text(WITHOUT_SURROGATES, min_size=1, max_size=80),
    st.text("ab ", min_size=1, max_size=40),  # which repeats itself
    st.text("é́ß👩‍🚀🏽漢字नमस्तेשלוםعربى\u2028\x85\u3000\n", min_size=1, max_size=60),
    st.text("The quick brown fox. ", min_size=20, max_size=120),
    st.sampled_from(["ha" * 20, "Once upon a time. " * 4, " \n \n x", "-" * 50, "1. a\n1. a\n1. b\n"]),
)
cuts = st.builds(
    Cut,
    at=st.one_of(st.integers(150, 850), st.integers(-1, 1000)),
    on_event=st.booleans(),
    how=st.sampled_from(["end", "close", "rst"]),
)
SAME = {"continues": True, "repeats": False, "ignores": True, "rejects": True}
"""Kinds of providers that give one and the same answer, and whether they claim to continue one."""
OTHER = {"continues": True, "repeats": False, "rejects": True, "diverges": False, "own words": True}
"""Kinds of providers some of which give another answer. One that did so, and ignored what it was asked to continue,
could not be told from one that goes on in its own words."""
CLAIMS_PREFILL = SAME | OTHER


@dataclass
class Part:
    """One provider: what it does with a prefill, where its first streams break, how it writes, what it answers."""

    kind: str
    cuts: list[Cut]
    seed: int
    chunked: bool
    text: str
    reasoning: str
    asks: int = 0

    @property
    def prefill(self) -> bool:
        return CLAIMS_PREFILL[self.kind]

    @property
    def holds(self) -> bool:
        """It never breaks, and its answer is the one that the others give."""
        return not self.cuts and self.kind in SAME

    def next_cut(self) -> Cut | None:
        self.asks += 1
        return self.cuts[self.asks - 1] if self.asks <= len(self.cuts) else None


@dataclass
class Told:
    """What a provider meant by one answer."""

    content: str
    reasoning: str


@st.composite
def casts(draw: st.DrawFn) -> list[Part]:
    """Three providers of one answer, but for those that diverge. The first breaks."""
    kinds = ["continues", *draw(st.sampled_from([list(SAME), list(OTHER)]))]
    text, reasoning = draw(texts), draw(st.one_of(st.just(""), texts))
    near = st.sampled_from([text.rstrip(), text[:-1], text + "\n", text + text])
    other = draw(st.one_of(texts, near.filter(bool)))
    cast = []
    for place in range(len(NAMES)):
        kind = draw(st.sampled_from(kinds))
        cast.append(
            Part(
                kind,
                draw(st.lists(cuts, min_size=1 if place == 0 else 0, max_size=2)),
                draw(st.integers(0, 2**32)),
                draw(st.booleans()),
                text if kind in SAME else other,
                reasoning if kind in SAME else draw(st.sampled_from([reasoning, "", "Hm."])),
            )
        )
    return cast


def split(text: str, draw: random.Random) -> list[str]:
    """``text`` in pieces, as a provider may send it."""
    bounds = sorted({0, len(text), *(draw.randrange(len(text) + 1) for _ in range(draw.choice((0, 2, 6, 30))))})
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


class Writer:
    """Writes the events of one stream, in one provider's hand."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self._ascii = draw.random() < 0.5
        self._end = draw.choice(("\n\n", "\n\n", "\r\n\r\n"))
        self._identity = {"id": f"c-{draw.randrange(10**6)}", "model": f"m-{draw.randrange(10**6)}", "created": 1}
        self._out: list[str] = []

    def write(self, choices: list[dict[str, Any]], **fields: Any) -> None:
        if self.draw.random() < 0.1:
            self._out.append(f": keep-alive{self._end}")
        data = json.dumps({**self._identity, "choices": choices, **fields}, ensure_ascii=self._ascii)
        self._out.append(f"data: {data}{self._end}")

    def say(self, delta: dict[str, Any], reason: str | None = None, index: int = 0) -> None:
        self.write([{"index": index, "delta": delta, "finish_reason": reason}])

    def end(self) -> bytes:
        if self.draw.random() < 0.7:
            self.write([], usage={"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12})
        if self.draw.random() < 0.8:
            self._out.append(f"data: [DONE]{self._end}")
        return "".join(self._out).encode()


def text_stream(content: str, reasoning: str, draw: random.Random) -> bytes:
    writer = Writer(draw)
    if draw.random() < 0.8:
        writer.say({"role": "assistant", "content": ""})
    names = draw.choice((("reasoning_content",), ("reasoning",), ("reasoning_content", "reasoning")))
    for piece in split(reasoning, draw):
        writer.say(dict.fromkeys(names, piece))
    *before, last = split(content, draw) or [""]
    for piece in before:
        writer.say({"content": piece})
    if draw.random() < 0.3:
        writer.say({"content": last}, "stop")
    else:
        writer.say({"content": last})
        writer.say({}, "stop")
    return writer.end()


def speaks(part: Part, log: list[Told]) -> Callable[[dict[str, Any]], Stream]:
    """The script of one provider; what it means by each answer goes into ``log``."""

    def script(body: dict[str, Any]) -> Stream:
        last = body["messages"][-1]
        prefill = last["content"] if last["role"] == "assistant" else ""
        draw = random.Random(part.seed + part.asks)
        cut = part.next_cut()
        content, reasoning = part.text, part.reasoning
        if prefill:
            assert part.prefill, "asked to continue, which it never claimed to do"
            if part.kind == "rejects":
                return Stream(b"", status=400)
            if part.kind != "ignores":
                reasoning = ""
                content = content.removeprefix(prefill) if content.startswith(prefill) else f" or {content}"
        log.append(Told(content if part.kind == "ignores" else prefill + content, reasoning))
        return Stream(text_stream(content, reasoning, draw), cut, part.chunked, part.seed + part.asks)

    return script


def choices_stream(contents: list[str], draw: random.Random) -> bytes:
    """Several choices, mixed up; a few providers put pieces of several into one event."""
    writer = Writer(draw)
    waiting = [split(content, draw) for content in contents]
    together = draw.random() < 0.1
    while any(pieces is not None for pieces in waiting):
        choices: list[dict[str, Any]] = []
        for index in draw.sample(range(len(contents)), draw.randint(1, len(contents)) if together else 1):
            pieces = waiting[index]
            if pieces:
                choices.append({"index": index, "delta": {"content": pieces.pop(0)}, "finish_reason": None})
            elif pieces is not None:
                choices.append({"index": index, "delta": {}, "finish_reason": "stop"})
                waiting[index] = None  # type: ignore[call-overload]
        if choices:
            writer.write(choices)
    return writer.end()


def call_events(arguments: str, draw: random.Random) -> bytes:
    writer = Writer(draw)
    writer.say({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}]})
    for piece in split(arguments, draw):
        writer.say({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    writer.say({}, "tool_calls")
    return writer.end()
