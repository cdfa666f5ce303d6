"""A provider's export beside our charges. Nothing is changed here; ``corrections`` does.

Lines of an export either tell single requests, which are matched one by one, or what each model used in a day.
"""

from __future__ import annotations

import math
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec
from sqlalchemy import select

from amaru.accounts.charges import ChargeStatus
from amaru.accounts.comparison import NOTHING, Cause, Comparison, Finding, Side, cause_of
from amaru.accounts.export_lines import Billed, model_key
from amaru.accounts.export_shapes import Grain
from amaru.accounts.exports import Export
from amaru.accounts.matching import EDGE_S, Line, Matching, Ours
from amaru.accounts.reconcile_days import DayComparison, Priced
from amaru.accounts.schema import charges
from amaru.accounts.spend import CORRECTION, Which
from amaru.accounts.store import Store
from amaru.domain import Provenance
from amaru.errors import AccountError
from amaru.files.problems import shown

_ROWS_AT_ONCE = 1_000


@contextmanager
def compare(
    store: Store,
    export: Export,
    *,
    provider: str | None = None,
    since: float | None = None,
    until: float | None = None,
    renames: Mapping[str, str] | None = None,
) -> Iterator[Comparison]:
    """Hold an export against the charges of a provider.

    Parameters
    ----------
    provider
        May be left out where the store has charges of one alone.
    since, until
        What the export is meant to hold, in Unix seconds; what we have in it and the export has not counts as missing
        there. Left out: from its first to its last line.
    renames
        Names of models in the export, and what they are called here.

    Raises
    ------
    AccountError
        The export cannot be read, or it is not clear which provider's it is.
    StorageError
        The store fails.
    """
    if since is not None and until is not None and since >= until:
        raise AccountError("--since must be before --until.")
    found = _provider(store, provider, since, until)
    names = {model_key(theirs): model_key(ours) for theirs, ours in (renames or {}).items()}
    make = RequestComparison if export.shape.grain is Grain.REQUEST else DayComparison
    made = make(store, export, found, since, until, names)
    try:
        yield made
    finally:
        made.close()


def _provider(store: Store, named: str | None, since: float | None, until: float | None) -> str:
    """Whose export it is. A wrong name would make all of it missing here."""
    which = Which() if named else Which(since=since, until=until)
    query = select(charges.c.provider).distinct().where(which.condition()).order_by(charges.c.provider)
    with store.reading() as connection:
        names = [str(name) for name in connection.execute(query).scalars()]
    if named is not None:
        if names and named not in names:
            raise AccountError(f"there are no charges of {shown(named)}, but of {', '.join(names[:20])}.")
        return named
    if len(names) == 1:
        return names[0]
    said = f"there are charges of {', '.join(names[:20])}" if names else "there are no charges"
    raise AccountError(f"{said}: say whose export it is with --provider NAME.")


class RequestComparison(Comparison):
    """Request by request."""

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
        with _room():
            self._matching = Matching()
        try:
            with _room():
                self._take_in(store, export, since, until, renames)
        except BaseException:
            self.close()
            raise

    def _take_in(
        self, store: Store, export: Export, since: float | None, until: float | None, renames: Mapping[str, str]
    ) -> None:
        self._load(store, export, since, until, renames)
        self._matching.match()
        self.outside = self._matching.count_outside()
        self.ids_unknown = self._matching.ids_unknown()
        self.add_up()

    def _load(
        self, store: Store, export: Export, since: float | None, until: float | None, renames: Mapping[str, str]
    ) -> None:
        priced = Priced(export.path)
        self._matching.add_lines(_line(at, one, renames) for at, one in priced.seen(export.lines()))
        self.priced, self._unit_pusd = priced.all, priced.unit_pusd
        first, last = self._matching.span()
        self.since = first if since is None else since
        self.until = math.nextafter(last, math.inf) if until is None else until
        self._matching.set_span(self.since, self.until)
        for corrections in (False, True):
            self._matching.add_charges(self._ours(store, corrections))

    def _ours(self, store: Store, corrections: bool) -> Iterator[Ours]:
        which = Which(since=self.since - EDGE_S, until=self.until + EDGE_S, provider=self.provider)
        is_correction = charges.c.attempt == CORRECTION
        columns = ("id", "provider_ref", "at", "model", "input_tokens", "cached_input_tokens", "output_tokens")
        query = select(*(charges.c[name] for name in (*columns, "cost_pusd", "status", "usage_source"))).where(
            which.condition(), is_correction if corrections else ~is_correction
        )
        with store.reading() as connection:
            for row in connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query):
                id, ref, at, model, input, cached, output, pusd, status, source = row
                standing = status == ChargeStatus.STANDING
                yield Ours(
                    id=corrected(id) if corrections else id,
                    inside=self.since <= at < self.until,
                    ref=ref,
                    at=at,
                    name=model,
                    model=model_key(model),
                    input=input,
                    cached=cached,
                    output=output,
                    pusd=pusd,
                    known=status == ChargeStatus.RECONCILED or (source == Provenance.PROVIDER and not standing),
                    standing=standing,
                )

    def everything(self) -> Iterator[Finding]:
        """As ``Comparison.everything``."""
        for line, ours in self._matching.compared():
            if line is None and ours is not None:
                yield self._ours_alone(ours)
            elif line is not None and ours is None:
                theirs = _theirs(line)
                cause = None if theirs.is_nothing else Cause.MISSING_HERE
                yield Finding(
                    cause=cause, at=line.at, model=line.name, ours=None, theirs=theirs, line=line.line, ref=line.ref
                )
            elif line is not None and ours is not None:
                yield self._pair(line, ours)

    def _ours_alone(self, ours: Ours) -> Finding:
        mine = _mine(ours)
        cause = None if mine.is_nothing else Cause.MISSING_THERE
        if ours.standing:
            cause = Cause.UNKNOWN_USAGE
        return _finding(cause, ours, mine, NOTHING if self.priced else msgspec.structs.replace(NOTHING, pusd=None))

    def _pair(self, line: Line, ours: Ours) -> Finding:
        mine, theirs = _mine(ours), _theirs(line)
        cause = cause_of(mine, theirs, known=ours.known, unit_pusd=self._unit_pusd)
        if ours.standing:
            cause = Cause.UNKNOWN_USAGE
        elif cause is None and line.inside != ours.inside:
            cause = Cause.WINDOW
        return msgspec.structs.replace(_finding(cause, ours, mine, theirs), line=line.line, ref=line.ref)

    def close(self) -> None:
        """Remove what was written to disk for it."""
        self._matching.close()


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        place = tempfile.gettempdir()
        raise AccountError(f"{place}: no room to match in: {error}. Make room there, or set TMPDIR.") from None


def corrected(id: str) -> str:
    """The id of the charge that a correction is of; of one that corrects no single charge its own."""
    return id.rpartition("/")[0] or id


def _line(number: int, billed: Billed, renames: Mapping[str, str]) -> Line:
    key = model_key(billed.model)
    return Line(
        line=number,
        inside=True,
        ref=billed.ref,
        at=billed.at,
        name=renames.get(key, billed.model),
        model=renames.get(key, key),
        input=billed.input_tokens,
        cached=billed.cached_input_tokens,
        output=billed.output_tokens,
        pusd=billed.cost_pusd,
    )


def _theirs(line: Line) -> Side:
    return Side(input_tokens=line.input, cached_input_tokens=line.cached, output_tokens=line.output, pusd=line.pusd)


def _mine(ours: Ours) -> Side:
    return Side(input_tokens=ours.input, cached_input_tokens=ours.cached, output_tokens=ours.output, pusd=ours.pusd)


def _finding(cause: Cause | None, ours: Ours, mine: Side, theirs: Side) -> Finding:
    return Finding(
        cause=cause,
        at=ours.at,
        model=ours.name,
        ours=mine,
        theirs=theirs,
        charge=ours.id,
        standing=ours.standing,
        known=ours.known,
        corrections=ours.corrections,
    )
