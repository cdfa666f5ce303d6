"""Answers of another shape: unread, kept as evidence; with an adaptation, what callers get is OpenAI's."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai_peer import (
    DONE,
    HELLO,
    NOW_S,
    OFFER,
    ROLE,
    STOP,
    STREAM_HEAD,
    WORLD,
    Exchange,
    Peer,
    chat,
    event,
    peer,
    read_all,
)

from amaru.domain import FailureKind, Kind
from amaru.errors import Failure
from amaru.protocols.adapting import Adaptation, Rule
from amaru.protocols.adapting_evidence import find_adaptation
from amaru.protocols.openai import parse_request
from amaru.providers import unread
from amaru.providers.base import WholeReply
from amaru.providers.unread import Unread

WHOLE = json.dumps({"outputs": [{"message": {"text": "Paris."}, "stop_reason": "end_turn"}]}).encode()


def shaped(part: bytes) -> bytes:
    return part.replace(b'"choices"', b'"outputs"').replace(b'"content"', b'"text"')


EVENTS = [shaped(part) for part in (ROLE, HELLO, WORLD, STOP)]


async def answer(exchange: Exchange) -> None:
    """In another shape, whole or streamed, as it was asked."""
    if b'"stream":true' in exchange.body:
        exchange.stream(*EVENTS, DONE)
    else:
        exchange.answer(200, WHOLE)


async def heard(provider: Peer) -> Unread:
    """What was read on, once it is there: turns of the loop are all that it takes."""
    async with asyncio.timeout(60.0):
        while True:
            for kept in provider.provider.unread(OFFER.id):
                if kept.stream:
                    return kept
            await asyncio.sleep(0)


async def test_what_cannot_be_read_is_kept_and_what_it_teaches_is_put_to_use() -> None:
    async with peer(answer) as provider:
        assert provider.provider.unread(OFFER.id) == ()
        with pytest.raises(Failure) as caught:
            await provider.call(chat())
        assert caught.value.kind is FailureKind.MALFORMED_BODY
        (kept,) = provider.provider.unread(OFFER.id)
        assert (kept.kind, kept.stream, kept.body) == (Kind.CHAT, False, WHOLE)
        assert "Paris" not in repr(kept)
        found = find_adaptation(kept.kind, kept.body, stream=kept.stream)
        assert found is not None
        assert provider.provider.adapt(OFFER.id, found) is None
        reply = await provider.call(chat())
        assert isinstance(reply, WholeReply)
        told: dict[str, Any] = json.loads(reply.body)
        assert told["choices"] == [
            {"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}
        ]
        assert (told["object"], told["created"], told["model"]) == ("chat.completion", NOW_S, OFFER.model)
        assert told["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        facts = reply.facts
        assert (facts.usage, facts.finish_reasons, facts.output_text) == (None, ("stop",), ["Paris."])
        assert facts.bytes_received == len(WHOLE)
        again = await provider.call(chat())
        assert isinstance(again, WholeReply)
        assert json.loads(again.body)["id"] != told["id"]  # clients tell answers apart by it
        use = provider.provider.adapted(OFFER.id)
        assert use is not None
        assert (use.answers, use.rewritten) == (2, 2)
        assert provider.provider.adapt(OFFER.id, None) is found
        with pytest.raises(Failure):
            await provider.call(chat())


async def test_a_stream_that_fails_at_its_first_event_is_read_on_beside_the_request() -> None:
    gate = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        exchange.events(EVENTS[0])
        await gate.wait()
        exchange.events(*EVENTS[1:], DONE)
        exchange.send(b"0\r\n\r\n")

    async with peer(script) as provider:
        with pytest.raises(Failure) as caught:
            await provider.stream()
        assert caught.value.kind is FailureKind.MALFORMED_EVENT
        assert provider.provider.unread(OFFER.id) == ()  # the request has failed already, and goes on elsewhere
        gate.set()
        kept = await heard(provider)
        assert (kept.stream, kept.body) == (True, b"".join([*EVENTS, DONE]))
        found = find_adaptation(kept.kind, kept.body, stream=True)
        assert found is not None
        provider.provider.adapt(OFFER.id, found)
        reply = await provider.stream()
        told = [json.loads(line[6:]) for line in (await read_all(reply)).split(b"\n\n") if line]
        assert "".join(part["choices"][0]["delta"].get("content") or "" for part in told) == "Hello world"
        assert {part["object"] for part in told} == {"chat.completion.chunk"}
        assert reply.facts.finish_reasons == ("stop",)
        assert reply.sent.content == "Hello world"


async def test_of_many_such_streams_one_is_read_on_and_closing_ends_it() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        exchange.events(EVENTS[0])
        await exchange.gone.wait()

    async with peer(script) as provider:
        for _ in range(3):
            with pytest.raises(Failure):
                await provider.stream()
        await asyncio.gather(*[exchange.gone.wait() for exchange in provider.exchanges[1:]])
        assert not provider.exchanges[0].gone.is_set()
        await provider.provider.aclose()
        await provider.exchanges[0].gone.wait()
        (kept,) = provider.provider.unread(OFFER.id)
        assert kept.body == EVENTS[0]


async def test_a_flood_is_kept_up_to_a_bound() -> None:
    async def script(exchange: Exchange) -> None:
        if b'"stream":true' in exchange.body:
            exchange.stream(EVENTS[0], *[b": %b\n\n" % (b"x" * 1000)] * 100)
        else:
            exchange.answer(200, b'{"outputs":"' + b"x" * unread.MAX_UNREAD_BYTES + b'"}')

    async with peer(script) as provider:
        for stream in (False, True):
            with pytest.raises(Failure):
                await provider.call(chat(stream=stream))
        kept = await heard(provider)
        assert len(kept.body) == unread.MAX_UNREAD_BYTES


@pytest.mark.parametrize(
    "first",
    [b"data: nonsense\n\n", b'data: {"error":{"message":"no"}}\n\n', event(choices=[{"delta": 1}])],
)
async def test_what_is_of_no_shape_at_all_is_not_read_on(first: bytes) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        exchange.events(first)
        await exchange.gone.wait()

    async with peer(script) as provider:
        with pytest.raises(Failure):
            await provider.stream()
        await provider.exchanges[0].gone.wait()
        assert provider.provider.unread(OFFER.id) == ()


async def test_only_that_offer_and_that_kind_of_answer_are_rewritten() -> None:
    async with peer(answer) as provider:
        provider.provider.adapt("another/offer", Adaptation((Rule(Kind.CHAT, False, "choices", "outputs"),)))
        with pytest.raises(Failure):
            await provider.call(chat())
        provider.provider.adapt(OFFER.id, Adaptation((Rule(Kind.CHAT, False, "choices", "outputs"),)))
        with pytest.raises(Failure):
            await provider.stream()
        with pytest.raises(Failure):
            await provider.call(parse_request(Kind.COMPLETION, b'{"model":"m","prompt":"p"}'))


async def test_a_shape_that_changed_once_more_fails_as_any_other() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        exchange.events(EVENTS[0], b'data: {"results":[]}\n\n')
        await exchange.gone.wait()

    async with peer(script) as provider:
        provider.provider.adapt(OFFER.id, Adaptation((Rule(Kind.CHAT, True, "choices", "outputs"),)))
        with pytest.raises(Failure) as caught:
            await provider.stream()
        assert caught.value.kind is FailureKind.MALFORMED_EVENT
        await provider.exchanges[0].gone.wait()


WORDLESS = json.dumps(
    {"choices": [{"message": {"text": "Paris."}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}
).encode()
REASONLESS = json.dumps({"choices": [{"message": {"content": "Paris."}, "stop_reason": "end_turn"}]}).encode()


@pytest.mark.parametrize(
    ("body", "rule"),
    [(WORDLESS, "choices[].message.text read as content"), (REASONLESS, "choices[].stop_reason read as finish_reason")],
)
async def test_an_answer_that_can_be_read_but_lacks_something_is_kept_too(body: bytes, rule: str) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.answer(200, body)

    async with peer(script) as provider:
        await provider.call(chat())
        (kept,) = provider.provider.unread(OFFER.id)
        found = find_adaptation(kept.kind, kept.body, stream=kept.stream)
        assert found is not None
        assert rule in found.words


async def test_what_an_adaptation_leaves_unread_is_kept_as_it_came() -> None:
    bodies = [WORDLESS.replace(b"finish_reason", b"stop_reason"), b'{"outputs":"an unknown shape"}']

    async def script(exchange: Exchange) -> None:
        exchange.answer(200, bodies[len(provider.exchanges) > 1])

    async with peer(script) as provider:
        words = Adaptation((Rule(Kind.CHAT, False, "choices[].message.content", "text"),))
        provider.provider.adapt(OFFER.id, words)
        await provider.call(chat())
        (kept,) = provider.provider.unread(OFFER.id)
        assert kept.body == bodies[0]
        found = find_adaptation(kept.kind, kept.body, stream=kept.stream)
        assert found is not None
        assert "choices[].stop_reason read as finish_reason" in found.words
        with pytest.raises(Failure):
            await provider.call(chat())
        (kept,) = provider.provider.unread(OFFER.id)
        assert kept.body == bodies[1]


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ([part.replace(b'"content"', b'"text"') for part in (ROLE, HELLO, WORLD, STOP)], "delta.text read as content"),
        ([part.replace(b'"finish_reason"', b'"stop_reason"') for part in (ROLE, HELLO, STOP)], "stop_reason read as"),
        # Longer than any sample: what is left out in its middle looks as what is kept.
        (
            [part.replace(b'"content"', b'"text"') for part in (ROLE, *[HELLO] * 500, STOP)],
            "delta.text read as content",
        ),
    ],
)
async def test_so_is_a_stream_without_a_word_or_without_an_end(parts: list[bytes], rule: str) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.stream(*parts, DONE)

    async with peer(script) as provider:
        await read_all(await provider.stream())
        (kept,) = provider.provider.unread(OFFER.id)
        found = find_adaptation(kept.kind, kept.body, stream=kept.stream)
        assert found is not None
        assert any(rule in words for words in found.words)


async def test_good_answers_are_not_kept() -> None:
    async def script(exchange: Exchange) -> None:
        if b'"stream":true' in exchange.body:
            exchange.stream(ROLE, HELLO, STOP, DONE)
        else:
            usage = {"prompt_tokens": 1, "completion_tokens": 1}
            choice = {"message": {"content": "Hello"}, "finish_reason": "stop"}
            exchange.answer(200, json.dumps({"choices": [choice], "usage": usage}).encode())

    async with peer(script) as provider:
        await read_all(await provider.stream())
        await provider.call(chat())
        assert provider.provider.unread(OFFER.id) == ()


async def test_each_kind_of_answer_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(answer) as provider:
        for request in (chat(), chat(stream=True), parse_request(Kind.COMPLETION, b'{"model":"m","prompt":"p"}')):
            with pytest.raises(Failure):
                await provider.call(request)
        await heard(provider)
        kept = provider.provider.unread(OFFER.id)
        assert {(each.kind, each.stream) for each in kept} == {
            (Kind.CHAT, False), (Kind.CHAT, True), (Kind.COMPLETION, False),
        }  # fmt: skip
        monkeypatch.setattr(unread, "KEPT_S", -1.0)
        assert provider.provider.unread(OFFER.id) == ()
