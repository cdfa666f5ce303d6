"""The server: listens, runs a handler for each request, sweeps over its connections, drains."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from amaru.http1.connection import Connection
from amaru.http1.listening import Acceptor, explain
from amaru.http1.request import Request
from amaru.http1.settings import ListenError, ServerSettings
from amaru.http1.wire import Heads

_log = logging.getLogger(__name__)

Handler = Callable[[Request], Coroutine[Any, Any, None] | None]
"""Answers one request: at once, or by the coroutine that it returns. That runs as a task of its own, and is cancelled
when the client goes away before its answer is complete."""
# Any: what a coroutine yields to the event loop is the loop's business.

_CANCEL_GRACE_S = 1.0
"""How long cut handlers may take to clean up at the end of a drain."""


class HttpServer:
    """An HTTP/1.1 server on the running event loop (RFC 9110, RFC 9112): one task per request, bounded everywhere.

    Parameters
    ----------
    handler
        Called once per request. An exception it lets through becomes a 500, or a cut where the answer had begun.
    settings
        The limits.
    clock
        Monotonic seconds, for deadlines and ``Request.arrived_at``. On Linux the default is also the clock of
        ``loop.time()``, though not rounded to milliseconds as uvloop rounds it.
    wall_clock
        Unix seconds, for the Date header.

    Attributes
    ----------
    buffered_bytes
        Request bytes held now, over all connections.
    refused
        How many answers the server gave itself (limits, malformed input), by status.
    draining
        `drain` was called: answers say ``connection: close``.
    """

    def __init__(
        self,
        handler: Handler,
        settings: ServerSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings or ServerSettings()
        self.clock = clock
        self.heads = Heads()
        self.loop: asyncio.AbstractEventLoop
        self.buffered_bytes = 0
        self.refused: Counter[int] = Counter()
        self.draining = False
        self._handler = handler
        self._wall_clock = wall_clock
        self._listener: asyncio.Server | Acceptor | None = None
        self._connections: set[Connection] = set()
        self._tasks: dict[Request, tuple[asyncio.Task[None], Coroutine[Any, Any, None]]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._settled: asyncio.Future[None] | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, sock: socket.socket | None = None) -> None:
        """Listen on ``host`` and ``port`` (0: any free one, see `port`), or on a bound socket handed in.

        Raises
        ------
        ListenError
            The address is taken, not allowed, or not of this machine.
        """
        self.loop = asyncio.get_running_loop()
        self.heads.set_time(self._wall_clock())
        backlog = self.settings.backlog
        if not 0 <= port <= 65535:  # uvloop would take it modulo 65536
            raise ListenError(f"cannot listen on {host}:{port}: ports go from 0 (any free one) to 65535")
        try:
            if sock is not None and sock.family == socket.AF_UNIX:
                self._listener = await self.loop.create_unix_server(lambda: Connection(self), sock=sock)
            elif sock is not None:
                self._listener = await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=backlog)
            else:
                self._listener = await self.loop.create_server(
                    lambda: Connection(self), host, port, reuse_address=True, backlog=backlog
                )
        except OSError as error:
            where = "the socket handed in" if sock is not None else f"{host}:{port}"
            raise ListenError(f"cannot listen on {where}: {explain(error)}") from error

    def share(self, sockets: Sequence[socket.socket], *, may_take: Callable[[int], bool]) -> None:
        """Serve from sockets that other processes listen on too; see ``Acceptor``."""
        self.loop = asyncio.get_running_loop()
        self.heads.set_time(self._wall_clock())
        self._listener = Acceptor(
            sockets, lambda: Connection(self), may_take=lambda: may_take(self.connection_count), loop=self.loop
        )

    @property
    def sockets(self) -> list[socket.socket]:
        """The listening sockets; empty before `start` and after `drain`."""
        return list(self._listener.sockets) if self._listener is not None else []

    @property
    def port(self) -> int:
        """The port listened on.

        Raises
        ------
        ListenError
            The server is not listening.
        """
        for listening in self.sockets:
            return int(listening.getsockname()[1])
        raise ListenError("the server is not listening: await start() first")

    @property
    def connection_count(self) -> int:
        """Open connections, including those being closed."""
        return len(self._connections)

    @property
    def active_count(self) -> int:
        """Handlers running now."""
        return len(self._tasks)

    def refuse(self) -> None:
        """Accept no more connections. Calling it again is harmless."""
        self.draining = True
        if self._listener is not None:
            self._listener.close()

    async def drain(self, timeout_s: float) -> int:
        """Stop: accept no more, close resting connections, let requests finish for ``timeout_s``, then cut the rest.

        Returns how many connections were cut with an answer unfinished. Calling it again is harmless.
        """
        self.refuse()
        listener, self._listener = self._listener, None
        if isinstance(listener, Acceptor):
            await listener.wait_taken()  # else they would come up when all else is gone
        for connection in list(self._connections):
            connection.close_if_idle()
        await self._wait_settled(timeout_s)
        cut = sum([connection.abort() for connection in list(self._connections)])
        for request in list(self._tasks):
            self.cancel(request)
        await self._wait_settled(_CANCEL_GRACE_S)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        return cut

    async def _wait_settled(self, timeout_s: float) -> None:
        if not self._connections and not self._tasks:
            return
        self._settled = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._settled,), timeout=timeout_s)
        self._settled = None

    # --- for connections --------------------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        """Register a new connection; false where there are too many, and it must be refused.

        Refused ones linger a little so that the client sees why; when even those are many, they are cut at once.
        """
        self._connections.add(connection)
        if self._sweeper is None:
            self._sweep()
        limit = self.settings.max_connections
        if len(self._connections) <= limit:
            return True
        if len(self._connections) > limit + limit // 8 + 16:
            connection.abort()
        return False

    def forget(self, connection: Connection) -> None:
        """Drop a lost connection."""
        self._connections.discard(connection)
        self._check_settled()

    def serve(self, request: Request) -> None:
        """Call the handler, and start its task unless it answered at once."""
        try:
            running = self._handler(request)
        except Exception as error:
            self._failed(request, error)
            return
        if running is None:
            self._check_answered(request)
            return
        if sys.version_info >= (3, 12):  # runs up to its first wait at once, without a turn of the loop
            task = asyncio.Task(self._run(request, running), loop=self.loop, eager_start=True)
            if task.done():
                return
        else:
            # Named, since a name of its own would be made for each.
            task = asyncio.Task(self._run(request, running), loop=self.loop, name="request")
        self._tasks[request] = (task, running)

    def cancel(self, request: Request) -> None:
        """Cancel the handler of a request whose client has gone."""
        entry = self._tasks.get(request)
        if entry is not None and entry[0].cancel():
            # A task that is cancelled before its first step never enters `_run`, which would otherwise clean up.
            entry[0].add_done_callback(lambda _: self._forget_unstarted(request))

    def _forget_unstarted(self, request: Request) -> None:
        entry = self._tasks.get(request)
        if entry is not None:
            entry[1].close()
            self._forget_task(request)

    async def _run(self, request: Request, running: Coroutine[Any, Any, None]) -> None:
        try:
            await running
            self._check_answered(request)
        except Exception as error:
            self._failed(request, error)
        finally:
            if not request.settled:
                request.give_up()
            self._forget_task(request)

    def _check_answered(self, request: Request) -> None:
        if not request.settled:
            _log.error("the handler of %s %r returned without completing its answer", request.method, request.path)
            request.give_up()

    def _failed(self, request: Request, error: Exception) -> None:
        _log.error("the handler of %s %r failed", request.method, request.path, exc_info=error)
        if not request.settled:
            request.give_up()

    def _forget_task(self, request: Request) -> None:
        self._tasks.pop(request, None)
        if self._settled is not None:
            self._check_settled()

    def _check_settled(self) -> None:
        if self._settled is not None and not self._settled.done() and not self._connections and not self._tasks:
            self._settled.set_result(None)

    def _sweep(self) -> None:
        """Check every connection's deadline: one timer for all, since nearly every deadline is lifted unused."""
        if not self._connections:
            self._sweeper = None
            return
        self.heads.set_time(self._wall_clock())
        now = self.clock()
        for connection in list(self._connections):
            connection.check(now)
        self._sweeper = self.loop.call_later(self.settings.sweep_interval_s, self._sweep)
