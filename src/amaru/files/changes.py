"""Notices that files have changed, by looking at them now and then.

Polling, for the ways in which files are replaced have little else in common: editors write in place or rename over
the old file, and Kubernetes swaps a symbolic link two folders up, which a watch on the file itself never sees. A
``stat`` follows links, costs microseconds, and works on network volumes, where change notifications do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_Status = tuple[int, int, int] | None
"""Modification time, size and inode of a file; ``None`` for one that is not there, as between two renames."""


class Changes:
    """What some files looked like, and when they are to be read again.

    A change is read once the files have been still from one look to the next: a file that is being written is cut off
    somewhere, and may well be valid there.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._watched = tuple(dict.fromkeys(paths))
        # None: nothing was read by us yet. The first look reads, in case a file changed since it was loaded.
        self._read_at: tuple[_Status, ...] | None = None
        self._seen: tuple[_Status, ...] | None = None

    def look(self, *, settled: bool = False) -> bool:
        """Whether to read the files now, which counts as done. ``settled``: yes, whatever they look like."""
        stamp = tuple(_status(path) for path in self._watched)
        still, self._seen = stamp == self._seen, stamp
        if not settled and (not still or stamp == self._read_at):
            return False
        self._read_at = stamp
        return True

    def watch(self, paths: Iterable[Path]) -> None:
        """Watch these from now on; files that no look has covered yet count as read as they are now."""
        wanted = tuple(dict.fromkeys(paths))
        if wanted != self._watched:
            known = dict(zip(self._watched, self._seen or (), strict=False))
            self._watched = wanted
            self._seen = self._read_at = tuple(known[path] if path in known else _status(path) for path in wanted)


def _status(path: Path) -> _Status:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
