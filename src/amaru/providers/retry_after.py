"""When a provider says to come back, in all the forms that providers use.

``retry-after-ms`` (OpenAI, Azure), then ``Retry-After`` as seconds or as a date (RFC 9110 section 10.2.3), then, where
a rate limit gave neither, OpenAI's ``x-ratelimit-reset-*``. What is garbled, negative or absurd counts as not said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST_S = 86_400.0
"""A provider that says to stay away for longer than a day is taken to have said nothing."""

_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,15})?")
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{0,15})?)(d|h|ms|m|s|us|µs|ns)")
_UNIT_S = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def retry_after_s(headers: Mapping[bytes, bytes], *, now_s: float, rate_limited: bool) -> float | None:
    """Seconds to wait, from 0 to a day; ``None`` where the provider did not say.

    ``headers`` have lower-case names. ``now_s`` is Unix time, for dates; ``rate_limited``: the answer is a 429, so that
    its ``x-ratelimit-reset-*`` tell when it would pass. (Other answers carry them too, and mean nothing by them.)
    """
    wait_s = _milliseconds(headers.get(b"retry-after-ms"))
    if wait_s is None:
        wait_s = _seconds_or_date(headers.get(b"retry-after"), now_s)
    if wait_s is None and rate_limited:
        wait_s = _reset(headers)
    return wait_s


def duration_s(text: str) -> float | None:
    """Seconds of a duration as Go writes it ("6m0s", "1h2m3.5s", "20ms"), or of a bare number of seconds."""
    if _NUMBER.fullmatch(text):
        return _bounded(float(text))
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return _bounded(sum(float(number) * _UNIT_S[unit] for number, unit in parts))


def _milliseconds(value: bytes | None) -> float | None:
    text = _text(value)
    return _bounded(float(text) / 1e3) if _NUMBER.fullmatch(text) else None


def _seconds_or_date(value: bytes | None, now_s: float) -> float | None:
    text = _text(value)
    if not text:
        return None
    if _NUMBER.fullmatch(text):
        return _bounded(float(text))
    try:
        at = parsedate_to_datetime(text)
        # Without a zone (asctime's form, or "-0000") it is still UTC (RFC 9110 section 5.6.7), not this machine's time.
        at_s = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):  # the parser has its own ways of failing
        return None
    return _bounded(max(at_s - now_s, 0.0))


def _reset(headers: Mapping[bytes, bytes]) -> float | None:
    """Of the limits on requests and on tokens, when the exhausted one is full again; the later one if none says so."""
    resets: list[float] = []
    exhausted: list[float] = []
    for limit in (b"requests", b"tokens"):
        wait_s = duration_s(_text(headers.get(b"x-ratelimit-reset-" + limit)))
        if wait_s is not None:
            resets.append(wait_s)
            if _text(headers.get(b"x-ratelimit-remaining-" + limit)) == "0":
                exhausted.append(wait_s)
    return max(exhausted or resets, default=None)


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace").strip()


def _bounded(wait_s: float) -> float | None:
    return wait_s if 0.0 <= wait_s <= LONGEST_S else None
