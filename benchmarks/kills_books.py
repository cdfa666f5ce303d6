"""What must hold of the books after kills: the checks of ``kills.py``, by the accounts' own store and the bills."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from kills_world import Answer
from sqlalchemy import Row, select

from amaru.accounts.allowances import Metric
from amaru.accounts.bank import Bank, Held, Turn
from amaru.accounts.changes import ChangeLog
from amaru.accounts.charges import ChargeStatus
from amaru.accounts.comparison import Cause
from amaru.accounts.corrections import apply
from amaru.accounts.exports import Export
from amaru.accounts.money import nusd_half_even
from amaru.accounts.periods import Period
from amaru.accounts.reconcile import compare
from amaru.accounts.schema import charges, counters, leases
from amaru.accounts.spend import By, spend
from amaru.accounts.store import Store
from amaru.mesh.accounts_words import names_of
from amaru.simulation.billing import Bill


class Books(msgspec.Struct):
    """What was found."""

    charges: int = 0
    settled: int = 0
    standing: dict[str, int] = {}
    """By why nobody knows their usage."""
    unsettled_answers: int = 0
    """That a caller got whole, and whose charge stands: the kill came between the two."""
    lost_answers: int = 0
    """That a caller got whole, and that have no charge."""
    billed: int = 0
    unbilled: int = 0
    """Charges that stand and that no provider has billed: they had not begun."""
    missing: int = 0
    """Billed, and without a charge."""
    billed_pusd: int = 0
    missing_pusd: int = 0
    standing_pusd: int = 0
    """What was billed of the charges that stood: it was held in its budgets until it was reconciled."""
    wrong: list[str] = []
    """What must not be."""


def exceeded(store: Store) -> list[str]:
    """Counters that have more used and set aside than there is; at any moment there must be none."""
    with store.reading() as connection:
        return [
            f"{row.allowance}: {row.settled:,} settled, {row.leased:,} leased of {row.amount:,}; over {row.overrun:,}"
            for row in connection.execute(select(counters))
            if row.settled + row.leased > row.amount or row.overrun
        ]


def look(store: Store, bank: Bank, answers: Iterable[Answer], *, bound: bool) -> Books:
    """Hold the books of gateways that are all dead against themselves and the callers' answers.

    ``bound``: budgets bound what was asked, so that nothing may be missing at all.
    """
    with store.reading() as connection:
        rows = list(connection.execute(select(charges)))
        left = connection.execute(select(leases)).all()
        books = list(connection.execute(select(counters)))
    found = Books(charges=len(rows), settled=sum(row.status == "settled" for row in rows))
    found.standing = Counter(row.failure or "killed under way" for row in rows if row.status == "standing")
    found.wrong += exceeded(store)
    found.wrong += [f"a lease of {row.holder} is left: {row.amount:,} of {row.allowance}" for row in left]
    _hold_counters(found, bank, books, rows)
    _hold_answers(found, rows, answers)
    if bound and found.lost_answers:
        found.wrong.append(f"{found.lost_answers} answers that callers got whole have no charge")
    return found


def _hold_counters(found: Books, bank: Bank, books: list[Row[Any]], rows: list[Row[Any]]) -> None:
    """Counters are the sums of their charges, and nothing else of them is taken."""
    settled: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for row in rows:
        if row.status == ChargeStatus.STANDING:
            for allowance, _, amount in json.loads(row.reserved or "[]"):
                held[allowance] += amount
        else:
            for of in (f"tenant:{row.tenant}", f"team:{row.team}", f"provider:{row.provider}"):
                settled[of] += nusd_half_even(row.cost_pusd)
    for allowance in {row.allowance for row in books}:
        scope, subject, metric, _ = names_of(allowance)
        used = sum(row.settled for row in books if row.allowance == allowance)
        leased = sum(row.leased for row in books if row.allowance == allowance)
        if leased != held[allowance]:
            found.wrong.append(f"{allowance}: {leased:,} is leased, and charges that stand hold {held[allowance]:,}")
        expected = settled[f"{scope}:{subject}"] if metric is Metric.USD else 0
        if metric in (Metric.USD, Metric.CONCURRENCY) and used != expected:
            found.wrong.append(f"{allowance}: {used:,} is settled, and its charges come to {expected:,}")
    for row in books:
        left = row.amount - row.settled - row.leased
        if names_of(row.allowance)[3] is not Period.MINUTE and (free := free_of(bank, row)) != left:
            found.wrong.append(f"{row.allowance}: {free:,} is free, and by the store {left:,}")


def free_of(bank: Bank, book: Row[Any]) -> int:
    """As the bank would tell a process that asks."""
    key = book.allowance, book.period_start
    number = bank.position("look").turn + 1
    return bank.turn(Turn(holder="look", number=number, leases={key: Held(0, 0)}, whole=True)).free[key]


def _hold_answers(found: Books, rows: list[Row[Any]], answers: Iterable[Answer]) -> None:
    """Each answer that came whole has its charge, at the tokens that it told."""
    of: dict[str, list[Row[Any]]] = {}
    for row in rows:
        of.setdefault(row.decision, []).append(row)
    for answer in answers:
        charged = of.get(answer.decision, [])
        if not charged:
            found.lost_answers += 1
        elif all(row.status == "standing" for row in charged):
            found.unsettled_answers += 1
        elif len(charged) == 1 and (charged[0].input_tokens, charged[0].output_tokens) != (
            answer.input_tokens,
            answer.output_tokens,
        ):
            found.wrong.append(f"{answer} is charged as {charged[0].input_tokens}, {charged[0].output_tokens} tokens")


def reconcile(
    found: Books, store: Store, bank: Bank, bills: Mapping[str, Bill], folder: Path, *, since: float, bound: bool
) -> None:
    """Hold the bills against the charges as ``amaru spend reconcile`` does, and apply them: then nothing differs."""
    until = time.time() + 60
    allowed = {Cause.UNKNOWN_USAGE} if bound else {Cause.UNKNOWN_USAGE, Cause.MISSING_HERE}
    for name, bill in bills.items():
        file = folder / f"{name}.csv"
        file.write_text(bill.as_csv())
        found.billed += bill.total.requests
        found.billed_pusd += bill.total.pico_usd
        with compare(store, Export(file), provider=name, since=since, until=until) as compared:
            for cause, under in compared.causes.items():
                if cause not in allowed:
                    found.wrong.append(f"{name}: {under.count} requests: {cause}")
            for finding in compared.findings():
                billed_pusd = finding.theirs.pusd or 0 if finding.theirs is not None else 0
                if finding.cause is Cause.MISSING_HERE:
                    found.missing += 1
                    found.missing_pusd += billed_pusd
                elif finding.line is None:
                    found.unbilled += 1
                else:
                    found.standing_pusd += billed_pusd
            log = ChangeLog(store, time.time)
            apply(compared, store, bank, log, file=file, at=time.time(), by="cli:kills")
        with compare(store, Export(file), provider=name, since=since, until=until) as after:
            if after.differences:
                found.wrong.append(f"{name}: {after.differences} requests differ after reconciling")
    spent = {row.of["provider"]: (row.cost_pusd, row.standing_pusd) for row in spend(store, [By.PROVIDER])}
    billed = {name: (bill.total.pico_usd, 0) for name, bill in bills.items()}
    if spent != billed:
        found.wrong.append(f"reconciled, spend is {spent}, and the bills are {billed} (pico-USD, of it standing)")
    found.wrong += exceeded(store)
    with store.reading() as connection:
        for row in connection.execute(select(counters)):
            if row.leased:
                found.wrong.append(f"{row.allowance}: {row.leased:,} is held still after reconciling")
