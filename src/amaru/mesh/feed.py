"""What happens, told to whoever listens: bounded, so that nobody who reads slowly slows anything."""

from __future__ import annotations

import asyncio
import collections
from typing import Any, NamedTuple

MAX_WAITING = 256
"""Events that may wait for one listener; one who has more waiting is dropped."""
MAX_LISTENERS = 64


class Event(NamedTuple):
    """One thing that happened."""

    id: int
    """Counts up from 1."""
    kind: str
    data: Any  # Any: JSON


class Listener:
    """One who listens: ``next`` gives each event since, in order, and ``None`` once it was dropped or all is over."""

    def __init__(self) -> None:
        self.dropped = False
        """It read too slowly."""
        self._waiting: collections.deque[Event] = collections.deque()
        self._over = False
        self._wake = asyncio.Event()

    async def next(self) -> Event | None:
        """The next event. Events that were waiting when all was over still come; of one who was dropped, none."""
        while not self._waiting:
            if self._over:
                return None
            self._wake.clear()
            await self._wake.wait()
        return self._waiting.popleft()

    def tell(self, event: Event) -> bool:
        """Whether there was room for it; where there was not, the listener is dropped."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped = True
            self._waiting.clear()
            self.end()
            return False
        self._waiting.append(event)
        self._wake.set()
        return True

    def end(self) -> None:
        """Nothing more comes."""
        self._over = True
        self._wake.set()


class Feed:
    """Tells events to every listener. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self.dropped = 0
        """Listeners that were dropped, since the start."""
        self._listeners: set[Listener] = set()
        self._told = 0
        self._over = False

    def __len__(self) -> int:
        return len(self._listeners)

    def tell(self, kind: str, data: Any) -> None:  # Any: JSON
        """Tell all who listen; never waits."""
        self._told += 1
        event = Event(self._told, kind, data)
        for listener in list(self._listeners):
            if not listener.tell(event):
                self.dropped += 1
                self._listeners.discard(listener)

    def listen(self) -> Listener | None:
        """One more listener, who must ``leave``; ``None``: too many listen already."""
        if len(self._listeners) >= MAX_LISTENERS:
            return None
        listener = Listener()
        if self._over:
            listener.end()
        else:
            self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Take one out; also one that was dropped."""
        self._listeners.discard(listener)

    def close(self) -> None:
        """Nothing more will happen: every listener comes to its end, also those still to come."""
        self._over = True
        while self._listeners:
            self._listeners.pop().end()
