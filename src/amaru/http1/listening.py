"""Listening sockets that several processes accept from."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Sequence

from amaru.http1.settings import ListenError

LEAVE_S = 0.002
"""How long a connection is left to others who have fewer: one who is busy, or hangs, may need longer."""


async def listen(host: str, port: int, *, backlog: int) -> list[socket.socket]:
    """Sockets that listen on every address of ``host``, for other processes to accept from.

    Raises
    ------
    ListenError
        The address is taken, not allowed, or not of this machine.
    """
    made: list[socket.socket] = []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            made.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(address)
            listening.listen(backlog)
    except OSError as error:
        for listening in made:
            listening.close()
        raise ListenError(f"cannot listen on {host}:{port}: {explain(error)}") from error
    return made


class Acceptor:
    """Accepts connections one at a time, and leaves them to other processes while those have fewer.

    An event loop's own server accepts all that wait at once: of the connections that a client opens together one
    process would get all. With a socket each (``SO_REUSEPORT``) the kernel spreads them by a hash, which leaves one
    process with twice the connections of another, and connections waiting at one that has died.

    Parameters
    ----------
    sockets
        Listening ones; it closes its own descriptors of them.
    factory
        Makes the protocol of a connection.
    may_take
        Whether nobody else has fewer connections; where it is false, one that waits is taken ``LEAVE_S`` later if it
        waits still.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        factory: Callable[[], asyncio.Protocol],
        *,
        may_take: Callable[[], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.sockets = list(sockets)
        self._factory = factory
        self._may_take = may_take
        self._loop = loop
        self._left: dict[socket.socket, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        for listening in self.sockets:
            loop.add_reader(listening, self._ready, listening)

    def _ready(self, listening: socket.socket) -> None:
        if self._may_take():
            self._accept(listening)
        else:
            self._loop.remove_reader(listening)
            self._left[listening] = self._loop.call_later(LEAVE_S, self._take, listening)

    def _take(self, listening: socket.socket) -> None:
        """Nobody has taken it: a busy one is no help to a caller."""
        del self._left[listening]
        self._loop.add_reader(listening, self._ready, listening)
        self._accept(listening)

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # another was first, or the caller left, or there are no descriptors
            accepted, _ = listening.accept()
            accepted.setblocking(False)
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._factory, accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Accept no more."""
        for timer in self._left.values():
            timer.cancel()
        for listening in self.sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self.sockets = []

    async def wait_taken(self) -> None:
        """Until every connection that was accepted has its protocol."""
        if self._tasks:
            await asyncio.wait(self._tasks)


def explain(error: OSError) -> str:
    """Why an address cannot be listened on, and what to do."""
    if isinstance(error, socket.gaierror):
        return "the host name is unknown; use an address of this machine, such as 127.0.0.1"
    code = error.errno
    if code == errno.EADDRINUSE:
        return "the port is taken; stop the program that holds it, or choose another port (0 takes a free one)"
    if code == errno.EACCES:
        return "not allowed; ports below 1024 need privileges, choose a higher one"
    if code in (errno.EADDRNOTAVAIL, None):  # None: asyncio of Python 3.13, when it could bind to no address
        return "the address is not of this machine; 127.0.0.1 and 0.0.0.0 always are"
    return str(error)
