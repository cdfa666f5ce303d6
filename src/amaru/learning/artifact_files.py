"""Small files in a folder that an fsspec URL names: whole or absent, created once, replaced in one piece.

What each kind of store warrants:

- files: a new one appears whole (temporary beside it, fsync, rename) and under a lock that other processes respect
  (``flock`` on ``.lock``; it ends with its process);
- S3: a write appears whole; a name is created once (``If-None-Match: *``) and replaced only where nobody else has
  replaced it meanwhile (``If-Match``). AWS has had both since November 2024. A store that refuses the first
  (501) or ignores it is looked at before each write and read after it, which finds most collisions and not all;
- GCS: a write appears whole and a name is created once; of two replacements at one instant the later one stays;
- others, ``memory://`` among them: one process at a time.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from amaru.errors import ArtifactError
from amaru.files.whole import write_whole
from amaru.telemetry.redaction import redact_text

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_SECRET_OPTION = re.compile(r"key|secret|token|password|credential|sas", re.I)
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
_QUERY = re.compile(r"(?<=://)([^?\s]*\?)\S+")
_READERS = 16
_ATTEMPTS = 20
"""Times that a replacement begins anew because someone else was faster."""

_IN_PROCESS = threading.RLock()


class _FileSystem(Protocol):
    """What is used of fsspec, which has no types."""

    protocol: str | tuple[str, ...]

    def ls(self, path: str, detail: bool = True) -> list[dict[str, Any]]: ...  # Any: a store's own words
    def info(self, path: str) -> dict[str, Any]: ...  # Any: as above
    def cat_file(self, path: str) -> bytes: ...
    def pipe_file(self, path: str, value: bytes, **options: str) -> object: ...
    def invalidate_cache(self) -> None: ...


class Entry(NamedTuple):
    """A file of a folder: its name, and its size in bytes."""

    name: str
    size: int


def redact_url(url: str) -> str:
    """``url`` as messages may show it: without user and password, and without its query."""
    return _QUERY.sub(r"\1…", _USERINFO.sub("…@", url))


class Files:
    """The files under ``url``; a name is a path within it. Every call waits for the store: none is for an event loop.

    ``options`` go to the file system (``endpoint_url``, ``key``, …). Raises ``ArtifactError`` throughout, where a
    store cannot be used; an absent file is ``None``.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:  # Any: whatever the file system takes
        self.shown = redact_url(url)
        self._secrets = [str(value) for name, value in options.items() if _SECRET_OPTION.search(name) and value]
        self._secrets += [url] if self.shown != url else []
        scheme = url.partition("://")[0] if "://" in url else ""
        if problem := _unusable(url, scheme):
            raise ArtifactError(f"{self.shown}: {problem}")
        try:
            fs, root = cast("tuple[_FileSystem, str]", url_to_fs(url, **options))
        except ImportError:
            extra = _EXTRAS.get(scheme)
            remedy = f"pip install 'amaru[{extra}]'" if extra else f"install what fsspec needs for {scheme}://"
            raise ArtifactError(f"{self.shown}: the library for {scheme}:// is not installed — {remedy}") from None
        except Exception as error:  # each file system has errors of its own
            known = "file://, s3://, gs://" if scheme not in fsspec.available_protocols() else ""
            remedy = f" — use a folder or {known}" if known else ""
            raise ArtifactError(f"{self.shown}: not a usable URL: {self._words(error)}{remedy}") from None
        self._fs = fs
        self._root = root.rstrip("/")
        self._local = isinstance(fs, LocalFileSystem)
        self._s3 = scheme in ("s3", "s3a")

    def where(self, name: str) -> str:
        """The URL of a file, as messages may show it."""
        return f"{self.shown.rstrip('/')}/{name}"

    def entries(self, folder: str) -> list[Entry]:
        """The files of a folder; none where there is no such folder."""
        self._fs.invalidate_cache()
        try:
            infos = self._fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return []
        except Exception as error:  # as above
            raise self._failed("list", folder, error) from None
        return [Entry(str(i["name"]).rsplit("/", 1)[-1], int(i.get("size") or 0)) for i in infos if i["type"] == "file"]

    def read(self, name: str, *, most: int) -> bytes | None:
        """The file's bytes, ``None`` where it is absent; one of more than ``most`` bytes is refused unread."""
        self._fs.invalidate_cache()
        path = self._path(name)
        try:
            size = int(self._fs.info(path).get("size") or 0)
            content = b"" if size > most else bytes(self._fs.cat_file(path))
        except FileNotFoundError:
            return None
        except Exception as error:  # as above
            raise self._failed("read", name, error) from None
        if max(size, len(content)) > most:
            raise ArtifactError(f"{self.where(name)}: {max(size, len(content)):,} bytes, more than {most:,}")
        return content

    def read_all(self, names: Sequence[str], *, most: int) -> list[bytes | ArtifactError]:
        """Reads many, of a remote store side by side; what cannot be read is an error in its place."""

        def one(name: str) -> bytes | ArtifactError:
            try:
                content = self.read(name, most=most)
            except ArtifactError as error:
                return error
            return ArtifactError(f"{self.where(name)}: gone while it was read") if content is None else content

        if self._local or len(names) < 2:
            return [one(name) for name in names]
        with ThreadPoolExecutor(min(_READERS, len(names))) as pool:
            return list(pool.map(one, names))

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file that is not there yet; ``False`` where it is there by now with other content."""
        with self._alone(name):
            there = self.read(name, most=_unbounded(content))
            if there is not None:
                return there == content
            if self._local:
                self._write_local(name, content)
                return True
            return self._create_remote(name, content)

    def replace(self, name: str, content: bytes) -> None:
        """Writes a file, whatever was there."""
        with self._alone(name):
            if self._local:
                self._write_local(name, content)
            else:
                self._put(name, content)

    def update(self, name: str, change: Callable[[bytes | None], bytes | None], *, most: int) -> None:
        """Replaces a file by ``change`` of what it is now; asks again where another writer came between.

        ``change`` answers ``None`` to leave it as it is, and may raise.
        """
        for _ in range(_ATTEMPTS):
            with self._alone(name):
                tag = self._tag(name)
                content = change(self.read(name, most=most))
                if content is None:
                    return
                if self._local:
                    self._write_local(name, content)
                    return
                if self._swap(name, content, tag, most):
                    return
        raise ArtifactError(f"{self.where(name)}: others keep changing it at the same time — try again")

    # Below: one kind of store each.

    def _create_remote(self, name: str, content: bytes) -> bool:
        try:
            self._fs.pipe_file(self._path(name), content, mode="create")
        except Exception as error:  # as above; whoever lost the race gets another one from each store
            there = self.read(name, most=_unbounded(content))
            if there is not None:
                return there == content  # equal: ours, whose answer was lost, so that it was sent again
            if not (isinstance(error, OSError) and error.errno == errno.ENOSYS):
                raise self._failed("write", name, error) from None
            self._put(name, content)
        # A store that ignores If-None-Match lets a later writer win: then this is not ours.
        return self.read(name, most=_unbounded(content)) == content

    def _swap(self, name: str, content: bytes, tag: str | None, most: int) -> bool:
        """Replaces what had this tag; ``False`` where it has another by now."""
        condition = {"IfMatch": tag} if tag else {"mode": "create"}
        try:
            self._put(name, content, **(condition if self._s3 else {}))
        except ArtifactError:
            if self.read(name, most=most) == content:
                return True  # ours, whose answer was lost
            if self._tag(name) == tag:
                raise
            return False
        return True

    def _tag(self, name: str) -> str | None:
        """What S3 calls this content; ``None`` where it is absent. Read before the content: older at worst."""
        if not self._s3:
            return None
        self._fs.invalidate_cache()
        try:
            return str(self._fs.info(self._path(name))["ETag"])
        except FileNotFoundError:
            return None
        except Exception as error:  # as above
            raise self._failed("read", name, error) from None

    def _put(self, name: str, content: bytes, **options: str) -> None:
        try:
            self._fs.pipe_file(self._path(name), content, **options)
        except Exception as error:  # as above
            raise self._failed("write", name, error) from None

    def _write_local(self, name: str, content: bytes) -> None:
        path = Path(self._path(name))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise self._failed("write", name, error) from None

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Keeps out the other writers that can be kept out: this process's, and on files all."""
        if not self._local:
            with _IN_PROCESS:
                yield
            return
        import fcntl

        try:
            Path(self._root).mkdir(parents=True, exist_ok=True)
            lock = os.open(f"{self._root}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._failed("write", name, error) from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise self._failed("lock", ".lock", error) from None
            yield
        finally:
            os.close(lock)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _failed(self, verb: str, name: str, error: Exception) -> ArtifactError:
        return ArtifactError(f"cannot {verb} {self.where(name)}: {self._words(error)}{_remedy(error, verb)}")

    def _words(self, error: Exception) -> str:
        if isinstance(error, OSError) and error.errno and error.filename:
            words = os.strerror(error.errno)
        else:
            words = " ".join(str(error).split()) or type(error).__name__
        for secret in self._secrets:
            words = words.replace(secret, "…")
        return redact_text(_QUERY.sub(r"\1…", _USERINFO.sub("…@", words)))


def _unusable(url: str, scheme: str) -> str:
    """Why this URL names no store; empty where it may."""
    if not url.strip():
        return "the URL of the store is empty — give a folder, s3://bucket/path or gs://bucket/path"
    if "::" in url:
        return "chained URLs (::) hide the store that must be written — give its own URL"
    if scheme in ("", "file", "local"):
        return ""
    if scheme in _EXTRAS and _USERINFO.search(url):
        return "credentials in the URL are not read — put them into the environment (AWS_ACCESS_KEY_ID, …)"
    if "?" in url or "#" in url:
        return "a store's URL has no query or fragment — leave it out; settings come from the environment"
    return ""


def _unbounded(content: bytes) -> int:
    """A limit for reading what may stand where ``content`` is to be: as much, and room for something else."""
    return len(content) + 2**28


def _remedy(error: Exception, verb: str) -> str:
    name = type(error).__name__
    if "Credentials" in name:
        return " — give credentials in the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, a profile)"
    if isinstance(error, PermissionError):
        return f" — may this user {verb} there?"
    if isinstance(error, FileNotFoundError) and verb == "write":
        return " — does the bucket exist?"
    if name.startswith("NotImplemented"):  # fsspec, of a file system that can only be read
        return " — this kind of store can only be read"
    return ""
