"""Content-encodings that providers apply though we ask for none: gzip and deflate (RFC 9110 section 8.4.1).

Decoding is incremental and bounded: one step never makes more than ``STEP_BYTES`` out of whatever it is given, so that
a small body cannot swell in memory.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import MutableMapping

STEP_BYTES = 256 * 1024
_NAME = re.compile(rb"[a-z][a-z0-9._-]{0,19}")
"""An encoding as IANA names them. Anything else in its place is not repeated: messages are kept."""
_GZIP = 16 + zlib.MAX_WBITS
_ZLIB = zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS


class UndecodableError(ValueError):
    """The body is not what its content-encoding says, or the encoding is not known."""


class Decoder:
    """Undoes one content-encoding: ``feed`` what arrived, then ``step`` until it gives ``b""``."""

    def __init__(self, encoding: bytes) -> None:
        """``encoding``: ``gzip``, ``x-gzip`` or ``deflate``; raises ``UndecodableError`` for any other."""
        if encoding not in (b"gzip", b"x-gzip", b"deflate"):
            name = f" {encoding.decode()}" if _NAME.fullmatch(encoding) else ""
            raise UndecodableError(f"a content-encoding{name} that was not asked for and is not known")
        self._gzip = encoding != b"deflate"
        self._inflate: zlib._Decompress | None = None
        self._pending = b""

    @property
    def finished(self) -> bool:
        """The encoded body has ended where it should (an empty one counts as whole)."""
        return self._inflate is None or self._inflate.eof

    def feed(self, data: bytes) -> None:
        """Hand in encoded bytes."""
        self._pending = self._pending + data if self._pending else data

    def step(self) -> bytes:
        """Decoded bytes, at most ``STEP_BYTES``; ``b""`` when more must be fed first.

        Raises
        ------
        UndecodableError
            The bytes are not in the encoding that was named.
        """
        while True:
            inflate = self._inflate
            if inflate is None or (inflate.eof and self._gzip):  # RFC 1952 section 2.2: members may follow each other
                if not self._pending:
                    return b""
                inflate = self._inflate = zlib.decompressobj(self._window_bits(self._pending[0]))
            elif inflate.eof:
                return b""  # what follows a deflate stream means nothing
            given = self._pending
            try:
                decoded = inflate.decompress(given, STEP_BYTES)
            except zlib.error as error:
                raise UndecodableError(f"a body that is not in its content-encoding ({error})") from error
            self._pending = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            if decoded:
                return decoded
            if not inflate.eof:
                return b""

    def _window_bits(self, first_byte: int) -> int:
        if self._gzip:
            return _GZIP
        # "deflate" means the zlib format, yet some servers send raw deflate. A zlib header's low nibble is 8 (RFC 1950
        # section 2.2); raw deflate starts with a block's type, which no compressor in use makes look so.
        return _ZLIB if first_byte & 0x0F == 8 else _RAW


def decoder_for(headers: MutableMapping[bytes, bytes]) -> Decoder | None:
    """The decoder that a response's headers ask for, else ``None``.

    With a decoder, the headers that describe the encoded form (content-encoding, content-length) are removed: callers
    see the decoded body only. Raises ``UndecodableError`` for an encoding that is not known.
    """
    encoding = headers.get(b"content-encoding")
    if encoding is None:
        return None
    encoding = encoding.strip().lower()
    if encoding in (b"", b"identity"):
        return None
    decoder = Decoder(encoding)
    del headers[b"content-encoding"]
    headers.pop(b"content-length", None)
    return decoder
