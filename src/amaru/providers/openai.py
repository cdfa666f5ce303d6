"""Providers that speak OpenAI's API, which most do: OpenAI, Azure, vLLM, SGLang, llama.cpp, Ollama, and their kin."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from functools import partial

import msgspec
from pydantic import SecretStr

from amaru import __version__
from amaru.accounts.tokens import count_usage
from amaru.domain import FailureKind, Kind, Offer
from amaru.errors import Failure
from amaru.protocols.adapting import Adaptation, Adapted, Adapter, Blanks, with_usage
from amaru.protocols.answers import parse_answer
from amaru.protocols.openai import OpenAIRequest
from amaru.protocols.openai_body import encode_request
from amaru.protocols.prompts import prompt_of
from amaru.protocols.whole_as_stream import as_whole
from amaru.protocols.wire_errors import WireError
from amaru.providers.adapted import AdaptedResponse
from amaru.providers.base import Facts, StreamReply, Timing, WholeReply
from amaru.providers.failures import MAX_BODY_BYTES, failure_from_error, failure_from_response
from amaru.providers.openai_stream import OpenAIStreamReply
from amaru.providers.transport import Endpoint, Header, HeaderBlock, HttpResponse, Transport, open_transport
from amaru.providers.unread import Unread, UnreadAnswers
from amaru.providers.whole_stream import WholeStreamReply

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A whole answer may not be larger; 2,048 embeddings of 3,072 dimensions, in text, take half of it."""

REFUSAL_S = 1.0
"""How long the body of a refusal may take once its status is known."""

TARGETS: dict[Kind, bytes] = {
    Kind.CHAT: b"/chat/completions",
    Kind.COMPLETION: b"/completions",
    Kind.EMBEDDING: b"/embeddings",
}

_NO_ANSWER = FailureKind.NO_ANSWER
_BEGUN = frozenset(
    (
        FailureKind.NO_ANSWER,
        FailureKind.STREAM_CUT,
        FailureKind.STREAM_STALLED,
        FailureKind.MALFORMED_EVENT,
        FailureKind.MALFORMED_BODY,
    )
)


class ProviderSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that makes a provider; equal specs make interchangeable providers. Its repr holds no secret.

    ``headers`` are extra request headers, and outrank those that amaru sends. Without ``key`` no ``authorization`` is
    sent: a provider that wants its key elsewhere (Azure: ``api-key``) has it in ``headers``.
    """

    id: str
    endpoint: Endpoint
    key: SecretStr | None = None
    headers: tuple[tuple[str, SecretStr], ...] = ()


class OpenAIProvider:
    """One provider. See ``base.Provider``.

    ``wall_clock`` gives Unix seconds, for dates in Retry-After. Raises ``ValueError`` for a key or a header that cannot
    be sent; the message names it and never shows its value.
    """

    __slots__ = (
        "_adaptations", "_secrets", "_stream_headers", "_transport", "_unread", "_wall_clock", "_whole_headers", "id",
    )  # fmt: skip

    def __init__(
        self, spec: ProviderSpec, *, transport: Transport | None = None, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.id = spec.id
        self._transport = open_transport(spec.endpoint) if transport is None else transport
        self._wall_clock = wall_clock
        self._adaptations: dict[str, Adapted] = {}
        self._unread = UnreadAnswers()
        values = [value for _, value in spec.headers] + ([spec.key] if spec.key is not None else [])
        self._secrets = tuple(value.get_secret_value() for value in values)
        self._whole_headers = _headers(spec, b"application/json")
        self._stream_headers = _headers(spec, b"text/event-stream")

    def __repr__(self) -> str:
        return f"OpenAIProvider({self.id!r})"

    async def aclose(self) -> None:
        await self._unread.aclose()
        await self._transport.aclose()

    def adapt(self, offer: str, adaptation: Adaptation | None) -> Adaptation | None:
        former = self._adaptations.pop(offer, None)
        if adaptation is not None:
            self._adaptations[offer] = Adapted(adaptation)
        return None if former is None else former.adaptation

    def adapted(self, offer: str) -> Adapted | None:
        return self._adaptations.get(offer)

    def unread(self, offer: str) -> tuple[Unread, ...]:
        return self._unread.of(offer)

    async def call(
        self, offer: Offer, request: OpenAIRequest, timing: Timing, *, whole: bool = False
    ) -> WholeReply | StreamReply:
        stream = request.stream
        if whole and stream:
            told = await self.call(offer, as_whole(request), timing)
            assert isinstance(told, WholeReply)
            return WholeStreamReply(told, request)
        adapter = self._adapter(offer, request) if self._adaptations else None
        body = b""
        reply: OpenAIStreamReply | None = None
        limit_at = min(timing.first_token_at if stream else timing.answer_at, timing.deadline_at)
        response = await self._transport.send(
            "POST",
            TARGETS[request.kind],
            self._stream_headers if stream else self._whole_headers,
            encode_request(request, offer.model, offer.limit_field),
            head_deadline=limit_at,
            head_kind=_NO_ANSWER,
        )
        try:
            response.set_deadline(limit_at, _NO_ANSWER, "the answer was not there in time")
            if not 200 <= response.status < 300:
                raise await self._refusal(response, limit_at)
            if stream and not _is_document(response):
                if adapter is None:
                    wordless = partial(self._unread.keep, offer.id, request.kind, stream=True)
                    reply = OpenAIStreamReply(response, request, timing, self._error, wordless)
                else:
                    reply = OpenAIStreamReply(AdaptedResponse(response, adapter), request, timing, self._error)
                await reply.open()
                return reply
            # Read here, not one coroutine further down: each costs every wake-up of every request.
            body = await response.read(MAX_ANSWER_BYTES)
            if stream:  # a whole answer came all the same: it is told as a stream, so nothing of it is lost
                asked = as_whole(request)
                adapter = self._adapter(offer, asked) if self._adaptations else None
                told = self._answer(adapter, offer, asked, response, body)
                return WholeStreamReply(told, request)
            return self._answer(adapter, offer, request, response, body)
        except Failure as failure:
            # Of a stream that is adapted already, what came is no longer there as it came.
            is_gone = adapter is not None and reply is not None
            if is_gone or not self._keeps_unread(failure, offer, request.kind, response, body, reply):
                response.close()
            cut_short = reply is None and failure.kind is FailureKind.STREAM_CUT
            raised = _cut_short(response) if cut_short else failure
            raised.generated_bytes = _generated_bytes(raised, response, reply)
            if raised is failure:
                raise
            raise raised from failure
        except BaseException:
            response.close()
            raise

    def _answer(
        self, adapter: Adapter | None, offer: Offer, request: OpenAIRequest, response: HttpResponse, body: bytes
    ) -> WholeReply:
        if adapter is None:
            answer = self._whole(request.kind, response, body)
            lacks = answer.facts.usage is None or _lacks(answer.facts, request.kind)
        else:
            answer = self._adapted(adapter, offer, request, response, body)
            lacks = _lacks(answer.facts, request.kind)  # usage is counted where an adaptation finds none
        if lacks:
            self._unread.keep(offer.id, request.kind, body)
        return answer

    def _whole(self, kind: Kind, response: HttpResponse, body: bytes) -> WholeReply:
        received = response.bytes_received
        try:
            answer = parse_answer(kind, body)
        except ValueError as error:
            raise _malformed(response, str(error)) from None
        if answer.error is not None:
            raise self._error(answer.error, response)
        facts = Facts(
            model=answer.model,
            id=answer.id,
            usage=answer.usage,
            finish_reasons=answer.finish_reasons,
            output_text=answer.output_text,
            output_chars=sum(map(len, answer.output_text)),
            bytes_received=received,
        )
        return WholeReply(response.status, body, response.headers.get(b"content-type", b"application/json"), facts)

    def _keeps_unread(
        self,
        failure: Failure,
        offer: Offer,
        kind: Kind,
        response: HttpResponse,
        body: bytes,
        reply: OpenAIStreamReply | None,
    ) -> bool:
        """Keep what could not be read; whether that still goes on, and will close the response."""
        if failure.kind is FailureKind.MALFORMED_BODY:
            self._unread.keep(offer.id, kind, body)
        elif failure.kind is FailureKind.MALFORMED_EVENT and reply is not None and reply.unread:
            return self._unread.listen(offer.id, kind, response, reply.unread)
        return False

    def _adapter(self, offer: Offer, request: OpenAIRequest) -> Adapter | None:
        adapted = self._adaptations.get(offer.id)
        if adapted is None or not adapted.adaptation.knows(request.kind, stream=request.stream):
            return None
        prefix = "chatcmpl" if request.kind is Kind.CHAT else "cmpl"
        blanks = Blanks(f"{prefix}-{uuid.uuid4().hex}", int(self._wall_clock()), offer.model)
        return Adapter(adapted, request.kind, stream=request.stream, blanks=blanks, choices=request.choices)

    def _adapted(
        self, adapter: Adapter, offer: Offer, request: OpenAIRequest, response: HttpResponse, body: bytes
    ) -> WholeReply:
        """A whole answer in OpenAI's shape. Where it came without usage, its facts still say so: nobody reported it."""
        reply = self._whole(request.kind, response, adapter.rewrite(body))
        if not adapter.counts_usage or reply.facts.usage is not None:
            return reply
        facts = reply.facts
        adapter.count()
        usage = count_usage(offer.model, prompt_of(request), facts.output_text, facts.output_chars)
        return WholeReply(reply.status, with_usage(request.kind, reply.body, usage), reply.content_type, facts)

    async def _refusal(self, response: HttpResponse, limit_at: float) -> Failure:
        """The failure that a status other than 2xx means. Its body is welcome, but not waited for: others may serve."""
        at = min(limit_at, asyncio.get_running_loop().time() + REFUSAL_S)
        response.set_deadline(at, _NO_ANSWER, "the reason of a refusal was not there in time")
        try:
            body = await response.read(MAX_BODY_BYTES)
        except Failure:
            body = b""
        return failure_from_response(
            response.status, response.headers, body, now_s=self._wall_clock(), secrets=self._secrets
        )

    def _error(self, error: WireError, response: HttpResponse) -> Failure:
        return failure_from_error(
            error,
            response.status,
            response.headers,
            now_s=self._wall_clock(),
            secrets=self._secrets,
            bytes_received=response.bytes_received,
        )


def _lacks(facts: Facts, kind: Kind) -> bool:
    """Whether a whole answer lacks words, or why they end: they may stand there under another name."""
    return kind is not Kind.EMBEDDING and not (facts.output_text and facts.finish_reasons)


def _is_document(response: HttpResponse) -> bool:
    """Whether a body is to be read as a whole: JSON, or the page of some proxy, where events were asked for."""
    media_type = response.headers.get(b"content-type", b"").lower()
    return b"json" in media_type or b"html" in media_type


def _generated_bytes(failure: Failure, response: HttpResponse, reply: OpenAIStreamReply | None) -> int | None:
    """How much text had come of an answer that failed before any of it was handed on; ``None`` where none was begun.

    A provider whose 2xx head was there has read the prompt, and bills it. One that sent an error object in the answer's
    place has not. Of a whole answer everything counts: what was generated cannot be told from its wrapping.
    """
    if reply is not None and reply.facts.output_chars:
        return reply.facts.output_chars
    if failure.kind not in _BEGUN or not 200 <= response.status < 300:
        return None
    return 0 if reply is not None else response.bytes_received


def _cut_short(response: HttpResponse) -> Failure:
    """A whole answer that ended too early is malformed: nothing of it was handed on, so it may be asked again."""
    return _malformed(response, "the body ended before its end")


def _malformed(response: HttpResponse, why: str) -> Failure:
    return Failure(FailureKind.MALFORMED_BODY, why, status=response.status, bytes_received=response.bytes_received)


def _headers(spec: ProviderSpec, accept: bytes) -> HeaderBlock:
    headers: dict[bytes, bytes] = {
        b"content-type": b"application/json",
        b"accept": accept,
        b"user-agent": f"amaru/{__version__}".encode(),
    }
    if spec.key is not None:
        headers[b"authorization"] = b"Bearer " + _bytes("the key", spec.id, spec.key)
    for name, value in spec.headers:
        headers[name.lower().encode()] = _bytes(f"the header {name!r}", spec.id, value)
    block: list[Header] = list(headers.items())
    return HeaderBlock(block)


def _bytes(what: str, provider: str, secret: SecretStr) -> bytes:
    value = secret.get_secret_value()
    if not value.isascii() or not value.isprintable():
        raise ValueError(f"{what} of provider {provider!r} holds a character that no header can carry")
    return value.encode("ascii")
