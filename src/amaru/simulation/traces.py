"""Traces of LLM traffic: when each request came, and how many tokens went in and out.

The format is that of the Azure Public Dataset (https://github.com/Azure/AzurePublicDataset, AzureLLMInferenceDataset
2023 and 2024): CSV with a header of three columns, ``TIMESTAMP`` (ISO 8601; the 2023 files without a time zone and with
seven decimals, the 2024 files with ``+00:00``), ``ContextTokens`` and ``GeneratedTokens``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import NoReturn, TextIO

import msgspec

from amaru.errors import TraceError

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MAX_TOKENS = 100_000_000
"""A larger count is a mistake in the file."""
_DECIMALS = 7


class TraceRequest(msgspec.Struct, frozen=True):
    """One request of a trace."""

    at_s: float
    """Seconds since the first request of the trace."""
    input_tokens: int
    output_tokens: int


def bundled_trace() -> Path:
    """The trace that comes with amaru; `amaru.simulation.trace_generator` made it and can make it again."""
    return Path(str(files("amaru.simulation") / "data" / "generated_conv.csv"))


def read_azure(path: Path) -> Iterator[TraceRequest]:
    """Read a trace row by row, in bounded memory; it is opened at the first row asked for.

    Raises
    ------
    TraceError
        The file cannot be read, its header is another one, or a row is wrong; the message names file, line, column
        and remedy.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from _rows(path, lines)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not UTF-8 text at byte {error.start}; is it packed? Unpack it first") from None


def write_azure(out: TextIO, requests: Iterable[TraceRequest], start: datetime) -> None:
    """Write ``requests`` in the Azure format of 2023, the first of them at ``start``."""
    out.write(",".join(COLUMNS) + "\n")
    for request in requests:
        # Ten-millionths of a second, as in the originals; datetime keeps only millionths.
        moment = start + timedelta(seconds=int(request.at_s))
        fraction = round(request.at_s % 1 * 10**_DECIMALS)
        seconds = moment.strftime("%Y-%m-%d %H:%M:%S")
        out.write(f"{seconds}.{min(fraction, 10**_DECIMALS - 1):07d},{request.input_tokens},{request.output_tokens}\n")


def _rows(path: Path, lines: TextIO) -> Iterator[TraceRequest]:
    reader = csv.reader(lines)
    try:
        places = _places(path, next(reader, []))
        first: datetime | None = None
        last_s = 0.0
        for row in reader:
            if not row:
                continue
            moment = _moment(path, reader.line_num, row, places[0])
            if first is None:
                first = moment
            at_s = (moment - first).total_seconds()
            if at_s < last_s:
                _wrong(path, reader.line_num, COLUMNS[0], "earlier than the row before it; sort the file by TIMESTAMP")
            last_s = at_s
            yield TraceRequest(
                at_s,
                _tokens(path, reader.line_num, row, places[1], COLUMNS[1]),
                _tokens(path, reader.line_num, row, places[2], COLUMNS[2]),
            )
    except csv.Error as error:
        raise TraceError(f"{path}, line {reader.line_num}: not CSV ({error}); see the format in the docs") from None
    if first is None:
        raise TraceError(f"{path}: no requests behind the header; a trace needs at least one row")


def _places(path: Path, header: list[str]) -> tuple[int, int, int]:
    names = [name.strip().lower() for name in header]
    missing = [name for name in COLUMNS if name.lower() not in names]
    if missing:
        wanted = ",".join(COLUMNS)
        raise TraceError(f"{path}, line 1: no column {', '.join(missing)}; the header must be {wanted}")
    first, second, third = (names.index(name.lower()) for name in COLUMNS)
    return first, second, third


def _cell(path: Path, line: int, row: list[str], place: int, column: str) -> str:
    if place >= len(row):
        _wrong(path, line, column, "missing; each row needs a value for each column")
    return row[place].strip()


def _moment(path: Path, line: int, row: list[str], place: int) -> datetime:
    text = _cell(path, line, row, place, COLUMNS[0])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        _wrong(path, line, COLUMNS[0], f"{text[:40]!r} is no time; write it like 2023-11-16 18:17:03.9799600")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _tokens(path: Path, line: int, row: list[str], place: int, column: str) -> int:
    text = _cell(path, line, row, place, column)
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) > MAX_TOKENS:
        _wrong(path, line, column, f"{text[:40]!r} is no count of tokens; write a whole number from 0 to {MAX_TOKENS}")
    return int(text)


def _wrong(path: Path, line: int, column: str, words: str) -> NoReturn:
    raise TraceError(f"{path}, line {line}, column {column}: {words}")
