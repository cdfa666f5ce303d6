"""Attestations: an in-toto Statement (v1) in a DSSE envelope (v1), signed with Ed25519, as Sigstore's tools read them.

https://github.com/in-toto/attestation/tree/main/spec/v1 · https://github.com/secure-systems-lab/dsse

They are signed with the same kind of keys as checkpoints. No text can be taken for the other's: what is signed here
begins with ``DSSEv1`` and ends in the payload, a note's text ends in a newline.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from amaru.errors import LedgerError, ProofError
from amaru.ledger.canonical import canonical
from amaru.ledger.notes import NoteSigner, NoteVerifier

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
DEPLOYMENT_TYPE = "urn:amaru:attestation:deployment:v1"
"""amaru's own predicate, described in ``docs/explanation/ledger.md``. A name: nothing is fetched from there."""
MAX_ENVELOPE_BYTES = 1024 * 1024
MAX_SIGNATURES = 64

Json = dict[str, Any]  # Any: a JSON document


class Resource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file or an image, by its digests: algorithm → hexadecimal (in-toto's ResourceDescriptor)."""

    name: str = ""
    uri: str = ""
    digest: dict[str, str] = {}


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """That ``predicate`` holds for each ``subject``."""

    type: str = msgspec.field(name="_type", default=STATEMENT_TYPE)
    subject: tuple[Resource, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: Json = {}


class Deployment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """amaru's deployment predicate: a component went into service.

    ``deployed_at`` is RFC 3339 in UTC; ``evidence`` are the files that speak for it.
    """

    component: str
    version: str = ""
    environment: str = ""
    deployed_at: str
    deployed_by: str = ""
    evidence: tuple[Resource, ...] = ()


class Signature(msgspec.Struct, frozen=True):
    """One signature, in base64; ``keyid`` is a hint that nothing vouches for."""

    sig: str
    keyid: str | None = ""


class Envelope(msgspec.Struct, frozen=True):
    """A DSSE envelope; ``payload`` is in base64."""

    payload: str
    payload_type: str = msgspec.field(name="payloadType")
    signatures: tuple[Signature, ...]


class Verified(msgspec.Struct, frozen=True):
    """What a verified envelope holds, and who signed it."""

    payload: bytes
    payload_type: str
    signers: tuple[NoteVerifier, ...]


def deployment_statement(subject: Sequence[Resource], deployment: Deployment) -> bytes:
    """The Statement that ``deployment`` put ``subject`` into service, as RFC 8785 canonical JSON.

    Raises
    ------
    LedgerError
        A subject has no SHA-256: by nothing else would it be recognized.
    """
    for resource in subject:
        if not _is_sha256(resource.digest.get("sha256", "")):
            raise LedgerError(f"the subject {resource.name!r} of an attestation needs the SHA-256 of its bytes")
    if not subject:
        raise LedgerError("an attestation needs a subject: the artifact or image, with its SHA-256")
    predicate = msgspec.to_builtins(deployment)
    statement = Statement(subject=tuple(subject), predicate_type=DEPLOYMENT_TYPE, predicate=predicate)
    return canonical(msgspec.to_builtins(statement))


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: DSSE's pre-authentication encoding."""
    type = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(type), type, len(payload), payload)


def sign_envelope(payload: bytes, signers: Sequence[NoteSigner], *, payload_type: str = PAYLOAD_TYPE) -> Json:
    """The envelope of ``payload`` as a JSON document, signed by all ``signers``. Raises LedgerError: there is none."""
    if not signers:
        raise LedgerError("an attestation needs a signing key")
    signed = pae(payload_type, payload)
    signatures = []
    for signer in signers:
        sig = Ed25519PrivateKey.from_private_bytes(signer.seed).sign(signed)
        signatures.append({"keyid": keyid_of(signer.verifier), "sig": base64.b64encode(sig).decode()})
    return {"payload": base64.b64encode(payload).decode(), "payloadType": payload_type, "signatures": signatures}


def keyid_of(verifier: NoteVerifier) -> str:
    """How envelopes hint at a key: its name and id, as in its vkey."""
    return f"{verifier.name}+{verifier.key_id.hex()}"


def read_envelope(envelope: bytes | Mapping[str, Any]) -> Envelope:
    """An envelope, unverified, from its JSON text or document. Raises ProofError."""
    try:
        if isinstance(envelope, bytes):
            if len(envelope) > MAX_ENVELOPE_BYTES:
                raise ProofError(f"attestation: {len(envelope):,} bytes, more than {MAX_ENVELOPE_BYTES:,}")
            return msgspec.json.decode(envelope, type=Envelope)
        return msgspec.convert(envelope, Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProofError(f"attestation: no DSSE envelope: {error}") from None


def verify_envelope(
    envelope: bytes | Mapping[str, Any],
    verifiers: Iterable[NoteVerifier],
    *,
    payload_types: Collection[str] = (PAYLOAD_TYPE,),
    threshold: int = 1,
) -> Verified:
    """Verify that at least ``threshold`` different keys of ``verifiers`` signed the envelope, and its type.

    Raises
    ------
    ProofError
        They did not, or the envelope is none.
    """
    read = read_envelope(envelope)
    if len(read.signatures) > MAX_SIGNATURES:
        raise ProofError(f"attestation: {len(read.signatures)} signatures, more than {MAX_SIGNATURES}")
    payload = _from_base64(read.payload, "the payload")
    try:
        signed = pae(read.payload_type, payload)
    except UnicodeEncodeError:
        raise ProofError("attestation: its payload type is no text") from None
    signatures = [_from_base64(one.sig, "a signature") for one in read.signatures]
    known = tuple(dict.fromkeys(verifiers))
    signers: dict[bytes, NoteVerifier] = {}  # by key: one key under two names is one signer
    for verifier in known:
        # Keyids are hints that anyone may write, so every known key is tried.
        if any(_signed(verifier, signature, signed) for signature in signatures):
            signers.setdefault(verifier.public_key, verifier)
    if len(signers) < max(threshold, 1):
        hints = ", ".join(repr(one.keyid)[:100] for one in read.signatures) or "nobody"
        wanted = ", ".join(keyid_of(verifier) for verifier in known) or "none"
        count = f"{len(signers)} of the {threshold} wanted" if threshold > 1 else "none"
        raise ProofError(
            f"attestation: of the known keys ({wanted}) {count} signed this; it says that {hints} did — "
            "wrong key, or the envelope was altered"
        )
    if read.payload_type not in payload_types:
        raise ProofError(
            f"attestation: the payload is of type {read.payload_type[:100]!r}, not {', '.join(payload_types)}"
        )
    return Verified(payload, read.payload_type, tuple(signers.values()))


def read_statement(payload: bytes) -> Statement:
    """The Statement that a verified payload holds. Raises ProofError."""
    try:
        statement = msgspec.json.decode(payload, type=Statement)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProofError(f"attestation: no in-toto Statement: {error}") from None
    if statement.type != STATEMENT_TYPE:
        raise ProofError(f"attestation: a statement of type {statement.type[:100]!r}, not {STATEMENT_TYPE}")
    if not statement.subject or not all(resource.digest for resource in statement.subject):
        raise ProofError("attestation: a statement about nothing: each subject needs a digest")
    return statement


def verify_attestation(
    envelope: bytes | Mapping[str, Any], verifiers: Iterable[NoteVerifier], *, sha256: str | None = None
) -> Statement:
    """The Statement of an envelope that a known key signed; about the artifact of this digest, where that is given.

    Raises
    ------
    ProofError
        It is not, or the envelope is none.
    """
    statement = read_statement(verify_envelope(envelope, verifiers).payload)
    if sha256 is not None and not any(one.digest.get("sha256") == sha256 for one in statement.subject):
        about = ", ".join(one.digest.get("sha256", "?")[:64] for one in statement.subject[:5])
        raise ProofError(f"attestation: about other artifacts (sha256 {about}), not {sha256[:64]}")
    return statement


def _signed(verifier: NoteVerifier, signature: bytes, text: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(verifier.public_key).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True


def _from_base64(text: str, what: str) -> bytes:
    """From either alphabet, as DSSE has it."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        raise ProofError(f"attestation: {what} is not base64") from None


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and all(char in "0123456789abcdef" for char in text)
