"""What lies in a proof bundle, and where.

Each piece is a file that its own tool reads: a tlog-proof, a signed note, OpenPGP, RFC 3161, PEM. The bundle adds
nothing but their names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from amaru.errors import LedgerError, ProofError
from amaru.ledger.bundle_readme import readme
from amaru.ledger.canonical import canonical
from amaru.ledger.notes import NoteVerifier
from amaru.ledger.tlog_proof import parse_tlog_proof
from amaru.ledger.zips import pack, unpack

MAX_BUNDLE_BYTES = 8 * 1024 * 1024
MAX_PIECES = 16
"""Signatures, and time-stamps: each is work for whoever verifies."""
MAX_KEYS = 64

ENTRY, PROOF, CHECKPOINT, KEYS = "entry.json", "entry.tlog-proof", "checkpoint", "log-keys.txt"
CERTIFICATES, ATTESTATION, VERSION = "certificates.pem", "attestation.json", "VERSION"
README, CHECK = "README.txt", "check.py"
_VERSION_TEXT = b"amaru-proof 1\n"
_REQUIRED = (ENTRY, PROOF, CHECKPOINT, KEYS, VERSION, README, CHECK)
_FIXED = frozenset((*_REQUIRED, CERTIFICATES, ATTESTATION))
_PIECE = re.compile(r"(signatures|timestamps)/(checkpoint|entry|artifact)\.([1-9]|1[0-6])\.(asc|key|tsr)")
_SUFFIXES = {"signatures": ("asc", "key"), "timestamps": ("tsr",)}

Subject = Literal["checkpoint", "entry", "artifact"]
"""What is signed or time-stamped: the signed note, the leaf, or the artifact whose digest the leaf holds."""


class Signature(msgspec.Struct, frozen=True):
    """A detached GPG signature over ``on``, with the public key; both ASCII-armoured."""

    on: Subject
    signature: bytes
    public_key: bytes


class Stamp(msgspec.Struct, frozen=True):
    """A time-stamp response (DER) over ``on``."""

    on: Subject
    response: bytes


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """All pieces of a bundle.

    ``entry`` is the leaf; ``proof`` the tlog-proof file of its inclusion, with the checkpoint; ``verifiers`` the log's
    public keys; ``certificates`` the roots of the time-stamping authorities, PEM.
    """

    entry: bytes
    proof: bytes
    verifiers: tuple[NoteVerifier, ...]
    signatures: tuple[Signature, ...] = ()
    timestamps: tuple[Stamp, ...] = ()
    certificates: bytes = b""

    @property
    def document(self) -> dict[str, Any]:  # Any: JSON
        """The leaf's JSON object; empty where it is none."""
        try:
            decoded = msgspec.json.decode(self.entry)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return {}
        return decoded if isinstance(decoded, dict) else {}

    @property
    def attestation(self) -> bytes | None:
        """The DSSE envelope in the leaf, where it holds one."""
        envelope = self.document.get("envelope")
        try:
            return canonical(envelope) if isinstance(envelope, dict) else None
        except (LedgerError, ValueError, TypeError, RecursionError):
            return None

    @property
    def digest(self) -> bytes | None:
        """The SHA-256 of the artifact that the leaf is about, where it names one."""
        digest = self.document.get("digest")
        found = re.fullmatch(r"sha256:([0-9a-f]{64})", digest) if isinstance(digest, str) else None
        return bytes.fromhex(found[1]) if found else None

    def members(self) -> dict[str, bytes]:
        """Name → content, as they lie in the ZIP, but for the help. Raises ProofError: the proof cannot be read."""
        members = {
            VERSION: _VERSION_TEXT,
            ENTRY: self.entry,
            PROOF: self.proof,
            CHECKPOINT: parse_tlog_proof(self.proof).checkpoint,
            KEYS: "".join(f"{verifier.vkey}\n" for verifier in self.verifiers).encode(),
        }
        if (attestation := self.attestation) is not None:
            members[ATTESTATION] = attestation
        if self.certificates:
            members[CERTIFICATES] = self.certificates
        for number, signature in enumerate(self.signatures, 1):
            members[f"signatures/{signature.on}.{number}.asc"] = signature.signature
            members[f"signatures/{signature.on}.{number}.key"] = signature.public_key
        for number, stamp in enumerate(self.timestamps, 1):
            members[f"timestamps/{stamp.on}.{number}.tsr"] = stamp.response
        return members

    def help(self) -> dict[str, bytes]:
        """What tells a stranger how to check the rest: name → content."""
        text = readme(self.members(), self.digest)
        return {README: text.encode("ascii"), CHECK: Path(__file__).with_name("bundle_check.py").read_bytes()}

    def pack(self) -> bytes:
        """The bundle.

        Raises
        ------
        ProofError
            The proof cannot be read.
        LedgerError
            There is more than a bundle may hold.
        """
        if max(len(self.signatures), len(self.timestamps)) > MAX_PIECES:
            raise LedgerError(f"a bundle holds up to {MAX_PIECES} signatures and as many time-stamps")
        if not 1 <= len(self.verifiers) <= MAX_KEYS:
            raise LedgerError(f"a bundle holds 1 to {MAX_KEYS} keys of its log, not {len(self.verifiers)}")
        bundle = pack({**self.members(), **self.help()})
        if len(bundle) > MAX_BUNDLE_BYTES:
            raise LedgerError(f"the bundle would have {len(bundle):,} bytes, more than {MAX_BUNDLE_BYTES:,}")
        return bundle


class Read(NamedTuple):
    """A bundle taken apart; ``own_help``: its help is what this amaru writes, and no other text."""

    contents: Contents
    own_help: bool


def read_contents(bundle: bytes) -> Read:
    """The pieces of a bundle; nothing is verified but that they lie as they should.

    Raises
    ------
    ProofError
        It is no bundle, or pieces are missing, doubled, unknown, or not those that belong together.
    """
    if len(bundle) > MAX_BUNDLE_BYTES:
        raise ProofError(f"the bundle has {len(bundle):,} bytes; more than {MAX_BUNDLE_BYTES:,} is none")
    members = unpack(bundle, known=_is_known, most=len(_FIXED) + 3 * MAX_PIECES)
    missing = [name for name in _REQUIRED if name not in members]
    if missing:
        raise ProofError(f"the bundle lacks {', '.join(missing)}")
    if members[VERSION] != _VERSION_TEXT:
        raise ProofError("the bundle is of a version that this amaru does not know; its pieces can be checked by hand")
    contents = Contents(
        entry=members[ENTRY],
        proof=members[PROOF],
        verifiers=_verifiers(members[KEYS]),
        signatures=tuple(
            Signature(on, pieces["asc"], pieces["key"]) for on, pieces in _numbered(members, "signatures")
        ),
        timestamps=tuple(Stamp(on, pieces["tsr"]) for on, pieces in _numbered(members, "timestamps")),
        certificates=members.get(CERTIFICATES, b""),
    )
    help = {name: members[name] for name in (README, CHECK)}
    expected = {**contents.members(), **help}
    for name in sorted(expected.keys() | members.keys()):
        if expected.get(name) != members.get(name):
            raise ProofError(f"the bundle's {name} {_WHY.get(name, 'is not as it should be')}")
    return Read(contents, help == contents.help())


_WHY = {
    CHECKPOINT: f"is not the checkpoint of {PROOF}",
    ATTESTATION: f"is not the envelope that {ENTRY} holds",
    CERTIFICATES: "is empty",
    KEYS: "is not a list of verifier keys, one a line",
}


def _is_known(name: str) -> bool:
    piece = _PIECE.fullmatch(name)
    return name in _FIXED or (piece is not None and piece[4] in _SUFFIXES[piece[1]])


def _verifiers(content: bytes) -> tuple[NoteVerifier, ...]:
    lines = content.decode("utf-8", "replace").splitlines()
    if not 1 <= len(lines) <= MAX_KEYS:
        raise ProofError(f"the bundle's {KEYS} holds {len(lines)} keys, not 1 to {MAX_KEYS}")
    try:
        return tuple(NoteVerifier.of(line) for line in lines)
    except LedgerError as error:
        raise ProofError(f"the bundle's {KEYS}: {error}") from None


def _numbered(members: dict[str, bytes], folder: str) -> list[tuple[Subject, dict[str, bytes]]]:
    """The pieces of a folder by their numbers, which begin at 1 and leave out none."""
    pieces: dict[int, tuple[Subject, dict[str, bytes]]] = {}
    for name, content in members.items():
        found = _PIECE.fullmatch(name)
        if found is None or found[1] != folder:
            continue
        on: Subject = msgspec.convert(found[2], Subject)
        of, files = pieces.setdefault(int(found[3]), (on, {}))
        if of != on:
            raise ProofError(f"the bundle has two {folder} of the number {found[3]}, over {of} and {on}")
        files[found[4]] = content
    for number, (at, (on, files)) in enumerate(sorted(pieces.items()), 1):
        if at != number:
            raise ProofError(f"the bundle has {folder}/{on}.{at}, but no {number}: one is missing")
        for suffix in _SUFFIXES[folder]:
            if suffix not in files:
                raise ProofError(f"the bundle lacks {folder}/{on}.{at}.{suffix}")
    return [piece for _, piece in sorted(pieces.items())]
