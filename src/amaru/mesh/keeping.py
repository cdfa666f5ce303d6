"""Memory, kept beside the event loop: what was remembered is written by a thread of its own, one draft at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from amaru.config import Config
from amaru.health.memory import Memory, MemorySettings
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.mesh.sensing import Sensing

STATES_EVERY_S = 10.0
"""Between two writes of the states: a crash costs no more of what was learned."""
LAST_S = 10.0
"""How long the last write may take."""

log = get_logger("mesh")


class Keeper:
    """Writes what ``memory`` has to write.

    Parameters
    ----------
    folder
        Of what is remembered.
    """

    def __init__(self, folder: Path, settings: MemorySettings, *, wall: Callable[[], float]) -> None:
        self.memory = Memory(folder, settings, wall=wall)
        self.memory.open()
        for note in self.memory.notes:
            log.warning("memory_not_read", reason=note)
        self._thread: ThreadPoolExecutor | None = None
        self._writing: asyncio.Future[None] | None = None
        self._said = ""
        self._states_at = 0.0  # of the loop's clock

    def end_all_but(self, going: Collection[str], now: float) -> None:
        """Patterns that were under way when the last process ended, and that nobody knows of now, are over."""
        memory = self.memory
        for pattern in list(memory.patterns.values()):
            if pattern.ended_at is None and pattern.id not in going:
                detail = f"{pattern.detail}; amaru was stopped meanwhile"
                memory.remember(msgspec.structs.replace(pattern, ended_at=max(now, pattern.at), detail=detail))

    @property
    def states_due(self) -> bool:
        """The states should be handed to ``memory`` before the next ``write``."""
        return asyncio.get_running_loop().time() >= self._states_at

    def write(self) -> None:
        """Have what is new written, unless something is being written. Never waits, and never raises."""
        if self._writing is not None and not self._writing.done():
            return
        loop = asyncio.get_running_loop()
        due = self.states_due
        draft = self.memory.draft(states=due)
        if due:
            self._states_at = loop.time() + STATES_EVERY_S
        if draft is None:
            return
        if self._thread is None:
            # Its own, since the loop's threads may all wait for the disk.
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="amaru-memory")

        async def written() -> None:
            await loop.run_in_executor(self._thread, self.memory.write, draft)
            failure = self.memory.failure
            if failure:
                self.memory.put_back(draft)
            if failure and failure != self._said:  # else it would be said once a second
                log.error("memory_not_written", reason=failure, effect="kept in memory, and tried again")
            self._said = failure

        self._writing = asyncio.ensure_future(written())

    async def aclose(self) -> None:
        """Write all that is new, within ``LAST_S``."""
        try:
            async with asyncio.timeout(LAST_S):
                if self._writing is not None:
                    await self._writing
                self._states_at = 0.0
                self.write()
                if self._writing is not None:
                    await self._writing
        except TimeoutError:
            log.error("memory_not_written", reason="the disk is too slow", effect="the last changes are lost")
        if self._thread is not None:
            self._thread.shutdown(wait=False)


def keeper_of(config: Config, wall: Callable[[], float]) -> Keeper:
    """The keeper of what that configuration's health remembers."""
    health = config.health
    settings = MemorySettings(
        files=health.retention_files, days=health.retention_days, history_days=health.history_days
    )
    return Keeper(config.health_path, settings, wall=wall)


def load_states(sensing: Sensing, keeper: Keeper, now: float) -> None:
    """Go on from what was remembered, as far as it can be used; the rest begins anew, and is said."""
    parts = keeper.memory.parts
    sensing.sense.patterns.remember(keeper.memory.patterns.values())
    for note in (
        *sensing.sense.load(parts),
        *sensing.acting.load(parts.get("healer"), now),
        *sensing.steadiness.load(parts.get("field"), parts.get("guardian")),
        *sensing.probing.spending.load(parts.get("probes"), now),
    ):
        log.warning("memory_not_used", reason=note)
    keeper.end_all_but(sensing.sense.patterns.active, now)


def hand_states(sensing: Sensing, memory: Memory, now: float) -> None:
    """Hand over what is to be remembered of this moment."""
    for part, state in sensing.sense.states().items():
        memory.keep(part, state)
    if sensing.steadiness.field is not None:
        memory.keep("field", sensing.steadiness.field.state())
    memory.keep("healer", sensing.acting.healer.state())
    memory.keep("guardian", sensing.steadiness.guardian.state())
    memory.keep("probes", sensing.probing.spending.state(now))
