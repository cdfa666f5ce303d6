"""How answers of the gateway's own are written: JSON bodies and errors in OpenAI's shape."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response

from amaru.accounts.allowances import Metric
from amaru.accounts.money import NANO_PER_USD
from amaru.errors import RequestError, StorageError
from amaru.http1 import Request
from amaru.mesh.accounts_words import Left, instant
from amaru.protocols.openai import error_body
from amaru.telemetry.logs import get_logger

CONTENT_JSON = b"application/json"
Header = tuple[bytes, bytes]

_log = get_logger("gateway")
_encoder = msgspec.json.Encoder()


def respond_json(request: Request, status: int, value: Any, headers: Sequence[Header] = ()) -> None:  # Any: JSON
    """Answer with ``value`` encoded as JSON (msgspec's rules)."""
    request.respond(status, [*headers, (b"content-type", CONTENT_JSON)], _encoder.encode(value))


def respond_error(request: Request, error: RequestError, headers: Sequence[Header] = ()) -> None:
    """Answer with an error in OpenAI's shape, or in the provider's own words where the taxonomy keeps them."""
    all_headers = [*headers, (b"content-type", CONTENT_JSON), *headers_of(error)]
    request.respond(error.status, all_headers, error.body or error_body(error))


def headers_of(error: RequestError) -> list[Header]:
    """The headers that an error calls for, on either framework: when to come again, and how to say who one is."""
    headers = _retry_after(error.retry_after_s)
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


_RATE_LIMIT_NAMES = {
    metric: tuple(f"x-ratelimit-{what}-{metric.value}".encode() for what in ("limit", "remaining", "reset"))
    for metric in Metric
}


@functools.lru_cache(maxsize=256)
def _renewal(period_end: float) -> bytes:
    """The end of a period, which is the same for all requests in it."""
    return instant(period_end).encode()


def headers_of_left(left: Iterable[Left], at: float) -> list[Header]:
    """The conventional headers of rate limits, and those of money, at that instant (Unix seconds)."""
    headers: list[Header] = []
    for one in left:
        if one.metric is Metric.USD:
            headers.append((b"x-amaru-budget-remaining-usd", b"%d.%09d" % divmod(max(one.left, 0), NANO_PER_USD)))
            if one.period_end is not None:
                headers.append((b"x-amaru-budget-renews", _renewal(one.period_end)))
        elif one.period_end is not None:  # what counts requests at once never renews
            limit, remaining, reset = _RATE_LIMIT_NAMES[one.metric]
            headers += [
                (limit, b"%d" % one.amount),
                (remaining, b"%d" % max(one.left, 0)),
                (reset, b"%ds" % max(0, math.ceil(one.period_end - at))),
            ]
    return headers


def _retry_after(seconds: float | None) -> list[Header]:
    """Retry-After in whole seconds (RFC 9110 §10.2.3) and, beside it, in milliseconds for clients that know it."""
    if seconds is None or not math.isfinite(seconds):
        return []
    return [
        (b"retry-after", b"%d" % max(1, math.ceil(seconds))),
        (b"retry-after-ms", b"%d" % max(1, math.ceil(seconds * 1e3))),
    ]


def store_unavailable(error: StorageError) -> RequestError:
    """What a caller is told when the store fails. Its file and the cause are the operator's, and go to the log."""
    _log.error("store_unavailable", error=str(error))
    return RequestError(503, "The store of decisions is not available now; try again shortly.", type="api_error")


# ---- on Starlette, where the endpoints that are not hot live --------------------------------------------------------


def json_answer(value: Any, status: int = 200) -> Response:  # Any: JSON
    """``value`` encoded as JSON (msgspec's rules)."""
    return Response(_encoder.encode(value), status, media_type=CONTENT_JSON.decode())


def credentials(request: StarletteRequest) -> tuple[bytes | None, bytes | None]:
    """The two headers that may hold a key: ``authorization`` and ``x-api-key``."""
    authorization, api_key = request.headers.get("authorization"), request.headers.get("x-api-key")
    return (
        authorization.encode("latin-1") if authorization is not None else None,
        api_key.encode("latin-1") if api_key is not None else None,
    )
