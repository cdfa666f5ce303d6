"""Notices that ``scheduler.yaml``, or a file that it names, has changed.

Polling, for the reasons that ``amaru serve`` polls: see ``config/watch.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from amaru.errors import ConfigError
from amaru.ledger.anchoring_config import RefusedScheduler, SchedulerSettings, load

_Stamp = dict[Path, tuple[int, int, int] | None]


class Watch:
    """Looks at the files of settings.

    Parameters
    ----------
    current
        The settings in force.
    read
        Reads a file; for what the command line sets in place of it.
    """

    def __init__(
        self,
        current: SchedulerSettings,
        *,
        env: Mapping[str, str] = os.environ,
        read: Callable[[Path, Mapping[str, str]], SchedulerSettings] = load,
    ) -> None:
        self.current = current
        self._env = env
        self._read = read
        self._watched = current.watched
        # None: nothing was read by us yet. The first look reads, in case a file changed since they were loaded.
        self._read_at: _Stamp | None = None
        self._seen: _Stamp | None = None

    def look(self, *, settled: bool = False) -> SchedulerSettings | None:
        """New settings, or ``None``: nothing changed, or the files were not still since the last look.

        ``settled`` reads at once, for SIGHUP. Raises ConfigError once for each change that cannot be used; those in
        force stay.
        """
        stamp = {path: _stat(path) for path in self._watched}
        still, self._seen = stamp == self._seen, stamp
        if not settled and (not still or stamp == self._read_at):
            return None
        try:
            new = self._read(self.current.path, self._env)
        except ConfigError as error:
            # A file that is missing now may come next: its arrival is a change, too.
            more = error.watched if isinstance(error, RefusedScheduler) else ()
            self._watch((*self.current.watched, *more), stamp)
            raise
        self._watch(new.watched, stamp)
        if new.digest == self.current.digest:
            return None
        self.current = new
        return new

    def _watch(self, paths: tuple[Path, ...], known: _Stamp) -> None:
        """Watch these; files that no look has covered yet count as read as they are now."""
        self._watched = tuple(dict.fromkeys(paths))
        self._seen = {path: known[path] if path in known else _stat(path) for path in self._watched}
        self._read_at = dict(self._seen)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
