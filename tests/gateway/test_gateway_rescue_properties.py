"""Rescue as properties over real sockets: for any text, chunking and cut, the caller has the whole answer or an error.

Three providers stream given texts, cut at random bytes. What each of them means by its answer is known, so that what
the caller is left with can be judged without a look into amaru.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from gateway_world import KEY, MakeWorld, World
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from scripted_provider import Caller, Cut, Received, ScriptedProvider, Stream, scripted_providers

NAMES = ("alpha", "beta", "gamma")
FIXTURE = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)  # one gateway serves all examples
TO_SHRINK_S = 600
"""A failing example is made smaller for minutes; a passing test takes seconds."""
FEW = settings(max_examples=300, deadline=None, suppress_health_check=FIXTURE)
MANY = settings(max_examples=1500, deadline=None, suppress_health_check=FIXTURE)


@dataclass
class Stage:
    """A gateway in front of three scripted providers."""

    world: World
    caller: Caller
    providers: list[ScriptedProvider]
    resource: str = ""

    def set(self, scripts: list[Callable[[dict[str, Any]], Stream]], prefill: list[bool]) -> None:
        """Offers of which nothing is known yet, in the order of the scripts."""
        self.resource = f"r{next(numbers)}"
        for provider, script in zip(self.providers, scripts, strict=True):
            provider.script = script
        self.world.reload(offers=offers(self.resource, prefill))

    async def ask(self, headers: tuple[tuple[bytes, bytes], ...] = (), **fields: Any) -> Received:
        received = await self.caller.ask(headers, model=self.resource, stream=True, **fields)
        assert received.is_stream is not (received.status >= 400)
        assert received.done or received.failed, received.body
        return received


numbers = itertools.count()


def offers(resource: str, prefill: list[bool]) -> list[dict[str, Any]]:
    return [
        {
            "provider": name,
            "resource": resource,
            "model": "m",
            "capabilities": ["stream", "tools", "json_schema", *(["prefill"] if can else [])],
            "price": {"input_usd_per_mtok": float(place), "output_usd_per_mtok": float(place)},
        }
        for place, (name, can) in enumerate(zip(NAMES, prefill, strict=True), 1)
    ]


@pytest.fixture
async def stage(make_world: MakeWorld) -> AsyncIterator[Stage]:
    async with scripted_providers(len(NAMES)) as providers:
        extra = {
            "providers": {name: {"base_url": provider.url} for name, provider in zip(NAMES, providers, strict=True)},
            "offers": offers("r", [False] * len(NAMES)),
            "aliases": {},
        }
        routing = {"max_attempts": 20, "retry_budget": {"ratio": 1.0, "min_per_s": 10_000}}
        async with make_world(NAMES[:1], extra=extra, routing=routing) as world:
            caller = Caller(world.gateway.port, KEY)
            yield Stage(world, caller, providers)
            await caller.close()


# ---- what providers say ---------------------------------------------------------------------------------------------

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
    text, other, reasoning = draw(texts), draw(texts), draw(st.one_of(st.just(""), texts))
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


def judge_text(cast: list[Part], log: list[Told], received: Received) -> None:
    """The whole answer as the last provider meant it, or an error behind a part of one."""
    text, reasoning = received.text(), received.text("reasoning_content") or received.text("reasoning")
    if received.done:
        assert text == log[-1].content
        assert reasoning in {told.reasoning for told in log}
        assert received.reasons() == {0: "stop"}
        assert len({event["id"] for event in received.events}) == len({e["model"] for e in received.events}) == 1
    else:
        assert not received.reasons()
        assert any(told.content.startswith(text) for told in log) or not text
        assert any(told.reasoning.startswith(reasoning) for told in log) or not reasoning
    if all(part.kind in SAME for part in cast) and any(part.holds for part in cast):
        assert received.done, "one of them would have given the whole answer"
        assert text == cast[0].text


def note(received: Received) -> None:
    """For the statistics: how it ended."""
    event("whole" if received.done else "error event" if received.is_stream else "error status")
    event(f"joined: {received.joined or 'nothing broke'}")


async def check_text(stage: Stage, cast: list[Part]) -> None:
    log: list[Told] = []
    stage.set([speaks(part, log) for part in cast], [part.prefill for part in cast])
    received = await stage.ask()
    judge_text(cast, log, received)
    note(received)


@FEW
@given(cast=casts())
@pytest.mark.timeout(TO_SHRINK_S)
async def test_text_is_whole_or_ends_in_an_error(stage: Stage, cast: list[Part]) -> None:
    await check_text(stage, cast)


@pytest.mark.slow
@MANY
@given(cast=casts())
@pytest.mark.timeout(TO_SHRINK_S)
async def test_much_text_is_whole_or_ends_in_an_error(stage: Stage, cast: list[Part]) -> None:
    await check_text(stage, cast)


# ---- what is held ---------------------------------------------------------------------------------------------------

HOLD = ((b"x-amaru-rescue", b"hold"),)
HELD: list[tuple[tuple[tuple[bytes, bytes], ...], dict[str, Any]]] = [
    ((), {"n": 2}),
    ((), {"n": 4}),
    ((), {"response_format": {"type": "json_object"}}),
    ((), {"logprobs": True}),
    (HOLD, {}),
    (HOLD, {"n": 3}),
]


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


@FEW
@given(
    cuts_of=st.lists(st.lists(cuts, max_size=2), min_size=3, max_size=3),
    text=texts,
    seed=st.integers(0, 2**32),
    held=st.sampled_from(HELD),
)
@pytest.mark.timeout(TO_SHRINK_S)
async def test_what_is_held_comes_whole_or_not_at_all(
    stage: Stage,
    cuts_of: list[list[Cut]],
    text: str,
    seed: int,
    held: tuple[tuple[tuple[bytes, bytes], ...], dict[str, Any]],
) -> None:
    """Each choice from one provider, although they all answer something else."""
    headers, fields = held
    n = fields.get("n", 1)
    log: list[list[str]] = []

    def script_of(name: str, cuts: list[Cut]) -> Callable[[dict[str, Any]], Stream]:
        asked = itertools.count()

        def script(body: dict[str, Any]) -> Stream:
            place = next(asked)
            assert body["messages"][-1]["role"] == "user", "nothing of it was sent, so nothing can be continued"
            contents = [f"{name}{place}.{index}: {text}" for index in range(n)]
            log.append(contents)
            draw = random.Random(seed + len(log))
            cut = cuts[place] if place < len(cuts) else None
            return Stream(choices_stream(contents, draw), cut, draw.random() < 0.5, seed + len(log))

        return script

    stage.set([script_of(name, cuts) for name, cuts in zip(NAMES, cuts_of, strict=True)], [True] * len(NAMES))
    received = await stage.ask(headers, **fields)
    reasons = received.reasons() if received.is_stream else {}
    for index in range(n if received.is_stream else 0):
        mine = {contents[index] for contents in log} if index in reasons else {""}
        assert received.text(index=index) in mine
    if received.done:
        assert set(reasons) == set(range(n))
        assert len({event["id"] for event in received.events}) == 1
    else:
        assert received.status >= 400 or (reasons and n > 1 and not headers), "nothing was sent, so a status can tell"
    if not all(cuts_of):
        assert received.done, "one of them would have given the whole answer"
    note(received)


@FEW
@given(cast=casts(), arguments=texts)
@pytest.mark.timeout(TO_SHRINK_S)
async def test_calls_of_tools_come_whole_or_not_at_all(stage: Stage, cast: list[Part], arguments: str) -> None:
    """Behind text that is joined; the call is one provider's, and each would make another."""
    log: list[Told] = []
    calls: list[str] = []

    def calling(part: Part, name: str) -> Callable[[dict[str, Any]], Stream]:
        talk = speaks(part, log)

        def script(body: dict[str, Any]) -> Stream:
            stream = talk(body)
            if stream.status == 200:
                calls.append(json.dumps([name, arguments]))
                draw = random.Random(stream.seed)
                call = call_events(calls[-1], draw)
                # The text of most providers ends before the call; it must not end the answer.
                stream.payload = stream.payload.replace(b'"stop"', b"null").replace(b"data: [DONE]", b": done") + call
            return stream

        return script

    stage.set([calling(part, name) for part, name in zip(cast, NAMES, strict=True)], [part.prefill for part in cast])
    received = await stage.ask(tools=[{"type": "function", "function": {"name": "f"}}])
    if received.done:
        assert (received.text(), received.arguments()) == (log[-1].content, calls[-1])
        assert received.reasons() == {0: "tool_calls"}
    elif received.is_stream:
        assert received.arguments() == ""
        assert not received.reasons()
        assert any(told.content.startswith(received.text()) for told in log)
    if all(part.kind in SAME for part in cast) and any(part.holds for part in cast):
        assert received.done, "one of them would have given the whole answer"
    note(received)


def call_events(arguments: str, draw: random.Random) -> bytes:
    writer = Writer(draw)
    writer.say({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}]})
    for piece in split(arguments, draw):
        writer.say({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    writer.say({}, "tool_calls")
    return writer.end()
