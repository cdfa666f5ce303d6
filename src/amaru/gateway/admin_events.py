"""What happens, as it happens: ``GET /admin/events``, server-sent events that a reader can resume.

Changes and alerts come from the accounts' store, whichever process made them; patterns, healings, interventions,
breakers and reloads are this process's own. An event's id says how far its reader is in each: ``CHANGE.ALERT.RUN.N``.
Whoever comes back with one (``Last-Event-ID``) is told what it missed: of the store's all, of this process's the last
``KEPT``, and where that leaves a gap, ``reset`` says so.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from amaru.accounts.changes import AuditRow
from amaru.accounts.directory_keys import Role
from amaru.accounts.happened import AlertRow, Position, happened_after, latest
from amaru.errors import RequestError, StorageError
from amaru.gateway.access import Access, Admin
from amaru.gateway.admin_gate import Entry
from amaru.gateway.answers import credentials
from amaru.gateway.queries import query_of
from amaru.mesh import Mesh
from amaru.mesh.accounts import EVERY_S, MeshAccounts
from amaru.mesh.feed import Event, Feed, Listener
from amaru.telemetry.logs import get_logger

KEPT = 1_000
"""Events of this process that can be told again."""
MAX_MISSED = 1_000
"""Changes, and alerts, that one who comes back is told; of more, ``GET /admin/audit`` tells."""
AT_ONCE = 100
"""Fewer than may wait for one reader."""
TOO_SLOW = "this was read too slowly; come back with Last-Event-ID"
PULSE_S = 14.0
_PULSE = b": nothing new\n\n"
_TOLD = ("pattern", "healing", "guardian")
_OWN = (*_TOLD, "breaker", "reload")
_ID = re.compile(r"(\d{1,18})\.(\d{1,18})\.([0-9a-f]{8})\.(\d{1,18})")
log = get_logger("gateway")


class Cursor(NamedTuple):
    """How far a reader is."""

    store: Position
    run: str
    """Names one run of one process: the numbers of another mean nothing here."""
    number: int
    """Of this process's last event."""

    def __str__(self) -> str:
        return f"{self.store.change}.{self.store.alert}.{self.run}.{self.number}"

    @classmethod
    def of(cls, text: str) -> Cursor:
        """Raises ``RequestError`` 400: it is no id of ours."""
        found = _ID.fullmatch(text)
        if found is None:
            raise RequestError(
                400, "Header last-event-id must be the id of an event of this stream.", param="last-event-id"
            )
        change, alert, run, number = found.groups()
        return cls(Position(int(change), int(alert)), run, int(number))


class Told(NamedTuple):
    """An event on its way to readers."""

    cursor: Cursor
    data: Any  # Any: JSON


class AdminEvents:
    """Gathers what happens, and tells it to whoever reads."""

    def __init__(self, mesh: Mesh, accounts: MeshAccounts, access: Access) -> None:
        self._mesh = mesh
        self._access = access
        self._accounts = accounts
        self._feed = Feed()
        self._kept: collections.deque[Event] = collections.deque(maxlen=KEPT)
        self._cursor = Cursor(Position(), secrets.token_hex(4), 0)
        self._looking = asyncio.Lock()
        self._following = False
        """The store was read once: what it had before is no news."""
        self._open: set[str] = set()  # offers that their breakers keep requests away from
        self._digest = mesh.plan.config.digest
        self._tasks: list[asyncio.Task[None]] = []

    def table(self) -> list[Entry]:
        """What it answers, and to whom."""
        return [Entry("GET", "/admin/events", Role.READ, self.events)]

    # ---- gathering ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to gather."""
        self._tasks = [asyncio.create_task(work()) for work in (self._watch, self._listen)]

    async def close(self) -> None:
        """No more happens: every reader comes to its end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._feed.close()

    async def _watch(self) -> None:
        while True:
            try:
                self._look_at_breakers()
                self._look_at_plan()
                with contextlib.suppress(StorageError):  # the accounts say so, and it can be told afterwards
                    await self._look_at_store()
            except Exception as error:  # the next look must come
                log.error("events_not_gathered", error=type(error).__name__, exc_info=error)
            await asyncio.sleep(EVERY_S)

    async def _listen(self) -> None:
        """Tell what is sensed and done about it."""
        feed = self._mesh.sensing.feed
        while (listener := feed.listen()) is not None:
            try:
                while (event := await listener.next()) is not None:
                    if event.kind in _TOLD:
                        self._tell(event.kind, event.data)
            finally:
                feed.leave(listener)
            if not listener.dropped:
                return
            self._tell("reset", _reset("too much happened at once", _TOLD))

    def _look_at_breakers(self) -> None:
        board = self._mesh.plan.board
        now = {offer.id for row, offer in enumerate(board.offers) if board.kept_away(row)}
        for offer in sorted(now ^ self._open):
            self._tell("breaker", {"offer": offer, "state": "open" if offer in now else "closed"})
        self._open = now

    def _look_at_plan(self) -> None:
        digest = self._mesh.plan.config.digest
        if digest != self._digest:
            self._digest = digest
            self._tell("reload", {"digest": digest.hex()[:16]})

    async def _look_at_store(self) -> None:
        async with self._looking:
            await self._take_in()

    async def _take_in(self) -> None:
        accounts, store = self._accounts, self._accounts.directory.store
        if accounts.failure:
            return
        if not self._following:
            self._cursor = self._cursor._replace(store=await accounts.run(latest, store))
            self._following = True
        while True:
            rows = await accounts.run(happened_after, store, self._cursor.store, limit=AT_ONCE)
            for row in rows:
                self._cursor = self._cursor._replace(store=_past(self._cursor.store, row))
                self._feed.tell(_kind(row), Told(self._cursor, row))
            if len(rows) < AT_ONCE:
                return
            await asyncio.sleep(0.01)  # readers' turn

    def _tell(self, kind: str, data: Any) -> None:  # Any: JSON
        self._cursor = self._cursor._replace(number=self._cursor.number + 1)
        told = Told(self._cursor, data)
        self._kept.append(Event(self._cursor.number, kind, told))
        self._feed.tell(kind, told)

    # ---- telling ------------------------------------------------------------------------------------------------

    async def events(self, request: Request, _: Admin) -> Response:
        """``open`` or what was missed, and then each `change`, `alert`, `pattern`, `healing`, `guardian`, …"""
        query_of(request, ())
        given = request.headers.get("last-event-id")
        since = None if given is None else Cursor.of(given)
        with contextlib.suppress(StorageError):
            await self._look_at_store()  # what was changed just now was missed too
        listener = self._feed.listen()
        if listener is None:
            raise RequestError(
                503, "Too many listen to the events already; close one.", type="api_error", retry_after_s=PULSE_S
            )
        try:
            first = await self._first(since)
        except BaseException:
            self._feed.leave(listener)
            raise
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(
            self._stream(listener, first, credentials(request)[0]),
            media_type="text/event-stream; charset=utf-8",
            headers=headers,
        )

    async def _first(self, since: Cursor | None) -> list[bytes]:
        """What comes before the news: where the reader stands, or what it missed."""
        now = self._cursor  # of the same moment as the listener's first event
        if since is None:
            return [_event("open", now, {"run": now.run})]
        kept = [event for event in self._kept if event.id <= now.number]
        found, at = [], since
        missed = await self._accounts.run(
            happened_after, self._accounts.directory.store, since.store, until=now.store, limit=MAX_MISSED + 1
        )
        gaps = {}
        for kind, rows in (
            ("change", [row for row in missed if isinstance(row, AuditRow)]),
            ("alert", [row for row in missed if isinstance(row, AlertRow)]),
        ):
            if len(rows) > MAX_MISSED:
                gaps[kind] = f"more than {MAX_MISSED} came meanwhile"
                continue
            for row in rows:
                at = at._replace(store=_past(at.store, row))
                found.append(_event(kind, at, row))
        if _is_beyond(since.store, now.store):
            gaps |= dict.fromkeys(("change", "alert"), "the store was put back to an earlier state")
        if since.run != now.run:
            gaps |= dict.fromkeys(_OWN, "the gateway was started anew, or another one answers")
        elif since.number > now.number or (kept and kept[0].id > since.number + 1):
            gaps |= dict.fromkeys(_OWN, f"only the last {KEPT} can be told again")
        if gaps:
            found.append(_event("reset", now, {"missed": gaps}))
        if since.run == now.run:
            again = (event for event in kept if event.id > since.number)
            found += [_event(event.kind, now._replace(number=event.id), event.data.data) for event in again]
        return found or [_event("open", now, {"run": now.run})]

    async def _stream(
        self, listener: Listener, first: Iterable[bytes], authorization: bytes | None
    ) -> AsyncIterator[bytes]:
        try:
            for event in first:
                yield event
            while True:
                try:
                    async with asyncio.timeout(PULSE_S):
                        told = await listener.next()
                except TimeoutError:
                    yield _PULSE
                    continue
                refused = await self._access.refusal(Role.READ, authorization)  # it may have been revoked
                if told is None or refused:
                    reason = refused or (TOO_SLOW if listener.dropped else "the gateway ends")
                    yield _event("end", None, {"dropped": listener.dropped, "reason": reason})
                    return
                yield _event(told.kind, told.data.cursor, told.data.data)
        finally:
            self._feed.leave(listener)


def _kind(row: AuditRow | AlertRow) -> str:
    return "change" if isinstance(row, AuditRow) else "alert"


def _is_beyond(position: Position, end: Position) -> bool:
    return position.change > end.change or position.alert > end.alert


def _past(position: Position, row: AuditRow | AlertRow) -> Position:
    return position._replace(change=row.id) if isinstance(row, AuditRow) else position._replace(alert=row.id)


def _reset(why: str, kinds: Iterable[str]) -> dict[str, Any]:  # Any: JSON
    return {"missed": dict.fromkeys(kinds, why)}


def _event(kind: str, cursor: Cursor | None, data: Any) -> bytes:  # Any: JSON
    id = b"" if cursor is None else b"id: %b\n" % str(cursor).encode()
    return b"event: %b\n%bdata: %b\n\n" % (kind.encode(), id, msgspec.json.encode(data))
