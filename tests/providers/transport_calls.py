"""How the conformance suite calls: every transport behind the seam, and how its failures are caught.

A case that a library cannot pass is a strict ``xfail`` with its reason: it will speak up when the library learns it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.providers.transport import HttpResponse, Transport

LIMIT = 1 << 20


def transports(**deviations: str) -> pytest.MarkDecorator:
    """Run the test over each transport; ``deviations`` gives the reason for which one cannot pass it."""
    return pytest.mark.parametrize(
        "kind",
        [
            pytest.param(kind, marks=pytest.mark.xfail(strict=True, reason=deviations[kind]))
            if kind in deviations
            else kind
            for kind in ("h1", "reqwest")
        ],
    )


every = transports()


async def ask(transport: Transport, *, within_s: float = 60.0, body: bytes = b"{}", **options: Any) -> HttpResponse:
    arguments = {"method": "POST", "target": b"/chat/completions", "headers": [(b"x-id", b"1")]} | options
    at = asyncio.get_running_loop().time() + within_s
    response = await transport.send(body=body, head_deadline=at, head_kind=FailureKind.NO_ANSWER, **arguments)
    response.set_deadline(at, FailureKind.STREAM_STALLED, "the test ran out of patience")
    return response


async def failure_of(awaitable: Awaitable[Any], kind: FailureKind) -> Failure:
    with pytest.raises(Failure) as caught:
        await awaitable
    assert caught.value.kind is kind, caught.value
    return caught.value


async def read_chunks(response: HttpResponse) -> bytes:
    parts = []
    while part := await response.chunk():
        parts.append(part)
    return b"".join(parts)
