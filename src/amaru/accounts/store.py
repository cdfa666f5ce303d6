"""The accounts' store by URL: an SQLite file, or PostgreSQL; opening it brings its tables up to date.

SQLite with ``synchronous=FULL``: what was committed (a lease, a revocation) outlives a loss of power too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, inspect, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from amaru.accounts.schema import SCHEMA_VERSION, VERSION_TABLE, metadata, version_table
from amaru.errors import StorageError
from amaru.files.whole import make_folder
from amaru.storage.engine import BEGIN, Place, postgresql_engine, set_orphans_aside, sqlite_engine, storage_error

BUSY_TIMEOUT_S = 5.0
UPGRADE_TIMEOUT_S = 120
"""For as long, in PostgreSQL, tables may be changed, and others wait until they are: a start must not fail of it."""
CONNECTIONS = 4
"""Kept open; twice as many at most."""
_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "journal_size_limit = 67108864",
    "secure_delete = FAST",
)
_LOCK = 0x616D617275
"""Of PostgreSQL's advisory locks (``amaru`` in ASCII), while one process changes the tables."""


class Store:
    """Tenants, keys, allowances, counters and charges in one database; may be used by several threads.

    Parameters
    ----------
    url
        A path, ``sqlite:///PATH`` or ``postgresql://…``.
    busy_timeout_s
        How long to wait for a lock that another process holds, and for a free connection.

    Raises
    ------
    StorageError
        The URL cannot be read, or psycopg is not installed. Nothing is connected yet.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.place = Place.of(url)
        path = self.place.path
        self.engine: Engine = (
            postgresql_engine(self.place.url, timeout_s=busy_timeout_s, pooled=CONNECTIONS)
            if path is None
            else sqlite_engine(
                path, timeout_s=busy_timeout_s, pragmas=_PRAGMAS, begin="BEGIN IMMEDIATE", pooled=CONNECTIONS
            )
        )

    @property
    def name(self) -> str:
        """Where it is; without a password."""
        return self.place.name

    @property
    def on_postgresql(self) -> bool:
        return self.place.path is None

    def open(self) -> None:
        """Connect; make what is missing and bring what is older up to date, one process at a time.

        Raises
        ------
        StorageError
            Naming the place and the remedy: unreachable, no permission, damaged, another program's, or written by a
            newer amaru.
        """
        path = self.place.path
        if path is not None:
            try:
                make_folder(path.parent)
                set_orphans_aside(path)
                # Hashes of keys and what each team spends are nobody else's business.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            except OSError as error:
                raise storage_error(self.name, error) from error
        with self.reading() as connection:
            found = self._version(connection)
        if found != SCHEMA_VERSION:
            with self.writing() as connection:
                if self.on_postgresql:
                    for limit in ("lock_timeout", "idle_in_transaction_session_timeout"):
                        connection.exec_driver_sql(f"SET LOCAL {limit} = '{UPGRADE_TIMEOUT_S}s'")
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
                if self._version(connection) != SCHEMA_VERSION:  # else another process was faster
                    from amaru.accounts.migrations import upgrade

                    upgrade(connection)

    def _version(self, connection: Connection) -> str | None:
        """The schema's version, ``None`` where there is none yet. Raises StorageError: not one of ours."""
        tables = set(inspect(connection).get_table_names())
        if VERSION_TABLE not in tables:
            others = tables if not self.on_postgresql else tables & set(metadata.tables)
            if others:
                raise StorageError(f"{self.name}: the database belongs to another program. Name another place.")
            return None
        found = connection.execute(select(version_table.c.version_num)).scalar()
        if found is not None and found > SCHEMA_VERSION:
            raise StorageError(
                f"{self.name}: written by a newer amaru (schema {found}; this one knows {SCHEMA_VERSION}). "
                "Upgrade amaru, or name another place."
            )
        return found

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that commits at the end, and is undone where anything is raised; in SQLite the only writer's.

        Raises StorageError in place of what the driver raises.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that waits for no writer. Raises StorageError in place of what the driver raises."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        try:
            with self.engine.connect().execution_options(**{BEGIN: begin}) as connection, connection.begin():
                yield connection
        except SQLAlchemyError as error:
            raise storage_error(self.name, error) from error

    def close(self) -> None:
        """Give the connections up."""
        self.engine.dispose()
