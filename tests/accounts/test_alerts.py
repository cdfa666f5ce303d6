"""What of a budget is used is noticed once for each share, by whichever process, before and after a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from alert_samples import alerted, messages, use
from directory_samples import NOW, Clock, budget
from sqlalchemy import event, text
from till_samples import charge, counter

from amaru.accounts.alerts import EXCEEDED, LATE_S, THRESHOLD, Lookout, fills
from amaru.accounts.allowances import Allowance, Metric, Scope
from amaru.accounts.bank import Ended, Held, Part, Turn
from amaru.accounts.bank_sql import SqlBank
from amaru.accounts.charges import ChargeStatus
from amaru.accounts.outbox import Outbox
from amaru.accounts.periods import Period, span
from amaru.accounts.store import Store
from amaru.errors import StorageError

DAILY = budget(Scope.TENANT, "acme", period=Period.DAY, amount=10**10, alerts=(0.5, 0.8, 1.0))


def told(store: Store) -> list[tuple[str, float | None]]:
    found = [json.loads(message.body) for message in messages(store)]
    return [(body["type"], body["data"]["share"]) for body in found]


def look(store: Store, clock: Clock, *allowances: Allowance, is_sent: bool = True) -> int:
    """By a process that has just begun; how many it was the first to notice."""
    return len(Lookout(store, clock=clock).look(allowances, is_sent=is_sent))


@pytest.fixture
def clock_of(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Heeded on PostgreSQL too, whose own clock nobody can set."""
    for name in ("alerts", "outbox"):
        monkeypatch.setattr(f"amaru.accounts.{name}.read_now", lambda _connection, at: at)
    return clock


def test_each_share_is_noticed_once_and_marked(store: Store, clock_of: Clock) -> None:
    lookout = Lookout(store, clock=clock_of)
    for settled, leased, new in ((0, 0, 0), (4_999_999_999, 0, 0), (4 * 10**9, 10**9, 1), (3 * 10**9, 0, 0)):
        use(store, DAILY, NOW, settled, leased)
        assert len(lookout.look([DAILY], is_sent=True)) == new
    use(store, DAILY, NOW, 10**10)
    assert look(store, clock_of, DAILY) == 2
    assert lookout.look([DAILY], is_sent=True) == []
    assert told(store) == [(THRESHOLD, 0.5), (THRESHOLD, 0.8), (THRESHOLD, 1.0)]
    assert alerted(store, DAILY) == [1.0]
    use(store, DAILY, NOW, 10**10 + 1)
    assert look(store, clock_of, DAILY) == 1
    assert told(store)[3:] == [(EXCEEDED, None)]
    assert look(store, clock_of, DAILY) == 0


def test_a_body_says_all_there_is_to_say(store: Store, clock_of: Clock) -> None:
    use(store, DAILY, NOW, 7_000_000_001, 2 * 10**9)
    look(store, clock_of, DAILY)
    assert json.loads(messages(store)[1].body) == {
        "type": "budget.threshold",
        "timestamp": "2023-11-14T22:13:20Z",
        "data": {
            "budget": "tenant:acme:usd:day",
            "scope": "tenant",
            "subject": "acme",
            "period": "day",
            "period_start": "2023-11-14T00:00:00Z",
            "renews_at": "2023-11-15T00:00:00Z",
            "hard": True,
            "share": 0.8,
            "amount_usd": "10.00",
            "settled_usd": "7.000000001",
            "standing_usd": "2.00",
            "left_usd": "0.999999999",
        },
    }
    total = budget(Scope.MODEL, "chat", period=Period.TOTAL, amount=1, hard=False, alerts=())
    use(store, total, NOW, 3)
    look(store, clock_of, total)
    body = json.loads(messages(store)[-1].body)
    assert (body["type"], body["data"]["hard"], body["data"]["left_usd"]) == (EXCEEDED, False, "-0.000000002")
    assert (body["data"]["period_start"], body["data"]["renews_at"], body["data"]["share"]) == (None, None, None)


def test_what_stands_counts_and_what_is_leased_does_not(store: Store, clock_of: Clock) -> None:
    start, end = span(Period.DAY, NOW)
    held = counter(DAILY.id, DAILY.amount, start=start, end=end)
    stands = Part(held.key, 5 * 10**9, None)
    ended = Ended(1, "c1", charge("c1", status=ChargeStatus.STANDING), (stands,))
    turn = Turn(holder="h", number=1, ended=[ended], leases={held.key: Held(4 * 10**9, 0)}, counters={held.key: held})
    SqlBank(store, clock=clock_of).turn(turn)
    assert [(fill.settled, fill.standing) for fill in fills(store, [DAILY], NOW)][-1] == (0, 5 * 10**9)
    assert look(store, clock_of, DAILY) == 1


def test_the_next_period_and_another_amount_are_told_anew(store: Store, clock_of: Clock) -> None:
    use(store, DAILY, NOW, 6 * 10**9)
    assert look(store, clock_of, DAILY) == 1
    doubled = budget(Scope.TENANT, "acme", period=Period.DAY, amount=2 * 10**10, alerts=(0.5, 0.8, 1.0))
    assert look(store, clock_of, doubled) == 0
    use(store, DAILY, NOW, 10**10)
    assert look(store, clock_of, doubled) == 1
    clock_of.now += 86_400
    use(store, DAILY, clock_of.now, 5 * 10**9)
    assert look(store, clock_of, DAILY) == 1 + 2, "the new day's, and what the day before has of the old amount"


def test_usage_that_arrives_late_is_told_and_that_of_long_ago_is_not(store: Store, clock_of: Clock) -> None:
    clock_of.now += LATE_S
    use(store, DAILY, NOW, 5 * 10**9)
    assert look(store, clock_of, DAILY) == 1
    clock_of.now += LATE_S
    use(store, DAILY, NOW, 10**10)
    assert look(store, clock_of, DAILY) == 0


def test_a_clock_that_jumps_tells_nothing_twice(store: Store, clock_of: Clock) -> None:
    use(store, DAILY, NOW, 5 * 10**9)
    for jump in (0, 10**15, -(10**12), 400 * 86_400, -NOW, 0):
        clock_of.now = NOW + jump
        look(store, clock_of, DAILY)
    assert told(store) == [(THRESHOLD, 0.5)]


def test_only_budgets_are_told_of_and_one_of_nothing_only_once_it_is_used(store: Store, clock_of: Clock) -> None:
    limit = Allowance(
        scope=Scope.TENANT, subject="acme", metric=Metric.REQUESTS, period=Period.MINUTE, amount=1, alerts=(0.1,)
    )
    nothing = budget(Scope.TENANT, "none", amount=0, alerts=(1.0,))
    use(store, limit, NOW, 5)
    use(store, nothing, NOW, 0)
    assert look(store, clock_of, limit, nothing) == 0
    use(store, nothing, NOW, 1)
    assert look(store, clock_of, limit, nothing) == 2


def test_without_a_webhook_alerts_only_stand_there(store: Store, clock_of: Clock) -> None:
    use(store, DAILY, NOW, 5 * 10**9)
    look(store, clock_of, DAILY, is_sent=False)
    assert [message.state for message in messages(store)] == ["logged"]
    assert Outbox(store, clock=clock_of).claim() is None
    assert look(store, clock_of, DAILY) == 0


def test_on_a_full_disk_nothing_is_marked_and_all_is_told_once_there_is_room(tmp_path: Path, clock_of: Clock) -> None:
    store = Store(str(tmp_path / "small.db"))
    store.open()
    many = [budget(Scope.TENANT, f"t{n}", amount=10**10, alerts=tuple(x / 10 for x in range(1, 11))) for n in range(9)]
    for one in many:
        use(store, one, NOW, 10**10)
    with store.reading() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()

    def fill(connection: object, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")  # type: ignore[attr-defined]  # sqlite3's

    event.listen(store.engine, "checkout", fill)
    lookout = Lookout(store, clock=clock_of)
    with pytest.raises(StorageError, match="full"):
        lookout.look(many, is_sent=True)
    assert messages(store) == []
    assert [alerted(store, one) for one in many] == [[0.0]] * 9
    pages = 10**6
    assert len(lookout.look(many, is_sent=True)) == 90
    assert lookout.look(many, is_sent=True) == []
    store.close()
