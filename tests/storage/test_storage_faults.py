"""Law 8: what can happen to a file happens to this one."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from storage_samples import NOW, OpenStore, decision_id, delete, make_offer, make_record

from amaru.errors import StorageError


def test_a_file_that_is_no_database_is_refused_and_left_alone(open_store: OpenStore, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, but somebody's file" * 100)
    with pytest.raises(StorageError, match=r"amaru\.db: .*not an SQLite database\. Move it aside"):
        open_store()
    assert path.read_bytes().startswith(b"not a database")


def overwrite_all_but_the_first_page(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(16384)
        file.write(b"\xff" * (size - 16384))


async def test_a_damaged_database_is_refused(open_store: OpenStore, path: Path) -> None:
    store = open_store()
    for n in range(3_000):
        store.record(make_record(n))
    await store.close()
    overwrite_all_but_the_first_page(path)
    with pytest.raises(StorageError, match=r"damaged\. Restore a copy, or move it"):
        open_store()


def test_another_programs_database_is_refused(open_store: OpenStore, path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(StorageError, match="another program"):
        open_store()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("bookmarks",)]


async def test_a_newer_schema_is_refused(open_store: OpenStore, path: Path) -> None:
    await open_store().close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE amaru_meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(StorageError, match=r"newer amaru \(schema 99; this one knows 1\)"):
        open_store()


def test_an_impossible_path_is_named(open_store: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/amaru\.db"):
        open_store(path=tmp_path / "file" / "amaru.db")
    with pytest.raises(StorageError, match="Does its directory exist"):
        open_store(path=tmp_path)


@pytest.mark.usefixtures("modes_bind")
def test_a_read_only_directory_is_named(open_store: OpenStore, path: Path) -> None:
    path.parent.mkdir(mode=0o500)
    with pytest.raises(StorageError, match="may this user create files there"):
        open_store()


def test_a_locked_file_is_refused_at_the_start(open_store: OpenStore, path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match="Another process holds its lock"):
            open_store(busy_timeout_s=0.01)


async def test_a_lock_while_running_delays_and_then_drops_but_never_blocks(open_store: OpenStore, path: Path) -> None:
    store = open_store(busy_timeout_s=0.01, queue_size=100)
    store.record(make_record(0))
    assert await store.flush()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for n in range(1, 21):
            assert store.record(make_record(n))
        assert not await store.flush()
        status = store.status()
        assert not status.healthy
        assert status.last_error is not None
        assert "Another process holds its lock" in status.last_error
        assert status.queue_depth == 20
        with pytest.raises(StorageError, match="lock"):
            await store.add_feedback(decision_id(0), {"ok": True})
        stored = await store.get(decision_id(7))  # found while it cannot be written
        assert stored is not None
        assert stored.pending
        assert len((await store.recent()).items) == 1  # reading goes on
        while store.record(make_record(10_000 + store.status().queue_depth)):
            pass
        assert store.status().dropped_queue_full == 1
    assert await store.flush()
    status = store.status()
    assert status.healthy
    assert status.queue_depth == 0
    assert await store.count() == status.written
    assert await store.add_feedback(decision_id(0), {"ok": True})  # the failed one was not kept


async def test_close_does_not_wait_for_a_lock_for_ever(open_store: OpenStore, path: Path) -> None:
    store = open_store(busy_timeout_s=30.0, interval_s=60.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store.record(make_record(1))
        assert not await store.close(0.05)
        assert store.status().dropped_unwritten == 1


async def test_a_deleted_file_is_noticed_and_made_anew(open_store: OpenStore, path: Path) -> None:
    store = open_store(interval_s=60.0)
    store.remember_board("b1", [make_offer("one")])
    store.record(make_record(1))
    assert await store.flush()
    delete(path)
    store.record(make_record(2))
    assert await store.flush()
    status = store.status()
    assert status.healthy
    assert status.last_error is not None
    assert "deleted or replaced" in status.last_error
    assert await store.get(decision_id(1)) is None
    assert await store.get(decision_id(2)) is not None
    await store.close()
    again = open_store()
    assert await again.board("b1") is not None  # written into the new file too
    assert await again.count() == 1


async def test_a_deleted_directory_that_cannot_come_back(open_store: OpenStore, path: Path) -> None:
    store = open_store(interval_s=60.0)
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way")
    store.record(make_record(1))
    assert not await store.flush()
    assert not store.status().healthy
    path.parent.unlink()
    assert await store.flush()
    assert store.status().healthy
    assert await store.count() == 1


async def test_errors_show_no_values(open_store: OpenStore, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(interval_s=60.0)
    store.record(make_record(1, tenant="SENTINEL", request_bytes=2**70))
    assert await store.flush()
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE decisions")
        other.commit()
    store.record(make_record(2, tenant="SENTINEL"))
    assert not await store.flush()
    assert "no such table" in str(store.status().last_error)
    assert "SENTINEL" not in str(store.status())
    assert "SENTINEL" not in caplog.text


HELPERS = f"""
import asyncio, json, resource, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from storage_samples import make_record
from amaru.storage import DecisionStore, StoreSettings
path = Path(sys.argv[1])
"""

DISK_FULL = """
async def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = DecisionStore(StoreSettings(path=path, interval_s=0.001, queue_size=2000), clock=lambda: 1.8e9)
    store.start()
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    n = 0
    while store.status().healthy:
        n += store.record(make_record(n))
        await asyncio.sleep(0)
    failing = store.status()
    while store.record(make_record(n)):
        n += 1
    full = store.status()
    readable = await store.count()
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    # What was being written when room came back may still fail, and the first wait with it.
    recovered = await store.flush(40.0) or await store.flush(40.0)
    after = store.status()
    counted = await store.count()
    await store.close()
    print(json.dumps({"error": failing.last_error, "dropped": full.dropped_queue_full, "readable": readable,
        "recovered": recovered, "healthy": after.healthy, "written": after.written, "counted": counted, "sent": n}))
asyncio.run(main())
"""


def test_a_full_disk_costs_records_not_requests(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELPERS + DISK_FULL, str(path)], capture_output=True, text=True, timeout=300, check=True
    )
    told = json.loads(done.stdout)
    assert "SQLITE_IOERR" in told["error"] or "SQLITE_FULL" in told["error"]
    assert told["dropped"] >= 1
    assert told["recovered"]
    assert told["healthy"]
    assert told["counted"] == told["written"] == told["sent"]


KILLED = """
async def main():
    store = DecisionStore(StoreSettings(path=path, interval_s=0.001, queue_size=1_000_000), clock=lambda: 1.8e9)
    store.start()
    n = 0
    while True:
        for _ in range(500):
            store.record(make_record(n)); n += 1
        if not await store.flush(10.0):
            raise SystemExit(store.status().last_error)
        print(n, flush=True)
asyncio.run(main())
"""


def write_until_killed(path: Path, rounds: int) -> int:
    """Kill a writer in the midst of its work; returns how many records it had acknowledged."""
    command = [sys.executable, "-c", HELPERS + KILLED, str(path)]
    acknowledged = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(rounds):
            acknowledged = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
    return acknowledged


@pytest.mark.parametrize("rounds", [1, 4, 9])
async def test_kill_9_loses_nothing_acknowledged(open_store: OpenStore, path: Path, rounds: int) -> None:
    acknowledged = write_until_killed(path, rounds)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = open_store(clock=lambda: NOW)
    assert await store.count() >= acknowledged > 0
    stored = await store.get(decision_id(acknowledged - 1))
    assert stored is not None
    assert stored.record == make_record(acknowledged - 1)
