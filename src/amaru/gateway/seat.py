"""A worker's place among those of a machine, as the supervisor hands it on: file descriptors and numbers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from amaru.mesh import Member, Owner
from amaru.routing.shared import OWNER, Memory

JOIN_S = 5.0
"""A worker waits so long for the owner's word before it serves; then it serves as configured until that comes."""


class Seat(msgspec.Struct, frozen=True):
    """All that a worker is told. Descriptors are inherited.

    Attributes
    ----------
    worker, workers
        Its number, and how many there are.
    listening
        Sockets for callers.
    admin
        The owner's for administrators, where the admin API has a port of its own.
    memory
        What the workers share.
    bus, relay
        Sockets at which the owner listens; other workers find them in ``folder``.
    ready
        A pipe that takes one byte once the worker serves.
    lifeline
        A pipe that ends with the supervisor.
    """

    worker: int
    workers: int
    listening: tuple[int, ...]
    memory: int
    bus: int
    relay: int
    ready: int
    lifeline: int
    folder: str
    admin: tuple[int, ...] = ()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that are to be inherited."""
        return (*self.listening, *self.admin, self.memory, self.bus, self.relay, self.ready, self.lifeline)

    @property
    def owns(self) -> bool:
        """Whether it is the owner's."""
        return self.worker == OWNER

    def company(self, log_lines_dropped: Callable[[], int]) -> Owner | Member:
        """The worker's place in the mesh."""
        memory = Memory(self.memory, self.workers, self.worker)
        kind = Owner if self.owns else Member
        return kind(memory, Path(self.folder), log_lines_dropped=log_lines_dropped)

    def sockets(self) -> list[socket.socket]:
        """The sockets for callers."""
        return [socket.socket(fileno=number) for number in self.listening]

    def admin_sockets(self) -> list[socket.socket]:
        """The sockets for administrators."""
        return [socket.socket(fileno=number) for number in self.admin]

    def relay_socket(self) -> socket.socket | None:
        """The socket for what other workers hand on; the owner's."""
        return socket.socket(fileno=self.relay) if self.owns else None

    async def join(self, company: Owner | Member) -> bool:
        """Get in touch with the other workers; False where the owner is away."""
        if isinstance(company, Owner):
            await company.start(socket.socket(fileno=self.bus))
            return True
        return await company.join(JOIN_S)

    def tell_ready(self) -> None:
        """Let the supervisor know that the worker serves; one that is gone meanwhile is noticed by ``follow``."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.ready, b"1")
        os.close(self.ready)

    def follow(self, stop: Callable[[], None]) -> None:
        """Call ``stop`` when the supervisor is gone, however it ended."""
        loop = asyncio.get_running_loop()

        def gone() -> None:
            loop.remove_reader(self.lifeline)
            stop()

        loop.add_reader(self.lifeline, gone)
