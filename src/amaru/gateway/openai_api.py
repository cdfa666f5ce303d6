"""The OpenAI-compatible endpoints: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/embeddings``, ``/v1/models``.

Hot code: these handlers stand on the HTTP engine directly, without a framework in between. All three POST endpoints
are one function; what differs between them is their ``Kind``.
"""

from __future__ import annotations

import functools
from collections.abc import Coroutine
from typing import Any

import msgspec

from amaru.domain import Kind, Rescue
from amaru.errors import RequestError
from amaru.gateway.access import Access
from amaru.gateway.answers import Header, headers_of_left, respond_error, respond_json
from amaru.gateway.pulse import Pulse
from amaru.http1 import Block, Handler, Request
from amaru.mesh import Call, Execution, Mesh, Views
from amaru.mesh.accounts import Caller
from amaru.protocols.openai import error_event, parse_request
from amaru.providers.base import WholeReply

MAX_DEADLINE_MS = 24 * 3600 * 1000
STREAM_HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
RESCUES = {wish.value.encode(): wish for wish in Rescue}
DONE = b"data: [DONE]\n\n"


class OpenAIApi:
    """Serves OpenAI's endpoints from a mesh."""

    def __init__(self, mesh: Mesh, views: Views, access: Access) -> None:
        self._mesh = mesh
        self._views = views
        self._access = access

    def handler(self, kind: Kind) -> Handler:
        """The request handler of one kind of work."""

        return functools.partial(self._serve, kind)

    async def _serve(self, kind: Kind, request: Request) -> None:
        mesh = self._mesh
        try:
            caller = self._access.known(request) or await self._access.caller(request)
            call = _call(kind, request, caller)
            execution = mesh.begin(call if call.session is None else await mesh.conversations.recall(call))
        except RequestError as error:
            mesh.metrics.observe_refusal(kind.value, error.status)
            respond_error(request, error)
            return
        try:
            reply = await execution.run()
            if not isinstance(reply, WholeReply):
                await self._relay(request, execution)
            else:
                request.respond(reply.status, _head_of_whole(execution), reply.body)
        except RequestError as error:
            respond_error(request, error, _headers(execution))
        except Exception:
            execution.status = 500  # the server answers so, and logs why
            raise
        finally:
            execution.settle()

    async def _relay(self, request: Request, execution: Execution) -> None:
        """Hand a stream on, event by event, at the pace the caller reads.

        A stream that broke, and that no other offer could go on with, ends in an error event and no ``[DONE]``: a
        truncated answer never looks finished. Raises ``RequestError`` where nothing was sent yet.
        """
        head = STREAM_HEADERS + _headers(execution)
        pulse = Pulse(request, head)
        try:
            data = await execution.next()
            if not request.started:
                # Only now is it known who answered, where the answer was held back.
                request.start(200, STREAM_HEADERS + _headers(execution) if execution.broken is not None else head)
            while data:
                await request.write(data)
                pulse.alive = True
                data = await execution.next()
        except RequestError as error:
            if not request.started:
                raise
            await request.write(_receipt(execution) + error_event(error))
        else:
            await request.write(_receipt(execution) + DONE)
        finally:
            pulse.stop()
        request.end()

    def models(self, request: Request) -> Coroutine[Any, Any, None] | None:
        """``GET /v1/models``: every resource and alias that the caller's tenant may use."""
        return self._access.serve(request, self._models)

    def _models(self, request: Request, caller: Caller) -> None:
        respond_json(request, 200, self._views.models(caller.tenant))


def _call(kind: Kind, request: Request, caller: Caller) -> Call:
    parsed = parse_request(kind, request.body)
    headers = request.headers
    return Call(
        tenant=caller.tenant,
        team=caller.team,
        key=caller.key,
        request=parsed,
        arrived_at=request.arrived_at,
        request_bytes=len(request.body),
        region=_text_header(headers, b"x-amaru-region") if b"x-amaru-region" in headers else None,
        session=_text_header(headers, b"x-amaru-session") if b"x-amaru-session" in headers else None,
        deadline_s=_deadline_s(headers[b"x-amaru-deadline-ms"]) if b"x-amaru-deadline-ms" in headers else None,
        rescue=_rescue(headers[b"x-amaru-rescue"]) if b"x-amaru-rescue" in headers else None,
    )


def _text_header(headers: dict[bytes, bytes], name: bytes) -> str:
    value = headers[name]
    text = value.decode("latin-1")
    if len(text) > 256 or not text.isascii() or not text.isprintable():
        raise RequestError(
            400, f"Header {name.decode()}: at most 256 printable ASCII characters are allowed.", param=name.decode()
        )
    return text


def _deadline_s(value: bytes) -> float:
    if len(value) > 12 or not value.isdigit() or not 0 < int(value) <= MAX_DEADLINE_MS:
        raise RequestError(
            400,
            f"Header x-amaru-deadline-ms must be a whole number of milliseconds from 1 to {MAX_DEADLINE_MS}.",
            param="x-amaru-deadline-ms",
        )
    return int(value) / 1e3


def _rescue(value: bytes) -> Rescue:
    wish = RESCUES.get(value.strip().lower())
    if wish is None:
        raise RequestError(400, "Header x-amaru-rescue must be join or hold.", param="x-amaru-rescue")
    return wish


def _headers(execution: Execution) -> list[tuple[bytes, bytes]]:
    attempts = len(execution.attempts) + (execution.open is not None)
    headers = [
        (b"x-amaru-decision", execution.id.encode()),
        (b"x-amaru-attempts", b"%d" % attempts),
    ]
    if receipt := execution.log_decision():
        headers.append((b"x-amaru-receipt", receipt))
    provider = execution.provider
    if provider is not None:
        headers.append((b"x-amaru-provider", provider.encode()))
    return headers + _left(execution)


def _left(execution: Execution) -> list[Header]:
    """What of its budgets and limits the caller has left; of one that has none, nothing."""
    account = execution.account
    if account is None or not account.bound.counters:
        return []
    return headers_of_left(account.left(), account.now())


def _head_of_whole(execution: Execution) -> Block:
    """The header lines of a whole answer. Ids and providers' names hold no character that could break them."""
    last = execution.attempts[-1]
    receipt = execution.log_decision()
    return Block(
        b"x-amaru-decision: %b\r\nx-amaru-attempts: %d\r\nx-amaru-provider: %b\r\nx-amaru-cost-usd: %.9f\r\n"
        b"%b%bcontent-type: application/json\r\n"
        % (
            execution.id.encode(),
            len(execution.attempts),
            last.provider.encode(),
            execution.cost,
            b"x-amaru-receipt: %b\r\n" % receipt if receipt else b"",
            b"".join([b"%b: %b\r\n" % header for header in _left(execution)]),
        )
    )


def _receipt(execution: Execution) -> bytes:
    """The comment that closes a stream: what its headers could not know when they were sent."""
    facts: dict[str, object] = {
        "decision": execution.id,
        "provider": execution.provider,
        "attempts": len(execution.attempts),
        "cost_usd": round(execution.cost, 9),
    }
    if execution.rescued is not None:
        facts["joined"] = execution.rescued
    return b": amaru " + msgspec.json.encode(facts) + b"\n\n"
