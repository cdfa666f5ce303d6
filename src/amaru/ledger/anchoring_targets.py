"""Where checkpoints are anchored: a time-stamping authority, a GPG-signed file in a folder, a URL that takes them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import msgspec
from pydantic import SecretStr

from amaru.files.whole import write_whole
from amaru.ledger.anchoring_state import LineName, Token
from amaru.ledger.checkpoint import CONTENT_TYPE
from amaru.ledger.gpg import Gpg
from amaru.ledger.posting import Poster
from amaru.ledger.timestamps import Authority, Roots
from amaru.ledger.troubles import AnchorError, Trouble

UNATTENDED = ("--pinentry-mode", "error")
"""Where gpg would ask a person for a passphrase, it fails at once; one that its agent has is taken."""


class Ask(msgspec.Struct, frozen=True):
    """What is to be anchored: a signed checkpoint, by a line, in a slot (Unix seconds)."""

    line: LineName
    slot: int
    note: bytes

    @property
    def key(self) -> str:
        """The same for every try of this anchor, and for no other one's."""
        return sha256("\n".join((*self.line, str(self.slot), "")).encode() + self.note).hexdigest()


class Target(Protocol):
    """Raises AnchorError throughout."""

    @property
    def where(self) -> str:
        """The place, as messages and states show it."""

    def ask(self, ask: Ask) -> Token:
        """Anchor a checkpoint; what came of it. Asking again does no harm."""

    def place(self, ask: Ask, token: Token) -> None:
        """Put what came where this target has it; again does no harm."""


class TimeStamping(msgspec.Struct, frozen=True):
    """A time-stamping authority (RFC 3161); see ``timestamps.Authority``."""

    url: str
    roots: Roots
    headers: Mapping[str, SecretStr]
    ca_file: Path | None
    limit_s: float

    @property
    def where(self) -> str:
        return self.url

    def ask(self, ask: Ask) -> Token:
        headers = _plain(self.headers)
        authority = Authority(self.url, self.roots, headers=headers, limit_s=self.limit_s, ca_file=self.ca_file)
        try:
            return Token("timestamp", authority.stamp(ask.note))
        finally:
            authority.close()

    def place(self, ask: Ask, token: Token) -> None:
        """Nothing: it lies beside the log."""


class GpgFile(msgspec.Struct, frozen=True):
    """A folder, as on another machine's disk, that gets each checkpoint and a GPG signature over it.

    As ``<namespace>/<cadence>/<slot>.checkpoint`` and ``….checkpoint.asc``, so that a slot is there once.
    """

    folder: Path
    signer: str | None
    home: Path | None
    limit_s: float
    program: str = "gpg"

    @property
    def where(self) -> str:
        return str(self.folder)

    def ask(self, ask: Ask) -> Token:
        gpg = Gpg(self.home, program=self.program, options=UNATTENDED, sign_limit_s=self.limit_s)
        signed = gpg.sign(ask.note, self.signer)
        return Token("gpg", signed.signature, gpg.public_key(signed.fingerprint))

    def place(self, ask: Ask, token: Token) -> None:
        path = self.path(ask)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, ask.note)
            write_whole(path.with_name(f"{path.name}.asc"), token.content)
        except OSError as error:
            # A mount that is away comes back.
            raise AnchorError(f"{path}: cannot be written: {error.strerror}", Trouble.NETWORK) from None

    def path(self, ask: Ask) -> Path:
        """Where the checkpoint lies."""
        slot = datetime.fromtimestamp(ask.slot, UTC)
        return self.folder / ask.line.namespace / ask.line.cadence / f"{slot:%Y%m%dT%H%M%SZ}.checkpoint"


class Posted(msgspec.Struct, frozen=True):
    """A URL to which the signed checkpoint is posted as it is; an answer of 2xx says that it was taken.

    Each try of one anchor carries one ``Idempotency-Key`` (draft-ietf-httpapi-idempotency-key-header): where a kill or
    a lost answer has it sent twice, the receiver can tell.
    """

    url: str
    headers: Mapping[str, SecretStr]
    ca_file: Path | None
    limit_s: float

    @property
    def where(self) -> str:
        return self.url

    def ask(self, ask: Ask) -> Token:
        headers = {**_plain(self.headers), "idempotency-key": f'"{ask.key}"'}
        poster = Poster(self.url, headers=headers, limit_s=self.limit_s, ca_file=self.ca_file)
        try:
            return Token("post", poster.post(ask.note, CONTENT_TYPE))
        finally:
            poster.close()

    def place(self, ask: Ask, token: Token) -> None:
        """Nothing: it lies there."""


def _plain(headers: Mapping[str, SecretStr]) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in headers.items()}
