"""Connecting to a database by URL, SQLite or PostgreSQL, and its errors in words: what was wrong, where, what to do."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, create_engine, event, make_url
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, QueuePool

from amaru.errors import StorageError

BEGIN = "amaru_begin"
"""Execution option of an SQLite connection: the statement that begins its transactions, in place of the engine's;
empty: none does."""
CONNECT_TIMEOUT_S = 5.0
IDLE_TIMEOUT_S = 10.0
"""How long PostgreSQL waits for a transaction to go on before it is undone."""

_REMEDIES = {
    "SQLITE_NOTADB": "It is not an SQLite database. Move it aside, or name another path; a new one is made.",
    "SQLITE_CORRUPT": "It is damaged. Restore a copy, or move it and its -wal and -shm files aside; a new one is made.",
    "SQLITE_CANTOPEN": "Does its directory exist, and may this user create files there?",
    "SQLITE_READONLY": "This user may not write it. Give write permission to the file and to its directory.",
    "SQLITE_PERM": "This user may not write it. Give write permission to the file and to its directory.",
    "SQLITE_BUSY": "Another process holds its lock. Try again; if it stays so, stop it, or give each its own file.",
    "SQLITE_LOCKED": "Another process holds its lock. Try again; if it stays so, stop it, or give each its own file.",
    "SQLITE_FULL": "The disk is full. Free space, or lower storage.retention_gb.",
    "SQLITE_IOERR": "The disk reports an error, or a limit on file size was met.",
    # PostgreSQL's, by SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html).
    "28": "Check the user and the password of its URL.",
    "3D000": "Create the database, or name another one in the URL.",
    "42501": "Give this user the right to create and change tables there.",
    "53100": "The server's disk is full. Free space there.",
    "53300": "The server has no connection to spare. Raise max_connections there.",
    "25006": "The server takes no writes: it is a standby, or set to read only.",
    "55P03": "Another process holds a lock there. Try again when it is done.",
    "40": "Another process was changing the same. Try again.",
}
_UNREACHABLE = "Does the server run, and can it be reached from here?"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a database is: the engine's URL, the path where it is a file, and its name without a password."""

    url: URL
    path: Path | None
    name: str

    @classmethod
    def of(cls, url: str) -> Place:
        """From a path, ``sqlite:///PATH`` or ``postgresql://…``. Raises StorageError, which never shows a password."""
        if "\0" in url:
            raise StorageError("no path and no URL holds a NUL character. Write another one.")
        if "://" not in url:
            return cls(URL.create("sqlite+pysqlite", database=url), Path(url), url)
        scheme = url.partition("://")[0]
        try:
            made = make_url(url)
        except (ArgumentError, ValueError):
            raise StorageError(
                f"the {scheme}:// URL cannot be read. Write postgresql://user@host:5432/database, or a path."
            ) from None
        backend = made.get_backend_name()
        if backend == "sqlite" and made.database and made.database != ":memory:":
            return cls.of(made.database)
        if backend in ("postgresql", "postgres"):
            return cls(made.set(drivername="postgresql+psycopg"), None, _shown(made))
        raise StorageError(f"{scheme}://…: no database of amaru's. Name a file, or a postgresql:// URL.")


def _shown(url: URL) -> str:
    """Without a password, also where a parameter holds it."""
    return url.set(drivername="postgresql", query={}).render_as_string()


def storage_error(place: object, error: BaseException) -> StorageError:
    """What went wrong at ``place`` and what to do, without the statement and its values."""
    return StorageError(f"{place}: {in_words(error)}")


def cause_of(error: BaseException) -> tuple[BaseException, str]:
    """The driver's own error, and its code: SQLite's name of it, PostgreSQL's SQLSTATE; empty where it has none."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return cause, getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None) or ""


def in_words(error: BaseException, remedies: Mapping[str, str] = {}) -> str:
    """What went wrong and what to do, without the statement and its values.

    ``remedies``, by the beginnings of codes, go before those that hold for every database.
    """
    cause, code = cause_of(error)
    # Extended codes (SQLITE_IOERR_WRITE) begin with their primary one, SQLSTATEs with their class.
    remedy = next((text for known, text in [*remedies.items(), *_REMEDIES.items()] if code.startswith(known)), "")
    if isinstance(error, DBAPIError) and not code and not remedy:
        remedy = _UNREACHABLE
    said = " ".join(str(cause).split())[:500].rstrip(".")
    if isinstance(error, PoolTimeoutError):
        said, remedy = "every connection is in use", "Something there is slow, or too much is asked at once. Try again."
    return f"{said}{f' ({code})' if code else ''}. {remedy}".rstrip()


def sqlite_engine(
    path: Path, *, timeout_s: float, pragmas: tuple[str, ...], begin: str, pooled: int | None = None
) -> Engine:
    """How to connect to an SQLite file; nothing is connected yet.

    Parameters
    ----------
    timeout_s
        How long to wait for another connection's lock, and for a free connection of the pool.
    pragmas
        Run on each new connection.
    begin
        Begins transactions, in place of the driver's own guesses.
    pooled
        ``None``: a new connection each time, which makes a file that is missing. Else as many are kept, twice as many
        given out at most, and the file must be there: SQLite would go on writing into a deleted one, unnoticed.
    """
    # hide_parameters: no value of a row in an error's text.
    if pooled is None:
        engine = create_engine(
            URL.create("sqlite+pysqlite", database=str(path)),
            poolclass=NullPool,
            hide_parameters=True,
            connect_args={"timeout": timeout_s},
        )
    else:
        engine = create_engine(
            URL.create("sqlite+pysqlite", database=f"file:{quote(str(path))}", query={"mode": "rw", "uri": "true"}),
            poolclass=QueuePool,
            pool_size=pooled,
            max_overflow=pooled,
            pool_timeout=timeout_s,
            hide_parameters=True,
            connect_args={"timeout": timeout_s, "check_same_thread": False},
        )

    @event.listens_for(engine, "connect")
    def _on_connect(driver: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        driver.isolation_level = None
        for pragma in pragmas:
            driver.execute(f"PRAGMA {pragma}").fetchall()
        entry.info["file"] = identity(path)

    @event.listens_for(engine, "checkout")
    def _on_checkout(_driver: object, entry: ConnectionPoolEntry, _proxy: object) -> None:
        if entry.info["file"] != identity(path):
            raise DisconnectionError

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        statement = connection.get_execution_options().get(BEGIN, begin)
        if statement:
            connection.exec_driver_sql(statement)

    return engine


def postgresql_engine(url: URL, *, timeout_s: float, pooled: int) -> Engine:
    """How to connect to PostgreSQL; nothing is connected yet. Raises StorageError: psycopg is not installed.

    ``timeout_s`` and ``pooled`` are as for ``sqlite_engine``.
    """
    try:
        engine = create_engine(
            url,
            hide_parameters=True,
            pool_size=pooled,
            max_overflow=pooled,
            pool_timeout=timeout_s,
            pool_pre_ping=True,
            # A server that vanished without a word is given up after ten seconds, not after the kernel's quarter-hour.
            connect_args={"connect_timeout": int(CONNECT_TIMEOUT_S), "tcp_user_timeout": 10_000},
        )
    except (ModuleNotFoundError, NoSuchModuleError):
        raise StorageError("PostgreSQL needs psycopg: pip install 'amaru[postgres]'.") from None

    @event.listens_for(engine, "connect")
    def _on_connect(driver: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = driver.cursor()
        cursor.execute(f"SET lock_timeout = {int(timeout_s * 1000)}")
        # A process that is stopped in the middle would keep its locks, and everybody waiting.
        cursor.execute(f"SET idle_in_transaction_session_timeout = {int(IDLE_TIMEOUT_S * 1000)}")
        cursor.close()
        driver.commit()

    return engine


def set_orphans_aside(path: Path) -> None:
    """A WAL whose file is gone must not become a new file's: its frames would be taken for that file's own."""
    if not path.exists():
        Path(f"{path}-shm").unlink(missing_ok=True)
        wal = Path(f"{path}-wal")
        if wal.exists():
            wal.rename(f"{wal}.orphan")


def identity(path: Path) -> tuple[int, int] | None:
    """Which file a path leads to; ``None``: to none."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat, at each checkout
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
