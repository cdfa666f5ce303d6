"""The adapter: what it sends, whole answers, refusals, and that its key goes nowhere else."""

from __future__ import annotations

import asyncio
import json

import pytest
from openai_peer import DONE, HELLO, KEY, NOW_S, OFFER, STOP, STREAM_HEAD, Exchange, Peer, chat, peer, read_all
from pydantic import SecretStr

from amaru import __version__
from amaru.accounts.cost import cost_usd
from amaru.domain import FailureKind, Kind, Price, Usage
from amaru.errors import Failure
from amaru.protocols.openai import OpenAIRequest, parse_request
from amaru.providers import openai
from amaru.providers.base import StreamReply, WholeReply
from amaru.providers.openai import OpenAIProvider, ProviderSpec
from amaru.providers.transport import endpoint_from_url

ANSWER = json.dumps(
    {
        "id": "1",
        "model": "their-model-2024",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2},
        "unknown": {"kept": True},
    },
    indent=1,
).encode()


async def failure_of(status: int, body: bytes, content_type: bytes = b"application/json", **headers: str) -> Failure:
    async def script(exchange: Exchange) -> None:
        exchange.answer(status, body, content_type, **headers)

    async with peer(script) as provider:
        with pytest.raises(Failure) as caught:
            await provider.call(chat())
    return caught.value


async def test_a_whole_answer_is_handed_on_verbatim() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.answer(200, ANSWER, b"application/json; charset=utf-8")

    async with peer(script) as provider:
        for _ in range(2):
            reply = await provider.call(chat(temperature=0.5))
            assert isinstance(reply, WholeReply)
            assert (reply.status, reply.body, reply.content_type) == (200, ANSWER, b"application/json; charset=utf-8")
            facts = reply.facts
            assert (facts.model, facts.usage, facts.finish_reasons) == ("their-model-2024", Usage(4, 2), ("stop",))
            assert (facts.output_text, facts.output_chars, facts.first_token_at) == (["Paris."], 6, None)
            assert facts.bytes_received == len(ANSWER)
        assert provider.connections == 1
        assert json.loads(provider.exchanges[0].body) == {
            "model": OFFER.model,
            "messages": [{"role": "user", "content": "Where is Paris?"}],
            "temperature": 0.5,
        }


@pytest.mark.parametrize(
    ("request_", "target", "accept", "answer"),
    [
        (chat(), b"/v1/chat/completions", b"application/json", ANSWER),
        (
            parse_request(Kind.COMPLETION, b'{"model":"m","prompt":"p"}'),
            b"/v1/completions",
            b"application/json",
            b'{"choices":[{"text":"x"}]}',
        ),
        (
            parse_request(Kind.EMBEDDING, b'{"model":"m","input":"p"}'),
            b"/v1/embeddings",
            b"application/json",
            b'{"data":[{"embedding":[1]}]}',
        ),
        (chat(stream=True), b"/v1/chat/completions", b"text/event-stream", None),
    ],
)
async def test_what_is_sent(request_: OpenAIRequest, target: bytes, accept: bytes, answer: bytes | None) -> None:
    async def script(exchange: Exchange) -> None:
        if answer is None:
            exchange.stream(HELLO, STOP, DONE)
        else:
            exchange.answer(200, answer)

    async with peer(script) as provider:
        await provider.call(request_)
    request_line, *lines = provider.exchanges[0].head.split(b"\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in lines)
    assert request_line == b"POST " + target + b" HTTP/1.1"
    assert headers[b"authorization"] == b"bearer " + KEY.encode()
    assert headers[b"accept"] == accept
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"user-agent"] == f"amaru/{__version__}".encode()
    assert headers[b"x-team"] == b"blue-team-secret"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", b"application/json"),
        (b"<html>Welcome</html>", b"text/html"),
        (b"{", b"application/json"),
        (b"{}", b"application/json"),
        (b'{"choices":null}', b"application/json"),
        (b'{"choices":[]}', b"application/json"),
        (HELLO + STOP + DONE, b"text/event-stream"),
        (ANSWER.replace(b"Paris", b"Par\xc3"), b"application/json"),
    ],
)
async def test_an_answer_that_is_none(body: bytes, content_type: bytes) -> None:
    failure = await failure_of(200, body, content_type)
    assert failure.kind is FailureKind.MALFORMED_BODY
    assert (failure.status, failure.bytes_received) == (200, len(body))


async def test_an_answer_that_ends_too_early_is_malformed() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", ANSWER[:20])
        exchange.close()

    async with peer(script) as provider:
        with pytest.raises(Failure) as caught:
            await provider.call(chat())
    assert caught.value.kind is FailureKind.MALFORMED_BODY


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"])
@pytest.mark.parametrize("limit", ["answer", "deadline"])
async def test_an_answer_that_does_not_come(sent: bytes, limit: str) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(sent)
        await exchange.gone.wait()

    async with peer(script) as provider:
        with pytest.raises(Failure) as caught:
            await provider.call(chat(), **{limit: 0.1})
        await provider.exchanges[0].gone.wait()
    assert caught.value.kind is FailureKind.NO_ANSWER


async def test_a_closed_port() -> None:
    closed = Peer(OpenAIProvider(ProviderSpec(id="closed", endpoint=endpoint_from_url("http://127.0.0.1:1/v1"))))
    with pytest.raises(Failure) as caught:
        await closed.call(chat())
    assert caught.value.kind is FailureKind.CONNECT
    await closed.provider.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_told_with_its_retry_after(stream: bool) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.answer(429, b'{"error":{"message":"Slow down","type":"requests"}}', retry_after="7")

    async with peer(script) as provider:
        with pytest.raises(Failure) as caught:
            await provider.call(chat(stream=stream))
        assert provider.connections == 1
    assert (caught.value.kind, caught.value.status) == (FailureKind.RATE_LIMITED, 429)
    assert caught.value.retry_after_s == 7.0


async def test_a_date_is_read_by_the_wall_clock() -> None:
    assert NOW_S == 1_700_000_000
    failure = await failure_of(503, b"", retry_after="Tue, 14 Nov 2023 22:13:30 GMT")
    assert (failure.kind, failure.retry_after_s) == (FailureKind.OVERLOADED, 10.0)


async def test_the_key_reaches_nobody() -> None:
    words = f"Incorrect API key provided: {KEY}; team blue-team-secret. Authorization: Bearer {KEY}"
    for status, code in ((401, "invalid_api_key"), (400, "odd"), (200, "content_filter"), (500, KEY), (404, None)):
        body = json.dumps({"error": {"message": words, "code": code, "type": words, KEY: [KEY]}}).encode()
        failure = await failure_of(status, body)
        shown = f"{failure!r} {failure} {failure.message} {failure.body!r}"
        assert KEY not in shown
        assert "blue-team-secret" not in shown
        assert "0123456789" not in shown


async def test_an_error_body_that_hangs_or_breaks_still_tells_its_status() -> None:
    async def hangs(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 503 X\r\ncontent-length: 100\r\nretry-after: 3\r\n\r\n{")
        await exchange.gone.wait()

    async def breaks(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 503 X\r\ncontent-length: 100\r\nretry-after: 3\r\n\r\n{")
        exchange.close()

    async def floods(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 503 X\r\ncontent-length: 9999999\r\nretry-after: 3\r\n\r\n", b"x" * 200_000)

    for script in (hangs, breaks, floods):
        async with peer(script) as provider:
            with pytest.raises(Failure) as caught:
                await provider.call(chat(), answer=0.2)
        assert (caught.value.kind, caught.value.retry_after_s) == (FailureKind.OVERLOADED, 3.0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_whose_body_stalls_is_told_soon(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status is known: the next offer must not wait for the reason until the whole answer's limit."""
    assert openai.REFUSAL_S == 1.0
    monkeypatch.setattr(openai, "REFUSAL_S", 0.05)

    async def script(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 503 X\r\ncontent-length: 100\r\nretry-after: 3\r\n\r\n{")
        await exchange.gone.wait()

    async with peer(script) as provider, asyncio.timeout(60.0):
        with pytest.raises(Failure) as caught:
            await provider.call(chat(stream=stream), first_token=60.0, answer=60.0, deadline=60.0)
        await provider.exchanges[0].gone.wait()
    assert (caught.value.kind, caught.value.status, caught.value.retry_after_s) == (FailureKind.OVERLOADED, 503, 3.0)


@pytest.mark.parametrize("digits", [10, 16, 400, 5000])
@pytest.mark.parametrize("stream", [False, True])
async def test_absurd_usage_is_none(digits: int, stream: bool) -> None:
    """What it would cost is no number; the answer is served, and counted by us."""
    usage = b'{"prompt_tokens":%b,"completion_tokens":%b}' % (b"9" * digits, b"9" * digits)

    async def script(exchange: Exchange) -> None:
        if stream:
            beside = STOP.replace(b'"choices"', b'"usage":%b,"choices"' % usage)
            exchange.stream(HELLO, beside, b'data: {"choices":[],"usage":%b}\n\n' % usage, DONE)
        else:
            exchange.answer(200, b'{"choices":[{"message":{"content":"Hello"}}],"usage":%b}' % usage)

    async with peer(script) as provider:
        reply = await provider.call(chat(stream=stream))
        if isinstance(reply, StreamReply):
            await read_all(reply)
    assert (reply.facts.usage, "".join(reply.facts.output_text)) == (None, "Hello")


async def test_usage_as_large_as_it_may_be_has_a_cost() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.answer(
            200,
            b'{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":1000000000,"completion_tokens":1000000000,'
            b'"prompt_cache_hit_tokens":%b}}' % (b"9" * 400),
        )

    async with peer(script) as provider:
        reply = await provider.call(chat())
    assert reply.facts.usage == Usage(10**9, 10**9, 10**9)
    assert cost_usd(Price(input_usd_per_mtok=1e3, output_usd_per_mtok=1e3), reply.facts.usage) == 2e6


async def test_a_redirect_is_not_followed() -> None:
    failure = await failure_of(307, b"", location="http://127.0.0.1:1/")
    assert failure.kind is FailureKind.SERVER_ERROR
    assert "base_url" in failure.message


@pytest.mark.parametrize(
    ("key", "headers", "name"),
    [("a\r\nx: y", (), "the key"), ("schlüssel", (), "the key"), (None, (("x-a", SecretStr("a\nb")),), "x-a"),
     (None, (("x a", SecretStr("a")),), "x a"), (None, (("host", SecretStr("evil")),), "host")],
)  # fmt: skip
def test_keys_and_headers_cannot_smuggle(
    key: str | None, headers: tuple[tuple[str, SecretStr], ...], name: str
) -> None:
    endpoint = endpoint_from_url("http://127.0.0.1:1/v1")
    spec = ProviderSpec(id="p", endpoint=endpoint, key=None if key is None else SecretStr(key), headers=headers)
    with pytest.raises(ValueError, match=name) as caught:
        OpenAIProvider(spec)
    assert "evil" not in str(caught.value)
    assert "schl" not in str(caught.value)


def test_specs_hide_their_secrets_and_compare() -> None:
    endpoint = endpoint_from_url("http://127.0.0.1:1/v1")
    spec = ProviderSpec(id="p", endpoint=endpoint, key=SecretStr(KEY), headers=(("api-key", SecretStr("hidden")),))
    same = ProviderSpec(id="p", endpoint=endpoint, key=SecretStr(KEY), headers=(("api-key", SecretStr("hidden")),))
    assert spec == same
    assert spec != ProviderSpec(id="p", endpoint=endpoint, key=SecretStr("other"))
    assert KEY not in f"{spec!r} {OpenAIProvider(spec)!r}"
    assert "hidden" not in repr(spec)


async def test_an_own_authorization_header_outranks_the_key() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.answer(200, ANSWER)

    async with peer(script, headers=(("Authorization", SecretStr("Token abc")),)) as provider:
        await provider.call(chat())
    assert provider.exchanges[0].head.lower().count(b"authorization") == 1
    assert b"authorization: Token abc" in provider.exchanges[0].head


async def test_a_content_type_is_read_without_its_case_and_parameters() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD.replace(b"text/event-stream", b"TEXT/EVENT-STREAM; charset=UTF-8"))
        exchange.events(HELLO, STOP, DONE)
        exchange.send(b"0\r\n\r\n")

    async with peer(script) as provider:
        reply = await provider.stream()
        assert reply.first.startswith(HELLO)
