"""The tables of the index, in SQLite and PostgreSQL: alike but for the words, which each keeps in its own way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    cast,
    column,
    delete,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from amaru.ledger.index_rows import Row
from amaru.ledger.search import Search, Term, match_fts5, match_tsquery, tsvector

_Query = TypeVar("_Query", bound=Select[*tuple[Any, ...]])  # Any: whatever columns it asks for

Leaf = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite's own row number, if it is called INTEGER (https://sqlite.org/lang_createtable.html#rowid)."""
SCHEMA_VERSION = "4"
"""An index of another version is built anew."""


@dataclass(frozen=True)
class Tables:
    """The tables of one log's index."""

    metadata: MetaData
    meta: Table
    receipts: Table
    digests: Table
    indexes: tuple[Index, ...]
    """Beside the primary keys: made after the first filling, sorted, not grown in no order with each row."""
    words: str | None
    """Name of the FTS5 table; ``None``: the words are a column of ``receipts``."""

    def names(self) -> set[str]:
        """Of all tables."""
        return set(self.metadata.tables) | ({self.words} if self.words else set())

    def create(self, connection: Connection) -> None:
        """Make those that are missing."""
        self.metadata.create_all(connection)
        if self.words:
            # `ascii` takes every character beyond ASCII for a letter: words are split before they come here.
            connection.exec_driver_sql(
                f"CREATE VIRTUAL TABLE IF NOT EXISTS {self.words} USING fts5(text, tokenize='ascii', columnsize=0)"
            )

    def filled(self, connection: Connection, index: Index) -> None:
        """Make an index, where it is missing."""
        index.create(connection, checkfirst=True)

    def filling(self, connection: Connection) -> None:
        """Before many more rows than there are: go without the indexes meanwhile. What is asked is still answered."""
        for index in self.indexes:
            index.drop(connection, checkfirst=True)

    def drop(self, connection: Connection) -> None:
        """Remove all."""
        if self.words:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {self.words}")
        self.metadata.drop_all(connection)

    def insert(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Keep rows that are not there yet."""
        kept = (
            (row.leaf, row.hash, row.type, row.at, row.component, row.version, row.ref, row.by, row.traffic)
            for row in rows
        )
        named = ((digest, row.leaf) for row in rows for digest in row.digests)
        if self.words is None:
            with_words = ((*values, tsvector(row.words)) for values, row in zip(kept, rows, strict=True))
            self._copy(connection, self.receipts, with_words)
            self._copy(connection, self.digests, named)
            return
        self._insert(connection, self.receipts, kept)
        self._insert(connection, self.digests, named)
        connection.exec_driver_sql(
            f"INSERT INTO {self.words} (rowid, text) VALUES (?, ?)",  # noqa: S608 -- our own name
            [(row.leaf, " ".join(row.words)) for row in rows],
        )

    @staticmethod
    def _insert(connection: Connection, table: Table, rows: Iterable[tuple[object, ...]]) -> None:
        """By SQLite's own statement: SQLAlchemy would look at each value, which takes longer than to write it."""
        values = list(rows)
        if values:
            marks = ", ".join("?" * len(table.c))
            connection.exec_driver_sql(f"INSERT INTO {table.name} VALUES ({marks})", values)  # noqa: S608 -- as above

    @staticmethod
    def _copy(connection: Connection, table: Table, rows: Iterable[tuple[object, ...]]) -> None:
        """By PostgreSQL's COPY. Raises SQLAlchemyError, as all that asks the database."""
        dialect = connection.dialect
        assert dialect.dbapi is not None
        try:
            driver: Any = connection.connection  # SQLAlchemy has no types for what only psycopg has
            with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        except dialect.dbapi.Error as error:
            raise DBAPIError.instance(None, None, error, dialect.dbapi.Error, hide_parameters=True) from error

    def settled(self, connection: Connection) -> None:
        """After many new rows: let PostgreSQL see how common each word is, or it reads all rows of a common one."""
        if self.words is None:
            connection.execute(text(f"ANALYZE {self.receipts.name}"))

    def forget(self, connection: Connection, until: int) -> None:
        """Leave nothing of the entries before ``until`` but that they were there, and their hashes."""
        rows = self.receipts.c
        blank = dict.fromkeys(("component", "version", "ref", "by"), "") | {
            "type": "pruned",
            "at": 0.0,
            "traffic": False,
        }
        if self.words is None:
            blank["words"] = ""
        connection.execute(self.receipts.update().where(rows.leaf < until, rows.type != "pruned").values(blank))
        connection.execute(delete(self.digests).where(self.digests.c.leaf < until))
        if self.words:
            connection.execute(text(f"DELETE FROM {self.words} WHERE rowid < :until"), {"until": until})  # noqa: S608
            # Merges all segments into one: what was deleted leaves the file, too.
            connection.exec_driver_sql(f"INSERT INTO {self.words}({self.words}) VALUES ('optimize')")  # noqa: S608

    def matching(self, query: _Query, terms: Sequence[Term]) -> _Query:
        """``query`` of ``receipts``, narrowed to those with the words wanted."""
        wanted = [term for term in terms if not term.absent]
        if self.words is None:
            here = self.receipts.c.words
            if wanted:
                query = query.where(here.op("@@", is_comparison=True)(cast(match_tsquery(wanted), TSQUERY)))
            for term in terms:
                if term.absent:
                    query = query.where(~here.op("@@", is_comparison=True)(cast(match_tsquery([term]), TSQUERY)))
            return query
        rowid: ColumnElement[int] = literal_column(f"{self.words}.rowid", BigInteger)
        match = column(self.words, is_literal=True).op("MATCH")
        if wanted:
            return query.join(text(self.words), rowid == self.receipts.c.leaf).where(match(match_fts5(terms)))
        if terms:  # FTS5 can leave out of what it found only
            unwanted = [msgspec.structs.replace(term, absent=False) for term in terms]
            having = select(rowid).select_from(text(self.words))
            for term in unwanted:
                query = query.where(self.receipts.c.leaf.not_in(having.where(match(match_fts5([term])))))
        return query

    def place(self, terms: Sequence[Term]) -> ColumnElement[int]:
        """The column that receipts with these words are ordered by.

        FTS5's own, where it is asked: then a word that is in every receipt is read as far as the page needs.
        """
        if self.words and any(not term.absent for term in terms):
            return literal_column(f"{self.words}.rowid", BigInteger)
        return self.receipts.c.leaf

    def conditions(self, search: Search) -> list[ColumnElement[bool]]:
        """The filters of ``search``, but for its words."""
        rows = self.receipts.c
        passes: list[ColumnElement[bool]] = [
            rows[name] == value
            for name in ("component", "version", "ref", "by")
            if (value := getattr(search, name)) is not None
        ]
        if search.types:
            passes.append(rows.type.in_(search.types))
        if search.traffic is not None:
            passes.append(rows.traffic.is_(search.traffic))
        if search.since is not None:
            passes.append(rows.at >= search.since)
        if search.until is not None:
            passes.append(rows.at < search.until)
        if search.before is not None:
            passes.append(rows.leaf < search.before)
        if search.digest is not None:
            named = select(self.digests.c.leaf).where(self.digests.c.digest == search.digest)
            passes.append(rows.leaf.in_(named))
        return passes


def tables_of(dialect: str, prefix: str) -> Tables:
    """The tables for ``sqlite`` or ``postgresql``, their names beginning with ``prefix`` (letters, digits, ``_``)."""
    metadata = MetaData()
    postgresql = dialect == "postgresql"
    meta = Table(
        f"{prefix}meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False)
    )
    receipts = Table(
        f"{prefix}receipts",
        metadata,
        Column("leaf", Leaf, primary_key=True, autoincrement=False),
        Column("hash", LargeBinary, nullable=False),
        Column("type", Text, nullable=False),
        Column("at", Float(53), nullable=False),
        Column("component", Text, nullable=False),
        Column("version", Text, nullable=False),
        Column("ref", Text, nullable=False),
        Column("by", Text, nullable=False),
        Column("traffic", Boolean, nullable=False),
        *((Column("words", TSVECTOR, nullable=False),) if postgresql else ()),
    )
    digests = Table(
        f"{prefix}digests",
        metadata,
        Column("digest", LargeBinary, nullable=False),
        Column("leaf", Leaf, nullable=False),
    )
    own = MetaData()  # so that the tables come without them
    alike = receipts.to_metadata(own).c
    indexes = [Index(f"{prefix}receipts_{name}", alike[name]) for name in ("hash", "ref", "at")]
    indexes += [Index(f"{prefix}receipts_{name}", alike[name], alike.leaf) for name in ("type", "component")]
    named = digests.to_metadata(own).c
    indexes.append(Index(f"{prefix}digests_digest", named.digest, named.leaf))
    if postgresql:
        # Where new words wait in a list beside the index, the planner takes reading every row for cheaper.
        indexes.append(
            Index(
                f"{prefix}receipts_words",
                alike.words,
                postgresql_using="gin",
                postgresql_with={"fastupdate": "off"},
            )
        )
    return Tables(metadata, meta, receipts, digests, tuple(indexes), None if postgresql else f"{prefix}words")
