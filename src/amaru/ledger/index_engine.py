"""Where an index lies: a SQLite file or a PostgreSQL database; connecting to it, and its errors in words."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import URL, create_engine, event, make_url
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from amaru.errors import LedgerBusy, LedgerError

BUSY_S = 30.0
"""How long one process waits for another that is indexing."""
BEGIN = "amaru_begin"
"""Execution option of an SQLite connection: the statement that begins its transactions; empty: none does."""
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")


def place(url: str) -> tuple[URL, Path | None]:
    """The engine's URL, and the path where it is a file. Raises LedgerError, which never shows a password."""
    if "://" not in url:
        return URL.create("sqlite+pysqlite", database=url), Path(url)
    scheme = url.partition("://")[0]
    try:
        made = make_url(url)
    except (ArgumentError, ValueError):
        raise LedgerError(
            f"the index's {scheme} URL cannot be read; write postgresql://user@host:5432/database"
        ) from None
    backend = made.get_backend_name()
    if backend == "sqlite" and made.database:
        return made.set(drivername="sqlite+pysqlite"), Path(made.database)
    if backend in ("postgresql", "postgres"):
        return made.set(drivername="postgresql+psycopg"), None
    raise LedgerError(f"an index cannot lie at {scheme}://…: name a file, or a postgresql:// URL")


def engine(url: URL) -> Engine:
    """How to connect there; nothing is connected yet. Raises LedgerError: what that needs is not installed."""
    if url.get_backend_name() == "sqlite":
        made = create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": BUSY_S})

        @event.listens_for(made, "connect")
        def _on_connect(driver: sqlite3.Connection, _: object) -> None:
            driver.isolation_level = None
            for pragma in ("synchronous = NORMAL", "cache_size = -16000", "secure_delete = ON"):
                driver.execute(f"PRAGMA {pragma}").fetchall()

        @event.listens_for(made, "begin")
        def _on_begin(connection: Connection) -> None:
            statement = connection.get_execution_options().get(BEGIN, "BEGIN")
            if statement:
                connection.exec_driver_sql(statement)

        return made
    try:
        return create_engine(url, hide_parameters=True, pool_size=1, pool_pre_ping=True)
    except (ModuleNotFoundError, NoSuchModuleError):
        raise LedgerError("an index in PostgreSQL needs psycopg: pip install 'psycopg[binary]'") from None


def is_damage(error: SQLAlchemyError) -> bool:
    """A SQLite file is not whole, or none."""
    name = getattr(getattr(error, "orig", None), "sqlite_errorname", "") or ""
    return name.startswith(_DAMAGE)


def in_words(place: str, error: SQLAlchemyError) -> LedgerError:
    """What went wrong and what to do, without the statement, its values and a password."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    name = getattr(cause, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return LedgerBusy(f"{place}: another process is using the index; try again when it is done")
    remedy = {
        "SQLITE_READONLY": "This user may not write it: name another place for the index (AMARU_LEDGER_INDEX).",
        "SQLITE_CANTOPEN": "Does its folder exist, and may this user write there? Else name another place.",
        "SQLITE_FULL": "The disk is full: free space; the index goes on where it was.",
        "SQLITE_IOERR": "The disk reports an error.",
    }.get("_".join(name.split("_")[:2]), "")
    said = " ".join(str(cause).split())[:300]
    return LedgerError(f"{place}: the index cannot be used: {said}. {remedy}".rstrip())
