"""The pepper: a secret beside the data, without which nobody can make, recognise or test a key of the store.

A key is ``sk-amaru-`` and 52 characters of URL-safe base64: 32 random bytes, and a tag of 7::

    tag    = HMAC-SHA-256(pepper, "amaru key tag v1" || 0x00 || random)[:7]
    stored = HMAC-SHA-256(pepper, "amaru key v1" || 0x00 || key)

The tag tells a key that was never ours without a look into the store: a flood of guesses costs one HMAC each, where
bcrypt would cost milliseconds and a look-up the database (see ``keys.py`` for why a fast hash is enough). What lists
show of a key, its last four characters, are of the tag: they tell nothing of the random bytes.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from amaru.accounts.keys import KEY_PREFIX
from amaru.errors import StorageError
from amaru.files.whole import make_folder, make_whole, remedied

PEPPER_BYTES = 32
_RANDOM_BYTES, _TAG_BYTES = 32, 7
_PREFIX = KEY_PREFIX.encode()
_KEY_BYTES = len(_PREFIX) + (_RANDOM_BYTES + _TAG_BYTES) * 4 // 3


class Pepper:
    """Makes and recognises keys; may be used by several threads."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @property
    def fingerprint(self) -> str:
        """Tells whether two machines have the same one; 16 hex digits."""
        return hmac.digest(self._secret, b"amaru pepper v1", "sha256")[:8].hex()

    def new_key(self) -> str:
        """A fresh key, from the system's random source."""
        random = secrets.token_bytes(_RANDOM_BYTES)
        return (_PREFIX + base64.urlsafe_b64encode(random + self._tag(random))).decode()

    def digest(self, key: bytes) -> bytes | None:
        """What is stored of a key, 32 bytes; ``None``: this pepper never made it."""
        if not is_formed(key):
            return None
        try:
            body = base64.b64decode(key[len(_PREFIX) :], b"-_", validate=True)
        except binascii.Error:
            return None
        if not hmac.compare_digest(body[_RANDOM_BYTES:], self._tag(body[:_RANDOM_BYTES])):
            return None
        return hmac.digest(self._secret, b"amaru key v1\0" + key, "sha256")

    def _tag(self, random: bytes) -> bytes:
        return hmac.digest(self._secret, b"amaru key tag v1\0" + random, "sha256")[:_TAG_BYTES]


def is_formed(key: bytes) -> bool:
    """Whether it looks like a key of the store; only a pepper can tell whether it is one."""
    return len(key) == _KEY_BYTES and key.startswith(_PREFIX)


def make_pepper(path: Path) -> None:
    """Make the file, whole, for its owner alone; one that is there is left as it is. Raises StorageError."""
    try:
        make_folder(path.parent)
        with suppress(FileExistsError):  # another process has just made it
            make_whole(path, secrets.token_bytes(PEPPER_BYTES), mode=0o600)
    except OSError as error:
        raise StorageError(f"{path}: the keys' pepper cannot be made: {remedied(error)}") from None


def load_pepper(path: Path) -> Pepper | None:
    """The pepper in a file; ``None``: there is no file.

    Raises
    ------
    StorageError
        It cannot be read, is not whole, or everybody on this machine may read it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            secret = file.read(PEPPER_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: the keys' pepper cannot be read: {error.strerror}") from None
    if mode & 0o007:
        raise StorageError(f"{path}: others may read the keys' pepper (mode {mode:04o}). Run chmod 600 on it.")
    if len(secret) != PEPPER_BYTES:
        raise StorageError(f"{path}: holds no pepper of {PEPPER_BYTES} bytes. Restore it from a backup.")
    return Pepper(secret)
