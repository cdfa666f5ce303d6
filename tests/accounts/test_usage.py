"""What was used of allowances is read for the period of now, on either engine."""

from __future__ import annotations

from directory_samples import NOW, budget

from amaru.accounts.allowances import Scope
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
