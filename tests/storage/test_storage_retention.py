"""Old and surplus decisions go, oldest first, in small steps; the rest stays explainable."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from storage_samples import NOW, Hand, OpenStore, decision_id, make_offer, make_record, size_of

from amaru.storage.database import Database
from amaru.storage.retention import EVERY_S, ROWS_PER_STEP, Retention

DAY_S = 86_400.0


async def test_by_age(open_store: OpenStore) -> None:
    clock, timer = Hand(NOW), Hand(0.0)
    store = open_store(clock=clock, timer=timer, interval_s=60.0, retention_days=1.0)
    store.remember_board("b1", [make_offer("one")])
    for n in range(1_200):  # more than two steps
        store.record(make_record(n))
    assert await store.flush()
    assert await store.add_feedback(decision_id(3), {"ok": True})
    clock.now = NOW + 5 * DAY_S
    store.remember_board("b2", [make_offer("two")])
    for n in range(1_200, 1_205):
        store.record(make_record(n, at=clock.now, board_version="b2"))
    assert await store.flush()
    assert await store.count() == 1_205  # not yet time to look
    timer.now += EVERY_S
    assert await store.flush()
    assert await store.flush()  # the round that deleted has ended
    assert await store.count() == 5
    assert store.status().deleted == 1_200
    assert await store.get(decision_id(3)) is None
    with closing(sqlite3.connect(store.settings.path)) as connection:
        assert connection.execute("SELECT count(*) FROM feedback").fetchone() == (0,)


async def test_boards_go_when_no_decision_can_refer_to_them(open_store: OpenStore, path: Path) -> None:
    clock, timer = Hand(NOW), Hand(0.0)
    store = open_store(clock=clock, timer=timer, interval_s=60.0, retention_days=3.0)
    for n, day in enumerate((0, 2, 4)):
        clock.now = NOW + day * DAY_S
        store.remember_board(f"b{n}", [make_offer("one")])
        store.record(make_record(n, at=clock.now, board_version=f"b{n}"))
        assert await store.flush()
    clock.now = NOW + 6 * DAY_S
    timer.now += EVERY_S
    assert await store.flush()
    assert await store.flush()
    with closing(sqlite3.connect(path)) as connection:
        kept = connection.execute("SELECT DISTINCT board_version FROM decisions").fetchall()
        boards = connection.execute("SELECT version FROM boards ORDER BY version").fetchall()
    assert kept == [("b2",)]
    assert boards == [("b1",), ("b2",)]  # b1 was in use until the oldest decision left, give or take a day


async def test_by_size_and_pages_go_back_to_the_file_system(open_store: OpenStore, path: Path) -> None:
    timer = Hand(0.0)
    store = open_store(timer=timer, interval_s=60.0)
    for n in range(8_000):
        store.record(make_record(n))
    assert await store.flush(20.0)
    assert size_of(path) > 4_000_000
    store.set_retention(days=30.0, gigabytes=0.002)
    for _ in range(3):
        assert await store.flush(20.0)
    assert size_of(path) <= 0.002e9
    left = await store.count()
    assert 1_000 < left < 8_000
    newest = (await store.recent(1)).items[0]
    assert newest.id == decision_id(7_999)
    assert store.status().deleted == 8_000 - left


async def test_steps_are_small_and_the_budget_ends_a_run(open_store: OpenStore, path: Path) -> None:
    store = open_store(interval_s=60.0)
    for n in range(3 * ROWS_PER_STEP):
        store.record(make_record(n))
    await store.close()

    ticks = iter(range(100))
    retention = Retention(1.0, 10.0, clock=lambda: NOW + 9 * DAY_S, timer=lambda: float(next(ticks)))
    database = Database(path, busy_timeout_s=1.0, clock=lambda: NOW)
    database.open()
    retention.run(database, budget_s=0.5)  # one tick is over it: one step
    assert retention.deleted == ROWS_PER_STEP
    retention.run(database, budget_s=50.0)
    assert retention.deleted == 3 * ROWS_PER_STEP
    database.close_writer()
