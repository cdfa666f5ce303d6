"""A store is brought to the newest tables by whoever opens it, once, whole or not at all; else it says why."""

from __future__ import annotations

import sqlite3
import stat
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, inspect, update

from amaru.accounts import migrations
from amaru.accounts import store as store_module
from amaru.accounts.schema import SCHEMA_VERSION, VERSION_TABLE, meta, metadata, version_table, versions
from amaru.accounts.store import CONNECTIONS, Store
from amaru.errors import StorageError


def test_the_migrations_make_what_the_schema_describes(store: Store) -> None:
    with store.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_the_schema_names_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_VERSION


def test_opened_again_it_holds_what_it_held(store: Store, store_url: str) -> None:
    with store.writing() as connection:
        connection.execute(meta.insert().values(key="a", value="b"))
    again = Store(store_url)
    again.open()
    with again.reading() as connection:
        assert connection.execute(meta.select()).all() == [("a", "b")]
    again.close()


def test_of_many_that_open_a_new_store_at_once_one_makes_the_tables(store_url: str) -> None:
    stores = [Store(store_url, busy_timeout_s=60) for _ in range(6)]
    errors: list[Exception] = []
    start = threading.Barrier(len(stores))

    def open_one(store: Store) -> None:
        start.wait()
        try:
            store.open()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert errors == []


def test_a_step_that_fails_leaves_no_half_made_tables(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import OperationalError

    whole = migrations.upgrade

    def upgrade(connection) -> None:
        whole(connection)
        raise OperationalError("CREATE TABLE", {}, Exception("disk full"))

    monkeypatch.setattr(migrations, "upgrade", upgrade)
    store = Store(store_url)
    with pytest.raises(StorageError, match="disk full"):
        store.open()
    with store.reading() as connection:
        assert inspect(connection).get_table_names() == []
    monkeypatch.undo()
    store.open()
    store.close()


def test_a_newer_schema_is_refused_and_left_as_it_is(store: Store, store_url: str) -> None:
    with store.writing() as connection:
        connection.execute(update(version_table).values(version_num="9999"))
    newer = Store(store_url)
    with pytest.raises(StorageError, match=r"written by a newer amaru \(schema 9999; this one knows .*Upgrade amaru"):
        newer.open()
    newer.close()


def test_another_programs_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (id)")
    with pytest.raises(StorageError, match=r"other\.db: the database belongs to another program"):
        Store(str(path)).open()


def test_in_postgresql_it_may_share_a_database(postgresql_store_url: str) -> None:
    store = Store(postgresql_store_url)
    with store.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE theirs (id int)")
    store.open()
    store.close()


def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data" / "accounts.db"
    store = Store(str(path))
    store.open()
    files = [path, *path.parent.glob("accounts.db-*")]
    store.close()
    assert {stat.S_IMODE(file.stat().st_mode) for file in files if file.exists()} == {0o600}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:hunter2@[::1/db", "URL cannot be read"),
        ("mysql://u:hunter2@h/db", "no database of amaru's"),
        ("sqlite://", "no database of amaru's"),
        ("a\0b.db", "NUL character"),
        ("postgresql://u:hunter2@127.0.0.1:1/db?password=hunter2", "Does the server run"),
    ],
)
def test_what_cannot_be_opened_is_named_without_its_password(url: str, said: str) -> None:
    with pytest.raises(StorageError, match=said) as caught:
        Store(url).open()
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match=r"accounts\.db: .*Move it aside"):
        Store(str(path)).open()
    assert path.read_bytes() == b"not a database" * 100


def test_a_file_that_is_taken_away_is_noticed_not_written_into_the_void(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    store = Store(str(path))
    store.open()
    path.unlink()
    with pytest.raises(StorageError, match=r"accounts\.db: unable to open"), store.writing() as connection:
        connection.execute(meta.insert().values(key="a", value="b"))
    assert not path.exists()
    store.close()


def test_what_is_raised_undoes_the_transaction(store: Store) -> None:
    def fail_midway() -> None:
        with store.writing() as connection:
            connection.execute(meta.insert().values(key="a", value="b"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_midway()
    with store.reading() as connection:
        assert connection.execute(meta.select()).all() == []


def test_a_full_disk_is_said_and_what_was_kept_stays(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "accounts.db"))
    store.open()
    row = {"key": "kept", "value": "x"}
    with store.writing() as connection:
        connection.execute(meta.insert(), [row])
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    event.listen(store.engine, "connect", lambda driver, _: driver.execute(f"PRAGMA max_page_count = {pages}"))
    store.close()  # the next connections find the disk full

    def fill() -> None:
        with store.writing() as connection:
            connection.execute(meta.insert(), [{"key": str(n), "value": "x" * 10_000} for n in range(100)])

    with pytest.raises(StorageError, match=r"accounts\.db: database or disk is full \(SQLITE_FULL\). The disk is full"):
        fill()
    with store.reading() as connection:
        assert connection.execute(meta.select()).all() == [("kept", "x")]
    store.close()


def test_a_server_that_was_away_is_found_again(postgresql_store_url: str) -> None:
    store = Store(postgresql_store_url)
    store.open()
    with store.reading() as connection:
        mine = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()

    def lose() -> None:
        with store.writing() as connection:
            connection.execute(meta.insert().values(key="half", value="done"))
            mine_now = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            with store.writing() as other:
                other.exec_driver_sql(f"SELECT pg_terminate_backend({mine_now})")
            connection.execute(meta.insert().values(key="other", value="half"))

    with pytest.raises(StorageError, match="terminating connection"):
        lose()
    with store.reading() as connection:
        assert connection.execute(meta.select()).all() == []
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() != mine
    store.close()


def test_more_at_once_than_there_are_connections_is_said(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "accounts.db"), busy_timeout_s=0.05)
    store.open()
    with ExitStack() as open_ones:
        for _ in range(2 * CONNECTIONS):
            open_ones.enter_context(store.reading())
        with pytest.raises(StorageError, match=r"accounts\.db: every connection is in use. .* Try again"):
            open_ones.enter_context(store.reading())
    store.close()


def test_a_lock_that_another_holds_is_waited_for_a_while_and_said(store: Store, store_url: str) -> None:
    other = Store(store_url, busy_timeout_s=0.05)
    change = update(versions).where(versions.c.name == "directory").values(version=7)

    def change_too() -> None:
        with other.writing() as connection:
            connection.execute(change)

    with store.writing() as connection:
        connection.execute(change)
        with pytest.raises(StorageError, match=r"Another process holds (its|a) lock.* Try again"):
            change_too()
    change_too()
    other.close()


def test_who_opens_a_store_waits_until_another_has_made_the_tables(postgresql_store_url: str) -> None:
    store, other = Store(postgresql_store_url, busy_timeout_s=0.05), Store(postgresql_store_url, busy_timeout_s=60.0)
    with ThreadPoolExecutor() as pool, other.reading() as connection:
        ours = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({store_module._LOCK})")
        opening = pool.submit(store.open)
        waits = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND {ours} = ANY(pg_blocking_pids(pid))"
        while not connection.exec_driver_sql(waits).scalar_one():
            assert not opening.done()
        assert wait([opening], timeout=0.2).not_done, "longer than a lock that is busy is waited for"
        connection.rollback()
        opening.result(60)
    store.close()
    other.close()


def test_postgresql_ends_transactions_that_do_not_go_on(postgresql_store_url: str) -> None:
    store = Store(postgresql_store_url)
    with store.reading() as connection:
        shown = connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one()
        assert shown == "5min"  # as conftest.py has it
    store.close()
