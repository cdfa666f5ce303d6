"""Where a log's files lie: a folder, or anything that fsspec has a URL for."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from amaru.errors import LedgerBusy, LedgerCorrupt, LedgerError
from amaru.ledger.journal import FileJournal, Journal, sync_path, write_fully

_FLUSHERS = 8


class TileStore(Protocol):
    """The files under one root; a name is a path within it, with ``/``. Every call may wait for a disk or a network.

    Raises LedgerError throughout where the store cannot be read or written; an absent file is ``None``.
    """

    shown: str
    """The root, as messages may show it."""

    def read(self, name: str, *, most: int) -> bytes | None:
        """A file's bytes. Raises LedgerCorrupt where it has more than ``most``, or is no file."""

    def write(self, name: str, content: bytes | bytearray) -> None:
        """Have the file hold this, or what it held before; durable after ``sync``."""

    def replace(self, name: str, content: bytes) -> None:
        """As ``write``, of a file that only the writer writes. Raises LedgerBusy where another is seen to have."""

    def sync(self) -> None:
        """Make durable all that was written before."""

    @property
    def unsynced_bytes(self) -> int:
        """What the next ``sync`` has to make durable."""

    def forget(self, name: str) -> None:
        """A file that a crash of the machine may take: ``sync`` passes it over."""

    def delete(self, name: str) -> None:
        """Remove a file, or a folder of files; one that is not there is no error."""

    def names(self, folder: str) -> list[str]:
        """The names in a folder, of files and of folders; none where there is no such folder."""

    def hold(self) -> None:
        """Become the one writer. Raises LedgerBusy where there is one."""

    def renew(self) -> None:
        """Remain it, also where nothing is written for long. Raises LedgerBusy where another has become it."""

    def release(self) -> None:
        """Cease to be it; nothing is written to a log that is another's by now."""

    def journal(self) -> Journal:
        """The journal, which only the writer opens."""


def open_store(url: str, options: dict[str, Any] | None = None) -> TileStore:  # Any: what the file system takes
    """The store of a path, a ``file://`` URL, or another URL of fsspec. Raises LedgerError."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "file":
        return FolderStore(Path(rest if separator else url))
    from amaru.ledger.remote_store import RemoteStore

    return RemoteStore(url, options or {})


class FolderStore:
    """A folder. One writer holds ``flock`` on its file ``lock``; the kernel lets go of it when the process ends."""

    def __init__(self, root: Path) -> None:
        self._root = str(root.absolute())
        self.shown = self._root
        self._lock = -1
        self._unsynced: dict[str, int] = {}
        self._unsynced_bytes = 0
        self._folders: dict[str, None] = {}

    @property
    def unsynced_bytes(self) -> int:
        return self._unsynced_bytes

    def read(self, name: str, *, most: int) -> bytes | None:
        try:
            # Without waiting: in a folder that someone handed over, a pipe may have the name.
            handle = os.open(f"{self._root}/{name}", os.O_RDONLY | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failed("read", name, error) from None
        try:
            about = os.fstat(handle)
            size = about.st_size
            if not stat.S_ISREG(about.st_mode):
                raise LedgerCorrupt(f"{self.shown}/{name}: is no plain file")
            if size > most:
                raise LedgerCorrupt(f"{self.shown}/{name}: {size:,} bytes, more than the {most:,} that it can have")
            content = os.read(handle, size)
            while len(content) < size and (more := os.read(handle, size - len(content))):
                content += more
        except OSError as error:
            raise self._failed("read", name, error) from None
        finally:
            os.close(handle)
        return content

    def write(self, name: str, content: bytes | bytearray) -> None:
        path = f"{self._root}/{name}"
        folder, _, last = path.rpartition("/")
        draft = f"{folder}/.{last}.draft"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            try:
                handle = os.open(draft, flags, 0o644)
            except FileNotFoundError:
                self.renew()
                self._make_folder(folder)
                handle = os.open(draft, flags, 0o644)
            try:
                write_fully(handle, content)
            finally:
                os.close(handle)
            os.rename(draft, path)  # noqa: PTH104 - some 20 µs less than Path, for each of many tiles
        except OSError as error:
            Path(draft).unlink(missing_ok=True)
            raise self._failed("write", name, error) from None
        self._unsynced_bytes += len(content) - self._unsynced.get(path, 0)
        self._unsynced[path] = len(content)
        self._folders[folder] = None

    def replace(self, name: str, content: bytes) -> None:
        self.renew()
        self.write(name, content)

    def sync(self) -> None:
        # The kernel flushes what several threads ask for in one go, where it would wait for the disk file by file.
        with ThreadPoolExecutor(_FLUSHERS) as pool:
            for what in (self._unsynced, self._folders):
                for problem in pool.map(self._sync, list(what)):
                    if problem is not None:
                        # What the kernel failed to write it may since take for written: it has to be written again.
                        raise problem
        self._unsynced.clear()
        self._unsynced_bytes = 0
        self._folders.clear()

    def _sync(self, path: str) -> LedgerError | None:
        try:
            sync_path(path)
        except FileNotFoundError:
            pass  # deleted since
        except OSError as error:
            return self._failed("make durable", path.removeprefix(f"{self._root}/"), error)
        return None

    def forget(self, name: str) -> None:
        self._unsynced_bytes -= self._unsynced.pop(f"{self._root}/{name}", 0)

    def delete(self, name: str) -> None:
        path = Path(self._root, name)
        try:
            if path.is_dir():
                for child in path.iterdir():
                    child.unlink(missing_ok=True)
                    self.forget(f"{name}/{child.name}")
                path.rmdir()
                self._folders.pop(str(path), None)
            else:
                path.unlink(missing_ok=True)
                self.forget(name)
        except OSError as error:
            raise self._failed("delete", name, error) from None

    def names(self, folder: str) -> list[str]:
        try:
            return [name for name in os.listdir(f"{self._root}/{folder}") if not name.startswith(".")]  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._failed("list", folder, error) from None

    def hold(self) -> None:
        path = Path(self._root, "lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._failed("write", "lock", error) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            who = os.pread(handle, 100, 0).decode(errors="replace").strip() or "another process"
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise LedgerBusy(f"{self.shown}: {who} writes this log, and a log has one writer") from None
            raise self._failed("lock", "lock", error) from None
        self._lock = handle
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds all the same, without a name

    def renew(self) -> None:
        """See that the lock is still in its place: who moves or removes the folder of a log takes it along."""
        if self._lock < 0:
            return
        try:
            there = os.stat(f"{self._root}/lock")  # noqa: PTH116 - as above
        except OSError as error:
            raise LedgerError(
                f"{self.shown}: the log is no longer here ({error.strerror}): its folder was removed, moved or "
                "unmounted while it was written. Put it back; what was acknowledged is in it alone"
            ) from None
        if not os.path.samestat(there, os.fstat(self._lock)):
            raise LedgerBusy(f"{self.shown}: another folder lies here by now, or its file lock was made anew")

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def journal(self) -> FileJournal:
        return FileJournal(Path(self._root, "journal"), self.renew)

    def _make_folder(self, folder: str) -> None:
        """With all above it, each of which then has a new name in it."""
        path = Path(folder)
        while not path.exists() and str(path) != self._root:
            path = path.parent
            self._folders[str(path)] = None
        Path(folder).mkdir(parents=True, exist_ok=True)

    def _failed(self, what: str, name: str, error: OSError) -> LedgerError:
        return LedgerError(f"{self.shown}/{name}: cannot {what}: {error.strerror or error}")
