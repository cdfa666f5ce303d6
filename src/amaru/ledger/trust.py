"""What a verifier trusts, from wherever they know it: keys of logs, GPG keys, roots of time-stamping authorities.

One text file holds it all::

    # the log's key, as its operator publishes it
    gateway.example.org/log+5ab2c1d0+AYxk…
    gpg 8711 119B 0BF4 7B84 883C  2EAE 2CB6 89A2 3A8B 5413
    -----BEGIN CERTIFICATE-----
    …
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from cryptography import x509

from amaru.errors import LedgerError, ProofError
from amaru.ledger.notes import NoteVerifier
from amaru.ledger.timestamps import parse_roots

MAX_TRUST_BYTES = 4 * 1024 * 1024
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")


class Trust(msgspec.Struct, frozen=True):
    """Keys of logs; fingerprints of GPG's primary keys, in upper-case hexadecimal; root certificates.

    Where one of the three is empty, nothing of its kind is known, and what the bundle brings is taken for itself.
    """

    verifiers: tuple[NoteVerifier, ...] = ()
    gpg: frozenset[str] = frozenset()
    roots: tuple[x509.Certificate, ...] = ()


NOTHING = Trust()


def read_trust(path: Path) -> Trust:
    """The trust that a file states. Raises LedgerError, which names the file and the line."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TRUST_BYTES + 1)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > MAX_TRUST_BYTES:
        raise LedgerError(f"{path}: more than {MAX_TRUST_BYTES:,} bytes; is this a file of what to trust?")
    return parse_trust(content.decode("utf-8", "replace"), where=str(path))


def parse_trust(text: str, *, where: str = "trust") -> Trust:
    """The trust that a text states. Raises LedgerError, which names the line."""
    verifiers: list[NoteVerifier] = []
    fingerprints: list[str] = []
    roots: list[x509.Certificate] = []
    certificate: list[str] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        place = f"{where}, line {number}"
        if certificate or line == _BEGIN:
            certificate.append(line)
            if line == _END:
                roots += _roots(certificate, place)
                certificate = []
        elif not line or line.startswith("#"):
            continue
        elif line.split()[0].lower() == "gpg":
            fingerprints.append(_fingerprint(line[3:], place))
        else:
            try:
                verifiers.append(NoteVerifier.of(line))
            except LedgerError as error:
                raise LedgerError(f"{place}: {error}") from None
    if certificate:
        raise LedgerError(f"{where}: a certificate that does not end")
    if not (verifiers or fingerprints or roots):
        raise LedgerError(f"{where}: says nothing to trust: no log's key, no GPG fingerprint, no certificate")
    return Trust(tuple(dict.fromkeys(verifiers)), frozenset(fingerprints), tuple(dict.fromkeys(roots)))


def _fingerprint(words: str, place: str) -> str:
    fingerprint = "".join(words.split()).upper()
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise LedgerError(f"{place}: a GPG key is named by its whole fingerprint, 40 hexadecimal digits")
    return fingerprint


def _roots(lines: list[str], place: str) -> tuple[x509.Certificate, ...]:
    try:
        return parse_roots("\n".join(lines).encode())
    except ProofError:
        raise LedgerError(f"{place}: the certificate that ends here cannot be read") from None
