"""The HTTP client with which a log is read that somebody else serves: what is sent is not taken without end."""

from __future__ import annotations

from typing import Any

import aiohttp

from amaru.ledger.tiles import MAX_BUNDLE_BYTES


class _Bounded(aiohttp.ClientResponse):
    """A response whose body has at most what the longest file of a log has; servers need not heed a range."""

    async def read(self) -> bytes:
        if self._body is None:
            body = bytearray()
            async for piece in self.content.iter_any():
                body += piece
                if len(body) > MAX_BUNDLE_BYTES:
                    self.close()
                    raise aiohttp.ClientPayloadError(f"the server sends more than {MAX_BUNDLE_BYTES:,} bytes")
            self._body = bytes(body)
        return self._body


async def bounded_client(**settings: Any) -> aiohttp.ClientSession:  # Any: what fsspec passes on
    """The session of fsspec's HTTP file system (``get_client``)."""
    return aiohttp.ClientSession(response_class=_Bounded, **settings)
