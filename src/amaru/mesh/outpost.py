"""Sense, in a worker that is not the owner: what attempts showed is reduced to figures here, and judged there.

Text never leaves this process: what is sampled is read beside the answers, as ``sensing`` does, and what goes to the
owner are observations. Answers that nobody could read are looked at here too; the owner is told how they could be.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from amaru.domain import Attempt, Kind, Offer, Outcome
from amaru.health.observation import Observation, is_suspect
from amaru.mesh.aside import Aside
from amaru.mesh.attempt import OpenAttempt
from amaru.mesh.feed import Feed
from amaru.mesh.intake import Intake, Left
from amaru.mesh.levers import MeshLevers
from amaru.mesh.member import Member
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.mesh.mesh import Mesh

TAKE_AFTER_S = 0.05
"""How long what attempts showed waits, to be taken in together."""
AT_ONCE = 64
"""Attempts that are reduced in one piece; requests have their turns in between."""
LOOK_AGAIN_AFTER_S = (0.2, 1.0, 5.0)
"""After an unreadable answer: when to look at what was kept of it, which may come to its end late."""

log = get_logger("mesh")


class Outpost:
    """In place of ``Sensing``. Belongs to the event loop's thread."""

    def __init__(self, mesh: Mesh, member: Member) -> None:
        health = mesh.plan.config.health
        self.enabled = health.enabled
        self.intake = Intake(mesh.salt, mesh.wall, health.samples_per_s, mesh.workers)
        self.feed = Feed()
        """Nobody hears it: who listens is sent on to the owner."""
        self.lost = 0
        """Attempts that could not be read."""
        self._mesh = mesh
        self._member = member
        member.levers = MeshLevers(mesh)
        self._aside = Aside("amaru-health")
        self._waking: asyncio.TimerHandle | None = None
        self._handing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def attempt_ended(self, kept: Attempt, attempt: OpenAttempt) -> None:
        """See ``Sensing.attempt_ended``."""
        if not self.enabled:
            return
        try:
            self.intake.ended(kept, attempt.ask.request, attempt.reply)
            self._wake_later()
        except Exception as error:  # nothing here may become a request's
            self._lose(error)

    def reported(self, offer: Offer, kind: Kind, outcome: Outcome) -> None:
        """See ``Sensing.reported``."""
        if self.enabled:
            self.intake.reported(offer, kind, outcome)
            self._wake_later()

    def _wake_later(self) -> None:
        if self._waking is None and len(self.intake):
            self._waking = asyncio.get_running_loop().call_later(TAKE_AFTER_S, self._wake_up)

    def _wake_up(self) -> None:
        self._waking = None
        task = asyncio.ensure_future(self.settle())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Hand over all that is queued by now."""
        async with self._handing:
            waiting = self.intake.take()
            while waiting:
                seen = await self._aside.run(lambda: self._reduce(waiting))
                self._member.observed(seen)
                suspects = {one.offer for one in seen if one.failure is not None and is_suspect(one.failure)}
                for offer in suspects:
                    for later_s in LOOK_AGAIN_AFTER_S:
                        asyncio.get_running_loop().call_later(later_s, self._look_at_unread, offer)
                await asyncio.sleep(0)

    def _reduce(self, waiting: deque[Left | Observation]) -> list[Observation]:
        seen = []
        for _ in range(min(AT_ONCE, len(waiting))):
            try:
                seen.append(self.intake.reduce(waiting.popleft()))
            except Exception as error:  # one must not take the others with it
                self._lose(error)
        return seen

    def _look_at_unread(self, offer: str) -> None:
        try:
            found = self._member.levers.find_adaptation(offer)
            if found is not None:
                self._member.readable(offer, found)
        except Exception as error:  # as above
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        if not self.lost:
            log.error("observation_lost", error=type(error).__name__, exc_info=error)
        self.lost += 1

    # ---- living -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Nothing to begin: it wakes with the first attempt."""

    def reload(self) -> None:
        """The mesh has another plan."""
        plan = self._mesh.plan
        self.intake.keep(plan.board.row_of)
        self.intake.samples_per_s = plan.config.health.samples_per_s
        self._member.carry_on()

    async def aclose(self) -> None:
        """Hand over what is queued, and end."""
        if self._waking is not None:
            self._waking.cancel()
        await self.settle()
        self._aside.close()
