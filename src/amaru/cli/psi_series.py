"""A CSV series of instants and values, line by line as it comes, from a file or a live feed.

A line is read and forgotten: there is never more of the input in memory than one block and one line. So a row is one
line; line breaks within quotes are not read.
"""

from __future__ import annotations

import csv
import math
import os
import select
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from amaru.errors import AmaruError

MAX_LINE_BYTES = 65_536
VALUE_NAME = "value"
TIME_NAMES = ("timestamp", "time", "datetime", "date", "at", "ts")
MISSING = ("", "nan", "na", "n/a", "null", "none", "-", "?")
_MILLISECONDS_FROM = 1e11
"""As seconds, the year 5138."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN = 40
_MOST_LISTED = 20


class Mistake(Exception):
    """A row that cannot be read: where in its line, why, and what to write."""


class Columns(NamedTuple):
    """Where the series stands in a row."""

    value: int
    time: int | None
    names: tuple[str, ...]
    """Of all columns; without a header their numbers, from 1."""


class Observation(NamedTuple):
    """A row of the series."""

    time: str | None
    """As it is written."""
    at: float | None
    """Unix seconds."""
    value: float | None
    """None: missing."""


class Series:
    """Finds the columns in the first row, and reads the rows after it.

    Parameters
    ----------
    name
        Of the file, for messages.
    value, time
        Columns, by name or number from 1. By default the value is in the column ``value``, or in the only one that is
        left beside the time; and the time in one that is called so, or in the first of several without a header.
    """

    def __init__(self, name: str, value: str | None = None, time: str | None = None) -> None:
        self.name = name
        self._value, self._time = value, time
        self._columns: Columns | None = None
        self._header: list[str] | None = None

    def read(self, number: int, line: bytes | None) -> Observation | None:
        """What stands in a line; None: it is empty, or the header.

        Raises
        ------
        Mistake
            The line cannot be read; ``None`` is one that is too long.
        AmaruError
            Of the first row: there is no such column, or several that could be meant.
        """
        cells = _cells(number, line)
        if not any(cells) and len(cells) < 2:
            return None
        if self._columns is None:
            header = is_header(cells, [column for column in (self._value, self._time) if column is not None])
            self._columns = self._found(number, cells, header)
            self._header = cells if header else None
        if cells == self._header:  # also further down, where files were joined
            return None
        value, time, names = self._columns
        if len(cells) > len(names):
            raise Mistake(
                f"column {len(names) + 1}: the first row has no such column; put a value with a comma in quotes"
            )
        if len(cells) < len(names):
            raise Mistake(f"column {names[len(cells)]}: missing; the row is shorter than the first")
        try:
            at = None if time is None else instant(cells[time])
        except ValueError:
            words = f"{cells[time or 0][:_SHOWN]!r} is no time; write it like 2026-04-01 12:30:00, or as Unix seconds"
            raise Mistake(f"column {names[time or 0]}: {words}") from None
        try:
            return Observation(None if time is None else cells[time] or None, at, figure(cells[value]))
        except ValueError:
            words = f"{cells[value][:_SHOWN]!r} is no number; write it like 12.5, or nothing where it is missing"
            raise Mistake(f"column {names[value]}: {words}") from None

    def _found(self, number: int, cells: Sequence[str], header: bool) -> Columns:
        names = tuple(plain(cell) if header else f"{place}" for place, cell in enumerate(cells, 1))
        value = None if self._value is None else self._place(number, cells, header, "--value", self._value)
        if self._time is not None:
            time: int | None = self._place(number, cells, header, "--time", self._time)
            if time == value:
                raise self._refused(number, "--value and --time name the same column")
        else:
            time = _usual_time(cells, header)
            time = None if time == value else time
        if value is None and (value := _usual_value(cells, header, time)) is None:
            raise self._refused(number, f"name the column of the values with --value: {_listed(names)}")
        return Columns(value, time, names)

    def _place(self, number: int, cells: Sequence[str], header: bool, option: str, column: str) -> int:
        if header and column in cells:
            return cells.index(column)
        if column.isascii() and column.isdigit() and len(column) < 6 and 1 <= int(column) <= len(cells):
            return int(column) - 1
        known = (
            _listed([plain(cell) for cell in cells]) if header else f"of {len(cells)}, by number: there is no header"
        )
        raise self._refused(number, f"{option} {plain(column)}: no such column; name one {known}")

    def _refused(self, number: int, words: str) -> AmaruError:
        return AmaruError(f"{self.name}, line {number}: {words}")


def lines(name: str, descriptor: int, stop: int) -> Iterator[bytes | None]:
    """Lines as they come, without their ends; None for one of more than ``MAX_LINE_BYTES``.

    Ends with the input, or as soon as there is something to read at ``stop``. Raises AmaruError.
    """
    rest, too_long, block = b"", False, b" "
    while block:
        try:
            if stop in select.select([descriptor, stop], [], [])[0]:
                return
            block = os.read(descriptor, MAX_LINE_BYTES)
        except OSError as error:
            raise AmaruError(f"{name}: cannot be read: {error.strerror or error}") from None
        *ended, rest = (rest + block).split(b"\n")
        for line in ended:
            yield None if too_long or len(line) > MAX_LINE_BYTES else line
            too_long = False
        if len(rest) > MAX_LINE_BYTES:
            rest, too_long = b"", True
    # Ctrl-C ends a whole pipeline: what its feed had begun is no line then.
    if (rest or too_long) and not select.select([stop], [], [], 0)[0]:
        yield None if too_long else rest


def is_header(cells: Sequence[str], asked: Sequence[str] = ()) -> bool:
    """Whether a first row names columns: one that is asked for, or since there are words in it, and nothing else."""
    if any(column in cells and not column.isdigit() for column in asked):
        return True
    told = [cell for cell in cells if cell.lower() not in MISSING]
    return told != [] and not any(_is_instant(cell) for cell in told)


def figure(text: str) -> float | None:
    """A finite number, or None: missing. Raises ValueError."""
    if text.lower() in MISSING:
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def instant(text: str) -> float | None:
    """Unix seconds of ISO 8601 (UTC where it does not say), of Unix seconds or milliseconds; None: missing.

    Raises
    ------
    ValueError
        It is none of these.
    """
    try:
        at = figure(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return ((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH).total_seconds()
    return at if at is None or abs(at) < _MILLISECONDS_FROM else at / 1000.0


def utc(at: float) -> str:
    """An instant for people."""
    try:
        return f"{_EPOCH + timedelta(seconds=at):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:
        return f"{at:g} s"


def plain(text: str) -> str:
    """At most 40 characters of ``text``, none of which a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text[:_SHOWN])


def _cells(number: int, line: bytes | None) -> list[str]:
    if line is None:
        raise Mistake(
            f"column 1: the line is longer than {MAX_LINE_BYTES:,} bytes; is it CSV, with a row on each line?"
        )
    try:
        text = line.removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise Mistake(f"column {line.count(b',', 0, error.start) + 1}: not UTF-8 text; is it packed?") from None
    try:
        return [cell.strip() for cell in next(csv.reader([text], strict=True), [])]
    except csv.Error as error:
        raise Mistake(
            f"column {text.count(',') + 1}: not CSV ({error}); a row is one line, with its quotes closed"
        ) from None


def _is_instant(text: str) -> bool:
    try:
        instant(text)
    except ValueError:
        return False
    return True


def _usual_time(cells: Sequence[str], header: bool) -> int | None:
    if not header:
        return 0 if len(cells) > 1 and _is_instant(cells[0]) else None
    names = [cell.lower() for cell in cells]
    return next((names.index(name) for name in TIME_NAMES if name in names), None)


def _usual_value(cells: Sequence[str], header: bool, time: int | None) -> int | None:
    if header and VALUE_NAME in (names := [cell.lower() for cell in cells]):
        return names.index(VALUE_NAME)
    left = [place for place in range(len(cells)) if place != time]
    return left[0] if len(left) == 1 else None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"of {', '.join(names[:_MOST_LISTED])}{more}"
