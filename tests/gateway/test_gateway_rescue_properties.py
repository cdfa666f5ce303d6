"""Rescue as properties over real sockets: for any text, chunking and cut, the caller has the whole answer or an error.

Three providers stream given texts, cut at random bytes. What each of them means by its answer is known, so that what
the caller is left with can be judged without a look into amaru.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from gateway_world import KEY, PROVIDER_KEY, MakeWorld, World
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from rescue_casts import NAMES, SAME, Part, Told, Writer, call_events, casts, choices_stream, cuts, speaks, texts
from scripted_provider import Caller, Cut, Received, ScriptedProvider, Stream, scripted_providers

from amaru.config import load

FIXTURE = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)  # one gateway serves all examples
TO_SHRINK_S = 600
"""A failing example is made smaller for minutes; a passing test takes seconds."""
FEW = settings(max_examples=250, deadline=None, suppress_health_check=FIXTURE)
MANY = settings(max_examples=600, deadline=None, suppress_health_check=FIXTURE)


@dataclass
class Stage:
    """A gateway in front of three scripted providers."""

    world: World
    caller: Caller
    providers: list[ScriptedProvider]
    fresh: dict[tuple[bool, ...], list[str]] = field(default_factory=dict)
    """Resources of whose offers nothing is known yet, by which of the offers claim to continue."""
    resource: str = ""

    def set(self, scripts: list[Callable[[dict[str, Any]], Stream]], prefill: list[bool]) -> None:
        """Offers of which nothing is known yet, in the order of the scripts."""
        for provider, script in zip(self.providers, scripts, strict=True):
            provider.script = script
        if not self.fresh.setdefault(tuple(prefill), []):
            self.renew()
        self.resource = self.fresh[tuple(prefill)].pop()

    def renew(self) -> None:
        """Reload with resources that were never asked for: many at once, since it takes as long as some examples."""
        offers = []
        for claims in self.fresh:
            self.fresh[claims] = [f"r{next(numbers)}" for _ in range(POOL)]
            offers += [offer for resource in self.fresh[claims] for offer in offers_of(resource, claims)]
        self.world.config_path.write_text(json.dumps({**self.world.settings, "offers": offers}))  # YAML, quickly
        self.world.mesh.reload(load(self.world.config_path, {"SIM_KEY": PROVIDER_KEY}))

    async def ask(self, headers: tuple[tuple[bytes, bytes], ...] = (), **fields: Any) -> Received:
        received = await self.caller.ask(headers, model=self.resource, stream=True, **fields)
        assert received.is_stream is not (received.status >= 400)
        assert received.done or received.failed, received.body
        return received


numbers = itertools.count()
POOL = 16


def offers_of(resource: str, prefill: Sequence[bool]) -> list[dict[str, Any]]:
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
            "offers": offers_of("r", [False] * len(NAMES)),
            "aliases": {},
        }
        routing = {"max_attempts": 20, "retry_budget": {"ratio": 1.0, "min_per_s": 10_000}}
        async with make_world(NAMES[:1], extra=extra, routing=routing) as world:
            caller = Caller(world.gateway.port, KEY)
            yield Stage(world, caller, providers)
            await caller.close()


# ---- text ---------------------------------------------------------------------------------------------------------


def judge_text(cast: list[Part], log: list[Told], received: Received) -> None:
    """The whole answer as the last provider meant it, or an error behind a part of one."""
    text, reasoning = received.text(), received.text("reasoning_content") or received.text("reasoning")
    if received.done:
        if text != log[-1].content:  # white space that was sent already and not shown to who continued: it stays
            assert received.joined == "continued"
            assert text.rstrip() == log[-1].content.rstrip()
            assert any(told.content.startswith(text) for told in log)
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


# ---- given cases ----------------------------------------------------------------------------------------------------

FOX = "The quick brown fox jumps over the lazy dog."


def letters(text: str, cut: Cut | None = None) -> Stream:
    """A letter to an event; all of them are handed on before the cut."""
    writer = Writer(random.Random(1))
    for letter in text:
        writer.say({"content": letter})
    writer.say({}, "stop")
    return Stream(writer.end(), cut)


@pytest.mark.parametrize(("share", "doubted"), [(130, True), (600, False)], ids=["short", "long"])
async def test_who_seems_to_have_begun_anew_is_asked_again_and_remembered_only_if_it_is_certain(
    stage: Stage, share: int, doubted: bool
) -> None:
    def breaks(body: dict[str, Any]) -> Stream:
        return letters(FOX, Cut(share, on_event=True, how="close"))

    def ignores(body: dict[str, Any]) -> Stream:
        asked.append(body["messages"][-1])
        return letters(FOX)

    asked: list[dict[str, str]] = []
    stage.set([breaks, ignores, ignores], [False, True, False])
    received = await stage.ask()
    assert received.done
    assert received.text() == FOX
    assert received.joined == "repeated"
    assert [message["role"] for message in asked] == ["assistant", "user"]
    assert asked[0]["content"] in ("The q", "The quick brown fox jumps o")
    health = {entry.offer: entry for entry in stage.world.mesh.offer_health()}
    assert health[f"beta/{stage.resource}"].continues is doubted


async def test_letters_are_not_taken_for_tokens(stage: Stage) -> None:
    """Or an answer of 44 letters would be over, or be limited, at its 16th."""
    limits: list[int] = []

    def breaks(body: dict[str, Any]) -> Stream:
        return letters(FOX, Cut(700, on_event=True, how="close"))

    def continues(body: dict[str, Any]) -> Stream:
        limits.append(body["max_tokens"])
        return letters(FOX.removeprefix(body["messages"][-1]["content"]))

    stage.set([breaks, continues, continues], [False, True, True])
    received = await stage.ask(max_tokens=16)
    assert received.done
    assert (received.text(), received.reasons(), received.joined) == (FOX, {0: "stop"}, "continued")
    assert limits[0] >= 16 - len(FOX) / 4
