"""As much of DER (X.690) as it takes to find one's way in a time-stamp response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

SEQUENCE, SET, CONTEXT_0 = 0x30, 0x31, 0xA0


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
    at, end = 0, len(response)
    # TimeStampResp / second: ContentInfo / second: [0] / first: SignedData
    for tag, place in ((SEQUENCE, 0), (SEQUENCE, 1), (CONTEXT_0, 1), (SEQUENCE, 0)):
        inner = list(elements(response, at, end))
        if len(inner) <= place or inner[place].tag != tag:
            return response  # holds no token, or is none: its reader will say so
        at, end = inner[place].content, inner[place].end
    for field in elements(response, at, end):
        if field.tag == CONTEXT_0:
            certificates = [response[one.start : one.end] for one in elements(response, field.content, field.end)]
            return response[: field.content] + b"".join(sorted(certificates)) + response[field.end :]
    return response
