"""Notices that the configuration changed, and hands over the new one, or what is wrong with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping

from amaru.config.load import load
from amaru.config.settings import Config, RefusedConfigError, needs_restart
from amaru.errors import ConfigError
from amaru.files.changes import Changes

OnChange = Callable[[Config, tuple[str, ...]], Awaitable[None] | None]
"""Gets the new configuration, and the dotted paths of changes that only a restart brings. What it gives is awaited."""
OnRefused = Callable[[list[str]], None]
"""Gets every problem of a changed file that cannot be used; the old configuration serves on."""


class ConfigWatcher:
    """Watches the file of a configuration, and every key file that it names.

    A change is read once the files have been still for one interval: a file that is being written is cut off
    somewhere, and may well be valid there, with half of the offers.

    Parameters
    ----------
    current
        The configuration that serves now.
    on_change
        Called in the event loop with a new configuration. When it raises, the new one counts as refused.
    on_refused
        Called in the event loop with the problems of a file that was refused; once per change, not per interval.
    interval_s
        Seconds between two looks.
    env
        As for ``load``.
    sleep
        Waits between two looks; for tests.
    """

    def __init__(
        self,
        current: Config,
        on_change: OnChange,
        on_refused: OnRefused,
        *,
        interval_s: float = 1.0,
        env: Mapping[str, str] = os.environ,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.current = current
        self._on_change = on_change
        self._on_refused = on_refused
        self._interval_s = interval_s
        self._env = env
        self._sleep = sleep
        self._files = Changes(current.watched)
        # A hang-up may come while a look is under way in its thread.
        self._looking = asyncio.Lock()

    def check(self, *, settled: bool = False) -> Config | None:
        """One look: the new configuration, or ``None`` where nothing changed or the change is not still yet.

        ``settled`` reads at once, and also when the files look unchanged: for SIGHUP. Raises ``ConfigError`` where
        the changed file cannot be used.
        """
        if not self._files.look(settled=settled):
            return None
        try:
            new = load(self.current.path, self._env)
        except RefusedConfigError as error:
            # A key file that is missing now may come next: its arrival is a change too.
            self._files.watch((*self.current.watched, *error.watched))
            raise
        self._files.watch(new.watched)
        return new if new.digest != self.current.digest else None

    async def reload(self, *, settled: bool = True) -> bool:
        """One look, with its consequences: True where a new configuration serves now. Never raises."""
        async with self._looking:
            return await self._look(settled)

    async def _look(self, settled: bool) -> bool:
        try:
            new = await asyncio.to_thread(self.check, settled=settled)
            if new is None:
                return False
            applying = self._on_change(new, needs_restart(self.current, new))
            if applying is not None:
                await applying
        except ConfigError as error:
            self._on_refused(error.problems)
            return False
        except Exception as error:
            # Whatever went wrong, the old configuration serves on, and the next change gets its chance.
            self._on_refused([f"{self.current.path}: could not be applied: {type(error).__name__}: {error}"])
            return False
        self.current = new
        return True

    async def run(self) -> None:
        """Looks every ``interval_s`` seconds until cancelled."""
        while True:
            await self._sleep(self._interval_s)
            await self.reload(settled=False)
