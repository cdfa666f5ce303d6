"""What a scheduler must not forget: which slots were seen to, what is in flight, and the last checkpoint it held.

A folder, used by one process at a time: for each namespace ``checkpoint``, the newest one that was found to extend all
before it, and ``lines/<cadence>/<target>.json``. Each file is there whole or not at all. What is about to be done is
written before it is done, and what came of it after: whoever finds the file knows how far it got.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from amaru.errors import LedgerBusy, LedgerError
from amaru.files.lock import lock_file
from amaru.files.whole import write_whole
from amaru.ledger.notes import MAX_NOTE_BYTES
from amaru.telemetry.logs import get_logger

MAX_STATE_BYTES = 4 * 1024 * 1024
Outcome = Literal["", "anchored", "unchanged", "failed"]
"""Of a slot; empty: none was seen to yet."""

_log = get_logger("ledger")


class LineName(NamedTuple):
    """Which log is anchored how often and where: what an anchor is told apart by, together with its slot."""

    namespace: str
    cadence: str
    target: str


class Token(msgspec.Struct, frozen=True):
    """What a target gave: a time-stamp response, a GPG signature with its key, or a URL's answer."""

    kind: Literal["timestamp", "gpg", "post"]
    content: bytes
    public_key: bytes = b""

    @property
    def digest(self) -> str:
        """SHA-256 of what came."""
        return f"sha256:{sha256(self.content).hexdigest()}"


class Pending(msgspec.Struct, frozen=True):
    """An anchor that was begun: the checkpoint that was chosen for it, and what was got for that, from where."""

    slot: int
    note: bytes = b""
    token: Token | None = None
    where: str = ""
    tries: int = 0
    """That failed; one that a kill cut short is not known to have."""
    next_s: float = 0.0
    """When to try again, Unix seconds."""
    problem: str = ""


class Anchored(msgspec.Struct, frozen=True):
    """An anchor that was made: over which tree, where, and the digest of what came back."""

    slot: int
    at_s: float
    size: int
    root: str
    """Base64, as in the checkpoint."""
    where: str
    digest: str


class LineState(msgspec.Struct, frozen=True):
    """How far a line got."""

    settled: int | None = None
    """The last slot that was seen to."""
    outcome: Outcome = ""
    pending: Pending | None = None
    last: Anchored | None = None
    problem: str = ""
    """Why the last slot failed."""
    v: Literal[1] = 1


class StateFolder:
    """The folder. Raises LedgerError where it cannot be used, LedgerBusy where another process does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = _locked(path)

    def close(self) -> None:
        """Let another process use it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def load(self, name: LineName) -> LineState:
        """How far a line got. What cannot be read is set aside: the slot of now is then anchored, if need be again."""
        path = self._line(name)
        content = _read(path, MAX_STATE_BYTES)
        if content is None:
            return LineState()
        try:
            return msgspec.json.decode(content, type=LineState)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            aside = path.with_suffix(".damaged")
            with contextlib.suppress(OSError):
                path.replace(aside)
            _log.error("anchor_state_damaged", path=str(path), remedy=f"it lies in {aside} now; the line begins anew")
            return LineState()

    def save(self, name: LineName, state: LineState) -> None:
        """Keep how far a line got; durable on return."""
        _write(self._line(name), msgspec.json.encode(state))

    def turn(self, namespace: str) -> threading.Lock:
        """What a line holds while it looks at its log, or writes there."""
        return self._turns[namespace]

    def held(self, namespace: str) -> bytes:
        """The signed checkpoint that a log is held to; empty: none yet."""
        return _read(self.held_path(namespace), MAX_NOTE_BYTES) or b""

    def hold(self, namespace: str, note: bytes) -> None:
        """Hold a log to this one from now on; durable on return."""
        _write(self.held_path(namespace), note)

    def held_path(self, namespace: str) -> Path:
        """Where it lies, for messages."""
        return self.path / namespace / "checkpoint"

    def _line(self, name: LineName) -> Path:
        return self.path / name.namespace / "lines" / name.cadence / f"{name.target}.json"


def _locked(path: Path) -> int:
    """The lock file of a folder, made where it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = lock_file(path / "lock")
    except OSError as error:
        raise LedgerError(f"{path}: the scheduler's state cannot be kept there: {error.strerror}") from None
    if handle is None:
        raise LedgerBusy(f"{path}: another scheduler keeps its state there; end it, or give this one a folder")
    return handle


def _read(path: Path, most: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > most:
        raise LedgerError(f"{path}: more than {most:,} bytes; the scheduler did not write that")
    return content


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written: {error.strerror}") from None
