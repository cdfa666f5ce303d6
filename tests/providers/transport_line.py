"""An HTTP/1.1 connection by itself: on a line that keeps what is written, and on a clock that the test holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from amaru.domain import FailureKind
from amaru.providers.h1_connection import H1Connection

REQUEST = (b"POST / HTTP/1.1\r\n\r\n", b"")


class HeldLoop:
    """As much of an event loop as a connection uses, with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.armed = 0

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.Future(loop=asyncio.get_event_loop())

    def call_at(self, at: float, callback: Callable[[], None]) -> Any:
        self.armed += 1
        timer = (at, callback)
        self.timers.append(timer)
        held = self

        class Handle:
            def cancel(self) -> None:
                if timer in held.timers:
                    held.timers.remove(timer)

        return Handle()

    def advance(self, to: float) -> None:
        while due := [timer for timer in self.timers if timer[0] <= to]:
            timer = min(due, key=lambda one: one[0])
            self.timers.remove(timer)
            self.now = max(self.now, timer[0])
            timer[1]()
        self.now = to


class Line:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.reading = True
        self.unsent = 0

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: Any) -> None:
        self.written += b"".join(parts)

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def connection_on(loop: Any) -> tuple[H1Connection, Line, list[bool]]:
    ended: list[bool] = []
    connection = H1Connection(loop, "peer:1", lambda _, lingered: ended.append(lingered))
    line = Line()
    connection.connection_made(line)  # type: ignore[arg-type]  # as much of a transport as is used
    return connection, line, ended


def begin(connection: H1Connection, deadline: float = 60.0) -> None:
    connection.start(REQUEST, bodiless=False, deadline=deadline, kind=FailureKind.NO_ANSWER)
