"""A stream whose provider sends none, asked for one or not: a whole answer in chunks, and its failures."""

from __future__ import annotations

import asyncio
import json

import pytest
from openai_peer import OFFER, Exchange, Peer, chat, peer, read_all

from amaru.domain import FailureKind, Kind, Usage
from amaru.errors import Failure
from amaru.protocols.adapting_evidence import find_adaptation
from amaru.protocols.openai import OpenAIRequest
from amaru.providers.base import StreamReply, Timing, WholeReply

ANSWER = json.dumps(
    {
        "id": "1",
        "model": "their-model-2024",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2},
    }
).encode()


def ask(
    provider: Peer, request: OpenAIRequest | None = None, *, whole: bool = True, **seconds: float
) -> asyncio.Future[StreamReply]:
    async def call() -> StreamReply:
        now = asyncio.get_running_loop().time()
        at = {"first_token": 60.0, "answer": 60.0, **seconds}
        timing = Timing(now + at["first_token"], now + at["answer"], idle_s=60.0, deadline_at=now + 90.0)
        reply = await provider.provider.call(OFFER, request or chat(stream=True), timing, whole=whole)
        assert isinstance(reply, StreamReply)
        return reply

    return asyncio.ensure_future(call())


async def answer(exchange: Exchange) -> None:
    exchange.answer(200, ANSWER)


async def test_the_caller_gets_chunks_and_the_provider_never_hears_of_a_stream() -> None:
    async with peer(answer) as provider:
        reply = await ask(provider, chat(stream=True, temperature=0.5, stream_options={"include_usage": True}))
        chunks = [json.loads(line[6:]) for line in (await read_all(reply)).split(b"\n\n") if line]
        assert [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]] == [
            "",
            "Paris.",
            None,
        ]
        assert chunks[-1]["usage"] == {"prompt_tokens": 4, "completion_tokens": 2}
        facts = reply.facts
        assert (facts.model, facts.usage, facts.finish_reasons) == ("their-model-2024", Usage(4, 2), ("stop",))
        assert (facts.output_text, facts.output_chars, facts.bytes_received) == (["Paris."], 6, len(ANSWER))
        assert facts.first_token_at is None  # it says nothing of how soon streams begin
        assert (reply.sent.content, reply.sent.opaque) == ("Paris.", False)
        assert reply.sample() == (ANSWER, True)
        reply.close()
        assert await reply.next() == b""
        assert json.loads(provider.exchanges[0].body) == {
            "model": OFFER.model,
            "messages": [{"role": "user", "content": "Where is Paris?"}],
            "temperature": 0.5,
        }
        assert b"application/json" in provider.exchanges[0].head


async def test_what_is_no_stream_is_not_concerned() -> None:
    async with peer(answer) as provider:
        now = asyncio.get_running_loop().time()
        timing = Timing(now + 60.0, now + 60.0, idle_s=60.0, deadline_at=now + 90.0)
        reply = await provider.provider.call(OFFER, chat(), timing, whole=True)
        assert isinstance(reply, WholeReply)
        assert reply.body == ANSWER


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, b'{"error":{"message":"slow down"}}', FailureKind.RATE_LIMITED),
        (500, b"", FailureKind.SERVER_ERROR),
        (200, b'{"choices":[]}', FailureKind.MALFORMED_BODY),
        (200, ANSWER[:40], FailureKind.MALFORMED_BODY),
        (200, b'{"choices":[{"message":{"content":"x","tool_calls":[1]}}]}', FailureKind.MALFORMED_BODY),
        (200, b'{"error":{"message":"overloaded","code":503}}', FailureKind.OVERLOADED),
    ],
)
async def test_it_fails_as_a_whole_answer_does(status: int, body: bytes, kind: FailureKind) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.answer(status, body)

    async with peer(script) as provider:
        with pytest.raises(Failure) as caught:
            await ask(provider)
        assert caught.value.kind is kind


async def test_a_whole_answer_that_comes_unasked_is_told_as_a_stream() -> None:
    async with peer(answer) as provider:
        asked = chat(stream=True, stream_options={"include_usage": True})
        reply, wanted = await ask(provider, asked, whole=False), await ask(provider, asked)
        assert await read_all(reply) == await read_all(wanted)
        assert reply.facts.usage == Usage(4, 2)
        assert [json.loads(exchange.body).get("stream") for exchange in provider.exchanges] == [True, None]
        assert provider.provider.unread(OFFER.id) == ()


async def test_so_is_one_of_another_shape_once_its_shape_is_known() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.answer(200, ANSWER.replace(b'"message"', b'"reply"'))

    async with peer(script) as provider:
        with pytest.raises(Failure) as caught:
            await ask(provider, whole=False)
        assert caught.value.kind is FailureKind.MALFORMED_BODY
        (kept,) = provider.provider.unread(OFFER.id)
        assert (kept.kind, kept.stream) == (Kind.CHAT, False)
        provider.provider.adapt(OFFER.id, find_adaptation(kept.kind, kept.body, stream=False))
        told = await read_all(await ask(provider, whole=False))
        assert b'"content":"Paris."' in told


async def test_one_that_is_cut_short_is_no_stream_that_was_cut() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n", ANSWER[:40])
        exchange.close()

    async with peer(script) as provider:
        with pytest.raises(Failure) as caught:
            await ask(provider, whole=False)
        assert caught.value.kind is FailureKind.MALFORMED_BODY  # nothing was handed on: it may be asked again


async def test_the_limit_on_whole_answers_holds_and_giving_up_cancels_the_call() -> None:
    asked = asyncio.Semaphore(0)

    async def silent(exchange: Exchange) -> None:
        asked.release()
        await exchange.gone.wait()

    async with peer(silent) as provider:
        with pytest.raises(Failure) as caught:
            await ask(provider, first_token=60.0, answer=0.05)
        assert caught.value.kind is FailureKind.NO_ANSWER
        call = ask(provider)
        for _ in range(2):
            await asked.acquire()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await provider.exchanges[-1].gone.wait()
