"""What a dead process held is given back when a person says so, once, and never that of one which may live."""

from __future__ import annotations

import pytest
from directory_samples import NOW, Clock, budget

from amaru.accounts.allowances import Scope
from amaru.accounts.bank import Counter, Held, Need, Turn, Verdict
from amaru.accounts.bank_sql import SqlBank
from amaru.accounts.banks import bank_at
from amaru.accounts.directory import Directory
from amaru.accounts.holders import SHOWN_S, SILENT_S, list_holders, release
from amaru.accounts.periods import Period
from amaru.accounts.schema import holders
from amaru.accounts.store import Store
from amaru.accounts.usage import usage
from amaru.errors import AccountConflict, StorageError, UnknownAccount

BUDGET = budget(Scope.TENANT, "filed", period=Period.TOTAL, amount=100)
KEY = (BUDGET.id, 0)


@pytest.fixture
def bank(store: Store, clock: Clock) -> SqlBank:
    return SqlBank(store, clock=clock)


def lease(bank: SqlBank, holder: str, number: int, amount: int) -> Verdict:
    asked = Turn(
        holder=holder, number=number, counters={KEY: Counter(KEY, 100)}, asks=((Need(KEY, amount, 0),),),
        leases={KEY: Held(0, 0)},
    )  # fmt: skip
    return bank.turn(asked).decisions[0].verdict


def heard_of(store: Store, name: str, at: float) -> None:
    with store.writing() as connection:
        connection.execute(holders.update().where(holders.c.name == name).values(heartbeat_at=at))


def test_holders_are_shown_while_they_hold_anything_or_were_heard_of_lately(store: Store, bank: SqlBank) -> None:
    lease(bank, "holds", 1, 60)
    for name in ("lately", "long ago"):
        bank.turn(Turn(holder=name, number=1, whole=True))
    heard_of(store, "holds", NOW - 2 * SHOWN_S)
    heard_of(store, "lately", NOW)
    heard_of(store, "long ago", NOW - 2 * SHOWN_S)
    assert [(one.name, one.leases) for one in list_holders(store, NOW)] == [("lately", 0), ("holds", 1)]


def test_what_a_dead_one_held_is_free_again(directory: Directory, store: Store, bank: SqlBank) -> None:
    assert lease(bank, "dead", 1, 60) is Verdict.GRANTED
    heard_of(store, "dead", NOW - SILENT_S)
    done = release("dead", store, bank, directory.log, at=NOW, by="ann")
    assert (done.name, done.leases) == ("dead", 1)
    assert usage(store, [BUDGET], NOW)[0].left == 100
    assert lease(bank, "other", 1, 100) is Verdict.GRANTED
    (row,) = directory.log.page()
    assert (row.action, row.subject, row.actor) == ("holder.release", "holder:dead", "ann")


@pytest.mark.parametrize("heard", [NOW, NOW - SILENT_S + 1, NOW + SILENT_S - 1])
def test_one_that_may_live_keeps_what_it_holds(directory: Directory, store: Store, bank: SqlBank, heard: float) -> None:
    lease(bank, "alive", 1, 60)
    heard_of(store, "alive", heard)
    with pytest.raises(AccountConflict, match=r"lives, or did until .* Stop it, wait 30 s"):
        release("alive", store, bank, directory.log, at=NOW, by="ann")
    assert usage(store, [BUDGET], NOW)[0].held == 60


def test_a_name_that_nobody_has(directory: Directory, store: Store, bank: SqlBank) -> None:
    with pytest.raises(UnknownAccount, match='no process "nobody" holds anything'):
        release("nobody", store, bank, directory.log, at=NOW, by="ann")


def test_where_leases_are_in_redis_redis_is_asked(store: Store) -> None:
    bank = bank_at(store, "redis://127.0.0.1:1/0")
    with pytest.raises(StorageError, match=r"Redis: .* can it be reached from here"):
        bank.turn(Turn(holder="one", number=1, whole=True))
    assert isinstance(bank_at(store), SqlBank)
