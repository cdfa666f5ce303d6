"""Signed notes (https://c2sp.org/signed-note) with Ed25519: a text, a blank line, and a line for each signature.

Keys are written as Go's ``golang.org/x/mod/sumdb/note`` writes them, so that its tools and ours take each other's.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from amaru.errors import LedgerError, ProofError

ED25519 = b"\x01"
"""The type byte of an Ed25519 key."""
MAX_NOTE_BYTES = 256 * 1024
"""Room for the 16 signatures that every verifier must take, post-quantum ones included."""
MAX_SIGNATURES = 64
_PRIVATE = "PRIVATE+KEY+"
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]{1,255}")
_SIGNATURE_LINE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")
_SEED_BYTES = 32


class NoteSignature(NamedTuple):
    """One signature line: whose, by which key, and the bytes."""

    name: str
    key_id: bytes
    signature: bytes

    @property
    def line(self) -> str:
        """As it stands in the note."""
        return f"— {self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


class SignedNote(NamedTuple):
    """A note taken apart, with nothing verified."""

    text: str
    """With its last newline."""
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True, slots=True)
class NoteVerifier:
    """A public key with its name."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes by which signatures name it."""
        return key_id(self.name, self.public_key)

    @property
    def vkey(self) -> str:
        """As verifiers are told of it: ``name+id+key``."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(ED25519 + self.public_key).decode()}"

    @classmethod
    def of(cls, vkey: str) -> NoteVerifier:
        """Read a ``vkey``. Raises LedgerError."""
        name, _, rest = vkey.strip().partition("+")
        key = _key_of(name, rest, "a verifier key is NAME+ID+KEY (https://c2sp.org/signed-note)")
        verifier = cls(name, key)
        _require_id(name, rest, verifier.key_id)
        return verifier

    def verify(self, text: str, signature: bytes) -> bool:
        """Whether this key made the signature over the text."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, text.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class NoteSigner:
    """A private key with its name; ``repr`` does not show the key."""

    name: str
    seed: bytes = field(repr=False)
    _key: Ed25519PrivateKey = field(init=False, repr=False, compare=False)
    _line_start: tuple[str, bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require_name(self.name)
        object.__setattr__(self, "_key", Ed25519PrivateKey.from_private_bytes(self.seed))
        object.__setattr__(self, "_line_start", (self.name, self.verifier.key_id))

    @classmethod
    def generate(cls, name: str) -> NoteSigner:
        """A new key. Raises LedgerError where no key may have this name."""
        _require_name(name)
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def of(cls, skey: str) -> NoteSigner:
        """Read a private key as ``skey`` writes it. Raises LedgerError, which does not quote the key."""
        what = f"a signing key is {_PRIVATE}NAME+ID+KEY"
        if not skey.strip().startswith(_PRIVATE):
            raise LedgerError(what)
        name, _, rest = skey.strip().removeprefix(_PRIVATE).partition("+")
        signer = cls(name, _key_of(name, rest, what))
        _require_id(name, rest, signer.verifier.key_id)
        return signer

    @property
    def skey(self) -> str:
        """The private key as a file holds it. A secret."""
        key = base64.b64encode(ED25519 + self.seed).decode()
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id.hex()}+{key}"

    @property
    def verifier(self) -> NoteVerifier:
        """Its public half."""
        return NoteVerifier(self.name, self._key.public_key().public_bytes_raw())

    def sign(self, text: str) -> NoteSignature:
        """Sign a note's text, which ends in a newline."""
        return NoteSignature(*self._line_start, self._key.sign(text.encode()))


def key_id(name: str, public_key: bytes) -> bytes:
    """The first four bytes of the SHA-256 of name, newline, type and key."""
    return sha256(name.encode() + b"\n" + ED25519 + public_key).digest()[:4]


def sign_note(text: str, signers: Sequence[NoteSigner]) -> bytes:
    """The note with a signature by each signer. Raises LedgerError for a text that no note may have, or no signer."""
    if not signers:
        raise LedgerError("a note needs a signing key")
    if problem := _problem_of(text):
        raise LedgerError(f"a note's text {problem}")
    return (text + "\n" + "".join(signer.sign(text).line for signer in signers)).encode()


def parse_note(note: bytes) -> SignedNote:
    """Take a note apart and verify nothing. Raises ProofError."""
    if len(note) > MAX_NOTE_BYTES:
        raise ProofError(f"signed note: {len(note):,} bytes, more than {MAX_NOTE_BYTES:,}")
    try:
        whole = note.decode()
    except UnicodeDecodeError as error:
        raise ProofError(f"signed note: not UTF-8 at byte {error.start}") from None
    if problem := _problem_of(whole):  # of the signatures too: names are shown
        raise ProofError(f"signed note: it {problem}")
    text, blank, lines = whole.rpartition("\n\n")
    if not blank:
        raise ProofError("signed note: no blank line between text and signatures")
    if not lines:
        raise ProofError("signed note: no signature")
    found = [_signature(line) for line in lines.removesuffix("\n").split("\n")]
    if len(found) > MAX_SIGNATURES:
        raise ProofError(f"signed note: {len(found)} signatures, more than {MAX_SIGNATURES}")
    return SignedNote(f"{text}\n", tuple(found))


def verify_note(note: bytes, verifiers: Iterable[NoteVerifier]) -> tuple[str, tuple[NoteVerifier, ...]]:
    """The note's text, and who of ``verifiers`` signed it: at least one.

    Signatures by unknown keys are passed over, as the format says; one by a known key that does not hold is an error.
    Raises ProofError.
    """
    known = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
    text, signatures = parse_note(note)
    signed: dict[NoteVerifier, None] = {}
    for name, id_, signature in signatures:
        verifier = known.get((name, id_))
        if verifier is None:
            continue
        if not verifier.verify(text, signature):
            raise ProofError(
                f"signed note: the signature by {name} (key {id_.hex()}) does not hold — forged or altered"
            )
        signed[verifier] = None
    if not signed:
        by = ", ".join(f"{name} (key {id_.hex()})" for name, id_, _ in signatures)
        wanted = ", ".join(f"{name} (key {id_.hex()})" for name, id_ in known) or "none"
        raise ProofError(f"signed note: signed by {by}; no key known here (known: {wanted}) — wrong key, or a forgery")
    return text, tuple(signed)


def strict_base64(text: str) -> bytes:
    """The bytes of the one text that encodes them; nothing for any other, so that no bit can change unseen."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return value if base64.b64encode(value).decode() == text else b""


def _signature(line: str) -> NoteSignature:
    match = _SIGNATURE_LINE.fullmatch(line)
    value = strict_base64(match[2]) if match else b""
    if match is None or len(value) < 5:
        raise ProofError(f"signed note: {line[:80]!r} is not a signature line")
    return NoteSignature(match[1], value[:4], value[4:])


def _problem_of(text: str) -> str:
    """Why a text cannot stand in a note; empty where it can."""
    if not text.endswith("\n"):
        return "does not end in a newline"
    if any(char < " " and char != "\n" for char in text):
        return "holds a control character"
    return ""


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise LedgerError(f"{name[:80]!r} cannot name a key: 1 to 255 characters, no spaces, no plus")


def _key_of(name: str, rest: str, what: str) -> bytes:
    """The 32 bytes after name and id."""
    _require_name(name)
    id_, _, encoded = rest.partition("+")
    key = strict_base64(encoded)
    if len(id_) != 8 or len(key) != 1 + _SEED_BYTES or key[:1] != ED25519:
        raise LedgerError(f"{what}, of type Ed25519; the one of {name} is not")
    return key[1:]


def _require_id(name: str, rest: str, expected: bytes) -> None:
    id_ = rest.partition("+")[0]
    if id_ != expected.hex():
        raise LedgerError(
            f"the key of {name} has the id {expected.hex()}, but is written with {id_[:8]!r} — a misprint?"
        )
