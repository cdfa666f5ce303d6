"""The SQLite file: opening it, and its settings.

SQLite in WAL mode (https://sqlite.org/wal.html): readers never wait for the writer. ``synchronous=NORMAL``: a killed
process loses nothing that was committed; a power cut may lose the last commits, never the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from amaru.errors import StorageError
from amaru.storage.engine import identity, set_orphans_aside, sqlite_engine, storage_error
from amaru.storage.schema import SCHEMA_VERSION, decisions, metadata

PAGE_BYTES = 16 * 1024
"""Records are appended, so large pages cost nothing to find, and a quarter of the writes of SQLite's own 4 KB, with
which the kernel takes as long for a record as SQLite."""
CHECKPOINT_PAGES = 1_000
"""The WAL is folded into the file every 16 MB; SQLite's own 4 MB folds the same hot pages more often."""
JOURNAL_LIMIT_BYTES = 64 * 1024 * 1024
"""A WAL that grew beyond this (under a long read) is cut back at the next checkpoint."""
READ_TIMEOUT_S = 5.0


class Database:
    """One file, with one connection for the writer and a small pool for readers.

    ``open`` and ``writing`` belong to one thread at a time; ``reading`` to any.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float, clock: Callable[[], float]) -> None:
        self.path = path
        self._clock = clock
        self._write_engine = sqlite_engine(
            path, timeout_s=busy_timeout_s, pragmas=_WRITER_PRAGMAS, begin="BEGIN IMMEDIATE"
        )
        self._read_engine = sqlite_engine(
            path, timeout_s=READ_TIMEOUT_S, pragmas=("query_only = ON",), begin="BEGIN", pooled=2
        )
        self._connection: Connection | None = None
        self._identity: tuple[int, int] | None = None

    @property
    def is_open(self) -> bool:
        """The writer has a connection."""
        return self._connection is not None

    def open(self) -> None:
        """Connect the writer; create the file, its directory and its tables where they are missing.

        Raises
        ------
        StorageError
            Naming the file and the remedy: unusable path, no permission, damaged, another program's, locked, or written
            by a newer amaru.
        """
        self.close_writer()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            set_orphans_aside(self.path)
            connection = self._write_engine.connect()
        except (DBAPIError, OSError) as error:
            raise storage_error(self.path, error) from error
        try:
            with connection.begin():
                self._prepare(connection)
            self._identity = identity(self.path)
        except (DBAPIError, OSError) as error:
            connection.close()
            raise storage_error(self.path, error) from error
        except StorageError:
            connection.close()
            raise
        self._connection = connection

    def _prepare(self, connection: Connection) -> None:
        """Refuse what is not ours or too new; create what is missing; write one row, to know now that we can."""
        tables = set(inspect(connection).get_table_names())
        if tables and "amaru_meta" not in tables:
            raise StorageError(f"{self.path}: the database belongs to another program. Name another path.")
        metadata.create_all(connection)
        _add_columns(connection)
        row = connection.exec_driver_sql("SELECT value FROM amaru_meta WHERE key = 'schema_version'").first()
        if row is not None and int(row[0]) > SCHEMA_VERSION:
            raise StorageError(
                f"{self.path}: written by a newer amaru (schema {row[0]}; this one knows {SCHEMA_VERSION}). "
                "Upgrade amaru, or name another path."
            )
        for key, value in (("schema_version", str(SCHEMA_VERSION)), ("opened_at", f"{self._clock():.3f}")):
            connection.exec_driver_sql(
                "INSERT INTO amaru_meta (key, value) VALUES (?, ?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, value),
            )
        # Touch both ends of the large table: a damaged file is better refused now than met while serving.
        for order in ("ASC", "DESC"):
            connection.exec_driver_sql(f"SELECT * FROM decisions ORDER BY id {order} LIMIT 1").first()  # noqa: S608

    def was_replaced(self) -> bool:
        """The path no longer leads to the open file. SQLite would go on writing into the deleted one, unnoticed."""
        return self._identity is not None and identity(self.path) != self._identity

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """The writer's connection, in a transaction that commits at the end. Raises what the driver raises."""
        assert self._connection is not None, "open() comes first"
        with self._connection.begin():
            yield self._connection

    @contextmanager
    def outside_transaction(self) -> Iterator[sqlite3.Connection]:
        """The driver's own connection of the writer, for the PRAGMAs that refuse to run in a transaction."""
        assert self._connection is not None, "open() comes first"
        driver = self._connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        yield driver

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A reader's connection with one consistent view.

        Raises
        ------
        StorageError
            The file cannot be read, or no connection came free within five seconds.
        """
        try:
            with self._read_engine.connect() as connection, connection.begin():
                yield connection
        except SQLAlchemyError as error:
            raise storage_error(self.path, error) from error

    def close_writer(self) -> None:
        """Give the writer's connection up, whatever state it is in, and the readers' idle ones with it."""
        connection, self._connection, self._identity = self._connection, None, None
        self._read_engine.dispose()
        if connection is not None:
            try:
                connection.close()
            except DBAPIError:
                connection.invalidate()

    def sizes(self) -> tuple[int, int]:
        """Bytes of the file and of its WAL; 0 where there is none."""
        return _size(self.path), _size(Path(f"{self.path}-wal"))


_WRITER_PRAGMAS = (
    f"page_size = {PAGE_BYTES}",  # this one and the next take effect while the file is empty
    "auto_vacuum = INCREMENTAL",
    "journal_mode = WAL",
    "synchronous = NORMAL",
    f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
    f"journal_size_limit = {JOURNAL_LIMIT_BYTES}",
    "cache_size = -8000",
    "secure_delete = FAST",
)


def _add_columns(connection: Connection) -> None:
    """Columns that came later, all of which may be empty, to files that were made before."""
    there = {column["name"] for column in inspect(connection).get_columns(decisions.name)}
    for column in decisions.columns:
        if column.name not in there:
            connection.exec_driver_sql(f"ALTER TABLE decisions ADD COLUMN {column.name} {column.type}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
