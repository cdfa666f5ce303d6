"""Sums of charges, on SQLite and PostgreSQL."""

from __future__ import annotations

import datetime
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from charge_samples import NOON, charge, write
from directory_samples import Clock
from sqlalchemy import event

from amaru.accounts.charges import Charge, ChargeStatus
from amaru.accounts.directory import Directory
from amaru.accounts.spend import CORRECTION, By, Spend, Which, charges_of, spend
from amaru.accounts.store import Store

MOST_PUSD = 2**63 - 1


def total(store: Store, which: Which | None = None) -> Spend:
    (whole,) = spend(store, [], which)
    return whole


def test_a_sum_that_needs_more_than_64_bits_is_exact(store: Store) -> None:
    write(store, *(charge(cost_pusd=MOST_PUSD) for _ in range(7)), charge(cost_pusd=-MOST_PUSD))
    assert total(store).cost_pusd == total(store).provider_pusd == 6 * MOST_PUSD


def of(one: Charge, by: By) -> str | None:
    if by is By.DAY:
        return datetime.datetime.fromtimestamp(one.at, datetime.UTC).date().isoformat()
    value = getattr(one, "resource" if by is By.MODEL else by)
    return None if value is None else str(value)


def random_charges(seed: int) -> Iterator[Charge]:
    rng = random.Random(seed)
    for _ in range(300):
        yield charge(
            at=NOON + rng.randrange(-400_000, 400_000) / 3,
            tenant=rng.choice(["acme", "bolt"]),
            team=rng.choice([None, "red"]),
            key=rng.choice([None, "k-1"]),
            resource=rng.choice(["chat", "code"]),
            provider=rng.choice(["anvil", "birch"]),
            status=rng.choice(list(ChargeStatus)),
            usage_source=rng.choice(["provider", "counted", "estimated"]),
            input_tokens=rng.randrange(2**40),
            cost_pusd=rng.randrange(-(10**15), 10**18),
        )


@pytest.mark.parametrize(
    "by", [[By.DAY], [By.TEAM, By.KEY], [By.MODEL, By.PROVIDER, By.STATUS], list(By)], ids=",".join
)
def test_sums_are_those_of_the_rows_however_they_are_told_apart(store: Store, by: list[By]) -> None:
    made = write(store, *random_charges(seed=7))
    attempts, tokens, pusd = Counter(), Counter(), Counter()
    for one in made:
        group = tuple(of(one, each) for each in by)
        attempts[group] += 1
        tokens[group] += one.input_tokens
        pusd[group] += one.cost_pusd
    found = {tuple(row.of.values()): row for row in spend(store, by)}
    assert {group: row.attempts for group, row in found.items()} == attempts
    assert {group: row.input_tokens for group, row in found.items()} == tokens
    assert {group: row.cost_pusd for group, row in found.items()} == pusd


def test_each_figure_is_told_by_where_it_came_from(store: Store) -> None:
    write(
        store,
        charge(cost_pusd=1, usage_source="provider"),
        charge(cost_pusd=20, usage_source="counted"),
        charge(cost_pusd=300, usage_source="estimated"),
        charge(cost_pusd=4000, usage_source="estimated", status=ChargeStatus.STANDING),
        charge(cost_pusd=50000, usage_source="provider", status=ChargeStatus.RECONCILED),
    )
    row = total(store)
    assert (row.provider_pusd, row.counted_pusd, row.estimated_pusd) == (1, 20, 300)
    assert (row.standing_pusd, row.reconciled_pusd, row.cost_pusd) == (4000, 50000, 54321)


def test_requests_are_decisions_and_corrections_are_no_attempts(store: Store) -> None:
    write(
        store,
        charge(decision="a", cost_pusd=5),
        charge(decision="a", attempt=1, cost_pusd=7),
        charge(decision="a", attempt=CORRECTION, cost_pusd=-5),
        charge(decision="", cost_pusd=11),
    )
    row = total(store)
    assert (row.requests, row.attempts, row.cost_pusd) == (1, 3, 18)


def test_every_kind_of_token_is_added_up(store: Store) -> None:
    write(
        store,
        charge(input_tokens=10, cached_input_tokens=4, output_tokens=3, usage='{"reasoning_tokens":2}'),
        charge(input_tokens=1, usage='{"cache_write_tokens":1,"service_tier":"flex"}'),
        charge(usage='{"reasoning_tokens":40}'),
    )
    row = total(store)
    assert (row.input_tokens, row.cached_input_tokens, row.output_tokens) == (11, 4, 3)
    assert row.details == {"cache_write_tokens": 1, "reasoning_tokens": 42}


def test_only_what_is_asked_for_is_added_up(store: Store) -> None:
    write(
        store,
        charge(at=NOON - 0.5, cost_pusd=1),
        charge(at=NOON, cost_pusd=2),
        charge(at=NOON + 60, cost_pusd=4, resource="code", tenant="bolt"),
        charge(at=NOON + 120, cost_pusd=8),
    )
    assert total(store, Which(since=NOON, until=NOON + 120)).cost_pusd == 6
    assert total(store, Which(model="code")).cost_pusd == 4
    assert total(store, Which(tenant="acme", since=NOON)).cost_pusd == 10
    assert list(spend(store, [], Which(tenant="nobody"))) == []
    assert list(spend(store, [By.TENANT], Which(tenant="nobody"))) == []


def test_charges_are_listed_the_oldest_first_as_they_were_written(store: Store) -> None:
    late, early = write(store, charge(at=NOON + 1, note="x"), charge(at=NOON, status=ChargeStatus.STANDING))
    assert list(charges_of(store, Which())) == [early, late]
    assert list(charges_of(store, Which(decision=late.decision))) == [late]
    assert list(charges_of(store, Which(), limit=1)) == [early]


def test_pages_of_charges_hold_each_once(store: Store) -> None:
    made = write(store, *(charge(at=NOON + number // 3) for number in range(10)))
    found, after = [], None
    while page := list(charges_of(store, Which(), after=after, limit=4)):
        found += page
        after = page[-1].at, page[-1].id
    assert found == sorted(made, key=lambda one: (one.at, one.id))


def test_charges_are_kept_for_400_days_and_those_that_stand_for_longer(
    store: Store, directory: Directory, clock: Clock
) -> None:
    old = {"at": clock.now - 400 * 86_400 - 1}
    _, *kept = write(
        store, charge(**old), charge(**old, status=ChargeStatus.STANDING), charge(at=clock.now - 399 * 86_400)
    )
    assert directory.prune() == 1
    assert list(charges_of(store, Which())) == kept


def test_a_span_of_time_is_looked_up_by_its_index(tmp_path) -> None:
    store = Store(str(tmp_path / "accounts.db"))
    store.open()
    asked: list[tuple[str, object]] = []

    @event.listens_for(store.engine, "before_cursor_execute")
    def _note(_c, _cursor, statement, parameters, _context, _many) -> None:
        asked.append((statement, parameters))

    list(spend(store, [By.TENANT, By.DAY], Which(since=NOON, until=NOON + 60)))
    statement, parameters = next(each for each in asked if "accounts_charges" in each[0])
    with store.reading() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    assert any("accounts_charges_at" in row.detail for row in plan)
    store.close()
