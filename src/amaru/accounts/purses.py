"""What tenants spend while the store is gone: noted in a file beside the journal, before it is used.

The file is its process's as long as that lives, which a lock on it tells. Whoever starts takes what dead processes
noted as spent already, until the store has taken in their journals: only then is an allowance renewed. So a process
that dies again and again while the store is gone spends no more than one that lives on.

Its bytes are there from the start, and each tenant's are overwritten in place: a full disk keeps nothing from being
noted, and what was written outlives the process. An amount is the most that may have been spent: it is lowered when the
store has taken in what ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from amaru.accounts.lease import Purse
from amaru.errors import JournalError
from amaru.files.whole import remedied

NAME = "open"
"""In the folder of a holder."""
MOST_TENANTS = 2048
"""Of one process; others spend nothing without the store."""
_SLOT = struct.Struct(">16sQI4x")
"""Who, by a hash; nano-USD; CRC-32 of both."""
_WRITTEN = struct.Struct(">16sQ")


class Purses:
    """The purses of one process.

    Parameters
    ----------
    root
        Folder of the holders' folders.
    folder
        This process's own.

    Raises
    ------
    JournalError
        The file cannot be written.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = root
        self._purses: dict[str, Purse] = {}
        self._slots: dict[str, int] = {}
        self._noted: dict[str, int] = {}
        try:
            self._left = _left(root)  # also what lies in this folder: it goes now
            self._file = _begin(folder)
        except OSError as error:
            raise JournalError(f"{folder / NAME}: {remedied(error)}") from None

    def purse(self, tenant: str, limit_nusd: int) -> Purse:
        """A tenant's, who may spend so much in all while the store is gone."""
        purse = self._purses.get(tenant)
        if purse is None:
            purse = self._purses[tenant] = Purse(tenant, self._note)
            purse.before_nusd = self._left.get(_who(tenant), 0)
        purse.limit_nusd = limit_nusd
        return purse

    def settled(self) -> None:
        """The store has heard of all that ended here; and of what ended in processes whose journals are gone."""
        if self._left:
            with contextlib.suppress(OSError):
                self._left = _left(self._root)
            for tenant, purse in self._purses.items():
                purse.before_nusd = self._left.get(_who(tenant), 0)
        for tenant, noted in self._noted.items():
            purse = self._purses[tenant]
            purse.ended_nusd = 0
            if noted != purse.open_nusd:
                self._note(tenant, purse.open_nusd)

    def close(self) -> None:
        """Let go of the file; it stays until the store has what was spent."""
        os.close(self._file)

    def _note(self, tenant: str, nusd: int) -> bool:
        slot = self._slots.get(tenant, len(self._slots))
        if slot >= MOST_TENANTS:
            return False
        written = _WRITTEN.pack(_who(tenant), nusd)
        try:
            os.pwrite(self._file, written + zlib.crc32(written).to_bytes(4, "big"), slot * _SLOT.size)
        except OSError:
            return False
        self._slots[tenant], self._noted[tenant] = slot, nusd
        return True


def _who(tenant: str) -> bytes:
    return hashlib.sha256(tenant.encode()).digest()[:16]


def _begin(folder: Path) -> int:
    """A file that is locked before anybody sees it."""
    draft = folder / f"{NAME}.draft"
    file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(file, bytes(MOST_TENANTS * _SLOT.size))
        draft.replace(folder / NAME)
    except OSError:
        os.close(file)
        raise
    return file


def _left(root: Path) -> dict[bytes, int]:
    """What processes noted that are dead, and the store has not taken in: nano-USD by tenant."""
    sums: dict[bytes, int] = {}
    for path in root.glob(f"*/{NAME}"):
        with contextlib.suppress(FileNotFoundError):  # taken in this very moment
            for who, nusd in _read_dead(path):
                sums[who] = sums.get(who, 0) + nusd
    return sums


def _read_dead(path: Path) -> Iterator[tuple[bytes, int]]:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # its process lives
            return
        content = file.read(MOST_TENANTS * _SLOT.size)
    for who, nusd, crc in _SLOT.iter_unpack(content[: len(content) // _SLOT.size * _SLOT.size]):
        if nusd and crc == zlib.crc32(_WRITTEN.pack(who, nusd)):
            yield who, nusd
