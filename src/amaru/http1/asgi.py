"""Runs an ASGI 3 application as a handler, for endpoints that are not hot.

The bridge follows the ASGI HTTP specification 2.3 (https://asgi.readthedocs.io/en/latest/specs/www.html) and the
lifespan specification 2.0.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any

from amaru.http1.request import Request
from amaru.http1.server import Handler

_log = logging.getLogger(__name__)

# ASGI's scopes and events are dictionaries whose values have many types: Any is the specification's own choice.
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
AsgiApp = Callable[[Event, Receive, Send], Awaitable[None]]

_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection", b"date"))


def asgi_handler(app: AsgiApp, *, state: dict[str, Any] | None = None, root_path: str = "") -> Handler:
    """Return a handler that has ``app`` answer.

    Parameters
    ----------
    app
        An ASGI 3 application, for instance a Starlette one.
    state
        What the lifespan left for requests (`Lifespan.state`); each request sees a shallow copy.
    root_path
        The path below which the application is mounted, as ASGI has it.

    As with every handler, the application's task is cancelled when the client goes away; tasks that it started get
    ``http.disconnect``. Exceptions of the application pass through to the server, which answers 500.
    """

    async def handle(request: Request) -> None:
        exchange = _Exchange(request)
        scope = _scope(request, root_path)
        if state is not None:
            scope["state"] = state.copy()
        await app(scope, exchange.receive, exchange.send)

    return handle


def _scope(request: Request, root_path: str) -> Event:
    connection = request.connection.transport
    server = connection.get_extra_info("sockname")
    client = connection.get_extra_info("peername")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.0" if request.http10 else "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.target.partition(b"?")[0],
        "query_string": request.query,
        "root_path": root_path,
        "headers": list(request.headers.items()),
        "client": tuple(client[:2]) if isinstance(client, tuple) else None,
        "server": tuple(server[:2]) if isinstance(server, tuple) else None,
    }


class _Exchange:
    """One request's ``receive`` and ``send``."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._body_taken = False
        self._start: Event | None = None

    async def receive(self) -> Event:
        if not self._body_taken:
            self._body_taken = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        await self._request.wait_ended()
        return {"type": "http.disconnect"}

    async def send(self, event: Event) -> None:
        request = self._request
        kind = event["type"]
        if kind == "http.response.start":
            if self._start is not None:
                raise RuntimeError("http.response.start was sent twice")
            self._start = event
        elif kind == "http.response.body":
            if self._start is None:
                raise RuntimeError("http.response.body was sent before http.response.start")
            body = bytes(event.get("body", b""))
            more = event.get("more_body", False)
            if not request.started:
                self._begin(self._start, body, more)
                body = b""
            if request.settled:
                return
            if more:
                await request.write(body)
            else:
                request.end(body)
        else:
            raise RuntimeError(f"the event {kind!r} is not one of an HTTP response")

    def _begin(self, start: Event, body: bytes, more: bool) -> None:
        request = self._request
        fields = []
        length: int | None = None
        for given, value in start.get("headers", ()):
            name = bytes(given).lower()
            if name == b"content-length":
                length = int(value)
            elif name == b"connection" and bytes(value).lower() == b"close":
                request.keep_alive = False
            if name not in _FRAMING:
                fields.append((name, bytes(value)))
        if not more and (length is None or length == len(body)):
            request.respond(start["status"], fields, body)
            return
        request.start(start["status"], fields, content_length=length)
        request.write_nowait(body)
        if not more:
            request.end()


class Lifespan:
    """Starts an application before the first request and stops it after the last: ``async with Lifespan(app)``.

    Applications without lifespan support are served without it. ``state`` is what the application left for requests.

    Raises
    ------
    RuntimeError
        The application reports that it could not start or stop; the message is its own.
    """

    def __init__(self, app: AsgiApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._to_app: asyncio.Queue[Event] = asyncio.Queue()
        self._from_app: asyncio.Queue[Event] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Lifespan:
        self._task = asyncio.get_running_loop().create_task(self._run())
        await self._ask("startup")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None and not self._task.done():
            await self._ask("shutdown")
            await self._task

    async def _run(self) -> None:
        scope: Event = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._to_app.get, self._from_app.put)
        except Exception as error:
            # The specification: an application that raises here does not support lifespan.
            _log.debug("the application has no lifespan", exc_info=error)
        finally:
            self._from_app.put_nowait({"type": "lifespan.ended"})

    async def _ask(self, phase: str) -> None:
        self._to_app.put_nowait({"type": f"lifespan.{phase}"})
        answer = await self._from_app.get()
        if answer["type"] == f"lifespan.{phase}.failed":
            raise RuntimeError(f"the application's {phase} failed: {answer.get('message') or 'it gave no reason'}")
