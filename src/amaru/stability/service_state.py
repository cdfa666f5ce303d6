"""The file that lets a psi-field service go on after a restart.

Layout: 8 bytes that say what it is, 16 bytes of digest (BLAKE2b) over the rest, then a MessagePack. It is written
whole, beside the one before and then in its place, before a step is answered: a process killed at any point leaves the
last answered step. What is damaged is never guessed at: it is set aside, and said so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from amaru.errors import StorageError
from amaru.files.lock import lock_file
from amaru.files.whole import write_whole
from amaru.stability.field_settings import FieldSettings
from amaru.stability.guardian import GuardianSettings
from amaru.telemetry.logs import get_logger

NAME = "psi_field.bin"
"""In the working directory, by default."""
MAGIC = b"AMARUPSI"
VERSION = 1
MAX_BYTES = 256 * 1024**2
_DIGEST_BYTES = 16
_HEAD = len(MAGIC) + _DIGEST_BYTES

log = get_logger("stability")


class SavedService(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a service is."""

    version: int = VERSION
    saved_at: float
    names: tuple[str, ...]
    field_settings: FieldSettings | None
    field: bytes
    """Empty: there is none yet."""
    guardian_settings: GuardianSettings
    guardian: bytes


class StateFile:
    """One file, used by one process at a time.

    Parameters
    ----------
    path
        Its directory must exist.

    Raises
    ------
    StorageError
        It cannot be written there, or another process uses it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        """Why the last write failed; ``None``: it did not."""
        self._lock = _locked(path.with_name(f".{path.name}.lock"), path)

    def close(self) -> None:
        """Let another process use it."""
        with contextlib.suppress(OSError):
            os.close(self._lock)
        self._lock = -1

    def read(self) -> SavedService | None:
        """What was saved last; ``None``: nothing.

        Raises
        ------
        ValueError
            It is damaged, or another version's.
        StorageError
            It cannot be read.
        """
        try:
            if self.path.stat().st_size > MAX_BYTES:
                raise ValueError(f"it is larger than {MAX_BYTES:,} bytes")
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be read: {error.strerror or error}; name another with --state"
            ) from None
        return decoded(content)

    def write(self, saved: SavedService) -> bool:
        """Keep ``saved`` in place of what was there. Where that fails, ``problem`` says why, and the log once."""
        try:
            write_whole(self.path, encoded(saved))
        except OSError as error:
            problem = error.strerror or str(error)
            if problem != self.problem:
                log.error("psi_state_not_saved", path=str(self.path), error=problem, remedy="make room; steps go on")
            self.problem = problem
            return False
        if self.problem is not None:
            log.info("psi_state_saved_again", path=str(self.path))
        self.problem = None
        return True

    def set_aside(self, now: float) -> Path:
        """Move what is there out of the way, to be looked at; where to. Raises StorageError."""
        aside = self.path.with_name(f"{self.path.name}.damaged-{int(now)}")
        number = 0
        while aside.exists():
            number += 1
            aside = self.path.with_name(f"{self.path.name}.damaged-{int(now)}-{number}")
        try:
            self.path.replace(aside)
        except OSError as error:
            raise StorageError(
                f"{self.path}: is damaged, and cannot be set aside: {error.strerror or error}; move it"
            ) from None
        return aside


def opened(file: StateFile, now: float, restore: Callable[[SavedService], None]) -> str | None:
    """Hand what was saved to ``restore``; where that is damaged, set it aside and return what a person should know.

    ``restore`` raises ValueError where it cannot go on from it. Raises StorageError.
    """
    try:
        saved = file.read()
        if saved is not None:
            restore(saved)
    except ValueError as error:
        aside = file.set_aside(now)
        return f"{file.path}: cannot be gone on from: {error}; it lies in {aside} now, and the field begins anew"
    return None


def encoded(saved: SavedService) -> bytes:
    """The file's bytes."""
    body = msgspec.msgpack.encode(saved)
    return MAGIC + _digest(body) + body


def decoded(content: bytes) -> SavedService:
    """What is in the file's bytes. Raises ValueError."""
    if not content.startswith(MAGIC):
        raise ValueError("it is no state of a psi-field")
    body = content[_HEAD:]
    if _digest(body) != content[len(MAGIC) : _HEAD]:
        raise ValueError("it is torn or damaged: its content has another digest than it says")
    try:
        saved = msgspec.msgpack.decode(body, type=SavedService)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"another version of amaru wrote it ({error})") from None
    if saved.version != VERSION:
        raise ValueError(f"it is of version {saved.version}, and this amaru reads version {VERSION}")
    return saved


def _locked(lock: Path, path: Path) -> int:
    """The lock file ``lock`` of the state at ``path``."""
    try:
        handle = lock_file(lock)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}; name another with --state") from None
    if handle is None:
        raise StorageError(
            f"{path}: another process uses it (`amaru psi status` may show it); name another with --state"
        )
    return handle


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
