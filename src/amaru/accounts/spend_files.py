"""Tables of spend as files, CSV or Parquet, written whole or not at all; money in exact decimals."""

from __future__ import annotations

import csv
import itertools
import tempfile
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path

from amaru.accounts.money import usd_text
from amaru.errors import AccountError
from amaru.files.whole import put_whole, remedied

ROWS_PER_PART = 20_000
"""Held in memory while a Parquet file is made."""
USD_DECIMALS = 12
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Record = Mapping[str, object]
"""A row, by names of columns. Columns whose name ends in ``_usd`` hold pico-USD as an int."""


def write_csv(path: Path, columns: Mapping[str, type], records: Iterable[Record]) -> int:
    """Have ``path`` hold the records, or what it held before; how many they are. Raises AccountError.

    Texts that a spreadsheet would take for a formula begin with an apostrophe.
    """
    written = 0

    def write(draft: Path) -> None:
        nonlocal written
        with draft.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(columns)
            for written, record in enumerate(records, 1):  # noqa: B007 - how many
                table.writerow([_cell(name, record[name]) for name in columns])

    _put(path, write)
    return written


def write_parquet(path: Path, columns: Mapping[str, type], records: Iterable[Record]) -> int:
    """As ``write_csv``; money is ``Decimal(38, 12)``."""
    import polars as pl

    schema = {name: pl.Decimal(38, USD_DECIMALS) if name.endswith("_usd") else type for name, type in columns.items()}
    rows = iter(records)
    written = 0

    def write(draft: Path) -> None:
        nonlocal written
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            parts: list[Path] = []
            while (some := list(itertools.islice(rows, ROWS_PER_PART))) or not parts:
                parts.append(Path(folder, str(len(parts))))
                values = {name: [_exact(name, row[name]) for row in some] for name in columns}
                pl.DataFrame(values, schema=schema).write_parquet(parts[-1])
                written += len(some)
            pl.scan_parquet(parts).sink_parquet(draft)

    try:
        _put(path, write)
    except pl.exceptions.PolarsError as error:
        raise AccountError(f"{path} cannot be written: {error}") from None
    return written


def _put(path: Path, write: Callable[[Path], None]) -> None:
    try:
        put_whole(path, write)
    except OSError as error:
        raise AccountError(f"{path} cannot be written: {remedied(error)}") from None


def _cell(name: str, value: object) -> object:
    if name.endswith("_usd") and isinstance(value, int):
        return usd_text(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _exact(name: str, value: object) -> object:
    return Decimal(value).scaleb(-USD_DECIMALS) if name.endswith("_usd") and isinstance(value, int) else value
