"""An export that tells what each model used in a day, beside the sums of our charges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from sqlalchemy import and_, case, func, or_, select

from amaru.accounts.charges import ChargeStatus
from amaru.accounts.comparison import NOTHING, Cause, Comparison, Finding, Side, cause_of
from amaru.accounts.export_lines import USD_DECIMALS, Billed, model_key
from amaru.accounts.exports import Export
from amaru.accounts.schema import charges
from amaru.accounts.spend import CORRECTION, DAY_S, Which, day_of, sum_of, whole_of
from amaru.accounts.store import Store
from amaru.domain import Provenance
from amaru.errors import AccountError

MAX_GROUPS = 1_000_000
"""Days times models."""


class Priced:
    """Whether the lines of an export tell costs, all or none of them, and how finely."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decimals = 0
        self._told: bool | None = None

    def seen(self, lines: Iterator[tuple[int, Billed]]) -> Iterator[tuple[int, Billed]]:
        """The lines, once more. Raises AccountError where a cost is missing."""
        for number, billed in lines:
            told = billed.cost_pusd is not None
            if self._told is None:
                self._told = told
            elif self._told is not told:
                raise AccountError(f"{self._path}:{number}: some lines tell their cost, and some do not.")
            self._decimals = max(self._decimals, billed.decimals)
            yield number, billed

    @property
    def all(self) -> bool:
        """They do."""
        return bool(self._told)

    @property
    def unit_pusd(self) -> int:
        """One in the last decimal."""
        return int(10 ** (USD_DECIMALS - self._decimals))


class _Group(msgspec.Struct):
    """A model in a day."""

    name: str
    line: int | None = None
    lines: int = 0
    ours: Side | None = None
    theirs: Side | None = None
    known: bool = True
    standing: bool = False
    corrections: int = 0


class DayComparison(Comparison):
    """Day by day and model by model."""

    def __init__(
        self,
        store: Store,
        export: Export,
        provider: str,
        since: float | None,
        until: float | None,
        renames: Mapping[str, str],
    ) -> None:
        self.provider = provider
        self._groups: dict[tuple[int, str], _Group] = {}
        self._take_lines(export, since, until, renames)
        self._take_charges(store)
        self.add_up()

    def _take_lines(self, export: Export, since: float | None, until: float | None, renames: Mapping[str, str]) -> None:
        priced = Priced(export.path)
        first, last = math.inf, -math.inf
        for number, billed in priced.seen(export.lines()):
            ends = billed.at if billed.until is None else billed.until
            if (since is not None and billed.at < since) or (until is not None and ends > until):
                self.outside += 1
                continue
            first, last = min(first, billed.at), max(last, ends)
            key = model_key(billed.model)
            group = self._group(int(billed.at // DAY_S), renames.get(key, key), renames.get(key, billed.model))
            group.line = group.line or number
            group.lines += 1
            group.theirs = _added(group.theirs, _billed(billed))
        if first > last:
            raise AccountError(f"{export.path}: none of its lines lies between --since and --until.")
        self.since = first if since is None else since
        self.until = last if until is None else until
        self.priced, self._unit_pusd = priced.all, priced.unit_pusd

    def _take_charges(self, store: Store) -> None:
        day = day_of(store.on_postgresql)
        is_attempt = charges.c.attempt != CORRECTION
        unknown = and_(
            is_attempt, charges.c.status == ChargeStatus.SETTLED, charges.c.usage_source != Provenance.PROVIDER
        )
        standing = charges.c.status == ChargeStatus.STANDING
        # One that failed costs nothing, and no export counts it.
        cost = and_(
            is_attempt, or_(charges.c.cost_pusd != 0, charges.c.input_tokens != 0, charges.c.output_tokens != 0)
        )
        query = select(
            day,
            charges.c.model,
            *(func.sum(case((where, 1), else_=0)) for where in (cost, unknown, standing, ~is_attempt)),
            *(func.sum(charges.c[name]) for name in ("input_tokens", "cached_input_tokens", "output_tokens")),
            *sum_of(charges.c.cost_pusd),
        ).where(Which(since=self.since, until=self.until, provider=self.provider).condition())
        with store.reading() as connection:
            for row in connection.execution_options(yield_per=1_000).execute(query.group_by(day, charges.c.model)):
                at, name, attempts, unknowns, stand, corrections, input, cached, output, *pusd = row
                mine = Side(
                    requests=int(attempts),
                    input_tokens=int(input),
                    cached_input_tokens=int(cached),
                    output_tokens=int(output),
                    pusd=whole_of(*pusd),
                )
                group = self._group(at, model_key(name), name)
                group.ours = _added(group.ours, mine)
                group.known &= not (unknowns or stand)
                group.standing |= bool(stand)
                group.corrections += int(corrections)

    def _group(self, day: int, key: str, name: str) -> _Group:
        group = self._groups.get((day, key))
        if group is None:
            if len(self._groups) >= MAX_GROUPS:
                raise AccountError(f"more than {MAX_GROUPS:,} days and models: reconcile a shorter span of time.")
            group = self._groups[day, key] = _Group(name)
        return group

    def everything(self) -> Iterator[Finding]:
        """As ``Comparison.everything``."""
        for (day, _), group in sorted(self._groups.items()):
            nothing = NOTHING if self.priced else msgspec.structs.replace(NOTHING, pusd=None)
            yield Finding(
                cause=self._cause(group),
                at=float(max(day * DAY_S, self.since)),
                model=group.name,
                ours=group.ours,
                theirs=group.theirs or nothing,
                line=group.line,
                standing=group.standing,
                known=group.known,
                corrections=group.corrections,
            )

    def _cause(self, group: _Group) -> Cause | None:
        ours, theirs = group.ours, group.theirs
        if group.standing:
            return Cause.UNKNOWN_USAGE
        if ours is None or ours.is_nothing:
            return None if theirs is None or theirs.is_nothing else Cause.MISSING_HERE
        if theirs is None:
            return Cause.MISSING_THERE
        cause = cause_of(ours, theirs, known=group.known, unit_pusd=self._unit_pusd * group.lines)
        if cause is Cause.TOKENS and theirs.requests is not None and ours.requests != theirs.requests:
            return Cause.MISSING_HERE if theirs.requests > (ours.requests or 0) else Cause.MISSING_THERE
        return cause


def _billed(billed: Billed) -> Side:
    return Side(
        requests=billed.requests,
        input_tokens=billed.input_tokens,
        cached_input_tokens=billed.cached_input_tokens,
        output_tokens=billed.output_tokens,
        pusd=billed.cost_pusd,
    )


def _added(one: Side | None, other: Side) -> Side:
    """The sum of both; what either does not tell is not told."""
    if one is None:
        return other
    pairs = zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True)
    sums = (None if mine is None or its is None else mine + its for mine, its in pairs)
    return Side(**dict(zip(Side.__struct_fields__, sums, strict=True)))
