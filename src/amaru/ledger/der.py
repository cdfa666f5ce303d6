"""As much of DER (X.690) as it takes to find one's way in a time-stamp response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

SEQUENCE, SET, CONTEXT_0 = 0x30, 0x31, 0xA0
_SIGNING_CERTIFICATE_V2 = bytes.fromhex("2a864886f70d010910022f")
_SIGNING_CERTIFICATE = bytes.fromhex("2a864886f70d010910020c")
_HASHES = {
    bytes.fromhex("608648016503040201"): "sha256",
    bytes.fromhex("608648016503040202"): "sha384",
    bytes.fromhex("608648016503040203"): "sha512",
}


class Element(NamedTuple):
    """One element: its tag, and the offsets where it begins, where its content begins, and where both end."""

    tag: int
    start: int
    content: int
    end: int


def elements(data: bytes, start: int, end: int) -> Iterator[Element]:
    """The elements that lie one after the other in ``data[start:end]``.

    Raises
    ------
    ValueError
        They do not fill it: the data is no DER.
    """
    while start < end:
        if end - start < 2:
            raise ValueError("an element is cut off")
        length = data[start + 1]
        content = start + 2
        if length & 0x80:
            digits = length & 0x7F
            if not 1 <= digits <= 4 or content + digits > end:
                raise ValueError("an element has no definite length")
            length = int.from_bytes(data[content : content + digits], "big")
            content += digits
        if content + length > end:
            raise ValueError("an element is longer than what holds it")
        yield Element(data[start], start, content, content + length)
        start = content + length


def with_sorted_certificates(response: bytes) -> bytes:
    """``response``, a TimeStampResp (RFC 3161 section 2.4.2), with the certificates of its token in DER's order.

    DER sorts a SET OF by its elements' encodings, and rfc3161-client insists; OpenSSL's authority writes its chain in
    the order of its file. No signature covers that order.

    Raises
    ------
    ValueError
        It is none.
    """
    for field in _signed_data(response):
        if field.tag == CONTEXT_0:
            certificates = [response[one.start : one.end] for one in elements(response, field.content, field.end)]
            return response[: field.content] + b"".join(sorted(certificates)) + response[field.end :]
    return response


def signing_certificate_hash(response: bytes) -> tuple[str, bytes] | None:
    """The algorithm and the hash by which the token's signer names its certificate, under the signature.

    That is the first ESSCertID in the signed attribute signingCertificateV2 (RFC 5035), or else in signingCertificate
    (RFC 2634), as RFC 3161 and RFC 5816 ask for: no other certificate for the same key can be put in its place.
    ``None``: it names none, or by a hash that is not known here.

    Raises
    ------
    ValueError
        It is no TimeStampResp, or the attribute cannot be read.
    """
    signers = [field for field in _signed_data(response) if field.tag == SET][-1:]
    for signer in (one for found in signers for one in elements(response, found.content, found.end)):
        for attributes in elements(response, signer.content, signer.end):
            if attributes.tag == CONTEXT_0:
                return _certificate_hash(response, attributes)
    return None


def _certificate_hash(data: bytes, attributes: Element) -> tuple[str, bytes] | None:
    found: dict[bytes, Element] = {}
    for attribute in elements(data, attributes.content, attributes.end):
        type, values = elements(data, attribute.content, attribute.end)
        found[data[type.content : type.end]] = values
    at = found.get(_SIGNING_CERTIFICATE_V2) or found.get(_SIGNING_CERTIFICATE)
    if at is None:
        return None
    for _ in range(3):  # SET OF / SigningCertificate / its certs / the first ESSCertID
        at = _first(data, at)
    hash, *rest = elements(data, at.content, at.end)
    algorithm = "sha256" if _SIGNING_CERTIFICATE_V2 in found else "sha1"
    if hash.tag == SEQUENCE:  # an AlgorithmIdentifier, where it is not the default
        oid = _first(data, hash)
        known = _HASHES.get(data[oid.content : oid.end])
        if known is None or not rest:
            return None
        algorithm, hash = known, rest[0]
    return algorithm, data[hash.content : hash.end]


def _first(data: bytes, of: Element) -> Element:
    for one in elements(data, of.content, of.end):
        return one
    raise ValueError("an element is empty")


def _signed_data(response: bytes) -> list[Element]:
    """The fields of the token's SignedData; none where there is no token."""
    at, end = 0, len(response)
    # TimeStampResp / second: ContentInfo / second: [0] / first: SignedData
    for tag, place in ((SEQUENCE, 0), (SEQUENCE, 1), (CONTEXT_0, 1), (SEQUENCE, 0)):
        inner = list(elements(response, at, end))
        if len(inner) <= place or inner[place].tag != tag:
            return []
        at, end = inner[place].content, inner[place].end
    return list(elements(response, at, end))
