"""A provider at several addresses: calls go to one of them, and switching disturbs none that is under way."""

from __future__ import annotations

import asyncio

import pytest
from openai_peer import DONE, HELLO, OFFER, STOP, STREAM_HEAD, Exchange, chat, peer, read_all

from amaru.domain import Kind
from amaru.protocols.adapting import Adaptation, Rule
from amaru.providers.base import StreamReply, Timing
from amaru.providers.switched import SwitchedProvider


def timing() -> Timing:
    now = asyncio.get_running_loop().time()
    return Timing(now + 60.0, now + 60.0, idle_s=60.0, deadline_at=now + 90.0)


async def test_new_calls_go_to_the_address_of_the_hour_and_old_ones_end_where_they_began() -> None:
    gate = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD)
        exchange.events(HELLO)
        await gate.wait()
        exchange.events(STOP, DONE)
        exchange.send(b"0\r\n\r\n")

    async def quick(exchange: Exchange) -> None:
        exchange.stream(HELLO, STOP, DONE)

    async with peer(slow) as one, peer(quick) as two:
        provider = SwitchedProvider([one.provider, two.provider])
        assert (provider.id, provider.index) == ("peer", 0)
        begun = await provider.call(OFFER, chat(stream=True), timing())
        assert provider.switch(1) == 0
        other = await provider.call(OFFER, chat(stream=True), timing())
        assert isinstance(other, StreamReply)
        assert await read_all(other) == HELLO + STOP
        gate.set()
        assert isinstance(begun, StreamReply)
        assert await read_all(begun) == HELLO + STOP
        assert provider.switch(0) == 1
        assert (len(one.exchanges), len(two.exchanges)) == (1, 1)
        for index in (-1, 2):
            with pytest.raises(ValueError, match="0 to 1"):
                provider.switch(index)
        await provider.aclose()


async def test_adaptations_hold_at_every_address() -> None:
    async def script(exchange: Exchange) -> None:
        choice = b'{"message":{"content":"Ur"},"finish_reason":"stop"}'
        exchange.answer(200, b'{"outputs":[%b],"usage":{"prompt_tokens":1,"completion_tokens":1}}' % choice)

    rules = Adaptation((Rule(Kind.CHAT, False, "choices", "outputs"),))
    async with peer(script) as one, peer(script) as two:
        provider = SwitchedProvider([one.provider, two.provider])
        assert provider.adapt(OFFER.id, rules) is None
        for index in (0, 1):
            provider.switch(index)
            reply = await provider.call(OFFER, chat(stream=True), timing(), whole=True)
            assert reply.facts.output_text == ["Ur"]
            use = provider.adapted(OFFER.id)
            assert use is not None
            assert use.answers == 1
            assert len(provider.unread(OFFER.id)) == 0
        assert provider.adapt(OFFER.id, None) == rules
