"""How other processes of the same user log through the one that holds the log: a socket in its folder of keys.

A log has one writer, and a gateway is it for as long as it runs. Who records meanwhile hands the leaf over: by a Unix
domain socket that only the log's owner can reach (the folder has mode 0700), one leaf a connection. Each message is its
length in four bytes, big-endian, and so many bytes: a leaf one way, JSON the other once it is durable and published.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from types import TracebackType
from typing import Protocol

import msgspec

from amaru.errors import LedgerBusy, LedgerError
from amaru.ledger.canonical import require_canonical
from amaru.ledger.log import Log
from amaru.ledger.pruning import KIND, prune
from amaru.ledger.tiles import MAX_ENTRY_BYTES
from amaru.telemetry.logs import get_logger

NAME = "writer.sock"
"""Of the socket, in the folder of keys."""
LIMIT_S = 10.0
"""A leaf is to be handed over and logged within so long."""
PRUNE_LIMIT_S = 600.0
"""And a pruning be done."""
MAX_ANSWER_BYTES = 64 * 1024
MOST_WAITING = 64
"""Connections that may wait to be taken; one more is refused by the kernel."""

_LENGTH = struct.Struct(">I")
_NOBODY = (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR, errno.ENAMETOOLONG)

_log = get_logger("ledger")


class Logged(msgspec.Struct, frozen=True):
    """What came of a leaf: its index and a signed checkpoint that covers it, or why it was not logged."""

    index: int = -1
    checkpoint: str | None = None
    """``None``: it is durable, and could not be published yet."""
    error: str = ""


class Takes(Protocol):
    """Who holds the log; a ``writer.Writer`` is it."""

    @property
    def log(self) -> Log | None: ...
    def append(self, leaf: bytes) -> Future[int]: ...
    def publish(self) -> Future[bytes]: ...


class Inlet:
    """Takes leaves from other processes of this user; a thread of its own, one leaf at a time."""

    def __init__(self, folder: Path, writer: Takes, *, limit_s: float = LIMIT_S) -> None:
        self.path = folder / NAME
        self._writer = writer
        self._limit_s = limit_s
        self._ended = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="amaru-ledger-inlet", daemon=True)

    def start(self) -> None:
        """Begin to take; in place of whoever did before, as the log has one writer. Raises LedgerError."""
        made = socket.socket(socket.AF_UNIX)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.unlink(missing_ok=True)
            _at(self.path, made.bind)
            self.path.chmod(0o600)
            made.listen(MOST_WAITING)
        except OSError as error:
            made.close()
            raise LedgerError(f"{self.path}: others cannot log through this process: {error.strerror}") from None
        self._socket = made
        self._thread.start()

    def close(self) -> None:
        """Take no more; the one under way is finished."""
        made, self._socket = self._socket, None
        if made is None:
            return
        self._ended.set()
        with contextlib.suppress(OSError):
            made.shutdown(socket.SHUT_RDWR)  # wakes the thread from accept
        made.close()
        self._thread.join(self._limit_s)
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Inlet:
        self.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        while (made := self._socket) is not None:
            try:
                taken, _ = made.accept()
            except OSError:
                self._ended.wait(0.1)  # closed; or out of file descriptors, for one
                continue
            with taken:
                try:
                    taken.settimeout(self._limit_s)
                    answer = self._take(_receive(taken, MAX_ENTRY_BYTES))
                    _send(taken, msgspec.json.encode(answer))
                except (OSError, LedgerError) as error:
                    _log.debug("ledger_inlet_left", reason=str(error))

    def _take(self, leaf: bytes) -> Logged:
        try:
            value = require_canonical(leaf)
            if isinstance(value, dict) and value.get("type") == KIND:
                return self._prune(leaf)
            index = self._writer.append(leaf).result(self._limit_s)
        except LedgerError as error:
            return Logged(error=str(error))
        except FutureTimeoutError:
            # It may yet be logged: to say otherwise would have it recorded twice.
            return Logged(error="the ledger did not answer in time; look whether it was logged before trying again")
        try:
            return Logged(index, self._writer.publish().result(self._limit_s).decode())
        except (LedgerError, FutureTimeoutError):
            return Logged(index)

    def _prune(self, leaf: bytes) -> Logged:
        """Do what the leaf says, which logs it, too: who hands it over cannot erase what another process writes."""
        log = self._writer.log
        if log is None:
            raise LedgerError("the log cannot be opened now; nothing was erased")
        return Logged(prune(log, leaf).leaf, log.checkpoint().decode())


def hand_over(folder: Path, leaf: bytes, *, limit_s: float = 3 * LIMIT_S) -> Logged | None:
    """Log a leaf through the process that holds the log, and erase what it says; ``None``: none takes leaves here.

    Raises
    ------
    LedgerBusy
        It takes leaves, and did not answer. Whether this one was logged is not known.
    LedgerError
        It refused this one, and says why.
    """
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(limit_s)
        try:
            _at(folder / NAME, made.connect)
        except OSError as error:
            if error.errno in _NOBODY:
                return None
            raise LedgerBusy(f"{folder / NAME}: who writes this log cannot be reached: {error}") from None
        try:
            _send(made, leaf)
            answer = msgspec.json.decode(_receive(made, MAX_ANSWER_BYTES), type=Logged)
        except (OSError, LedgerError, msgspec.MsgspecError):
            raise LedgerBusy(
                f"{folder / NAME}: who writes this log did not answer; look whether it was logged before trying again"
            ) from None
    if answer.error:
        raise LedgerError(f"not recorded: {answer.error}")
    return answer


def _at(path: Path, act: Callable[[str], object]) -> None:
    """Bind or connect to a path of any length: the kernel takes 107 bytes, so it is told the folder by number."""
    if len(os.fsencode(path)) < 100:
        act(str(path))
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        act(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _send(made: socket.socket, content: bytes) -> None:
    made.sendall(_LENGTH.pack(len(content)) + content)


def _receive(made: socket.socket, most: int) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(made, _LENGTH.size))
    if length > most:
        raise LedgerError(f"a message of {length:,} bytes, more than {most:,}")
    return _exactly(made, length)


def _exactly(made: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        more = made.recv(min(length - len(content), 65_536))
        if not more:
            raise LedgerError("the other side went away")
        content += more
    return content
