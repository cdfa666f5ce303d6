"""Traces in the format of the Azure Public Dataset.

https://github.com/Azure/AzurePublicDataset, AzureLLMInferenceDataset 2023 and 2024: CSV with a header of three columns,
``TIMESTAMP`` (ISO 8601; the 2023 files without a time zone and with seven decimals, the 2024 files with ``+00:00``),
``ContextTokens`` and ``GeneratedTokens``. Other columns are passed over.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

from amaru.errors import TraceError
from amaru.simulation.traces_base import MAX_TOKENS, TraceRequest, lines_of, wrong

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_DECIMALS = 7


def read_azure(path: Path) -> Iterator[TraceRequest]:
    """Read a trace row by row, in bounded memory; it is opened at the first row asked for.

    Raises
    ------
    TraceError
        The file cannot be read, its header is another one, or a row is wrong; the message names file, line, column
        and remedy.
    """
    return azure_rows(path, lines_of(path))


def azure_rows(path: Path, lines: Iterator[str]) -> Iterator[TraceRequest]:
    """The requests of ``lines``, which stand in ``path``; raises as `read_azure` does."""
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
                words = "earlier than the row before it; sort the file by TIMESTAMP"
                wrong(path, reader.line_num, _column(0), words)
            last_s = at_s
            yield TraceRequest(
                at_s,
                _tokens(path, reader.line_num, row, places[1], 1),
                _tokens(path, reader.line_num, row, places[2], 2),
            )
    except csv.Error as error:
        raise TraceError(f"{path}, line {reader.line_num}: not CSV ({error}); see the format in the docs") from None
    if first is None:
        raise TraceError(f"{path}: no requests behind the header; a trace needs at least one row")


def write_azure(out: TextIO, requests: Iterable[TraceRequest], start: datetime) -> None:
    """Write ``requests`` in the Azure format of 2023, the first of them at ``start``."""
    out.write(",".join(COLUMNS) + "\n")
    for request in requests:
        # Ten-millionths of a second, as in the originals; datetime keeps only millionths.
        moment = start + timedelta(seconds=int(request.at_s))
        fraction = round(request.at_s % 1 * 10**_DECIMALS)
        seconds = moment.strftime("%Y-%m-%d %H:%M:%S")
        out.write(f"{seconds}.{min(fraction, 10**_DECIMALS - 1):07d},{request.input_tokens},{request.output_tokens}\n")


def _places(path: Path, header: list[str]) -> tuple[int, int, int]:
    names = [name.strip().lower() for name in header]
    missing = [name for name in COLUMNS if name.lower() not in names]
    if missing:
        wanted = ",".join(COLUMNS)
        raise TraceError(f"{path}, line 1: no column {', '.join(missing)}; the header must be {wanted}")
    first, second, third = (names.index(name.lower()) for name in COLUMNS)
    return first, second, third


def _column(which: int) -> str:
    return f"column {COLUMNS[which]}"


def _cell(path: Path, line: int, row: list[str], place: int, which: int) -> str:
    if place >= len(row):
        wrong(path, line, _column(which), "missing; each row needs a value for each column")
    return row[place].strip()


def _moment(path: Path, line: int, row: list[str], place: int) -> datetime:
    text = _cell(path, line, row, place, 0)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        wrong(path, line, _column(0), f"{text[:40]!r} is no time; write it like 2023-11-16 18:17:03.9799600")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _tokens(path: Path, line: int, row: list[str], place: int, which: int) -> int:
    text = _cell(path, line, row, place, which)
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) > MAX_TOKENS:
        words = f"{text[:40]!r} is no count of tokens; write a whole number from 0 to {MAX_TOKENS}"
        wrong(path, line, _column(which), words)
    return int(text)
