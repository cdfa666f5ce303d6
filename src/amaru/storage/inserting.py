"""Many rows into one table, in few statements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain

from sqlalchemy import Dialect, Table
from sqlalchemy.engine import Connection
from sqlalchemy.sql import insert

ROWS_PER_STATEMENT = 512
"""Rows of the largest statement: times 30 columns, within the 32,766 of SQLITE_MAX_VARIABLE_NUMBER
(https://sqlite.org/limits.html)."""


class RowsInsert:
    """Multi-row INSERTs of 512, 256, … 1 rows: a batch of any size in at most a few statements. For SQLite.

    Why not ``executemany``: it takes the interpreter lock back after every row, and beside a thread that computes on
    another core each taking waits up to the switch interval (5 ms). Measured there (``benchmarks/bench_recorder.py``):
    130 to 380 records/s by ``executemany``, 13,000 to 18,000 by these statements; on one core both keep up.

    Parameters
    ----------
    statement
        The SQL that inserts so many rows.
    """

    def __init__(self, statement: Callable[[int], str]) -> None:
        self._sizes = [2**k for k in range(int(math.log2(ROWS_PER_STATEMENT)), -1, -1)]
        self._sql = {size: statement(size) for size in self._sizes}

    @classmethod
    def into(cls, table: Table, dialect: Dialect) -> RowsInsert:
        """Into all columns of a table with an ``id``. A row whose id is there is left as it is: a batch that was
        committed but reported as failed may be sent again."""
        head, row = str(insert(table).compile(dialect=dialect)).split(" VALUES ")
        return cls(lambda size: f"{head} VALUES {', '.join([row] * size)} ON CONFLICT (id) DO NOTHING")

    def __call__(self, connection: Connection, rows: Sequence[Sequence[object]]) -> None:
        """Insert ``rows``, values in the order of the statement's, inside the connection's transaction."""
        done = 0
        for size in self._sizes:
            while len(rows) - done >= size:
                flat = tuple(chain.from_iterable(rows[done : done + size]))
                connection.exec_driver_sql(self._sql[size], flat)
                done += size
