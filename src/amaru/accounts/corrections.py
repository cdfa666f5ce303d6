"""What was billed takes the place of what we charged, after an export was held against our charges.

A row of the past is never rewritten. A charge that stands is settled at what was billed, and its reservation is freed.
A charge that was settled is taken back by a row, and booked anew as billed by another one: both name it in their ids,
``ID/1`` and ``ID/2``, and lie in its moment, so that sums of any span of time come out as billed. Budgets that counted
the charge count the correction, in the period of the charge; what names no charge counts against its provider's.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from sqlalchemy import select

from amaru.accounts.bank import Bank, Key
from amaru.accounts.changes import ChangeLog
from amaru.accounts.charges import Charge, ChargeStatus
from amaru.accounts.comparison import NOTHING, Cause, Comparison, Finding, Side
from amaru.accounts.counted import Counted, ProviderCounted, add_rows, counted_of, used_of
from amaru.accounts.export_lines import model_key
from amaru.accounts.money import usd_text
from amaru.accounts.schema import charges
from amaru.accounts.spend import CHARGE, CORRECTION, DAY_S, Which, charge_of, charges_of
from amaru.accounts.store import Store
from amaru.domain import Provenance
from amaru.errors import AccountError

ROWS_AT_ONCE = 500
"""In one transaction: others wait no longer than for these."""
HOLDER = "reconcile"
"""In place of a process, in rows that none of them wrote."""


class Applied(msgspec.Struct):
    """What was changed."""

    settled: int = 0
    """Charges that stood."""
    corrected: int = 0
    added: int = 0
    """Rows for what was billed and had no charge."""


def apply(
    comparison: Comparison, store: Store, bank: Bank, log: ChangeLog, *, file: Path, at: float, by: str
) -> Applied:
    """Have our charges come to what was billed; the audit has a row for it before anything is changed.

    Done again, also after a crash on the way, it goes on where it is not done yet.

    Raises
    ------
    AccountError
        The export tells no costs.
    StorageError
        The store fails; what was changed until then stays.
    """
    if not comparison.priced:
        raise AccountError(f"{file} tells tokens and no costs: nothing was changed. Apply an export of costs.")
    correcting = _Correcting(comparison, store, bank, file=file, at=at)
    with log.changing(by) as change:
        change.remark("spend.reconcile", f"provider:{comparison.provider}", correcting.summary())
    findings = (finding for finding in comparison.findings() if finding.cause is not Cause.WINDOW)
    while some := list(itertools.islice(findings, ROWS_AT_ONCE)):
        correcting.take(some)
    return correcting.applied


class _Correcting:
    def __init__(self, comparison: Comparison, store: Store, bank: Bank, *, file: Path, at: float) -> None:
        self._comparison = comparison
        self._store = store
        self._bank = bank
        self._file = file
        self._at = at
        self._of_provider = ProviderCounted(store, comparison.provider)
        with file.open("rb") as handle:
            self._sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
        self.applied = Applied()

    def summary(self) -> dict[str, object]:
        """For the audit."""
        held = self._comparison
        return {
            "file": self._file.name,
            "sha256": self._sha256,
            "since": held.since,
            "until": held.until,
            "differences": held.differences,
            "ours_usd": usd_text(held.ours_pusd),
            "theirs_usd": usd_text(held.theirs_pusd),
        }

    def take(self, findings: Sequence[Finding]) -> None:
        """Correct what some of the findings are about."""
        charged = {charge.id: (charge, counted) for charge, counted in self._charges(findings)}
        rows: list[tuple[Charge, Counted]] = []
        for finding in findings:
            if finding.charge is None:
                rows += self._without_charge(finding)
            elif finding.standing:
                self._settle(charged[finding.charge][0], finding.theirs or NOTHING, finding.ref)
            else:
                rows += self._corrected(*charged[finding.charge], finding)
                self.applied.corrected += 1
        if rows:
            add_rows(self._store, rows, holder=HOLDER)

    def _charges(self, findings: Sequence[Finding]) -> Iterator[tuple[Charge, Counted]]:
        """Those that the findings are of, and what they have counted."""
        ids = [one.charge for one in findings if one.charge]
        with self._store.reading() as connection:
            for row in connection.execute(select(*CHARGE).add_columns(charges.c.reserved).where(charges.c.id.in_(ids))):
                yield charge_of(row), counted_of(row.reserved)

    def _settle(self, charge: Charge, theirs: Side, ref: str | None) -> None:
        """Put what was billed in place of what stands."""
        billed = msgspec.structs.replace(
            _as_billed(charge, theirs),
            provider_ref=charge.provider_ref or ref,
            reconciled_at=self._at,
            note=f"as billed in {self._file.name}" if ref or not theirs.is_nothing else f"not in {self._file.name}",
        )
        self._resolve(billed)

    def _resolve(self, charge: Charge) -> None:
        with self._store.reading() as connection:
            reserved = connection.execute(select(charges.c.reserved).where(charges.c.id == charge.id)).scalar()
        self.applied.settled += self._bank.resolve(charge, _used_by(counted_of(reserved), charge))

    def _corrected(self, charge: Charge, counted: Counted, finding: Finding) -> Iterator[tuple[Charge, Counted]]:
        """Rows that take back what our figure is by now, and book what was billed."""
        ours, theirs = finding.ours or NOTHING, finding.theirs or NOTHING
        number = itertools.count(finding.corrections + 1)
        if not ours.is_nothing:
            first = finding.corrections == 0
            back = msgspec.structs.replace(
                charge,
                id=f"{charge.id}/{next(number)}",
                attempt=CORRECTION,
                status=charge.status if first else ChargeStatus.RECONCILED,
                usage_source=charge.usage_source if first else Provenance.PROVIDER.value,
                provider_ref=None,
                input_tokens=-(ours.input_tokens or 0),
                cached_input_tokens=-(ours.cached_input_tokens or 0),
                output_tokens=-(ours.output_tokens or 0),
                usage="{}",
                cost_pusd=-(ours.pusd or 0),
                reconciled_at=self._at,
                note=f"takes back {charge.id}: {finding.cause}, {self._file.name}",
            )
            yield back, {key: -amount for key, amount in _used(counted, ours).items()}
        if not theirs.is_nothing:
            anew = msgspec.structs.replace(
                _as_billed(charge, theirs),
                id=f"{charge.id}/{next(number)}",
                attempt=CORRECTION,
                usage="{}",
                provider_ref=finding.ref,
                reconciled_at=self._at,
                note=f"in place of {charge.id}: as billed in {self._file.name}",
            )
            yield anew, _used_by(counted, anew)

    def _without_charge(self, finding: Finding) -> Iterator[tuple[Charge, Counted]]:
        """A row for what was billed and has no charge; or, of a day, for the difference to all charges of a model."""
        comparison, ours, theirs = self._comparison, finding.ours or NOTHING, finding.theirs or NOTHING
        told = [comparison.provider, finding.at, model_key(finding.model), finding.corrections]
        if finding.ours is None:
            told += [self._sha256, finding.line]
        if finding.standing:
            self._settle_day(finding)
        difference = [
            (its or 0) - (mine or 0) if its is not None else 0
            for mine, its in zip(msgspec.structs.astuple(ours), msgspec.structs.astuple(theirs), strict=True)
        ]
        _, input_tokens, cached_input_tokens, output_tokens, cost_pusd = difference
        if any(difference[1:]):
            self.applied.added += 1
            added = Charge(
                id=hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:32],
                at=finding.at,
                decision="",
                attempt=0 if finding.ours is None else CORRECTION,
                tenant="",
                resource="",
                provider=comparison.provider,
                offer="",
                model=finding.model,
                kind="",
                status=ChargeStatus.RECONCILED,
                provider_ref=finding.ref,
                input_tokens=input_tokens,
                cached_input_tokens=cached_input_tokens,
                output_tokens=output_tokens,
                usage_source=Provenance.PROVIDER.value,
                cost_pusd=cost_pusd,
                reconciled_at=self._at,
                note=f"{finding.cause}: as billed in {self._file.name}",
            )
            yield added, self._of_provider.of(added.at, added.model, added.cost_pusd)

    def _settle_day(self, finding: Finding) -> None:
        """Settle what stands at our own figure: the day's bill does not tell which request cost what."""
        day = finding.at // DAY_S * DAY_S
        which = Which(
            since=finding.at,
            until=min(day + DAY_S, self._comparison.until),
            provider=self._comparison.provider,
            status=ChargeStatus.STANDING.value,
        )
        for charge in list(charges_of(self._store, which)):
            if model_key(charge.model) == model_key(finding.model):
                note = f"at our figure: its day was reconciled with {self._file.name}"
                self._resolve(msgspec.structs.replace(charge, status=ChargeStatus.SETTLED, note=note))


def _as_billed(charge: Charge, theirs: Side) -> Charge:
    """The charge with their figures; with ours where they tell none."""
    told = {
        name: value
        for name in ("input_tokens", "cached_input_tokens", "output_tokens")
        if (value := getattr(theirs, name)) is not None
    }
    return msgspec.structs.replace(
        charge,
        **told,
        status=ChargeStatus.RECONCILED,
        usage_source=Provenance.PROVIDER.value,
        price=None,
        cost_pusd=theirs.pusd or 0,
    )


def _used(counted: Counted, side: Side) -> dict[Key, int]:
    tokens = (side.input_tokens or 0) + (side.output_tokens or 0)
    return used_of(counted, tokens=tokens, cost_pusd=side.pusd or 0)


def _used_by(counted: Counted, charge: Charge) -> dict[Key, int]:
    return used_of(counted, tokens=charge.input_tokens + charge.output_tokens, cost_pusd=charge.cost_pusd)
