"""What was spent: sums of charges by who asked, what for, who served it and when, and where each figure came from.

Every sum is exact. Pico-dollars of a few millions of dollars fill 64 bits, so SQL adds quotients and remainders by a
million apart, and whole numbers of Python put them together. Rows come as the store makes them: nothing is held here.
"""

from __future__ import annotations

import datetime
import enum
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Row,
    Select,
    and_,
    case,
    cast,
    distinct,
    func,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import JSONB

from amaru.accounts.charges import Charge, ChargeStatus
from amaru.accounts.schema import charges
from amaru.accounts.store import Store
from amaru.domain import Provenance, UsageDetails

CORRECTION = -1
"""``attempt`` of rows that are no attempt, but take back or put right what an earlier row says."""
TOKEN_KINDS = tuple(name for name in UsageDetails.__struct_fields__ if name.endswith("_tokens"))
"""Kinds of tokens that are parts of input and output."""
DAY_S = 86_400
CHARGE = tuple(charges.c[name] for name in Charge.__struct_fields__)
"""The columns of ``Charge``."""
_CHUNK_PUSD = 10**6
_ROWS_AT_ONCE = 1_000


class By(enum.StrEnum):
    """What sums can be told apart by."""

    TENANT = "tenant"
    TEAM = "team"
    KEY = "key"
    MODEL = "model"
    """As callers ask for it."""
    PROVIDER = "provider"
    OFFER = "offer"
    DAY = "day"
    """UTC."""
    STATUS = "status"


class Which(msgspec.Struct, frozen=True, kw_only=True):
    """Which charges are meant: those that all of this holds for."""

    since: float | None = None
    """Unix seconds, included."""
    until: float | None = None
    """Excluded."""
    tenant: str | None = None
    team: str | None = None
    key: str | None = None
    model: str | None = None
    provider: str | None = None
    offer: str | None = None
    status: str | None = None
    decision: str | None = None

    def condition(self) -> ColumnElement[bool]:
        """As SQL."""
        found = [] if self.since is None else [charges.c.at >= self.since]
        if self.until is not None:
            found.append(charges.c.at < self.until)
        for name, wanted in msgspec.structs.asdict(self).items():
            if name not in ("since", "until") and wanted is not None:
                found.append(charges.c["resource" if name == "model" else name] == wanted)
        return and_(true(), *found)


class Spend(msgspec.Struct, kw_only=True):
    """The sum of some charges. Costs are in pico-USD; ``cost_pusd`` is the sum of the five by provenance."""

    of: dict[str, str | None]
    """What they have in common, by ``By``."""
    requests: int = 0
    attempts: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    details: dict[str, int]
    """Tokens of ``TOKEN_KINDS``, those that there are."""
    cost_pusd: int = 0
    provider_pusd: int = 0
    """At the usage that the provider reported with its answer."""
    counted_pusd: int = 0
    estimated_pusd: int = 0
    standing_pusd: int = 0
    """Our figure where no usage is known; what was reserved stands against the budgets."""
    reconciled_pusd: int = 0
    """As the provider's export has it."""

    def add(self, other: Spend) -> None:
        """Have this be the sum of both. Requests that both have a part in count twice."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for kind, tokens in other.details.items():
            self.details[kind] = self.details.get(kind, 0) + tokens


_SUMMED = tuple(name for name in Spend.__struct_fields__ if name not in ("of", "details"))


def spend(store: Store, by: Sequence[By], which: Which | None = None) -> Iterator[Spend]:
    """Sums of charges, one for each that ``by`` tells apart, in their order. Raises StorageError."""
    query, names = _sums(by, which or Which(), on_postgresql=store.on_postgresql)
    with store.reading() as connection:
        for row in connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query):
            yield _spend(row, by, names)


def charges_of(
    store: Store, which: Which, *, after: tuple[float, str] | None = None, limit: int | None = None
) -> Iterator[Charge]:
    """Single charges, the oldest first; those that follow the one of the time and the id ``after``.

    Raises StorageError.
    """
    query = select(*CHARGE).where(which.condition()).order_by(charges.c.at, charges.c.id).limit(limit)
    if after is not None:
        # At first by time alone, which the index has.
        query = query.where(charges.c.at >= after[0], tuple_(charges.c.at, charges.c.id) > after)
    with store.reading() as connection:
        for row in connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query):
            yield charge_of(row)


def charge_of(row: Row[Any]) -> Charge:  # Any: columns of many types
    """The charge in a row of ``CHARGE``, and of whatever comes after it."""
    values = dict(zip(Charge.__struct_fields__, row, strict=False))
    return Charge(**values | {"status": ChargeStatus(values["status"])})


def day_of(on_postgresql: bool) -> ColumnElement[int]:
    """The charge's day, counted from 1970-01-01."""
    # PostgreSQL rounds where SQLite cuts off.
    at = func.floor(charges.c.at) if on_postgresql else charges.c.at
    return cast(at, BigInteger().with_variant(Integer, "sqlite")) // DAY_S


def sum_of(amount: ColumnElement[int]) -> tuple[ColumnElement[int], ColumnElement[int]]:
    """Two sums that ``whole_of`` puts together."""
    return func.sum(amount // _CHUNK_PUSD), func.sum(amount % _CHUNK_PUSD)


def whole_of(quotients: int | None, remainders: int | None) -> int:
    """What ``sum_of`` added up, of no rows 0."""
    return int(quotients or 0) * _CHUNK_PUSD + int(remainders or 0)


# Any: columns of many types
def _sums(by: Sequence[By], which: Which, *, on_postgresql: bool) -> tuple[Select[Any], list[str]]:
    """The query, and the names of its sums: those in pico-USD take two columns each."""
    groups: list[ColumnElement[Any]] = [_group(one, on_postgresql) for one in by]
    is_attempt = charges.c.attempt != CORRECTION
    counts: dict[str, ColumnElement[int]] = {
        "requests": func.count(distinct(case((is_attempt, func.nullif(charges.c.decision, ""))))),
        "attempts": func.sum(case((is_attempt, 1), else_=0)),
        "input_tokens": func.sum(charges.c.input_tokens),
        "cached_input_tokens": func.sum(charges.c.cached_input_tokens),
        "output_tokens": func.sum(charges.c.output_tokens),
    }
    counts |= {kind: func.sum(_kind(kind, on_postgresql)) for kind in TOKEN_KINDS}
    pusd = {f"{source}_pusd": sum_of(case((where, charges.c.cost_pusd), else_=0)) for source, where in _sources()}
    summed = [*counts.values(), *(column for pair in pusd.values() for column in pair)]
    query = select(*groups, *summed).where(which.condition()).group_by(*groups).order_by(*groups)
    if not groups:
        query = query.having(func.count() > 0)
    return query, [*counts, *pusd]


def _group(by: By, on_postgresql: bool) -> ColumnElement[Any]:
    if by is By.DAY:
        return day_of(on_postgresql)
    return charges.c["resource" if by is By.MODEL else by.value]


def _kind(kind: str, on_postgresql: bool) -> ColumnElement[int]:
    found = (
        cast(cast(charges.c.usage, JSONB)[kind].astext, BigInteger)
        if on_postgresql
        else func.json_extract(charges.c.usage, f"$.{kind}")
    )
    return case((charges.c.usage == "{}", 0), else_=func.coalesce(found, 0))


def _sources() -> Iterator[tuple[str, ColumnElement[bool]]]:
    settled = charges.c.status == ChargeStatus.SETTLED
    for source in Provenance:
        yield source.value, and_(settled, charges.c.usage_source == source)
    for status in (ChargeStatus.STANDING, ChargeStatus.RECONCILED):
        yield status.value, charges.c.status == status


def _spend(row: Row[Any], by: Sequence[By], names: Sequence[str]) -> Spend:
    values = iter(row)
    of = {one.value: _shown(one, next(values)) for one in by}
    sums = {
        name: whole_of(next(values), next(values)) if name.endswith("_pusd") else int(next(values) or 0)
        for name in names
    }
    details = {kind: tokens for kind in TOKEN_KINDS if (tokens := sums.pop(kind))}
    cost_pusd = sum(pusd for name, pusd in sums.items() if name.endswith("_pusd"))
    return Spend(of=of, details=details, cost_pusd=cost_pusd, **sums)


def _shown(by: By, value: object) -> str | None:
    if by is By.DAY and isinstance(value, int):
        return day_text(value)
    return None if value is None else str(value)


def instant_of(text: str) -> float:
    """Unix seconds, written as such, as a day or as an instant (UTC where it names no offset).

    Raises ValueError, in words.
    """
    text = text.strip()
    try:
        if re.fullmatch(r"[0-9]{9,11}(\.[0-9]{1,9})?", text):
            return float(text)
        at = datetime.datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        said = f"{text[:32]!r} is no time: write 2026-11-01, 2026-11-01T09:00:00Z or Unix seconds"
        raise ValueError(said) from None


def day_text(day: int) -> str:
    """``2026-11-01``, of a day counted from 1970-01-01."""
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat()
