"""One line of a usage export, with every figure in the units of charges."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any

import msgspec

from amaru.accounts.export_shapes import Grain, Shape
from amaru.accounts.money import MAX_AMOUNT_USD
from amaru.files.problems import shown

USD_DECIMALS = 12
MAX_TOKENS = 2**53
_MAX_DIGITS = 100
_MAX_NAME = 200
_DAY_S = 86_400
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]+)?")
_MODEL_DATE = re.compile(r"[-@](?:\d{4}-\d{2}-\d{2}|\d{8})$")
_MIN_UNIX_S, _MAX_UNIX_S = 10**9, 10**11
"""Below are dates without their dashes, beyond milliseconds."""

Record = Mapping[str, Any]  # Any: what JSON or CSV holds


class Unreadable(Exception):
    """Why a line cannot be read, and what to write."""


class Billed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a provider billed: one request, or one model's use in a span of a day."""

    at: float
    """Unix seconds."""
    until: float | None = None
    """Of a span."""
    ref: str | None = None
    """The provider's id of the answer."""
    model: str
    input_tokens: int | None = None
    """``None``: the export does not tell."""
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    requests: int | None = None
    cost_pusd: int | None = None
    """Pico-USD, below 0 for a credit."""
    decimals: int = 0
    """Of the amount in dollars, as far as they are told."""


def model_key(model: str) -> str:
    """By which two names of a model are one: without the date of its version, and as a name for people is written.

    Examples
    --------
    >>> model_key("Claude Haiku 4.5"), model_key("claude-haiku-4-5-20251001")
    ('claude-haiku-4-5', 'claude-haiku-4-5')
    """
    return _MODEL_DATE.sub("", re.sub(r"[ .]", "-", model.strip().lower()))


def read_billed(shape: Shape, record: Record) -> Billed:
    """The line in a record. Raises Unreadable."""
    at = _moment(shape, record, shape.at)
    until = None
    if shape.grain is Grain.DAY:
        has_end = shape.until is not None and _is_told(record, shape.until)
        until = _moment(shape, record, shape.until) if has_end and shape.until else at + _DAY_S
        if not 0 < until - at <= _DAY_S or int(at) // _DAY_S != (int(until) - 1) // _DAY_S:
            raise Unreadable(f"{shape.until or shape.at}: not a day of UTC, or a part of one; export by days")
    currency = str(record.get(shape.currency) or "usd") if shape.currency else "usd"
    if currency.lower() != "usd":
        raise Unreadable(f"{shape.currency}: an amount in {shown(currency)}; only US dollars can be compared")
    cost_pusd, decimals = _cost(shape, record)
    return Billed(
        at=at,
        until=until,
        ref=_text(record, shape.ref) if shape.ref and _is_told(record, shape.ref) else None,
        model=_model(shape, record),
        input_tokens=_tokens(record, shape.input),
        cached_input_tokens=_tokens(record, shape.cached),
        output_tokens=_tokens(record, shape.output),
        requests=_tokens(record, (shape.requests,)) if shape.requests else None,
        cost_pusd=cost_pusd,
        decimals=decimals,
    )


def _is_told(record: Record, column: str) -> bool:
    return record.get(column) not in (None, "")


def _model(shape: Shape, record: Record) -> str:
    for column in shape.model:
        if _is_told(record, column):
            model = _text(record, column)
            return model.rpartition(", ")[0] or model if shape.cuts_model else model
    raise Unreadable(f"{shape.model[0]}: empty; export it by model (the APIs' group_by)")


def _text(record: Record, column: str) -> str:
    text = str(record[column]).strip()
    if not 1 <= len(text) <= _MAX_NAME or not text.isprintable():
        raise Unreadable(f"{column}: not 1 to {_MAX_NAME} printable characters")
    return text


def _moment(shape: Shape, record: Record, column: str) -> float:
    """Unix seconds."""
    told = record.get(column)
    text = "" if told is None else str(told).strip()
    at = float(text) if _NUMBER.fullmatch(text) else _instant(shape, column, text)
    if not _MIN_UNIX_S <= at < _MAX_UNIX_S:
        raise Unreadable(f"{column}: {shown(text)} is no time in Unix seconds, or not of our days")
    return at


def _instant(shape: Shape, column: str, text: str) -> float:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise Unreadable(f"{column}: {shown(text)} is no time; write 2026-11-01T09:00:00Z or Unix seconds") from None
    is_day = len(text) == len("2026-11-01")
    if is_day and shape.grain is Grain.REQUEST:
        raise Unreadable(f"{column}: {shown(text)} is a day; a line for one request needs its time")
    if moment.tzinfo is None:
        if not (shape.utc or is_day):
            raise Unreadable(f"{column}: {shown(text)} names no zone; where it is UTC, write {text}Z")
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()


def _tokens(record: Record, columns: Sequence[str]) -> int | None:
    """The sum of those that are there."""
    found = [_count(record, column) for column in columns if _is_told(record, column)]
    return sum(found) if found else None


def _count(record: Record, column: str) -> int:
    value = _decimal(record, column)
    if value != value.to_integral_value() or not 0 <= value <= MAX_TOKENS:
        raise Unreadable(f"{column}: {shown(str(record[column]))} is no number of tokens or requests")
    return int(value)


def _cost(shape: Shape, record: Record) -> tuple[int | None, int]:
    """Pico-USD, half to even, and how many decimals of a dollar are told."""
    if shape.cost is None or not _is_told(record, shape.cost):
        return None, 0
    usd = _decimal(record, shape.cost).scaleb(shape.cost_shift)
    if abs(usd) > MAX_AMOUNT_USD:
        raise Unreadable(f"{shape.cost}: more than {MAX_AMOUNT_USD:,} dollars in one line")
    exponent = usd.as_tuple().exponent
    decimals = -exponent if isinstance(exponent, int) else 0
    return int(usd.scaleb(USD_DECIMALS).to_integral_value()), min(max(decimals, 0), USD_DECIMALS)


def _decimal(record: Record, column: str) -> Decimal:
    text = str(record[column]).strip()
    try:
        with localcontext(prec=_MAX_DIGITS):
            value = Decimal(text)
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite() or len(text) > _MAX_DIGITS or "_" in text:
        raise Unreadable(f"{column}: {shown(text)} is no plain number, like 0.0125")
    return value
