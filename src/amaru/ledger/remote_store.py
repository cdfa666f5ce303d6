"""A log on anything that fsspec has a URL for: S3, GCS, …, and ``memory://``.

An object appears whole, and is durable once its writing returns. The journal is an object for each commit, so that a
commit takes a round trip; group commits (``writer``) make up for it. The one writer holds an object ``lock``, a lease
of LEASE_S that it renews while it commits; one that outlived its lease writes no more. Each object of the journal is
created, never replaced (``If-None-Match: *`` where the store has it), so that two writers, should they come to be,
cannot both commit an index.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import msgspec
from fsspec.core import url_to_fs

from amaru.errors import LedgerBusy, LedgerCorrupt, LedgerError
from amaru.ledger.journal import Frame, decode_frames
from amaru.telemetry.redaction import redact_text

LEASE_S = 60.0
_RENEW_S = LEASE_S / 3
_SECRET_OPTION = re.compile(r"key|secret|token|password|credential|sas", re.I)
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
_MOST_FRAME_BYTES = 64 * 1024 * 1024


class _FileSystem(Protocol):
    """What is used of fsspec, which has no types."""

    def ls(self, path: str, detail: bool = True) -> list[str]: ...
    def cat_file(self, path: str) -> bytes: ...
    def info(self, path: str) -> dict[str, Any]: ...  # Any: a store's own words
    def pipe_file(self, path: str, value: bytes, **options: str) -> object: ...
    def rm(self, path: str, recursive: bool = False) -> None: ...
    def invalidate_cache(self) -> None: ...


class _Lease(msgspec.Struct, frozen=True):
    """Who writes, and until when by the clock of the world."""

    owner: str
    nonce: str
    until_s: float


class RemoteStore:
    """The objects under a URL; ``options`` go to the file system (``endpoint_url``, ``key``, …). Raises LedgerError."""

    def __init__(
        self,
        url: str,
        options: dict[str, Any],  # Any: what the file system takes
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.shown = _USERINFO.sub("…@", url.split("?")[0])
        self._secrets = [str(value) for name, value in options.items() if _SECRET_OPTION.search(name) and value]
        self._secrets += [url] if self.shown != url else []
        try:
            fs, root = url_to_fs(url, **options)
        except Exception as error:  # each file system has errors of its own
            raise LedgerError(f"{self.shown}: not a usable URL: {self._words(error)}") from None
        self._fs = cast("_FileSystem", fs)
        self._root = str(root).rstrip("/")
        self._clock = clock
        self._lease: _Lease | None = None

    @property
    def unsynced_bytes(self) -> int:
        return 0

    def read(self, name: str, *, most: int) -> bytes | None:
        try:
            content = self._fs.cat_file(self._path(name))
        except (FileNotFoundError, IsADirectoryError):
            return None
        except Exception as error:  # as above
            raise self._failed("read", name, error) from None
        if len(content) > most:
            raise LedgerError(f"{self.shown}/{name}: {len(content):,} bytes, more than {most:,}")
        return bytes(content)

    def write(self, name: str, content: bytes | bytearray) -> None:
        try:
            self._fs.pipe_file(self._path(name), bytes(content))
        except Exception as error:  # as above
            raise self._failed("write", name, error) from None

    def create(self, name: str, content: bytes) -> None:
        """As ``write``, of an object that is not there. Raises LedgerBusy where it is."""
        try:
            self._fs.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            raise LedgerBusy(f"{self.shown}/{name}: another writer made it") from None
        except Exception as error:  # as above
            raise self._failed("write", name, error) from None

    def sync(self) -> None:
        """Nothing: what was written is durable."""

    def forget(self, name: str) -> None:
        """Nothing, as above."""

    def delete(self, name: str) -> None:
        try:
            self._fs.rm(self._path(name), recursive=True)
        except FileNotFoundError:
            pass
        except Exception as error:  # as above
            raise self._failed("delete", name, error) from None

    def names(self, folder: str) -> list[str]:
        try:
            self._fs.invalidate_cache()
            return [path.rstrip("/").rsplit("/", 1)[-1] for path in self._fs.ls(self._path(folder), detail=False)]
        except FileNotFoundError:
            return []
        except Exception as error:  # as above
            raise self._failed("list", folder, error) from None

    def hold(self) -> None:
        held = self._held()
        if held is not None and held.until_s > self._clock():
            raise LedgerBusy(
                f"{self.shown}: {held.owner} writes this log, and a log has one writer — "
                f"its lease ends {held.until_s - self._clock():.0f} s from now unless it renews it"
            )
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        self._write_lease(_Lease(owner, secrets.token_hex(8), self._clock() + LEASE_S))

    def release(self) -> None:
        held, self._lease = self._lease, None
        if held is not None and self._held() == held:
            self.delete("lock")

    def require_lease(self) -> None:
        """Renew the lease where it is time to. Raises LedgerBusy where it has ended or is another's."""
        now = self._clock()
        lease = self._lease
        if lease is None or lease.until_s <= now:
            raise LedgerBusy(f"{self.shown}: this writer's lease has ended — open the log again")
        if lease.until_s - now > LEASE_S - _RENEW_S:
            return
        if self._held() != lease:
            self._lease = None
            raise LedgerBusy(f"{self.shown}: another writer has taken this log — open it again")
        self._write_lease(_Lease(lease.owner, lease.nonce, now + LEASE_S))

    def journal(self) -> RemoteJournal:
        return RemoteJournal(self)

    def _held(self) -> _Lease | None:
        content = self.read("lock", most=4096)
        try:
            return None if content is None else msgspec.json.decode(content, type=_Lease)
        except msgspec.DecodeError:
            return None

    def _write_lease(self, lease: _Lease) -> None:
        self.write("lock", msgspec.json.encode(lease))
        if self._held() != lease:  # of two that took it at once, the later one has it
            self._lease = None
            raise LedgerBusy(f"{self.shown}: another writer took this log at the same time")
        self._lease = lease

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _failed(self, what: str, name: str, error: Exception) -> LedgerError:
        return LedgerError(f"{self.shown}/{name}: cannot {what}: {self._words(error)}")

    def _words(self, error: Exception) -> str:
        words = " ".join((str(error) or type(error).__name__).split())
        for secret in self._secrets:
            words = words.replace(secret, "…")
        return redact_text(words[:300])


class RemoteJournal:
    """``journal/base``, and an object ``journal/<first leaf>`` for each commit."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self._frames: dict[str, int] = {}
        self._doubtful: str | None = None

    @property
    def size_bytes(self) -> int:
        return sum(self._frames.values())

    def recover(self) -> Iterator[Frame]:
        self._frames, self._doubtful = {}, None
        base = self._read("base")
        names = sorted(name for name in self._store.names("journal") if name.isdigit())
        if base is None:
            if names:
                raise LedgerCorrupt(f"{self._store.shown}/journal: its base is gone — restore it from a copy")
            return
        yield base
        for name in names:
            if int(name) < base.first:
                self._store.delete(f"journal/{name}")
            elif (frame := self._read(name)) is not None:
                self._frames[name] = len(frame.payload)
                yield frame

    def append(self, frame: Frame) -> None:
        self._store.require_lease()
        if self._doubtful is not None:  # a write that failed may have been made all the same
            self._store.delete(self._doubtful)
            self._doubtful = None
        name = f"{frame.first:020d}"
        try:
            self._store.create(f"journal/{name}", frame.encode())
        except LedgerBusy:
            raise
        except LedgerError:
            self._doubtful = f"journal/{name}"
            raise
        self._frames[name] = len(frame.payload)

    def restart(self, base: Frame) -> None:
        self._store.write("journal/base", base.encode())
        before, self._frames = self._frames, {}
        for name in before:
            self._store.delete(f"journal/{name}")

    def close(self) -> None:
        """Nothing to let go of."""

    def _read(self, name: str) -> Frame | None:
        where = f"{self._store.shown}/journal/{name}"
        content = self._store.read(f"journal/{name}", most=_MOST_FRAME_BYTES)
        if content is None:
            return None
        frames, good = decode_frames(content, where)
        if len(frames) != 1 or good != len(content):
            raise LedgerCorrupt(f"{where}: damaged — restore it from a copy")
        return frames[0]
