"""What is recorded is found again: at once, whole, page by page."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage_samples import NOW, Hand, OpenStore, decision_id, make_offer, make_record

from amaru.domain import Attempt, FailureKind, Kind, Provenance, Usage
from amaru.errors import StorageError
from amaru.storage import DecisionRecord, StoreSettings, UnknownDecisionError, reader, schema
from amaru.storage.database import Database
from amaru.storage.inserting import ROWS_PER_STATEMENT
from amaru.storage.recorder import ROWS_PER_PIECE, Recorder
from amaru.storage.retention import Retention

text = st.text(st.characters(codec="utf-8"), max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
count = st.integers(0, 2**53)
usages = st.builds(Usage, count, count, count, st.sampled_from(Provenance))
attempts = st.builds(
    Attempt,
    offer=text,
    provider=text,
    started_ms=finite,
    latency_ms=finite,
    first_token_ms=st.none() | finite,
    failure=st.none() | st.sampled_from(FailureKind),
    status=st.none() | st.integers(100, 599),
    detail=text,
    usage=st.none() | usages,
    cost_usd=finite,
)
records = st.builds(
    DecisionRecord,
    id=text,
    at=finite,
    tenant=text,
    kind=st.sampled_from(Kind),
    resource=text,
    policy=text,
    board_version=text,
    ranking=st.binary(max_size=64),
    propensity=finite,
    explored=st.booleans(),
    ok=st.none() | st.booleans(),
    offer=st.none() | text,
    failure=st.none() | st.sampled_from(FailureKind),
    status=st.none() | st.integers(100, 599),
    latency_ms=st.none() | finite,
    first_token_ms=st.none() | finite,
    input_tokens=st.none() | count,
    usage_source=st.none() | st.sampled_from(Provenance),
    cost_usd=finite,
    session=st.none() | text,
    stream=st.booleans(),
    request_bytes=count,
    attempts=st.lists(attempts, max_size=3).map(tuple),
    team=st.none() | text,
    key=st.none() | text,
)


@given(record=records)
def test_a_row_reads_back_as_its_record(record: DecisionRecord) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        row = schema.values_of(record)
        marks = ", ".join("?" * len(row))
        names = ", ".join(column.name for column in schema.decisions.columns)
        connection.execute(f"CREATE TABLE d ({names})")
        connection.execute(f"INSERT INTO d VALUES ({marks})", row)
        assert schema.record_of(connection.execute("SELECT * FROM d").fetchone()) == record


def test_columns_stand_in_the_order_of_the_record() -> None:
    fields = [field.name for field in msgspec.structs.fields(DecisionRecord)]
    assert [column.name for column in schema.decisions.columns] == fields
    assert len(fields) * ROWS_PER_STATEMENT <= 32_766


@pytest.mark.parametrize("n", [0, 1, 7, 511, 512, 513, 1_300])
async def test_batches_of_any_size_are_written_whole(open_store: OpenStore, n: int) -> None:
    store = open_store(interval_s=60.0)
    for i in range(n):
        assert store.record(make_record(i))
    assert await store.flush()
    assert await store.count() == n == store.status().written


async def test_a_waiting_decision_is_found_before_it_is_written(open_store: OpenStore) -> None:
    store = open_store(interval_s=60.0)
    store.record(make_record(1))
    waiting = await store.get(decision_id(1))
    assert waiting is not None
    assert waiting.pending
    assert await store.flush()
    written = await store.get(decision_id(1))
    assert written is not None
    assert not written.pending
    assert written.record == waiting.record == make_record(1)
    assert await store.get("unknown") is None


async def test_recent_shows_what_was_recorded_just_before(open_store: OpenStore) -> None:
    store = open_store(interval_s=60.0)
    for i in range(5):
        store.record(make_record(i))
    page = await store.recent(2)
    assert [record.id for record in page.items] == [decision_id(4), decision_id(3)]
    assert page.next_cursor == decision_id(3)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tenant=st.none() | st.sampled_from(["tenant-0", "tenant-2", "nobody"]),
    offer=st.none() | st.just("provider-1/gpt"),
    ok=st.none() | st.booleans(),
    since=st.none() | st.just(NOW + 55),
    limit=st.integers(1, 9),
    window=st.integers(1, 30),
)
def test_pages_hold_every_match_once_newest_first(
    path_of_100: Path,
    monkeypatch: pytest.MonkeyPatch,
    tenant: str | None,
    offer: str | None,
    ok: bool | None,
    since: float | None,
    limit: int,
    window: int,
) -> None:
    monkeypatch.setattr(reader, "ROWS_SCANNED_PER_PAGE", window)
    database = Database(path_of_100, busy_timeout_s=1.0, clock=lambda: NOW)
    found: list[str] = []
    cursor, pages = None, 0
    while True:
        page = reader.read_page(
            database, limit=limit, cursor=cursor, tenant=tenant, resource="gpt", offer=offer, ok=ok, since=since
        )
        assert len(page.items) <= limit
        found += [record.id for record in page.items]
        cursor, pages = page.next_cursor, pages + 1
        if cursor is None:
            break
        assert pages < 300
    database.close_writer()
    expected = [
        make_record(n, ok=n % 5 != 0).id
        for n in reversed(range(100))
        if (tenant is None or tenant == f"tenant-{n % 3}")
        and (offer is None or offer == f"provider-{n % 2}/gpt")
        and (ok is None or ok == (n % 5 != 0))
        and (since is None or n >= 55)
    ]
    assert found == expected


@pytest.fixture
async def path_of_100(open_store: OpenStore, path: Path) -> Path:
    store = open_store()
    for n in range(100):
        store.record(make_record(n, ok=n % 5 != 0))
    assert await store.flush()
    return path


async def test_feedback_is_taken_exactly_once(open_store: OpenStore) -> None:
    store = open_store()
    store.record(make_record(1))  # still in the queue: feedback waits for it
    taken = await asyncio.gather(*(store.add_feedback(decision_id(1), {"ok": True, "n": n}) for n in range(40)))
    assert sorted(taken) == [False] * 39 + [True]
    stored = await store.get(decision_id(1))
    assert stored is not None
    assert stored.feedback is not None
    assert msgspec.json.decode(stored.feedback) == {"ok": True, "n": taken.index(True)}


async def test_feedback_on_an_unknown_decision_is_refused(open_store: OpenStore) -> None:
    store = open_store()
    with pytest.raises(UnknownDecisionError, match="'nope'"):
        await store.add_feedback("nope", {"ok": True})
    assert store.status().healthy


async def test_a_full_queue_drops_and_counts(open_store: OpenStore) -> None:
    store = open_store(queue_size=3, interval_s=60.0)
    assert [store.record(make_record(n)) for n in range(5)] == [True, True, True, False, False]
    assert await store.flush()
    status = store.status()
    assert (status.written, status.dropped, status.dropped_queue_full) == (3, 2, 2)
    assert store.record(make_record(9))


async def test_a_bad_row_does_not_take_its_batch_along(open_store: OpenStore) -> None:
    store = open_store(interval_s=60.0)
    store.record(make_record(1))
    store.record(make_record(2, request_bytes=2**70))  # no 64-bit integer
    store.record(make_record(3, session="\ud800"))  # no UTF-8
    store.record(make_record(4, cost_usd=math.nan))  # SQLite makes it NULL
    store.record(make_record(5))
    assert await store.flush()
    status = store.status()
    assert status.healthy
    assert (status.written, status.dropped_unstorable) == (2, 3)
    assert [record.id for record in (await store.recent()).items] == [decision_id(5), decision_id(1)]


async def test_a_record_sent_twice_is_kept_once(open_store: OpenStore) -> None:
    store = open_store()
    store.record(make_record(1))
    store.record(make_record(1, tenant="another"))
    assert await store.flush()
    stored = await store.get(decision_id(1))
    assert stored is not None
    assert stored.record.tenant == "tenant-1"
    assert await store.count() == 1


async def test_boards_outlive_the_process(open_store: OpenStore) -> None:
    store = open_store(interval_s=60.0)
    store.remember_board("b1", [make_offer("one")])
    assert await store.board("b1") == (make_offer("one"),)  # before it is written
    store.record(make_record(1))
    await store.close()
    again = open_store()
    assert await again.board("b1") == (make_offer("one"),)
    assert await again.board("b2") is None


async def test_close_writes_what_waits_and_refuses_what_comes_later(open_store: OpenStore, path: Path) -> None:
    store = open_store(interval_s=60.0)
    for n in range(700):
        store.record(make_record(n))
    assert await store.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # the WAL was folded in
    assert not store.record(make_record(701))
    with pytest.raises(StorageError, match="closed"):
        await store.add_feedback(decision_id(1), {})
    assert not await store.flush()
    assert await open_store().count() == 700


def test_the_writer_rests_between_pieces_unless_somebody_waits(path: Path) -> None:
    rests: list[float] = []
    rested = threading.Event()

    def rest(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 3:
            rested.set()

    database = Database(path, busy_timeout_s=1.0, clock=Hand(NOW))
    retention = Retention(30.0, 10.0, clock=Hand(NOW), timer=Hand(0.0))
    recorder = Recorder(database, StoreSettings(path=path, interval_s=0.001), retention, clock=Hand(NOW), pause=rest)
    for n in range(2 * ROWS_PER_PIECE + 1):
        recorder.record(make_record(n))
    recorder.start()
    assert rested.wait(60)
    recorder.submit(lambda _: None).result(60)
    assert recorder.status().written == 2 * ROWS_PER_PIECE + 1
    assert recorder.close(10)
    assert len(rests) == 3


async def test_settings_of_the_file(open_store: OpenStore, path: Path) -> None:
    await open_store().flush()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)  # incremental
        version = connection.execute("SELECT value FROM amaru_meta WHERE key = 'schema_version'").fetchone()
        assert version == (str(schema.SCHEMA_VERSION),)


async def test_decisions_are_found_by_who_asked_and_what_was_tried(open_store: OpenStore) -> None:
    store = open_store()
    for i in range(6):
        tried = tuple(Attempt(f"{name}/m", name, 0.2, 9.5) for name in (f"p{i % 2}", "last")[: i // 3 + 1])
        store.record(make_record(i, team=f"t{i % 3}", key=f"k-{i}", attempts=tried, cost_usd=float(i)))
    await store.flush()

    async def found(**filters: object) -> list[str]:
        return [record.id for record in (await store.recent(**filters)).items]  # type: ignore[arg-type]  # a short hand

    assert await found(team="t1") == [decision_id(4), decision_id(1)]
    assert await found(key="k-2") == [decision_id(2)]
    assert await found(provider="last") == [decision_id(5), decision_id(4), decision_id(3)]
    assert await found(provider="p1", team="t0") == [decision_id(3)]
    assert await found(provider="p") == []
    assert await found(min_cost_usd=4.0) == [decision_id(5), decision_id(4)]


async def test_a_file_that_was_made_before_a_column_was_goes_on(open_store: OpenStore, path: Path) -> None:
    store = open_store()
    store.record(make_record(1))
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        for column in ("team", "key"):
            connection.execute(f"ALTER TABLE decisions DROP COLUMN {column}")
        connection.commit()
    again = open_store()
    again.record(make_record(2, key="k-2"))
    assert await again.flush()
    assert [record.key for record in (await again.recent()).items] == ["k-2", None]
