"""Notices that the configuration changed, and hands over the new one, or what is wrong with it.

Polling, for the ways in which files are replaced have little else in common: editors write in place or rename over
the old file, and Kubernetes swaps a symbolic link two folders up, which a watch on the file itself never sees. A
``stat`` follows links, costs microseconds, and works on network volumes, where change notifications do not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from amaru.config.load import load
from amaru.config.settings import Config, RefusedConfigError, needs_restart
from amaru.errors import ConfigError

OnChange = Callable[[Config, tuple[str, ...]], Awaitable[None] | None]
"""Gets the new configuration, and the dotted paths of changes that only a restart brings. What it gives is awaited."""
OnRefused = Callable[[list[str]], None]
"""Gets every problem of a changed file that cannot be used; the old configuration serves on."""

_Status = tuple[int, int, int] | None
_Stamp = tuple[_Status, ...]


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
        self._watched = current.watched
        # None: nothing was read by us yet. The first look reads, in case the file changed since `current` was loaded.
        self._read_at: _Stamp | None = None
        self._seen: _Stamp | None = None
        # A hang-up may come while a look is under way in its thread.
        self._looking = asyncio.Lock()

    def check(self, *, settled: bool = False) -> Config | None:
        """One look: the new configuration, or ``None`` where nothing changed or the change is not still yet.

        ``settled`` reads at once, and also when the files look unchanged: for SIGHUP. Raises ``ConfigError`` where
        the changed file cannot be used.
        """
        stamp = _stamp(self._watched)
        still = stamp == self._seen
        self._seen = stamp
        if not settled and (not still or stamp == self._read_at):
            return None
        self._read_at = stamp
        try:
            new = load(self.current.path, self._env)
        except RefusedConfigError as error:
            # A key file that is missing now may come next: its arrival is a change too.
            self._watch((*self.current.watched, *error.watched))
            raise
        self._watch(new.watched)
        return new if new.digest != self.current.digest else None

    def _watch(self, paths: tuple[Path, ...]) -> None:
        """Also watches files that no look has covered yet; they count as read as they are now."""
        paths = tuple(dict.fromkeys(paths))
        if paths != self._watched:
            known = dict(zip(self._watched, self._seen or (), strict=False))
            self._watched = paths
            self._seen = self._read_at = tuple(known[path] if path in known else _stat(path) for path in paths)

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


def _stamp(paths: tuple[Path, ...]) -> _Stamp:
    """Modification time, size and inode of each file; ``None`` for one that is not there, as between two renames."""
    return tuple(_stat(path) for path in paths)


def _stat(path: Path) -> _Status:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
