"""Files of keys: one key a line, the signing ones readable by their owner alone.

Rotation is by overlap: the new key's line is added, and both sign; once every verifier knows the new one, the old line
goes. Verifiers keep the old public key for what it signed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from amaru.errors import LedgerError
from amaru.files.whole import make_folder, make_whole, remedied, write_whole
from amaru.ledger.notes import NoteSigner, NoteVerifier

_Key = TypeVar("_Key", NoteSigner, NoteVerifier)
_MAX_BYTES = 64 * 1024
_SECRET = 0o600


def make_key(path: Path, name: str) -> NoteSigner:
    """Make a key and write it to a new file of mode 0600, whole. Raises LedgerError, also where the file is there."""
    signer = NoteSigner.generate(name)
    try:
        make_folder(path.parent)
        make_whole(path, _secret([signer]), mode=_SECRET)
    except FileExistsError:
        raise LedgerError(f"{path}: is there already; a signing key is never overwritten") from None
    except OSError as error:
        raise LedgerError(f"{path}: the signing key cannot be written: {remedied(error)}") from None
    return signer


def load_signers(path: Path) -> list[NoteSigner]:
    """The signing keys of a file. Raises LedgerError, also where others than its owner may read it."""
    lines = _lines(path, secret=True)
    return [_read(NoteSigner.of, path, number, line) for number, line in lines]


def load_verifiers(path: Path) -> list[NoteVerifier]:
    """The public keys of a file. Raises LedgerError."""
    return [_read(NoteVerifier.of, path, number, line) for number, line in _lines(path, secret=False)]


def add_key(path: Path) -> NoteSigner:
    """Begin a rotation: a new key of the same name signs beside those of the file. Raises LedgerError."""
    signers = load_signers(path)
    added = NoteSigner.generate(signers[-1].name)
    _replace(path, [*signers, added])
    return added


def retire_key(path: Path, key_id: bytes) -> None:
    """End a rotation: the key of this id no longer signs. Raises LedgerError, also where it is the only one."""
    signers = load_signers(path)
    left = [signer for signer in signers if signer.verifier.key_id != key_id]
    if len(left) == len(signers):
        raise LedgerError(f"{path}: holds no key {key_id.hex()}; `remembrancer keys` shows those that sign")
    if not left:
        raise LedgerError(f"{path}: {key_id.hex()} is the only key; add another one first")
    _replace(path, left)


def _replace(path: Path, signers: list[NoteSigner]) -> None:
    try:
        write_whole(path, _secret(signers), mode=_SECRET)
    except OSError as error:
        raise LedgerError(f"{path}: the signing keys cannot be written: {remedied(error)}") from None


def _secret(signers: list[NoteSigner]) -> bytes:
    return "".join(f"{signer.skey}\n" for signer in signers).encode()


def _lines(path: Path, *, secret: bool) -> list[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise LedgerError(f"{path}: the keys cannot be read: {error.strerror}") from None
    if secret and stat.S_IMODE(mode) & 0o077:
        raise LedgerError(f"{path}: others may read this signing key (mode {stat.S_IMODE(mode):04o}) — chmod 600 it")
    if len(content) > _MAX_BYTES:
        raise LedgerError(f"{path}: more than {_MAX_BYTES:,} bytes; is this a file of keys?")
    lines = enumerate(content.decode(errors="replace").splitlines(), 1)
    found = [(number, line.strip()) for number, line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise LedgerError(f"{path}: holds no key; restore it from a backup" if secret else f"{path}: holds no key")
    return found


def _read(read: Callable[[str], _Key], path: Path, number: int, line: str) -> _Key:
    try:
        return read(line)
    except LedgerError as error:
        raise LedgerError(f"{path}, line {number}: {error}") from None
