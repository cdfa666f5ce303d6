"""What was used of allowances is read for the period of now, on either engine; it adds up wherever leases are."""

from __future__ import annotations

import pytest
from directory_samples import NOW, budget
from till_samples import charge, counter

from amaru.accounts.allowances import Scope
from amaru.accounts.bank import Ended, Held, Need, Part, Turn
from amaru.accounts.banks import bank_at, leases_at
from amaru.accounts.charges import ChargeStatus
from amaru.accounts.periods import Period, span
from amaru.accounts.schema import counters
from amaru.accounts.store import Store
from amaru.accounts.usage import usage

NOTHING = {"amount": 0, "alerted": 0.0, "overrun": 0, "version": 0}


def test_each_allowance_is_shown_with_what_its_period_holds(store: Store) -> None:
    allowances = [budget(Scope.MODEL, f"m{number}", period=Period.DAY) for number in range(1_000)]
    start, end = span(Period.DAY, NOW)
    with store.writing() as connection:
        for place, settled, leased in (("m7", 3, 4), ("m999", 10**11, 5)):
            row = {"allowance": f"model:{place}:usd:day", "settled": settled, "leased": leased, **NOTHING}
            connection.execute(counters.insert(), [row | {"period_start": start, "period_end": end}])
            connection.execute(counters.insert(), [row | {"period_start": start - 86_400, "period_end": start}])
    found = usage(store, allowances, NOW)
    assert [one.allowance for one in found] == allowances
    assert {one.renews_at for one in found} == {end}
    shown = {one.allowance.subject: (one.used, one.held, one.left) for one in found if one.used}
    assert shown == {"m7": (3, 4, 10**11 - 7), "m999": (10**11, 5, -5)}
    assert usage(store, [], NOW) == []


@pytest.mark.parametrize("in_redis", [False, True], ids=["leases-in-store", "leases-in-redis"])
def test_used_held_and_left_add_up_wherever_leases_are_kept(
    store: Store, request: pytest.FixtureRequest, in_redis: bool
) -> None:
    url, prefix = (
        (request.getfixturevalue("redis_url"), request.getfixturevalue("redis_prefix")) if in_redis else ("", "")
    )
    bank, leases = bank_at(store, url, prefix=prefix), leases_at(url, prefix=prefix)
    total = counter(amount=100)
    allowance = budget(Scope.TENANT, "acme", period=Period.TOTAL, amount=100)
    epoch = ""

    def shown() -> tuple[int, int | None, int | None]:
        (one,) = usage(store, [allowance], NOW, leases)
        return one.used, one.held, one.left

    def turn(number: int, **said: object) -> None:
        nonlocal epoch
        made = Turn(holder="h", number=number, counters={total.key: total}, whole=not epoch, epoch=epoch, **said)
        epoch = bank.turn(made).epoch or "-"

    assert shown() == (0, 0, 100)
    turn(1, asks=[(Need(total.key, 60, 0),)])
    assert shown() == (0, 60, 40)
    settled = Ended(1, "h", charge("a", cost_pusd=15_000), (Part(total.key, 20, 15),))
    turn(2, ended=[settled], leases={total.key: Held(40, 0)})
    assert shown() == (15, 40, 45)
    stands = Ended(2, "h", charge("b", status=ChargeStatus.STANDING), (Part(total.key, 10, None),))
    turn(3, ended=[stands], leases={total.key: Held(30, 0)})
    assert shown() == (15, 40, 45), "30 leased, and 10 that stand"
    turn(4, leases={total.key: Held(0, 0)})
    assert shown() == (15, 10, 75)


def test_where_redis_does_not_answer_what_is_held_is_not_guessed(store: Store) -> None:
    pytest.importorskip("redis")
    (one,) = usage(store, [budget(Scope.MODEL, "m")], NOW, leases_at("redis://127.0.0.1:1/0"))
    assert (one.used, one.held, one.left) == (0, None, None)


def test_of_a_redis_that_was_flushed_nothing_is_believed(store: Store, redis_url: str, redis_prefix: str) -> None:
    leases = leases_at(redis_url, prefix=redis_prefix)
    with pytest.importorskip("redis").Redis.from_url(redis_url) as client:
        client.set(f"{redis_prefix}epoch", "of-another-run")
        client.hset(f"{redis_prefix}of-another-run:c:0:tenant:acme:usd:total", "leased", "60")
    (one,) = usage(store, [budget(Scope.TENANT, "acme", period=Period.TOTAL, amount=100)], NOW, leases)
    assert (one.held, one.left) == (0, 100)
