"""Small JSON calls beside the traffic: incidents, bills, what the gateway says of itself."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from amaru.domain import FailureKind
from amaru.errors import AmaruError
from amaru.providers.transport import endpoint_from_url, open_transport

MAX_BODY_BYTES = 8 * 1024 * 1024


class CallError(AmaruError):
    """A call was answered with an error status; the message has the answer's beginning."""


class JsonClient:
    """Calls one base URL."""

    def __init__(self, base_url: str, *, limit_s: float = 5.0) -> None:
        self._transport = open_transport(endpoint_from_url(base_url))
        self._limit_s = limit_s

    async def call(self, method: str, path: str, value: Any = None) -> Any:  # Any: JSON
        """The decoded answer.

        Raises
        ------
        Failure
            No answer.
        CallError
            An answer that is no success, or no JSON.
        """
        body = b"" if value is None else msgspec.json.encode(value)
        deadline = asyncio.get_running_loop().time() + self._limit_s
        response = await self._transport.send(
            method,
            path.encode(),
            [(b"content-type", b"application/json")],
            body,
            head_deadline=deadline,
            head_kind=FailureKind.NO_ANSWER,
        )
        try:
            response.set_deadline(deadline, FailureKind.NO_ANSWER, "the answer took too long")
            content = await response.read(MAX_BODY_BYTES)
        finally:
            response.close()
        if not 200 <= response.status < 300:
            raise CallError(f"{method} {path}: status {response.status}: {content[:300].decode('utf-8', 'replace')}")
        try:
            return msgspec.json.decode(content)
        except msgspec.DecodeError as error:
            raise CallError(f"{method} {path}: no JSON: {error}") from None

    async def aclose(self) -> None:
        """Close its connections."""
        await self._transport.aclose()
