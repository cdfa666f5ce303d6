"""What was archived or replaced long ago is deleted once nothing that is kept names it."""

from __future__ import annotations

import pytest
from directory_samples import NOW, Clock, budget
from sqlalchemy import select
from sqlalchemy.engine import Row
from test_retention import pass_time
from till_samples import charge

from amaru.accounts.allowances import Scope
from amaru.accounts.charges import Charge, ChargeStatus, row_of
from amaru.accounts.directory import Directory
from amaru.accounts.retention import DAY_S, RETENTION_S, prune
from amaru.accounts.schema import allowances, charges, counters, prices, teams, tenants
from amaru.accounts.store import Store

LONG_S = RETENTION_S + DAY_S


def ids(store: Store, table: object) -> set[str]:
    with store.reading() as connection:
        return set(connection.execute(select(table.c.id)).scalars())


def spend(store: Store, id: str, **fields: object) -> None:
    import msgspec

    made: Charge = msgspec.structs.replace(charge(id), **fields)
    with store.writing() as connection:
        connection.execute(charges.insert().values(row_of(made, "h", None)))


def price(store: Store, id: str, *, created_at: float, valid_until: float | None = None, offer: str = "a/b") -> None:
    row = {"id": id, "provider": "a", "offer": offer, "valid_from": 0.0, "valid_until": valid_until, "terms": "{}",
           "source": "file", "created_at": created_at}  # fmt: skip
    with store.writing() as connection:
        connection.execute(prices.insert().values(row))


def look(store: Store, clock: Clock, seconds: float) -> None:
    pass_time(store, clock, seconds)
    prune(store, clock=clock)


def test_an_archived_tenant_goes_with_its_teams_and_allowances_long_after(
    directory: Directory, store: Store, clock: Clock
) -> None:
    prune(store, clock=clock)
    for id in ("gone", "stays"):
        directory.tenants.create(id, by="ann")
        directory.teams.create(id, "web", by="ann")
        directory.allowances.set(budget(Scope.TEAM, f"{id}/web"), by="ann")
    used = budget(Scope.TENANT, "gone")
    directory.allowances.set(used, by="ann")
    with store.writing() as connection:
        connection.execute(
            counters.insert().values(
                allowance=used.id, period_start=0, amount=1, settled=1, leased=0, alerted=0.0, overrun=0, version=0
            )
        )
    for one in ("team:gone/web:usd:month", used.id):
        directory.allowances.archive(one, by="ann")
    directory.teams.archive("gone", "web", by="ann")
    directory.tenants.archive("gone", by="ann")
    look(store, clock, RETENTION_S - DAY_S)
    assert ids(store, tenants) == {"gone", "stays"}
    look(store, clock, 2 * DAY_S)
    assert (ids(store, tenants), ids(store, allowances)) == ({"stays"}, {"team:stays/web:usd:month"})
    assert ids(store, teams) == {"web"}
    with store.reading() as connection:
        kept: Row = connection.execute(select(counters.c.allowance, counters.c.settled)).one()
    assert tuple(kept) == (used.id, 1), "one that is set again goes on with what was used"
    directory.tenants.create("gone", by="ann")


@pytest.mark.parametrize("what", ["key", "charge", "team", "allowance", "restored"])
def test_an_archived_tenant_stays_as_long_as_something_names_it(
    directory: Directory, store: Store, clock: Clock, what: str
) -> None:
    directory.tenants.create("gone", by="ann")
    if what == "key":
        directory.keys.create("gone", by="ann")
    elif what == "team":
        directory.teams.create("gone", "web", by="ann")
    elif what == "allowance":
        directory.allowances.set(budget(Scope.TENANT, "gone"), by="ann")
    elif what == "charge":
        spend(store, "c", tenant="gone", status=ChargeStatus.STANDING)
    directory.tenants.archive("gone", by="ann")
    if what == "restored":
        directory.tenants.restore("gone", by="ann")
    look(store, clock, LONG_S)
    assert ids(store, tenants) == {"gone"}
    if what == "key":  # it opens nothing; once it is revoked and gone, its tenant goes
        directory.keys.revoke(directory.keys.page(over=True).items[0].id, by="ann")
        look(store, clock, LONG_S)
        look(store, clock, DAY_S)
        assert ids(store, tenants) == set()


@pytest.mark.parametrize("what", ["key", "charge", "allowance"])
def test_an_archived_team_stays_as_long_as_something_names_it(
    directory: Directory, store: Store, clock: Clock, what: str
) -> None:
    for id in ("web", "other"):
        directory.teams.create("filed", id, by="ann")
    if what == "key":
        directory.keys.create("filed", team="web", by="ann")
    elif what == "allowance":
        directory.allowances.set(budget(Scope.TEAM, "filed/web"), by="ann")
    else:
        spend(store, "c", tenant="filed", team="web", status=ChargeStatus.STANDING)
    for id in ("web", "other"):
        directory.teams.archive("filed", id, by="ann")
    look(store, clock, LONG_S)
    assert ids(store, teams) == {"web"}


def test_prices_that_are_over_go_once_no_charge_names_them(store: Store, clock: Clock) -> None:
    prune(store, clock=clock)
    later = NOW + 10 * DAY_S
    price(store, "dated", created_at=NOW, valid_until=later)
    price(store, "dated-named", created_at=NOW, valid_until=later)
    price(store, "first", created_at=NOW, offer="c/d")
    price(store, "second", created_at=NOW + 1, offer="c/d")
    price(store, "alone", created_at=NOW, offer="e/f")
    price(store, "ahead", created_at=NOW, valid_until=NOW + 10 * RETENTION_S, offer="g/h")
    spend(store, "old", price="dated-named", status=ChargeStatus.STANDING)
    everything = {"dated", "dated-named", "first", "second", "alone", "ahead"}
    look(store, clock, RETENTION_S - DAY_S)
    assert ids(store, prices) == everything
    look(store, clock, 3 * DAY_S)
    assert ids(store, prices) == everything - {"first"}, "it was replaced; the last of an offer stays"
    look(store, clock, 10 * DAY_S)
    assert ids(store, prices) == everything - {"first", "dated"}
    with store.writing() as connection:
        connection.execute(charges.update().values(status=ChargeStatus.RECONCILED.value))
    for _ in range(2):  # its charge goes, and a day later the price
        look(store, clock, DAY_S)
    assert ids(store, prices) == {"second", "alone", "ahead"}


def test_a_price_that_a_kept_charge_names_stays_however_old_it_is(store: Store, clock: Clock) -> None:
    price(store, "first", created_at=NOW)
    price(store, "second", created_at=NOW + 1)
    pass_time(store, clock, 3 * RETENTION_S)
    spend(store, "new", price="first", at=clock.now)  # of a gateway that was never told of the second
    prune(store, clock=clock)
    assert ids(store, prices) == {"first", "second"}


def test_it_is_looked_for_once_a_day(directory: Directory, store: Store, clock: Clock) -> None:
    prune(store, clock=clock)
    directory.tenants.create("gone", by="ann")
    directory.tenants.archive("gone", by="ann")
    look(store, clock, LONG_S)
    assert ids(store, tenants) == set()
    directory.tenants.create("again", by="ann")
    directory.tenants.archive("again", by="ann")
    with store.writing() as connection:
        connection.execute(tenants.update().values(archived_at=NOW))
    look(store, clock, DAY_S - 60)
    assert ids(store, tenants) == {"again"}
    look(store, clock, 61)
    assert ids(store, tenants) == set()
