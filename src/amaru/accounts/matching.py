"""Which line of a provider's export is which charge of ours: found on disk, so that neither has to fit into memory.

An id on both sides decides. Else a line is the charge for the same model and the same tokens that is nearest in time,
within five minutes; and a charge whose usage we never learned is the line that is left for its model, found likewise.
The nearest are taken first, each in one pass over both sides in order.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

EDGE_S = 86_400.0
"""So far apart two clocks may see a request that both know by its id."""
NEARNESS_S = (1.0, 10.0, 60.0, 300.0)
"""How far apart in time those may be that have no id in common; tried in turn."""
_ROWS_AT_ONCE = 10_000

_SCHEMA = """
CREATE TABLE lines (
  number INTEGER PRIMARY KEY, line INTEGER, inside INTEGER, ref TEXT, at REAL, name TEXT, model TEXT,
  input INTEGER, cached INTEGER, output INTEGER, pusd INTEGER
);
CREATE TABLE charges (
  id TEXT PRIMARY KEY, inside INTEGER, ref TEXT, at REAL, name TEXT, model TEXT,
  input INTEGER, cached INTEGER, output INTEGER, pusd INTEGER, known INTEGER, standing INTEGER, corrections INTEGER
) WITHOUT ROWID;
CREATE TABLE pairs (line INTEGER PRIMARY KEY, charge TEXT UNIQUE);
"""
_CORRECT = """
ON CONFLICT (id) DO UPDATE SET ref = coalesce(excluded.ref, ref), input = input + excluded.input,
cached = cached + excluded.cached, output = output + excluded.output, pusd = pusd + excluded.pusd, known = 1,
corrections = corrections + 1
"""
_LEFT_LINES = "lines l WHERE NOT EXISTS (SELECT 1 FROM pairs p WHERE p.line = l.number)"
_LEFT_CHARGES = "charges c WHERE NOT EXISTS (SELECT 1 FROM pairs p WHERE p.charge = c.id)"
_JOINED = "lines l LEFT JOIN pairs p ON p.line = l.number LEFT JOIN charges c ON c.id = p.charge"
_BOTH = ("NOT NULL", "NOT NULL")
_NOT_BOTH = (("NULL", "NULL"), ("NULL", "NOT NULL"), ("NOT NULL", "NULL"))


class Line(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A line of an export, as it is matched. Fields as in ``Billed``."""

    line: int
    """In the file."""
    inside: bool
    """Of the span of time that is compared."""
    ref: str | None
    at: float
    name: str
    model: str
    """``model_key`` of the name."""
    input: int | None
    cached: int | None
    output: int | None
    pusd: int | None


class Ours(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A charge with all of its corrections, as it is matched."""

    id: str
    inside: bool
    ref: str | None
    at: float
    name: str
    model: str
    input: int
    cached: int
    output: int
    pusd: int
    known: bool
    """Its usage is the provider's."""
    standing: bool
    corrections: int = 0
    """How many rows they are."""


_LINE, _OURS = Line.__struct_fields__, Ours.__struct_fields__


class Matching:
    """Lines and charges in a file that is gone when this is closed. Used by one thread.

    Raises OSError or ``sqlite3.Error`` where there is no room for it.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="amaru-reconcile-")
        self._store = sqlite3.connect(Path(self._folder.name, "matching.db"), isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "temp_store = FILE"):
            self._store.execute(f"PRAGMA {pragma}")
        self._store.executescript(_SCHEMA)
        self._store.execute("BEGIN")

    def close(self) -> None:
        """Remove the file."""
        self._store.close()
        self._folder.cleanup()

    def add_lines(self, lines: Iterable[Line]) -> None:
        """Before ``match``."""
        names = ", ".join(_LINE)
        self._store.executemany(
            f"INSERT INTO lines ({names}) VALUES ({_marks(_LINE)})",  # noqa: S608 - names of ours alone
            map(msgspec.structs.astuple, lines),
        )

    def add_charges(self, charges: Iterable[Ours]) -> None:
        """Charges; or corrections, under the id of the charge that each corrects, which come after all charges."""
        names = ", ".join(_OURS)
        self._store.executemany(
            f"INSERT INTO charges ({names}) VALUES ({_marks(_OURS)}) {_CORRECT}",  # noqa: S608 - names of ours alone
            map(msgspec.structs.astuple, charges),
        )

    def span(self) -> tuple[float, float]:
        """The times of the first and the last line."""
        first, last = self._store.execute("SELECT min(at), max(at) FROM lines").fetchone()
        return first, last

    def set_span(self, since: float, until: float) -> None:
        """Which lines are inside."""
        self._store.execute("UPDATE lines SET inside = at >= ? AND at < ?", (since, until))

    def match(self) -> None:
        """Find the pairs."""
        self._pair(("ref",), ("ref",), _BOTH, EDGE_S)
        usage = ("coalesce(input, 0)", "coalesce(output, 0)")
        for key, known in ((("model", *usage), 1), (("model",), 0)):
            for apart_s in NEARNESS_S:
                for refs in _NOT_BOTH:
                    self._pair(key, key, refs, apart_s, f"AND known = {known}")

    def _pair(
        self,
        line_key: tuple[str, ...],
        charge_key: tuple[str, ...],
        refs: tuple[str, str],
        apart_s: float,
        and_: str = "",
    ) -> None:
        lines = self._ordered("number", line_key, f"{_LEFT_LINES} AND ref IS {refs[0]}")
        charges = self._ordered("id", charge_key, f"{_LEFT_CHARGES} AND ref IS {refs[1]} {and_}")
        # Sorted readers have read all before they give the first row, so what is written does not change them.
        self._store.executemany("INSERT INTO pairs VALUES (?, ?)", _merged(lines, charges, apart_s))

    def _ordered(self, id: str, key: tuple[str, ...], where: str) -> Iterator[tuple[Any, ...]]:
        columns = ", ".join(key)
        query = f"SELECT {id}, at, {columns} FROM {where} ORDER BY {columns}, at, {id}"  # noqa: S608 - as above
        return iter(self._store.execute(query))

    def compared(self) -> Iterator[tuple[Line | None, Ours | None]]:
        """Pairs of which either is inside, and what is inside and has no counterpart; by time, ours alone last."""
        lines, ours = _of("l", _LINE), _of("c", _OURS)
        query = f"""
            SELECT {lines}, {ours} FROM {_JOINED} WHERE l.inside OR c.inside ORDER BY l.at, l.number
        """  # noqa: S608 - as above
        for row in self._store.execute(query):
            ours_found = row[len(_LINE) :]
            yield _line(row), None if ours_found[0] is None else _ours(ours_found)
        for row in self._store.execute(f"SELECT {ours} FROM {_LEFT_CHARGES} AND inside ORDER BY at, id"):  # noqa: S608
            yield None, _ours(row)

    def count_outside(self) -> int:
        """Lines that are not compared."""
        query = f"""
            SELECT count(*) FROM {_JOINED} WHERE NOT l.inside AND NOT coalesce(c.inside, 0)
        """  # noqa: S608 - as above
        return int(self._store.execute(query).fetchone()[0])

    def ids_unknown(self) -> bool:
        """Both sides have ids, and none of them in common: they are perhaps not of the same kind."""
        query = """
            SELECT EXISTS (SELECT 1 FROM lines WHERE ref IS NOT NULL)
            AND EXISTS (SELECT 1 FROM charges WHERE ref IS NOT NULL)
            AND NOT EXISTS (SELECT 1 FROM lines JOIN charges USING (ref))
        """
        return bool(self._store.execute(query).fetchone()[0])


def _merged(
    lines: Iterator[tuple[Any, ...]], charges: Iterator[tuple[Any, ...]], apart_s: float
) -> Iterator[tuple[int, str]]:
    """Pairs of one key that are near in time; both come as id, time, key, ordered by key and time."""
    line, charge = next(lines, None), next(charges, None)
    while line is not None and charge is not None:
        if line[2:] != charge[2:]:
            line_is_first = line[2:] < charge[2:]
        elif abs(line[1] - charge[1]) <= apart_s:
            yield line[0], charge[0]
            line, charge = next(lines, None), next(charges, None)
            continue
        else:
            line_is_first = line[1] < charge[1]
        if line_is_first:
            line = next(lines, None)
        else:
            charge = next(charges, None)


def _marks(names: tuple[str, ...]) -> str:
    return ", ".join("?" * len(names))


def _of(table: str, names: tuple[str, ...]) -> str:
    return ", ".join(f"{table}.{name}" for name in names)


def _line(row: tuple[Any, ...]) -> Line:
    values = dict(zip(_LINE, row, strict=False))
    return Line(**values | {"inside": bool(values["inside"])})


def _ours(row: tuple[Any, ...]) -> Ours:
    values = dict(zip(_OURS, row, strict=True))
    return Ours(**values | {name: bool(values[name]) for name in ("inside", "known", "standing")})
