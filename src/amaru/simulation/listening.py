"""The port of a simulated provider, which faults may close, and its connections, which faults may break."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from amaru.http1.connection import Connection
from amaru.http1.server import Handler, HttpServer
from amaru.http1.settings import ServerSettings
from amaru.simulation.breaking import reset_transport
from amaru.simulation.faults import Fault

# Connections that misbehave on purpose must not be tidied up by the server's own limits.
_PATIENT = ServerSettings(header_timeout_s=3600, body_timeout_s=3600, keep_alive_s=3600, write_timeout_s=3600)


CONTROL_PATH = "/sim/"


class FaultyServer(HttpServer):
    """The project's server, able to close its port, and to strike connections as they are made.

    ``strike`` is asked at each new connection for the fault that strikes it.
    """

    def __init__(
        self, handler: Handler, strike: Callable[[], Fault | None], *, wall_clock: Callable[[], float]
    ) -> None:
        super().__init__(handler, _PATIENT, wall_clock=wall_clock)
        self._strike = strike
        self._place_holder: socket.socket | None = None
        self._address = ("127.0.0.1", 0)

    async def listen(self, host: str, port: int) -> None:
        """Open the port, as `HttpServer.start` does; also again after `close_port`."""
        await self.start(host, port)
        self._address = (host, self.port)
        if self._place_holder is not None:
            self._place_holder.close()
            self._place_holder = None

    @property
    def is_listening(self) -> bool:
        """Whether the port is open."""
        return self._listener is not None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, also while the port is closed."""
        return self._address

    def close_port(self, *, cut_answers: bool) -> None:
        """Refuse connections from now on; close resting ones, and with ``cut_answers`` reset those being answered."""
        if self._listener is None:
            return
        family = self._listener.sockets[0].family
        self._listener.close()
        self._listener = None
        # Bound but not listening, a socket keeps the port for us while connections to it are refused.
        self._place_holder = socket.socket(family)
        self._place_holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place_holder.bind(self._address)
        for connection in list(self._connections):
            if cut_answers and not _is_control(connection):
                reset_transport(connection.transport)
            else:
                connection.close_if_idle()

    def close_resting(self) -> None:
        """Close the connections that wait for a request, so that the next request makes a new one."""
        for connection in list(self._connections):
            connection.close_if_idle()

    def admit(self, connection: Connection) -> bool:
        """Register a new connection, unless a fault has it reset or never heard."""
        fault = self._strike()
        if fault is None:
            return super().admit(connection)
        super().admit(connection)
        transport = connection.transport
        if fault.kind == "hang":
            transport.set_protocol(_Deaf(self, connection))
        elif fault.how in ("end", "close"):
            transport.close()
        else:
            reset_transport(transport)
        return True

    async def close(self) -> None:
        """Stop at once."""
        await self.drain(0)
        if self._place_holder is not None:
            self._place_holder.close()
            self._place_holder = None


def _is_control(connection: Connection) -> bool:
    """Whether it is being used to control the simulation: the very call that closes the port gets its answer."""
    return connection.request is not None and connection.request.path.startswith(CONTROL_PATH)


class _Deaf(asyncio.Protocol):
    """Holds a connection and hears nothing, until the other side closes it."""

    def __init__(self, server: FaultyServer, connection: Connection) -> None:
        self._server = server
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Not called: the transport is handed over when it is already made."""

    def data_received(self, data: bytes) -> None:
        """Throw it away."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection that was replaced, which tells the server."""
        self._connection.connection_lost(exc)
