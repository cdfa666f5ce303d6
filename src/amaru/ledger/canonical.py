"""Canonical JSON (RFC 8785): one value, one text, one hash.

``rfc8785`` is the measure. It walks values in Python and takes some ten times as long as msgspec, which writes the
same bytes for all but a few kinds of number and of key; those go to ``rfc8785``. A property test holds the two equal.
"""

from __future__ import annotations

from typing import Any

import msgspec
import rfc8785

from amaru.errors import LedgerError

_MAX_INTEGER = (1 << 53) - 1
_encode = msgspec.json.Encoder(order="sorted").encode


class _Unusual(Exception):
    """A value that msgspec may write otherwise than RFC 8785 says; never leaves this module."""


def canonical(value: object) -> bytes:
    """The canonical JSON of a value of dicts with text keys, lists, tuples, texts, numbers, booleans and ``None``.

    Raises LedgerError for what JSON has no word for: NaN, integers beyond 2^53 - 1, half of a surrogate pair, bytes, …
    """
    try:
        return _encode(_usual(value))
    except (_Unusual, RecursionError, UnicodeError):
        pass
    try:
        return rfc8785.dumps(value)  # type: ignore[arg-type]  # what it cannot take, it refuses
    except (
        rfc8785.CanonicalizationError,
        RecursionError,
        UnicodeError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        words = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise LedgerError(f"no canonical JSON (RFC 8785) for this value: {words}") from None


def require_canonical(data: bytes) -> Any:  # Any: whatever the text holds
    """The value of a canonical JSON text. Raises LedgerError for any other, and says at which byte it differs."""
    try:
        value = _numbers_as_read(msgspec.json.decode(data))
        again = canonical(value)
    except (msgspec.DecodeError, LedgerError, RecursionError, UnicodeError) as error:
        words = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise LedgerError(f"not canonical JSON (RFC 8785): {words}") from None
    if again != data:
        at = next((i for i, (a, b) in enumerate(zip(again, data, strict=False)) if a != b), min(len(again), len(data)))
        raise LedgerError(f"not canonical JSON (RFC 8785): differs at byte {at}")
    return value


def _numbers_as_read(value: Any) -> Any:  # Any: any JSON value, before and after
    """Integers beyond 2^53 - 1 as ECMAScript reads them: RFC 8785 writes floats from 2^53 to 1e21 without a point."""
    kind = type(value)
    if kind is int and not -_MAX_INTEGER <= value <= _MAX_INTEGER:
        return float(value) if abs(value) < 1e22 else value
    if kind is dict:
        return {key: _numbers_as_read(item) for key, item in value.items()}
    return [_numbers_as_read(item) for item in value] if kind is list else value


def _usual(value: Any) -> Any:  # Any: any JSON value, before and after
    """The value with whole floats as integers; raises _Unusual for what must go the other way."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is dict:
        if not all(type(key) is str and key.isascii() for key in value):
            raise _Unusual  # RFC 8785 sorts by UTF-16, msgspec by UTF-8
        return {key: _usual(item) for key, item in value.items()}
    if kind is int:
        if -_MAX_INTEGER <= value <= _MAX_INTEGER:
            return value
    elif kind is float:
        if value.is_integer():
            if -_MAX_INTEGER <= value <= _MAX_INTEGER:
                return int(value)
        elif 1e-4 <= abs(value) < 1e15:  # without exponent in Python's, msgspec's and ECMAScript's shortest form
            return value
    elif kind is list or kind is tuple:
        return [_usual(item) for item in value]
    raise _Unusual
