"""The search index of a log: SQLite with FTS5, or PostgreSQL by URL. Derived: the log can make it anew at any time.

It says where a receipt stands, never what it says: that is read from the log, and its hash compared. So an index that
was tampered with can hide a receipt until it is built again, and can make up none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Select, func, inspect, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from amaru.errors import LedgerError
from amaru.ledger.index_engine import engine_of, is_damage, ledger_error, place_of
from amaru.ledger.index_rows import Row, pruned_row, row_of
from amaru.ledger.index_schema import SCHEMA_VERSION, Tables, tables_of
from amaru.ledger.search import Search, terms_of
from amaru.ledger.view import Pruned
from amaru.storage.engine import BEGIN

BATCH_ROWS = 4_096
"""Rows of one transaction."""
BATCH_WORDS = 500_000
"""Words of one transaction; whichever comes first. At most some 50 MB."""
MANY_ROWS = 20_000
"""New rows after which a database looks anew at what it holds."""
READ_ENTRIES = 256
"""Entries read from the log at once: a bundle, at most 16 MiB."""
_MAGIC = b"SQLite format 3\0"
"""How a database's file begins (https://sqlite.org/fileformat.html, 1.3)."""

_Given = TypeVar("_Given")


class Source(Protocol):
    """What the index reads of a log; a ``LogView`` has it."""

    origin: str | None

    @property
    def size(self) -> int: ...
    @property
    def pruned(self) -> Pruned: ...
    def entries(self, start: int, end: int) -> Iterator[bytes]: ...
    def leaf_hash(self, index: int) -> bytes: ...
    def root(self, size: int) -> bytes: ...
    def refresh(self) -> object:
        """Look for a newer checkpoint."""


class Found(msgspec.Struct, frozen=True):
    """Where a receipt stands, and the hash that its entry must have."""

    leaf: int
    hash: bytes


class Index:
    """The index of one log.

    Parameters
    ----------
    url
        A path, ``sqlite:///PATH`` or ``postgresql://…``.
    source
        The log. Only its holder appends; the index only reads.
    told
        Called with a line about what a person should know: that an index was set aside, and why.

    Raises
    ------
    LedgerError
        The place cannot be used: it belongs to another program, cannot be reached or written.
    """

    def __init__(self, url: str, source: Source, *, told: Callable[[str], None] = lambda _: None) -> None:
        self._at = place_of(url)
        self._path = self._at.path
        self._source = source
        self._told = told
        self._engine = engine_of(self._at)
        # Several logs may share a PostgreSQL database; of a file, each log has its own.
        prefix = "" if self._path else f"ledger_{hashlib.sha256((source.origin or '').encode()).hexdigest()[:12]}_"
        self._tables: Tables = tables_of(self._engine.dialect.name, prefix)
        self._ready = False

    @property
    def place(self) -> str:
        """Where it is; without a password."""
        return self._at.name

    def catch_up(self, progress: Callable[[int, int], None] = lambda _done, _size: None) -> int:
        """Take in what the log has and the index has not; how many entries that were. Raises LedgerError.

        ``progress`` is called with how far it stands, and the size of the log. Each batch is one transaction: killed,
        it goes on where it was. Two processes may do it at once.
        """
        return self._healed(lambda: self._catch_up(progress))

    def rebuild(self, progress: Callable[[int, int], None] = lambda _done, _size: None) -> int:
        """Make it anew from the log; how many entries it holds. Raises LedgerError."""
        with self._engine.begin() if self._path is None else _nothing() as connection:
            if connection is not None:
                self._tables.drop(connection)
        if self._path:
            self._set_aside(None)
        self._ready = False
        return self.catch_up(progress)

    def find(self, search: Search, limit: int) -> list[Found]:
        """Where the receipts wanted stand, the newest first, at most ``limit``. Raises LedgerError."""

        def look(connection: Connection) -> list[Found]:
            rows = self._tables.receipts.c
            terms = terms_of(search)
            query = self._tables.matching(select(rows.leaf, rows.hash), terms)
            query = query.where(self._seen(), *self._tables.conditions(search))
            query = query.order_by(self._tables.place(terms).desc()).limit(limit)
            return _found(connection, query)

        return self._healed(lambda: self._reading(look))

    def count(self, search: Search) -> dict[str, int]:
        """How many receipts are wanted, by type. Raises LedgerError."""

        def look(connection: Connection) -> dict[str, int]:
            rows = self._tables.receipts.c
            inner = self._tables.matching(select(rows.leaf, rows.type), terms_of(search))
            inner_rows = inner.where(self._seen(), *self._tables.conditions(search)).subquery()
            query = select(inner_rows.c.type, func.count()).group_by(inner_rows.c.type).order_by(inner_rows.c.type)
            return {str(kind): int(count) for kind, count in connection.execute(query)}

        return self._healed(lambda: self._reading(look))

    def by_hash(self, prefix: str, limit: int = 8) -> list[Found]:
        """Entries whose hash begins with ``prefix``, in hexadecimal. Raises LedgerError; ValueError: it is none."""
        low, high = bytes.fromhex(prefix.ljust(64, "0")), bytes.fromhex(prefix.ljust(64, "f"))

        def look(connection: Connection) -> list[Found]:
            rows = self._tables.receipts.c
            query = select(rows.leaf, rows.hash).where(rows.hash.between(low, high), self._seen())
            return _found(connection, query.order_by(rows.leaf).limit(limit))

        return self._healed(lambda: self._reading(look))

    def first_since(self, at: float) -> int | None:
        """The first entry that was recorded at that instant or later; ``None``: none was. Raises LedgerError."""

        def look(connection: Connection) -> int | None:
            rows = self._tables.receipts.c
            return connection.execute(select(func.min(rows.leaf)).where(rows.at >= at)).scalar()

        return self._healed(lambda: self._reading(look))

    def forget(self, until: int) -> None:
        """After a pruning: leave nothing of the entries before ``until`` but their hashes. Raises LedgerError."""
        self._healed(lambda: self._forget(until))

    def forget_pruned(self) -> None:
        """Forget what the log has pruned, where an index is there: none is made, none filled. Raises LedgerError."""
        try:
            if self._is_there() and self._source.pruned.until > self._reading(self._pruned):
                self._forget(self._source.pruned.until)
        except SQLAlchemyError as error:
            raise ledger_error(self._at, error) from None

    def close(self) -> None:
        """Give its connections up."""
        self._engine.dispose()

    def _catch_up(self, progress: Callable[[int, int], None]) -> int:
        self._prepare()
        done = 0
        at = self._reading(self._next)
        if self._source.size - at > max(at, MANY_ROWS):
            with self._writing() as connection:
                self._tables.filling(connection)
                self._set(connection, "indexed", "")
        while at < self._source.size:
            progress(at, self._source.size)
            known = self._source.pruned.until
            rows = self._rows(at)
            root = self._source.root(at + len(rows)).hex()
            with self._writing() as connection:
                now = self._next(connection)
                if now == at:  # else another process took these in
                    if (pruned := self._pruned(connection)) > known:  # since they were read; and it was forgotten here
                        rows = [pruned_row(row.leaf, row.hash) if row.leaf < pruned else row for row in rows]
                    self._tables.insert(connection, rows)
                    now = at + len(rows)
                    self._set(connection, "next", str(now))
                    self._set(connection, "root", root)
                    done += len(rows)
            at = now
        if not self._reading(lambda connection: self._get(connection, "indexed")):
            self._make_indexes()
        if done >= MANY_ROWS:
            with self._writing() as connection:
                self._tables.settled(connection)
        if self._source.pruned.until > self._reading(self._pruned):
            self.forget(self._source.pruned.until)
        progress(at, self._source.size)
        return done

    def _forget(self, until: int) -> None:
        self._prepare()
        with self._writing() as connection:
            self._tables.forget(connection, until)
            self._set(connection, "pruned", str(until))
        if self._path:
            self._outside_transaction("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)")

    def _is_there(self) -> bool:
        if self._path and not self._path.exists():
            return False
        with self._engine.connect() as connection:
            return self._tables.meta.name in inspect(connection).get_table_names()

    def _make_indexes(self) -> None:
        """Each in a transaction of its own, so that others need not wait for all; after a kill, the next goes on."""
        for index in self._tables.indexes:
            with self._writing() as connection:
                self._tables.filled(connection, index)
        with self._writing() as connection:
            self._set(connection, "indexed", "1")

    def _rows(self, start: int) -> list[Row]:
        rows: list[Row] = []
        words = 0
        while len(rows) < BATCH_ROWS and words < BATCH_WORDS:
            at = start + len(rows)
            # To the end of a bundle, so that none is read twice.
            end = min((at // READ_ENTRIES + 1) * READ_ENTRIES, self._source.size)
            pruned = min(max(self._source.pruned.until, at), end)
            rows += [pruned_row(leaf, self._source.leaf_hash(leaf)) for leaf in range(at, pruned)]
            if pruned < end:
                more = [row_of(leaf, entry) for leaf, entry in enumerate(self._source.entries(pruned, end), pruned)]
                words += sum(len(row.words) for row in more)
                rows += more
            if end >= self._source.size:
                break
        return rows

    def _prepare(self) -> None:
        """Make what is missing; begin anew where it is of another log or version, or not whole."""
        if self._ready:
            return
        if self._path and self._path.parent != Path():
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LedgerError(f"{self.place}: the index cannot be made: {error.strerror}") from None
        if self._path:
            with self._engine.connect() as connection:
                there = set(inspect(connection).get_table_names())
                if there and self._tables.meta.name not in there:
                    raise LedgerError(f"{self.place} is another program's database; name another file for the index")
            self._outside_transaction("PRAGMA journal_mode = WAL")  # readers never wait for who is indexing
        with self._writing() as connection:
            there = set(inspect(connection).get_table_names())
            wanted = self._tables.names()
            if there & wanted and (reason := self._unfit(connection, there, wanted)):
                self._told(f"the index in {self.place} {reason}: it is built anew")
                self._tables.drop(connection)
            self._tables.create(connection)
            if self._get(connection, "next") is None:
                for key, value in (("schema", SCHEMA_VERSION), ("origin", self._source.origin or ""), ("next", "0")):
                    self._set(connection, key, value)
                self._set(connection, "pruned", str(self._source.pruned.until))
        self._ready = True

    def _unfit(self, connection: Connection, there: set[str], wanted: set[str]) -> str:
        if not wanted <= there:
            return "is not whole"
        if self._get(connection, "schema") != SCHEMA_VERSION:
            return "was made by another version of amaru"
        if self._get(connection, "origin") != (self._source.origin or ""):
            return "is of another log"
        at, root = self._next(connection), self._get(connection, "root")
        if at > self._source.size:
            self._source.refresh()  # another process has seen more of it
        if at > self._source.size or (at and self._source.root(at).hex() != root):
            return "is of another log, or of one that was put back"
        return ""

    def _seen(self) -> ColumnElement[bool]:
        """That a row is of what this process sees of the log: another one may have indexed more."""
        return self._tables.receipts.c.leaf < self._source.size

    def _next(self, connection: Connection) -> int:
        return int(self._get(connection, "next") or "0")

    def _pruned(self, connection: Connection) -> int:
        return int(self._get(connection, "pruned") or "0")

    def _get(self, connection: Connection, key: str) -> str | None:
        meta = self._tables.meta.c
        value = connection.execute(select(meta.value).where(meta.key == key)).scalar()
        return None if value is None else str(value)

    def _set(self, connection: Connection, key: str, value: str) -> None:
        meta = self._tables.meta
        if connection.execute(meta.update().where(meta.c.key == key).values(value=value)).rowcount == 0:
            connection.execute(meta.insert().values(key=key, value=value))

    def _reading(self, look: Callable[[Connection], _Given]) -> _Given:
        self._prepare()
        with self._engine.connect() as connection, connection.begin():
            return look(connection)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.connect().execution_options(**{BEGIN: "BEGIN IMMEDIATE"}) as connection, connection.begin():
            if not self._path:
                # One writer of these tables at a time, also of tables that are not there yet.
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": self._tables.meta.name}
                )
            yield connection

    def _outside_transaction(self, *statements: str) -> None:
        """Of SQLite: what refuses to run in one. Raises SQLAlchemyError, as all the others."""
        with self._engine.connect().execution_options(**{BEGIN: ""}) as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def _healed(self, act: Callable[[], _Given]) -> _Given:
        """What ``act`` gives; where the index turns out to be damaged, after it was made anew. Errors in words."""
        try:
            try:
                return act()
            except SQLAlchemyError as error:
                if not self._path or not is_damage(error):
                    raise
                self._set_aside(str(getattr(error, "orig", error)))
                self._catch_up(lambda _done, _size: None)
                return act()
        except SQLAlchemyError as error:
            raise ledger_error(self._at, error) from None

    def _set_aside(self, why: str | None) -> None:
        """Move the file out of the way. Not deleted: it may be something else that stood under this name."""
        assert self._path is not None
        self._engine.dispose()
        self._ready = False
        damaged = self._path.with_name(f"{self._path.name}.damaged")
        try:
            if why is not None and self._path.exists():
                self._require_ours()
                self._path.replace(damaged)
                self._told(f"the index {self.place} is damaged ({why}): set aside as {damaged.name}, and built anew")
            for name in (self._path, *(Path(f"{self._path}{end}") for end in ("-wal", "-shm"))):
                name.unlink(missing_ok=True)
        except OSError as error:
            raise LedgerError(f"{self.place}: the index cannot be made anew: {error.strerror}") from None

    def _require_ours(self) -> None:
        """A file that is no database at all, and not called one either, is not an index that was damaged."""
        assert self._path is not None
        with self._path.open("rb") as file:
            head = file.read(len(_MAGIC))
        if head != _MAGIC and self._path.suffix != ".db":
            raise LedgerError(f"{self.place} is no index, and was left as it is: name another file for the index")


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _found(connection: Connection, query: Select[int, bytes]) -> list[Found]:
    return [Found(int(leaf), bytes(hash)) for leaf, hash in connection.execute(query)]
