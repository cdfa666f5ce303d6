"""A log on anything that fsspec has a URL for: S3, GCS, …, and ``memory://``.

An object appears whole, and is durable once its writing returns. The journal is an object for each commit, so that a
commit takes a round trip; group commits (``writer``) make up for it.

The one writer holds a lease of LEASE_S. It renews it after a third of that, also where it has nothing to write, and
writes or deletes nothing unless two thirds are left. Each renewal, taking over and letting go is a new object
``lock/<number>``, of which the highest counts: who holds the lease is who *created* that one, so that of two that take
it only one can. Objects of the journal are likewise created, never replaced, so that two writers cannot both commit an
index. What must be replaced, the checkpoint and the journal's base, is replaced only over what this writer knows to be
there, where the store can: on S3, with ``If-Match``.

What this relies upon: that the store creates an object once (``If-None-Match: *`` on S3, ``ifGenerationMatch=0`` on
GCS), and lists what was created. GCS could replace like S3, by ``ifGenerationMatch``, but gcsfs (2026.10) has a way to
say that for new objects only. On stores other than S3 a writer that stood still between asking for its lease and
writing a checkpoint or a base is held off by the lease alone: its request must arrive, and clocks must agree, within
the two thirds that were left, 40 s.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
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

    protocol: str | tuple[str, ...]

    def ls(self, path: str, detail: bool = True) -> list[str]: ...
    def cat_file(self, path: str, start: int, end: int) -> bytes: ...
    def info(self, path: str) -> dict[str, Any]: ...  # Any: a store's own words
    def pipe_file(self, path: str, value: bytes, **options: str) -> Any: ...  # Any: a store's own answer
    def rm(self, path: str, recursive: bool = False) -> None: ...
    def invalidate_cache(self) -> None: ...


class _Lease(msgspec.Struct, frozen=True):
    """Who writes, and until when by the clock of the world; once it was let go of, until 1970."""

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
            if url.startswith(("http://", "https://")):
                from amaru.ledger.web_client import bounded_client

                options = {"get_client": bounded_client, **options}
            fs, root = url_to_fs(url, **options)
        except Exception as error:  # each file system has errors of its own
            raise LedgerError(f"{self.shown}: not a usable URL: {self._words(error)}") from None
        self._fs = cast("_FileSystem", fs)
        self._root = str(root).rstrip("/")
        self._clock = clock
        self._lease: _Lease | None = None
        self._writes = False
        self._matches = "s3" in fs.protocol
        self._tags: dict[str, str] = {}

    @property
    def unsynced_bytes(self) -> int:
        return 0

    def read(self, name: str, *, most: int) -> bytes | None:
        try:
            content = self._fs.cat_file(self._path(name), start=0, end=most + 1)
        except (FileNotFoundError, IsADirectoryError):
            return None
        except Exception as error:  # as above
            raise self._failed("read", name, error) from None
        if len(content) > most:  # by one byte, but from web servers that send all, whatever range is asked for
            raise LedgerCorrupt(f"{self.shown}/{name}: more than {most:,} bytes, which none can have")
        return bytes(content)

    def write(self, name: str, content: bytes | bytearray) -> None:
        self.renew()
        self._put(name, bytes(content))

    def create(self, name: str, content: bytes) -> None:
        """As ``write``, of an object that is not there. Raises LedgerBusy where it is."""
        self.renew()
        self._create(name, content)

    def replace(self, name: str, content: bytes) -> None:
        self.renew()
        if not self._matches:
            self._put(name, content)
            return
        tag = self._tags.pop(name, None) or self._tag(name)  # it is unknown after a write that failed
        self._tags[name] = self._put(name, content, **({"IfMatch": tag} if tag else {"mode": "create"}))["ETag"]

    def sync(self) -> None:
        """Nothing: what was written is durable."""

    def forget(self, name: str) -> None:
        """Nothing, as above."""

    def delete(self, name: str) -> None:
        self.renew()
        self._delete(name)

    def names(self, folder: str) -> list[str]:
        try:
            self._fs.invalidate_cache()
            return [path.rstrip("/").rsplit("/", 1)[-1] for path in self._fs.ls(self._path(folder), detail=False)]
        except FileNotFoundError:
            return []
        except Exception as error:  # as above
            raise self._failed("list", folder, error) from None

    def hold(self) -> None:
        number, held = self._newest_lease()
        now = self._clock()
        if held is not None and held.until_s > now:
            raise LedgerBusy(
                f"{self.shown}: {held.owner} writes this log, and a log has one writer — "
                f"its lease ends {held.until_s - now:.0f} s from now unless it renews it"
            )
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        self._take_lease(number + 1, _Lease(owner, secrets.token_hex(8), now + LEASE_S))
        self._writes = True
        self._tags.clear()

    def renew(self) -> None:
        """Renew the lease where it is time to; one that has ended is had again, unless another took it meanwhile.

        Raises LedgerBusy. What never held the lease adds objects beside a log (``proofs``), and needs none.
        """
        lease, now = self._lease, self._clock()
        if lease is None:
            if self._writes:
                raise LedgerBusy(f"{self.shown}: this writer no longer holds the log — open it again")
            return
        if LEASE_S - _RENEW_S < lease.until_s - now <= LEASE_S:  # more: the clock was put back
            return
        number, held = self._newest_lease()
        if held is None or held.nonce != lease.nonce:
            self._lease = None
            by = "another writer" if held is None else held.owner
            raise LedgerBusy(f"{self.shown}: {by} has taken this log — open it again")
        self._take_lease(number + 1, _Lease(lease.owner, lease.nonce, now + LEASE_S))

    def release(self) -> None:
        mine, self._lease = self._lease, None
        if mine is None:
            return
        number, held = self._newest_lease()
        if held is not None and held.nonce == mine.nonce:  # the highest is never deleted: its number must not come anew
            self._create(_lease_name(number + 1), msgspec.json.encode(_Lease(mine.owner, mine.nonce, 0.0)))
            self._delete(_lease_name(number))

    def journal(self) -> RemoteJournal:
        return RemoteJournal(self)

    # ---- the lease --------------------------------------------------------------------------------------------------

    def _newest_lease(self) -> tuple[int, _Lease | None]:
        """The number and content of the one that counts; -1 where there is none."""
        number = max(self._lease_numbers(), default=-1)
        content = self.read(_lease_name(number), most=4096) if number >= 0 else None
        try:
            return number, None if content is None else msgspec.json.decode(content, type=_Lease)
        except msgspec.DecodeError:
            return number, None

    def _lease_numbers(self) -> list[int]:
        return [int(name) for name in self.names("lock") if name.isdigit() and name.isascii()]

    def _take_lease(self, number: int, lease: _Lease) -> None:
        self._create(_lease_name(number), msgspec.json.encode(lease))
        if self._newest_lease() != (number, lease):  # one was made while this one was on its way
            raise LedgerBusy(f"{self.shown}: another writer took this log at the same time")
        self._lease = lease
        with contextlib.suppress(LedgerError):  # it goes with the next one
            for older in self._lease_numbers():
                if older < number:
                    self._delete(_lease_name(older))

    # ---- objects ----------------------------------------------------------------------------------------------------

    def _create(self, name: str, content: bytes) -> None:
        try:
            self._put(name, content, mode="create")
        except LedgerBusy:
            # The store's client asks again where an answer was lost, and then finds its own.
            if self.read(name, most=_MOST_FRAME_BYTES) != content:
                raise

    def _put(self, name: str, content: bytes, **condition: str) -> Any:  # Any: a store's own answer
        try:
            return self._fs.pipe_file(self._path(name), content, **condition)
        except Exception as error:  # as above
            if condition and _refused(error):
                raise LedgerBusy(f"{self.shown}/{name}: another writer made it") from None
            raise self._failed("write", name, error) from None

    def _tag(self, name: str) -> str | None:
        """What S3 knows the object's content by; ``None`` where there is no object."""
        try:
            self._fs.invalidate_cache()
            return str(self._fs.info(self._path(name))["ETag"])
        except FileNotFoundError:
            return None
        except Exception as error:  # as above
            raise self._failed("read", name, error) from None

    def _delete(self, name: str) -> None:
        try:
            self._fs.rm(self._path(name), recursive=True)
        except FileNotFoundError:
            pass
        except Exception as error:  # as above
            raise self._failed("delete", name, error) from None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _failed(self, what: str, name: str, error: Exception) -> LedgerError:
        return LedgerError(f"{self.shown}/{name}: cannot {what}: {self._words(error)}")

    def _words(self, error: Exception) -> str:
        words = " ".join((str(error) or type(error).__name__).split())
        for secret in self._secrets:
            words = words.replace(secret, "…")
        return redact_text(words[:300])


def _lease_name(number: int) -> str:
    return f"lock/{number:020d}"


def _refused(error: Exception) -> bool:
    """The store did not write, since the condition did not hold."""
    answer: Mapping[str, Mapping[str, object]] = getattr(error.__cause__, "response", None) or {}
    return isinstance(error, FileExistsError) or answer.get("Error", {}).get("Code") in ("PreconditionFailed", "412")


class RemoteJournal:
    """``journal/base``, and an object ``journal/<first leaf>`` for each commit."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self._frames: dict[str, int] = {}
        self._doubtful: tuple[str, bytes] | None = None

    @property
    def size_bytes(self) -> int:
        return sum(self._frames.values())

    def recover(self) -> Iterator[Frame]:
        self._take_back()
        self._frames = {}
        base = self._read("base")
        names = sorted(name for name in self._store.names("journal") if name.isdigit() and name.isascii())
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
        self._take_back()
        name, content = f"{frame.first:020d}", frame.encode()
        try:
            self._store.create(f"journal/{name}", content)
        except LedgerBusy:
            raise
        except LedgerError:
            self._doubtful = f"journal/{name}", content
            raise
        self._frames[name] = len(frame.payload)

    def _take_back(self) -> None:
        """A write that failed may have been made all the same."""
        if self._doubtful is not None:
            name, content = self._doubtful
            if self._store.read(name, most=_MOST_FRAME_BYTES) == content:
                self._store.delete(name)
            self._doubtful = None

    def restart(self, base: Frame) -> None:
        self._store.replace("journal/base", base.encode())
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
