"""Notices that ``scheduler.yaml``, or a file that it names, has changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from amaru.errors import ConfigError
from amaru.files.changes import Changes
from amaru.ledger.anchoring_config import RefusedScheduler, SchedulerSettings, load


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
        self._files = Changes(current.watched)

    def look(self, *, settled: bool = False) -> SchedulerSettings | None:
        """New settings, or ``None``: nothing changed, or the files were not still since the last look.

        ``settled`` reads at once, for SIGHUP. Raises ConfigError once for each change that cannot be used; those in
        force stay.
        """
        if not self._files.look(settled=settled):
            return None
        try:
            new = self._read(self.current.path, self._env)
        except ConfigError as error:
            # A file that is missing now may come next: its arrival is a change, too.
            more = error.watched if isinstance(error, RefusedScheduler) else ()
            self._files.watch((*self.current.watched, *more))
            raise
        self._files.watch(new.watched)
        if new.digest == self.current.digest:
            return None
        self.current = new
        return new
