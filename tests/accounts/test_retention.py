"""What is too old is deleted from the store, and nothing that a charge or a lease stands on."""

from __future__ import annotations

import pytest
from directory_samples import NOW, Clock
from sqlalchemy import func, select
from till_samples import charge, counter

from amaru.accounts import retention
from amaru.accounts.bank import Counter, Ended, Held, Need, Part, Turn
from amaru.accounts.bank_sql import SqlBank
from amaru.accounts.charges import ChargeStatus
from amaru.accounts.periods import Period, span
from amaru.accounts.retention import MINUTES_S, RETENTION_S, prune
from amaru.accounts.schema import charges, counters, holders, leases, meta, recalls
from amaru.accounts.store import Store

DAY, MINUTE = Period.DAY, Period.MINUTE
TOTAL = counter()


@pytest.fixture
def bank(store: Store, clock: Clock) -> SqlBank:
    return SqlBank(store, clock=clock)


def of(period: Period, subject: str = "acme") -> Counter:
    start, end = span(period, NOW)
    return counter(f"tenant:{subject}:usd:{period}", start=start, end=end)


def use(bank: SqlBank, holder: str, *used: Counter, status: ChargeStatus = ChargeStatus.SETTLED) -> None:
    """Lease 60 of each, and have an attempt end that cost 50 of them, or that stands."""
    asks = (tuple(Need(one.key, 60, 0) for one in used),)
    bank.turn(Turn(holder=holder, number=1, counters={one.key: one for one in used}, asks=asks))
    is_known = status is ChargeStatus.SETTLED
    parts = tuple(Part(one.key, 60, 50 if is_known else None) for one in used)
    ended = Ended(1, holder, charge(holder, status=status, cost_pusd=50_000), parts)
    bank.turn(Turn(holder=holder, number=2, ended=[ended], leases={one.key: Held(0, 0) for one in used}))


def kept(store: Store) -> set[str]:
    with store.reading() as connection:
        return set(connection.execute(select(counters.c.allowance)).scalars())


def pass_time(store: Store, clock: Clock, seconds: float) -> None:
    """As if all the while it had been looked at what is old."""
    clock.now += seconds
    with store.writing() as connection:
        connection.execute(meta.update().where(meta.c.key == "retention.at").values(value=repr(clock.now)))


def test_counters_are_kept_for_400_days_and_those_of_minutes_for_one(store: Store, bank: SqlBank, clock: Clock) -> None:
    use(bank, "one", TOTAL, of(DAY), of(MINUTE))
    pass_time(store, clock, MINUTES_S)
    prune(store, clock=clock)
    assert kept(store) == {TOTAL.key[0], of(DAY).key[0], of(MINUTE).key[0]}
    pass_time(store, clock, 60)
    prune(store, clock=clock)
    assert kept(store) == {TOTAL.key[0], of(DAY).key[0]}
    pass_time(store, clock, of(DAY).key[1] + RETENTION_S - clock.now)
    prune(store, clock=clock)
    assert kept(store) == {TOTAL.key[0], of(DAY).key[0]}
    pass_time(store, clock, 86_401)
    prune(store, clock=clock)
    assert kept(store) == {TOTAL.key[0]}


def test_what_a_charge_or_a_lease_stands_on_is_kept_until_it_does_not(
    store: Store, bank: SqlBank, clock: Clock
) -> None:
    stands, leased = (of(DAY), of(MINUTE)), of(DAY, "leased")
    use(bank, "stands", *stands, status=ChargeStatus.STANDING)
    asked = Turn(holder="leases", number=1, counters={leased.key: leased}, asks=((Need(leased.key, 60, 0),),))
    bank.turn(asked)
    pass_time(store, clock, MINUTES_S + 120)
    prune(store, clock=clock)
    pass_time(store, clock, RETENTION_S)
    with store.writing() as connection:
        connection.execute(holders.update().values(heartbeat_at=NOW))  # a server has its own clock
    prune(store, clock=clock)
    assert kept(store) == {one.key[0] for one in (*stands, leased)}
    with store.reading() as connection:
        assert connection.execute(select(charges.c.status)).scalars().all() == ["standing"]
        assert connection.execute(select(holders.c.name)).scalars().all() == ["leases"], "the other holds nothing"
        assert connection.execute(select(func.count()).select_from(leases)).scalar_one() == 1
    resolved = charge("stands", status=ChargeStatus.RECONCILED, cost_pusd=40_000)
    assert bank.resolve(resolved, {one.key: 40 for one in stands})
    prune(store, clock=clock)
    assert kept(store) == {leased.key[0]}


def test_recalls_that_nobody_waits_for_go_at_once(store: Store, bank: SqlBank, clock: Clock) -> None:
    use(bank, "one", of(DAY))
    wanting = Turn(holder="two", number=1, counters={of(DAY).key: of(DAY)}, asks=((Need(of(DAY).key, 60, 0),),))
    bank.turn(wanting)
    prune(store, clock=clock)
    with store.writing() as connection:
        made = connection.execute(select(func.count()).select_from(recalls)).scalar_one()
        connection.execute(recalls.update().values(at=recalls.c.at - 100))
    prune(store, clock=clock)
    with store.reading() as connection:
        left = connection.execute(select(func.count()).select_from(recalls)).scalar_one()
    assert (made, left) == (1, 0)


def test_much_is_deleted_in_several_goes(
    store: Store, bank: SqlBank, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    use(bank, "one", *(of(MINUTE, subject) for subject in "abcde"))
    pass_time(store, clock, MINUTES_S + 60)
    assert [prune(store, clock=clock) for _ in range(4)] == [2, 2, 1, 0]


def test_a_clock_that_jumps_ahead_and_back_loses_nothing(store: Store, bank: SqlBank, clock: Clock) -> None:
    use(bank, "one", of(DAY))
    prune(store, clock=clock)
    clock.now += 10 * RETENTION_S
    assert [prune(store, clock=clock) for _ in range(100)] == [0] * 100
    clock.now -= 10 * RETENTION_S
    prune(store, clock=clock)
    assert kept(store) == {of(DAY).key[0]}
    with store.reading() as connection:
        assert connection.execute(select(meta.c.value).where(meta.c.key == "retention.at")).scalar() == repr(clock.now)
