"""Many rows into one table, in few statements."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    """

    def __init__(self, table: Table, dialect: Dialect) -> None:
        # Duplicate ids are left as they are: a batch that was committed but reported as failed may be sent again.
        statement = insert(table).compile(dialect=dialect)
        head, row = str(statement).split(" VALUES ")
        self._sizes = [2**k for k in range(int(math.log2(ROWS_PER_STATEMENT)), -1, -1)]
        self._sql = {n: f"{head} VALUES {', '.join([row] * n)} ON CONFLICT (id) DO NOTHING" for n in self._sizes}

    def __call__(self, connection: Connection, rows: Sequence[Sequence[object]]) -> None:
        """Insert ``rows``, values in the order of the table's columns, inside the connection's transaction."""
        done = 0
        for size in self._sizes:
            while len(rows) - done >= size:
                flat = tuple(chain.from_iterable(rows[done : done + size]))
                connection.exec_driver_sql(self._sql[size], flat)
                done += size
