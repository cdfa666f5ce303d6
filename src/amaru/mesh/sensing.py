"""Sense, wired to the live mesh: what attempts showed is taken in after the answers, and never holds one up.

``attempt_ended`` only queues. A task of its own takes what is queued, reduces it to figures and tells the observers, in
short turns on the event loop while these are quick, beside it where they are not. An observer that raises loses that
one observation, counted; nothing in here raises into a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from amaru.domain import Attempt, Kind, Offer, Outcome
from amaru.health.observation import Observation
from amaru.mesh.aside import Aside
from amaru.mesh.attempt import OpenAttempt
from amaru.mesh.feed import Feed
from amaru.mesh.intake import Intake, Left
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.mesh.mesh import Mesh

TAKE_AFTER_S = 0.02
"""How long what attempts showed waits, to be taken in together."""
TURN = 16
"""Attempts taken in by one turn on the event loop; with requests' own turns in between."""
LAST_S = 5.0
"""How long the end may wait for what is still queued."""

log = get_logger("mesh")


class Sensing:
    """What a mesh senses of its offers.

    Parameters
    ----------
    mesh
        The one that is watched.
    timer
        Seconds that a turn takes are measured by it.
    """

    def __init__(self, mesh: Mesh, *, timer: Callable[[], float] = time.perf_counter) -> None:
        settings = mesh.plan.config.health
        self.enabled = settings.enabled
        self.intake = Intake(mesh.salt, mesh.wall, settings.samples_per_s)
        self.feed = Feed()
        """What happened, for whoever listens."""
        self.observers: list[Callable[[Observation], None]] = []
        """Told of every attempt, one after another, never at once."""
        self.observed = 0
        self.lost = 0
        """Observations that an observer failed to take in, and attempts that could not be read."""
        self._mesh = mesh
        self._aside = Aside("amaru-health", timer=timer)
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    # ---- taking in ----------------------------------------------------------------------------------------------

    def attempt_ended(self, kept: Attempt, attempt: OpenAttempt) -> None:
        """Queue what an attempt showed that says something about its offer. Never raises."""
        if not self.enabled:
            return
        try:
            self.intake.ended(kept, attempt.ask.request, attempt.reply)
            self._wake_later()
        except Exception as error:  # nothing here may become a request's
            self._lose(error)

    def reported(self, offer: Offer, kind: Kind, outcome: Outcome) -> None:
        """Queue what a caller reported of work that it placed itself. Never raises."""
        if self.enabled:
            self.intake.reported(offer, kind, outcome)
            self._wake_later()

    def _wake_later(self) -> None:
        if len(self.intake) == 1:
            self.start()
            asyncio.get_running_loop().call_later(TAKE_AFTER_S, self._wake.set)

    async def settle(self) -> None:
        """Take in all that is queued, now."""
        async with self._turn:
            while batch := self.intake.take(TURN):
                await self._aside.run(functools.partial(self._observe, batch))
                if self._aside.on_loop:
                    await asyncio.sleep(0)

    def _observe(self, batch: list[Left | Observation]) -> None:
        for left in batch:
            try:
                observation = self.intake.reduce(left)
            except Exception as error:  # one must not take the others with it
                self._lose(error)
                continue
            self.observed += 1
            for observer in self.observers:
                try:
                    observer(observation)
                except Exception as error:  # as above
                    self._lose(error)

    def _lose(self, error: Exception) -> None:
        if not self.lost:
            log.error("observation_lost", error=type(error).__name__, exc_info=error)
        self.lost += 1

    # ---- living -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to take in and to look, unless it has begun, is switched off or has been closed."""
        if self.enabled and self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.settle()

    async def aclose(self) -> None:
        """Take in what is queued, and end."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.settle(), LAST_S)
        self.feed.close()
        self._aside.close()
