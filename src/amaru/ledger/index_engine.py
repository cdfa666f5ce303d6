"""Where an index lies: a SQLite file or a PostgreSQL database; connecting to it, and its errors in words."""

from __future__ import annotations

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from amaru.errors import LedgerBusy, LedgerError, StorageError
from amaru.storage.engine import Place, cause_of, in_words, postgresql_engine, sqlite_engine

BUSY_S = 30.0
"""How long one process waits for another that is indexing."""
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03")
_PRAGMAS = ("synchronous = NORMAL", "cache_size = -16000", "secure_delete = ON")
_REMEDIES = {
    "SQLITE_READONLY": "This user may not write it: name another place for the index (AMARU_LEDGER_INDEX).",
    "SQLITE_CANTOPEN": "Does its folder exist, and may this user write there? Else name another place.",
    "SQLITE_FULL": "The disk is full: free space; the index goes on where it was.",
}


def place_of(url: str) -> Place:
    """From a path or a URL. Raises LedgerError, which never shows a password."""
    try:
        return Place.of(url)
    except StorageError as error:
        raise LedgerError(f"an index cannot lie there: {error}") from None


def engine_of(place: Place) -> Engine:
    """How to connect there; nothing is connected yet. Raises LedgerError: what that needs is not installed."""
    if place.path is not None:
        return sqlite_engine(place.path, timeout_s=BUSY_S, pragmas=_PRAGMAS, begin="BEGIN")
    try:
        return postgresql_engine(place.url, timeout_s=BUSY_S, pooled=1)
    except StorageError as error:
        raise LedgerError(str(error)) from None


def is_damage(error: SQLAlchemyError) -> bool:
    """A SQLite file is not whole, or none."""
    return cause_of(error)[1].startswith(_DAMAGE)


def ledger_error(place: Place, error: SQLAlchemyError) -> LedgerError:
    """What went wrong and what to do, without the statement, its values and a password."""
    if cause_of(error)[1].startswith(_BUSY):
        return LedgerBusy(f"{place.name}: another process is using the index; try again when it is done")
    return LedgerError(f"{place.name}: the index cannot be used: {in_words(error, _REMEDIES)}")
