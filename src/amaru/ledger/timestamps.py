"""Time-stamps by someone else's key and clock (RFC 3161): asked for over HTTP, kept as they came, verified offline.

What is kept is the whole response in DER, a ``.tsr`` file, as ``openssl ts -verify -in`` reads it. What this module
accepts, openssl accepts; tests hold it to that, byte by byte.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from rfc3161_client import SignedData, TimeStampResponse, VerifierBuilder, decode_timestamp_response

from amaru.errors import LedgerError, ProofError
from amaru.http1.posting import LIMIT_S
from amaru.ledger.der import signing_certificate_hash, with_sorted_certificates
from amaru.ledger.posting import Poster
from amaru.ledger.troubles import AnchorError, Trouble
from amaru.telemetry.redaction import in_one_line

MAX_RESPONSE_BYTES = 64 * 1024
MAX_ROOTS_BYTES = 4 * 1024 * 1024

_QUERY, _REPLY = "application/timestamp-query", "application/timestamp-reply"  # RFC 3161 section 3.4
_GRANTED, _GRANTED_WITH_MODS = 0, 1
_HASHES = {
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
# version 1, and a message imprint by SHA-256 up to its 32 bytes; what follows is the nonce and certReq.
_REQUEST_HEAD = bytes.fromhex("0201013031300d060960864801650304020105000420")
_CERTIFICATES_WANTED = bytes.fromhex("0101ff")

Roots = Sequence[x509.Certificate]


class Sha256(msgspec.Struct, frozen=True):
    """Data of which only the digest is at hand: its 32 bytes."""

    digest: bytes


Data = bytes | Path | Sha256
"""What is time-stamped: itself, the file that holds it, or its digest."""


class TimeStamp(msgspec.Struct, frozen=True):
    """What a time-stamp says: data of this ``imprint`` (by ``hash``: sha256, sha384 or sha512) existed at ``time``.

    ``authority`` is the signing certificate's subject, ``fingerprint`` its SHA-256, in hexadecimal.
    """

    time: datetime
    hash: str
    imprint: bytes
    serial: int
    policy: str
    authority: str
    fingerprint: str


class Authority:
    """One time-stamping authority.

    Parameters
    ----------
    url
        Where it takes requests.
    roots
        Certificates that its chain must end in; see ``read_roots``.
    headers, limit_s, ca_file
        As ``posting.Poster`` takes them.
    nonce
        A fresh number below 2**63 for each request.

    Raises
    ------
    AnchorError
        The URL or a file cannot be used, or there are no roots.
    """

    def __init__(
        self,
        url: str,
        roots: Roots,
        *,
        headers: Mapping[str, str] | None = None,
        limit_s: float = LIMIT_S,
        ca_file: Path | None = None,
        nonce: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        if not roots:
            raise AnchorError(f"no roots to trust for {url}; name a file of them", Trouble.VALIDATION)
        self._poster = Poster(url, headers=headers, limit_s=limit_s, ca_file=ca_file)
        self._roots = roots
        self._nonce = nonce

    @property
    def url(self) -> str:
        """Where it takes requests."""
        return self._poster.url

    def stamp(self, data: Data) -> bytes:
        """A time-stamp response over ``data``, verified against the roots as of its own time.

        Raises
        ------
        AnchorError
            It cannot be reached, refuses, or what it sends is no time-stamp for this request.
        """
        digest = digest_of(data, "sha256")
        nonce = self._nonce()
        response = self._poster.post(request_for(digest, nonce), _QUERY, accept=_REPLY)
        try:
            verify_timestamp(response, Sha256(digest), self._roots, at=None)
            got = _parse(response).tst_info.nonce
        except ProofError as error:
            raise AnchorError(f"{self.url} sent what cannot be used: {error}", Trouble.VALIDATION) from None
        if got != nonce:
            message = f"{self.url} sent a time-stamp for another request (its nonce differs): an old one, replayed?"
            raise AnchorError(message, Trouble.VALIDATION)
        return response

    def close(self) -> None:
        """Let the connections go."""
        self._poster.close()


def request_for(digest: bytes, nonce: int) -> bytes:
    """A TimeStampReq (RFC 3161 section 2.4.1), DER, for a SHA-256 digest; it asks for the authority's certificates.

    Written here since the library hashes the data itself, and an artifact may not fit into memory.
    """
    number = nonce.to_bytes(nonce.bit_length() // 8 + 1, "big")  # a leading zero bit: DER's integers have a sign
    body = _REQUEST_HEAD + digest + bytes((0x02, len(number))) + number + _CERTIFICATES_WANTED
    return bytes((0x30, len(body))) + body


def read_timestamp(response: bytes) -> TimeStamp:
    """What a stored response says, unverified.

    Raises
    ------
    ProofError
        It is none, or the authority refused.
    """
    parsed = _parse(response)
    try:
        info, signed = parsed.tst_info, parsed.signed_data
        oid = info.message_imprint.hash_algorithm.dotted_string
        if oid not in _HASHES:
            raise ProofError(
                f"the time-stamp is over a hash that amaru does not take ({oid}), only SHA-256, -384 and -512"
            )
        certificate = _signing_certificate(signed)
        return TimeStamp(
            info.gen_time,
            _HASHES[oid],
            info.message_imprint.message,
            info.serial_number,
            info.policy.dotted_string,
            in_one_line(certificate.subject.rfc4514_string()),
            certificate.fingerprint(SHA256()).hex(),
        )
    except LedgerError:
        raise
    except Exception as error:
        # Parsers of certificates raise a dozen kinds on hostile bytes, not all of them ValueErrors.
        raise ProofError(f"the time-stamp is damaged: {in_one_line(str(error))}") from None


def verify_timestamp(response: bytes, data: Data, roots: Roots, *, at: datetime | None) -> TimeStamp:
    """Verify a stored response, offline.

    Parameters
    ----------
    response
        The DER of a TimeStampResp.
    data
        What it should be for.
    roots
        The certificates that are trusted.
    at
        When the chain must be valid, beside the stamp's own time: now, to agree with ``openssl ts -verify``. ``None``:
        at the stamp's own time only, as with ``-attime``; that trusts that the authority's key has not leaked since its
        certificate expired.

    Raises
    ------
    ProofError
        It is no time-stamp, was changed, is for other data, or by an authority that the roots do not vouch for.
    LedgerError
        The data cannot be read.
    """
    stamp = read_timestamp(response)
    _verify_signature(response, stamp, roots, stamp.time)
    if at is not None:
        _verify_signature(response, stamp, roots, at)
    _verify_certificate(response)
    require_imprint(stamp, data)
    return stamp


def require_imprint(stamp: TimeStamp, data: Data) -> None:
    """Check that a time-stamp is over this data, whoever made it. Raises ProofError; LedgerError as ``digest_of``."""
    digest = digest_of(data, stamp.hash)
    if digest != stamp.imprint:
        raise ProofError(
            f"the time-stamp is for other data, so it was swapped or the data was changed: it is over "
            f"{stamp.hash}:{stamp.imprint.hex()}, the data's is {stamp.hash}:{digest.hex()}"
        )


def read_roots(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM file. Raises ``AnchorError`` where it cannot be used."""
    try:
        with path.open("rb") as file:
            return parse_roots(file.read(MAX_ROOTS_BYTES + 1))
    except OSError as error:
        raise AnchorError(f"{path}: cannot be read: {error.strerror}", Trouble.VALIDATION) from None
    except ProofError as error:
        raise AnchorError(f"{path}: {error}", Trouble.VALIDATION) from None


def parse_roots(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM text, each once. Raises ``ProofError`` where there is none."""
    try:
        if len(pem) > MAX_ROOTS_BYTES:
            raise ValueError("too long")
        certificates = x509.load_pem_x509_certificates(pem)
    except Exception:  # as above
        remedy = "; `openssl x509 -inform DER` makes PEM of a .cer file" if pem[:1] == b"\x30" else ""
        raise ProofError(f"holds no PEM certificates that can be read{remedy}") from None
    return tuple(dict.fromkeys(certificates))


def _parse(response: bytes) -> TimeStampResponse:
    if len(response) > MAX_RESPONSE_BYTES:
        raise ProofError(f"the time-stamp has {len(response):,} bytes; more than {MAX_RESPONSE_BYTES:,} is none")
    try:
        parsed = decode_timestamp_response(with_sorted_certificates(response))
    except ValueError:
        raise ProofError("that is no time-stamp response (RFC 3161) in DER, or it is damaged") from None
    if parsed.status not in (_GRANTED, _GRANTED_WITH_MODS):
        words = in_one_line("; ".join(parsed.status_string)) or "without a reason"
        raise ProofError(f"the authority granted no time-stamp (status {parsed.status}): {words}")
    return parsed


class _AsOf:
    """A response whose chain is verified as of another instant than its own time.

    The library takes that instant from the token, and only from there.
    """

    def __init__(self, of: object, **instead: object) -> None:
        self._of = of
        self.__dict__.update(instead)

    def __getattr__(self, name: str) -> Any:  # Any: whatever the library's object has
        return getattr(self._of, name)


def _verify_signature(response: bytes, stamp: TimeStamp, roots: Roots, at: datetime) -> None:
    """Verify that an authority under ``roots`` signed the response, by a chain that is valid ``at`` that instant."""
    if not roots:
        raise ProofError("there are no roots to verify the time-stamp against; give a file of them")
    parsed = _parse(response)
    info = _AsOf(parsed.tst_info, gen_time=at)
    viewed = cast("TimeStampResponse", _AsOf(parsed, tst_info=info, status=_GRANTED))
    try:
        VerifierBuilder(roots=list(roots)).build().verify(viewed, stamp.imprint)
    except Exception as error:  # VerificationError, and what parsers of certificates raise on hostile bytes
        raise ProofError(_reason(str(error), stamp, at)) from None


def _signing_certificate(signed: SignedData) -> x509.Certificate:
    """The certificate that the signature names by issuer and number. Raises ProofError; ValueError as the library."""
    signers = list(signed.signer_infos)
    if len(signers) != 1:
        raise ProofError(f"the time-stamp has {len(signers)} signers, not one")
    issuer, number = signers[0].issuer, signers[0].serial_number
    certificates = [x509.load_der_x509_certificate(der) for der in signed.certificates]
    named = [one for one in certificates if (one.issuer, one.serial_number) == (issuer, number)]
    if len(named) > 1:
        raise ProofError("the time-stamp holds two certificates of one issuer and number: one of them was put there")
    if not named:
        raise ProofError("the time-stamp does not hold the certificate of its signer; ask for one that does")
    return named[0]


def _verify_certificate(response: bytes) -> None:
    """Verify that the certificate is the very one that the signer names under the signature."""
    certificate = _signing_certificate(_parse(response).signed_data).public_bytes(Encoding.DER)
    try:
        named = signing_certificate_hash(response)
    except ValueError as error:
        raise ProofError(f"the time-stamp is damaged: {error}") from None
    if named is None:
        raise ProofError("the time-stamp's signature does not name its certificate, as RFC 3161 asks")
    algorithm, digest = named
    if hashlib.new(algorithm, certificate, usedforsecurity=algorithm != "sha1").digest() != digest:
        raise ProofError("the time-stamp's certificate is not the one that its signature names: it was swapped")


def _reason(said: str, stamp: TimeStamp, at: datetime) -> str:
    """What the library's error means."""
    found = re.search(r"Verify error: ?([\w ,'()-]+)", said)
    chain = found.group(1).strip() if found else ""
    if chain == "certificate has expired":
        if at > stamp.time:
            return (
                f"a certificate of the authority {stamp.authority} had expired by {at:%Y-%m-%d}; it was valid at the "
                f"stamp's own time, {stamp.time:%Y-%m-%d}: verify as of then, if its key has not leaked since"
            )
        return f"a certificate of the authority {stamp.authority} had expired when it stamped, {stamp.time:%Y-%m-%d}"
    if chain.startswith("certificate is not yet valid"):
        return f"a certificate of the authority {stamp.authority} was not yet valid on {at:%Y-%m-%d}"
    if chain:
        return f"the roots given do not vouch for the authority {stamp.authority}: {in_one_line(chain)}"
    if "EKU" in said:
        return f"the signer {stamp.authority} is no time-stamping authority: its certificate is for other uses"
    return "the time-stamp was changed: its signature does not fit what it says"


def digest_of(data: Data, hash: str) -> bytes:
    """The digest of ``data`` by ``hash``: sha256, sha384 or sha512.

    Raises
    ------
    LedgerError
        The file cannot be read.
    ProofError
        Only another digest is at hand.
    """
    if isinstance(data, bytes):
        return hashlib.new(hash, data).digest()
    if isinstance(data, Sha256):
        if hash != "sha256":
            raise ProofError(f"the time-stamp is over the {hash}; give the data itself, its SHA-256 is not enough")
        return data.digest
    try:
        with data.open("rb") as file:
            return hashlib.file_digest(file, hash).digest()
    except OSError as error:
        raise LedgerError(f"{data}: cannot be read: {error.strerror}") from None
