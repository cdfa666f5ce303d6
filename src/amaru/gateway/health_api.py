"""What operators read of the infrastructure's health, and their word on healings. For an operator's key only.

Cold code, on Starlette like ``operator_api``. ``/health/events`` is a stream of server-sent events; a reader who cannot
keep up is dropped, and slows nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from amaru.accounts.directory_keys import Role
from amaru.errors import RequestError
from amaru.gateway.access import Access, Admin
from amaru.gateway.agent_api import decode
from amaru.gateway.answers import credentials, json_answer
from amaru.gateway.health_orders import HealingsOut, HistoryOut, LiftIn, PatternsOut, PinIn, TriggerIn, VetoIn
from amaru.gateway.queries import MAX_PAGE, figure_of, limit_of, query_of
from amaru.health.healer import Healer
from amaru.health.healing import HealingKind
from amaru.health.healing_settings import Veto
from amaru.health.pattern_types import PatternKind
from amaru.mesh import Mesh
from amaru.mesh.accounts import MeshAccounts
from amaru.mesh.feed import Event, Listener
from amaru.stability.guardian import Intervention

DAY_S = 86_400.0
PULSE_S = 14.0
"""A comment is sent where nothing happened for so long: proxies close what is silent for a minute."""
_PULSE = b": nothing new\n\n"
_WORDS = {"kind": HealingKind, "pattern": PatternKind}
T = TypeVar("T")
_veto, _pin = msgspec.json.Decoder(VetoIn), msgspec.json.Decoder(PinIn)
_lift, _trigger = msgspec.json.Decoder(LiftIn), msgspec.json.Decoder(TriggerIn)
MOST_SINCE_S = 9_999_999_999
"""How far back `since_s` may reach: further than any history."""


class HealthApi:
    """The endpoints below ``/health/`` that name providers."""

    def __init__(self, mesh: Mesh, access: Access, accounts: MeshAccounts | None = None) -> None:
        self._accounts = accounts
        self._sensing = mesh.sensing
        self._wall = mesh.wall
        self._access = access

    def routes(self) -> list[Route]:
        """What to mount."""
        return [
            Route("/health/providers", self.providers),
            Route("/health/patterns", self.patterns),
            Route("/health/history", self.history),
            Route("/health/healings", self.healings),
            Route("/health/healings/veto", self.veto, methods=["POST"]),
            Route("/health/healings/pin", self.pin, methods=["POST"]),
            Route("/health/healings/lift", self.lift, methods=["POST"]),
            Route("/health/guardian/nigredo", self.nigredo, methods=["POST"]),
            Route("/health/guardian/albedo", self.albedo, methods=["POST"]),
            Route("/health/events", self.events),
        ]

    async def providers(self, request: Request) -> Response:
        """Each provider with its signature, what is foreseen, and what it means."""
        await self._require_operator(request)
        query_of(request, ())
        return json_answer(await self._sensing.report())

    async def patterns(self, request: Request) -> Response:
        """Patterns, newest first: those under way, and those of the past."""
        await self._require_operator(request)
        query = query_of(request, ("limit",))
        sensing = self._sensing
        await sensing.look()
        past = sorted(sensing.chronicle.patterns(), key=lambda one: -one.at)
        return json_answer(PatternsOut(tuple(past[: limit_of(query)]), tuple(sorted(sensing.sense.patterns.active))))

    async def history(self, request: Request) -> Response:
        """What came more than once within ``since_s`` seconds: by provider, cause and hour of the day."""
        await self._require_operator(request)
        query = query_of(request, ("since_s",))
        return json_answer(HistoryOut(tuple(self._sensing.chronicle.recurring(self._wall() - _since_s(query)))))

    async def healings(self, request: Request) -> Response:
        """Healings with their effects, newest first, what people forbade, and the guardian's interventions."""
        await self._require_operator(request)
        query = query_of(request, ("limit",))
        await self._sensing.look()
        return json_answer(self._healings(limit_of(query)))

    def _healings(self, limit: int) -> HealingsOut:
        sensing = self._sensing
        healer, records = sensing.acting.healer, sensing.steadiness.guardian.records
        return HealingsOut(
            tuple(sensing.chronicle.healings(healer.actions())[:limit]),
            tuple(sorted(healer.active)),
            tuple(healer.vetoes),
            tuple(reversed(records)),
        )

    async def veto(self, request: Request) -> Response:
        """Forbid healings: of a kind, a provider, a kind of pattern; what amaru does already of that ends."""
        admin, asked = await self._ordered(request, _veto)
        if asked.kind is None and asked.provider is None and asked.pattern is None:
            raise RequestError(400, "Name a kind, a provider or a pattern; to switch all off, set health.healing.")
        self._check_provider(asked.provider)
        await self._sensing.order(lambda healer, now: healer.veto(_as_veto(asked, now), now))
        await self._note(admin, "healing.veto", asked)
        return json_answer(self._healings(MAX_PAGE))

    async def pin(self, request: Request) -> Response:
        """Order a healing, which holds until it is lifted."""
        admin, asked = await self._ordered(request, _pin)
        try:
            action = await self._sensing.order(
                lambda healer, now: healer.pin(asked.kind, asked.offers, now, by=asked.by, reason=asked.reason)
            )
        except ValueError as error:
            raise RequestError(400, f"{error}.", code="not_possible") from None
        await self._note(admin, "healing.pin", asked)
        return json_answer(action)

    async def lift(self, request: Request) -> Response:
        """End a pinned healing, or lift vetoes."""
        admin, asked = await self._ordered(request, _lift)
        if (asked.healing is None) is (asked.veto is None):
            raise RequestError(400, "Name either a healing or a veto.")
        try:
            await self._sensing.order(lambda healer, now: _lifted(healer, asked, now))
        except ValueError as error:
            raise RequestError(404, f"{error}.", code="not_found") from None
        await self._note(admin, "healing.lift", asked)
        return json_answer(self._healings(MAX_PAGE))

    async def nigredo(self, request: Request) -> Response:
        """Drain the worst provider for a minute, as the guardian would."""
        return await self._trigger(request, Intervention.NIGREDO)

    async def albedo(self, request: Request) -> Response:
        """Raise exploration for five minutes, as the guardian would."""
        return await self._trigger(request, Intervention.ALBEDO)

    async def _trigger(self, request: Request, kind: Intervention) -> Response:
        admin, asked = await self._ordered(request, _trigger)
        record = await self._sensing.trigger(kind, asked.by)
        await self._note(admin, f"guardian.{kind}", asked)
        return json_answer(record)

    async def _note(self, admin: Admin, action: str, asked: Any) -> None:  # Any: a struct
        if self._accounts is not None:
            await self._accounts.remark(admin.id, action, action.partition(".")[0], asked)

    async def _ordered(self, request: Request, decoder: msgspec.json.Decoder[T]) -> tuple[Admin, T]:
        admin = await self._access.require(Role.OPERATE, credentials(request)[0])
        query_of(request, ())
        if not self._sensing.enabled:
            raise RequestError(409, "Health is switched off: health.enabled is false.", code="switched_off")
        return admin, _decoded(decoder, await request.body() or b"{}")

    def _check_provider(self, provider: str | None) -> None:
        known = set(self._sensing.sense.offers.values())
        if provider is not None and provider not in known:
            raise RequestError(
                400, f"No provider is named {provider[:128]!r}; GET /providers lists them.", param="provider"
            )

    async def events(self, request: Request) -> Response:
        """What happens, as it happens: `report` first, then `pattern`, `healing`, `field` and `guardian`."""
        await self._require_operator(request)
        query_of(request, ())
        listener = self._sensing.feed.listen()
        if listener is None:
            raise RequestError(
                503, "Too many listen to the events already; close one.", type="api_error", retry_after_s=PULSE_S
            )
        try:
            report = await self._sensing.report()
        except BaseException:
            self._sensing.feed.leave(listener)
            raise
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(
            self._stream(listener, report, credentials(request)[0]),
            media_type="text/event-stream; charset=utf-8",
            headers=headers,
        )

    async def _stream(
        self,
        listener: Listener,
        report: Any,
        authorization: bytes | None,  # Any: a struct
    ) -> AsyncIterator[bytes]:
        try:
            yield _event("report", 0, report)
            while True:
                try:
                    async with asyncio.timeout(PULSE_S):
                        event = await listener.next()
                except TimeoutError:
                    yield _PULSE
                    continue
                if event is None or await self._access.refusal(Role.READ, authorization):  # it may have been revoked
                    yield _event("end", 0, {"dropped": listener.dropped})
                    return
                yield _told(event)
        finally:
            self._sensing.feed.leave(listener)

    async def _require_operator(self, request: Request) -> None:
        await self._access.require(Role.READ, credentials(request)[0])


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """As ``decode``, with the words that there are where one is unknown."""
    try:
        return decode(decoder, body)
    except RequestError as error:
        words = _WORDS.get((error.param or "").rpartition(".")[2])
        if words is None or "enum" not in error.message:
            raise
        known = f"{error.message}; known: {', '.join(words)}."
        raise RequestError(error.status, known, param=error.param) from None


def _as_veto(asked: VetoIn, now: float) -> Veto:
    pattern = None if asked.pattern is None else asked.pattern.value
    return Veto(kind=asked.kind, provider=asked.provider, pattern=pattern, by=asked.by, at=now, reason=asked.reason)


def _lifted(healer: Healer, asked: LiftIn, now: float) -> None:
    """Lift it. Raises ValueError where there is none."""
    if asked.healing is not None:
        healer.unpin(asked.healing, now)
        return
    assert asked.veto is not None
    wanted = _as_veto(asked.veto, now)
    same = [veto for veto in healer.vetoes if _forbidden(veto) == _forbidden(wanted)]
    if not same:
        raise ValueError("there is no veto that says exactly this")
    for veto in same:
        healer.lift(veto)


def _forbidden(veto: Veto) -> tuple[object, ...]:
    return veto.kind, veto.provider, veto.pattern


def _told(event: Event) -> bytes:
    return _event(event.kind, event.id, event.data)


def _event(kind: str, id: int, data: Any) -> bytes:  # Any: JSON
    return b"event: %b\nid: %d\ndata: %b\n\n" % (kind.encode(), id, msgspec.json.encode(data))


def _since_s(query: dict[str, str]) -> float:
    since_s = figure_of(query.get("since_s", str(30 * DAY_S)))
    if since_s is None or since_s > MOST_SINCE_S:
        raise RequestError(
            400,
            f"since_s must be seconds back from now, for instance 2592000, and at most {MOST_SINCE_S}.",
            param="since_s",
        )
    return since_s
