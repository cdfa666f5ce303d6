"""What a budget shows as settled is the sum of what its charges cost, also once they were corrected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from charge_samples import NOON, charge
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select
from test_reconcile import WINDOW, Fate, Request, applied, books, by_days, compared, requests, write_export

from amaru.accounts.bank import Bank, Counter, Ended, Held, Key, Part, Turn
from amaru.accounts.bank_sql import SqlBank
from amaru.accounts.banks import bank_at
from amaru.accounts.changes import ChangeLog
from amaru.accounts.charges import Charge, ChargeStatus, counted_text, row_of
from amaru.accounts.corrections import apply
from amaru.accounts.counted import counted_of
from amaru.accounts.money import nusd_half_even, nusd_up
from amaru.accounts.periods import Period, span
from amaru.accounts.schema import charges, counters, holders, leases
from amaru.accounts.store import Store

AMOUNT = 10**15
TENANT, PROVIDER = "tenant:acme:usd:day", "provider:anvil:usd:month"
BY_DAY = ("day", "model", "input_tokens", "cached_input_tokens", "output_tokens", "cost_usd")


def counters_of(at: float) -> list[Counter]:
    found = []
    for name, period in ((TENANT, Period.DAY), (PROVIDER, Period.MONTH)):
        start, end = span(period, at)
        found.append(Counter((name, start), AMOUNT, end))
    return found


def charged(bank: Bank, ours: Sequence[Charge], turn: int = 1) -> None:
    """Have the bank take in charges, each on the counters of its moment, and lease a part of them to a live holder."""
    ended, named = [], dict[Key, Counter]()
    for number, one in enumerate(ours, 1):
        used = None if one.status is ChargeStatus.STANDING else nusd_half_even(one.cost_pusd)
        on = counters_of(one.at)
        named |= {counter.key: counter for counter in on}
        reserved = nusd_up(one.cost_pusd) * 2
        ended.append(Ended(number, one.id, one, tuple(Part(counter.key, reserved, used) for counter in on)))
    held = dict.fromkeys(named, Held(77, 0))
    bank.turn(Turn(holder="live", number=turn, ended=ended, leases=held, counters=named))


def settled(store: Store) -> dict[Key, int]:
    with store.reading() as connection:
        found = connection.execute(select(counters.c.allowance, counters.c.period_start, counters.c.settled))
        return {(name, start): amount for name, start, amount in found if amount}


def leased(store: Store) -> set[int]:
    with store.reading() as connection:
        return set(connection.execute(select(counters.c.leased)).scalars())


def counted(store: Store) -> dict[Key, int]:
    """By the rows of spend: what those that do not stand count."""
    sums: dict[Key, int] = {}
    with store.reading() as connection:
        query = select(charges.c.reserved).where(charges.c.status != ChargeStatus.STANDING)
        for text in connection.execute(query).scalars():
            for key, amount in counted_of(text).items():
                sums[key] = sums.get(key, 0) + amount
    return {key: amount for key, amount in sums.items() if amount}


def costs(store: Store) -> dict[Key, int]:
    """By what they cost: each charge with its corrections; and of a provider also what names no charge."""
    chains: dict[str, list[Any]] = {}
    with store.reading() as connection:
        for id, at, tenant, pusd in connection.execute(
            select(charges.c.id, charges.c.at, charges.c.tenant, charges.c.cost_pusd)
        ):
            chain = chains.setdefault(id.partition("/")[0], [at, tenant, 0])
            chain[2] += pusd
    sums: dict[Key, int] = {}
    for at, tenant, pusd in chains.values():
        for counter in counters_of(at):
            if tenant or counter.key[0] == PROVIDER:
                sums[counter.key] = sums.get(counter.key, 0) + nusd_half_even(pusd)
    return {key: amount for key, amount in sums.items() if amount}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(str(tmp_path_factory.mktemp("kept") / "accounts.db"))
    store.open()
    yield store
    store.close()


def emptied(store: Store) -> Store:
    with store.writing() as connection:
        for table in (charges, counters, leases, holders):
            connection.execute(delete(table))
    return store


KEPT = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None, phases=[Phase.generate]
)


@KEPT
@given(requests, st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_counters_are_the_sum_of_the_charges_as_billed_and_billed_anew(
    kept: Store, tmp_path: Path, made: list[Request], factors: list[int]
) -> None:
    ours, theirs = books(made)
    if not theirs or not ours:  # of a provider whose budget nobody has asked for there is no counter
        return
    store = emptied(kept)
    charged(SqlBank(store), ours)
    applied(store, write_export(tmp_path / "export.csv", theirs), **WINDOW)
    assert settled(store) == counted(store) == costs(store)
    assert leased(store) <= {77}, "a lease is nobody's but its holder's"
    again = [one | {"cost_usd": f"{float(one['cost_usd']) * by:.9f}"} for one, by in zip(theirs, factors, strict=False)]
    applied(store, write_export(tmp_path / "again.csv", again), **WINDOW)
    assert settled(store) == counted(store) == costs(store)


@KEPT
@given(requests)
def test_what_days_were_billed_moves_their_provider_and_nobody_else(
    kept: Store, tmp_path: Path, made: list[Request]
) -> None:
    made = [one for one in made if one.fate not in (Fate.BILLED_STANDS, Fate.STANDS_UNBILLED)]
    ours, theirs = books(made)
    if not theirs or not ours:
        return
    store = emptied(kept)
    charged(SqlBank(store), ours)
    before = {key: amount for key, amount in settled(store).items() if key[0] == TENANT}
    applied(store, write_export(tmp_path / "export.csv", by_days(theirs), BY_DAY))
    after = settled(store)
    assert after == counted(store) == costs(store)
    assert {key: amount for key, amount in after.items() if key[0] == TENANT} == before


def line(cost_usd: str, id: str = "a") -> dict[str, Any]:
    told = {"input_tokens": 10, "cached_input_tokens": 0, "output_tokens": 5, "cost_usd": cost_usd}
    return {"id": id, "at": NOON, "model": "large"} | told


def one_charge(pusd: int = 4 * 10**9, **changes: Any) -> Charge:
    tokens = {"input_tokens": 10, "output_tokens": 5}
    return charge(**{"id": "c", "provider_ref": "a", "cost_pusd": pusd} | tokens | changes)


def test_up_and_down_in_the_period_of_the_charge_and_never_below_zero(store: Store, tmp_path: Path) -> None:
    charged(SqlBank(store), [one_charge()])
    (day, month) = (counter.key for counter in counters_of(NOON))
    for usd, nusd in (("0.009", 9 * 10**6), ("0.001", 10**6), ("-0.002", 0), ("0.003", 3 * 10**6)):
        applied(store, write_export(tmp_path / "export.csv", [line(usd)]))
        assert settled(store).get(day, 0) == settled(store).get(month, 0) == nusd
    assert leased(store) == {77}


def test_a_budget_that_had_not_counted_the_charge_does_not_count_its_correction(store: Store, tmp_path: Path) -> None:
    charged(SqlBank(store), [one_charge()])
    start, end = span(Period.WEEK, NOON)
    late = Counter(("tenant:acme:usd:week", start), AMOUNT, end)
    SqlBank(store).turn(Turn(holder="x", number=1, leases={late.key: Held(0, 0)}, counters={late.key: late}))
    applied(store, write_export(tmp_path / "export.csv", [line("0.001")]))
    assert late.key not in settled(store)


def test_what_days_take_back_is_no_more_than_a_later_budget_had_counted(store: Store, tmp_path: Path) -> None:
    bank = SqlBank(store)
    charged(bank, [one_charge()])
    with store.writing() as connection:  # the provider's budget was set after this one
        early = one_charge(6 * 10**9, provider_ref="b", id="early")
        connection.execute(charges.insert(), row_of(early, "live", counted_text({counters_of(NOON)[0].key: 6 * 10**6})))
    day = {"day": "2026-11-01", "model": "large", "input_tokens": 20, "cached_input_tokens": 0, "output_tokens": 10}
    applied(store, write_export(tmp_path / "export.csv", [day | {"cost_usd": "0.005"}], BY_DAY))
    assert settled(store).get(counters_of(NOON)[1].key, 0) == 0, "4 of the 5 that are taken back were its own"


def test_applied_by_two_at_once_it_moves_once(store: Store, tmp_path: Path) -> None:
    charged(SqlBank(store), [one_charge(id=f"c{n}", provider_ref=f"a{n}") for n in range(40)])
    path = write_export(tmp_path / "export.csv", [line("0.001", f"a{n}") for n in range(60)])
    log = ChangeLog(store, lambda: NOON)

    def do(_: int) -> None:
        with compared(store, path) as comparison:
            ready.wait()
            apply(comparison, store, SqlBank(store), log, file=path, at=NOON, by="cli:ann")

    ready = Barrier(2, timeout=30.0)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(do, range(2)))
    assert settled(store) == counted(store) == costs(store)
    assert settled(store)[counters_of(NOON)[1].key] == 60 * 10**6


def test_a_correction_beyond_the_amount_shows_as_an_overrun(store: Store, tmp_path: Path) -> None:
    charged(SqlBank(store), [one_charge()])
    applied(store, write_export(tmp_path / "export.csv", [line("2000000")]))
    with store.reading() as connection:
        assert connection.execute(select(func.min(counters.c.overrun))).scalar() == 2 * AMOUNT + 77 - AMOUNT


def test_redis_grants_by_what_was_corrected(
    postgresql_store_url: str, redis_url: str, redis_prefix: str, tmp_path: Path
) -> None:
    store = Store(postgresql_store_url)
    store.open()
    bank = bank_at(store, redis_url, prefix=redis_prefix)
    day, _ = counters_of(NOON)
    charged(bank, [one_charge()])
    named = {day.key: day}
    epoch = bank.turn(Turn(holder="live", number=2, whole=True, leases={day.key: Held(77, 0)}, counters=named)).epoch

    def granted(number: int) -> int:
        """Only a want is told: nothing else names the counter."""
        asked = Turn(holder="live", number=number, wants={day.key: 10**9}, counters=named, epoch=epoch)
        return bank.turn(asked).granted.get(day.key, 0)

    billed = AMOUNT - 100
    applied(store, write_export(tmp_path / "export.csv", [line(f"{billed // 10**9}.{billed % 10**9:09d}")]))
    assert granted(3) + 77 <= 100
    applied(store, write_export(tmp_path / "less.csv", [line("0.001")]))
    assert granted(4) == 10**9, "what is taken back is free again"
    store.close()
