"""A provider's usage export, read line by line: CSV, JSON lines, or JSON as its API answers.

Nothing is guessed. A line that cannot be read, another currency, a time without its zone are mistakes that name their
line, since a line that is left out would look like a request that was never billed. Only a JSON document that is no
JSON lines is held as a whole.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from amaru.accounts.export_lines import Billed, Unreadable, read_billed
from amaru.accounts.export_shapes import Shape, known_shapes, shape_of
from amaru.errors import AccountError
from amaru.files.problems import shown

MAX_DOCUMENT_BYTES = 64 * 2**20
"""Of a JSON document, and of one line."""
MAX_SAID = 20
"""Mistakes that are told; of the others there is only how many they are."""

Record = Mapping[str, Any]  # Any: what JSON or CSV holds
_NOT_JSON = (msgspec.DecodeError, RecursionError)
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class Export:
    """An export, and its lines.

    Parameters
    ----------
    path
        CSV with a header, or JSON; UTF-8.

    Attributes
    ----------
    shape
        The first format that its first record has all columns of.

    Raises
    ------
    AccountError
        It cannot be opened, is empty, or of no known format: the message says which columns were looked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        first = next((record for _, record in self._records() if isinstance(record, dict)), None)
        if first is None:
            raise AccountError(f"{path}: nothing is billed in it.")
        shape = shape_of(first)
        if shape is None:
            names = ", ".join(shown(name) for name in itertools.islice(first, 40))
            raise AccountError(f"{path}: not a known format. It has {names}. Known are:\n{known_shapes()}")
        self.shape: Shape = shape

    def lines(self) -> Iterator[tuple[int, Billed]]:
        """What was billed, each with its line, or its place in a JSON document, from 1.

        Raises AccountError after the last one where some cannot be read, naming them: what was read before is not the
        whole export.
        """
        mistakes: list[str] = []
        count = 0
        for number, record in self._records():
            try:
                billed = read_billed(self.shape, record if isinstance(record, dict) else _refuse(record))
            except Unreadable as mistake:
                count += 1
                if count <= MAX_SAID:
                    mistakes.append(f"{self.path}:{number}: {mistake}")
            else:
                yield number, billed
        if count > MAX_SAID:
            mistakes.append(f"and {count - MAX_SAID:,} more")
        if mistakes:
            raise AccountError("some lines cannot be read; nothing was changed:\n" + "\n".join(mistakes))

    def _records(self) -> Iterator[tuple[int, Record | str]]:
        """Records by columns, nested ones as ``outer.inner``; a text says why there is none."""
        try:
            with self.path.open("rb") as file:
                start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
                file.seek(0)
                yield from self._json(file) if start[:1] in (b"{", b"[") else self._csv(file)
        except OSError as error:
            raise AccountError(f"{self.path} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise AccountError(f"{self.path}: not UTF-8. Export it as CSV or JSON in UTF-8.") from None

    def _csv(self, file: BinaryIO) -> Iterator[tuple[int, Record | str]]:
        rows = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
        try:
            columns = [name.strip() for name in next(rows, [])]
            if len(set(columns)) < len(columns):
                raise AccountError(f"{self.path}:1: two columns have one name.")
            for row in rows:
                if len(row) == len(columns):
                    yield rows.line_num, dict(zip(columns, row, strict=True))
                elif row:
                    yield rows.line_num, f"{len(row)} columns, where the header has {len(columns)}"
        except csv.Error as error:
            raise AccountError(f"{self.path}:{rows.line_num}: not CSV: {error}.") from None

    def _json(self, file: BinaryIO) -> Iterator[tuple[int, Record | str]]:
        """JSON lines if the first line is JSON by itself, else one document. Pages of an API give their records."""
        page: object = None
        number = 0
        for at, line in self._documents(file):
            try:
                page = _decode(line)
            except _NOT_JSON as error:
                yield at or 1, f"not JSON: {error}"
                continue
            for record in _records_of(page):
                number += 1
                yield at or number, record
        if isinstance(page, dict) and page.get("has_more") is True:
            raise AccountError(
                f"{self.path}: the export goes on (has_more is true). Get its other pages too, each on a line."
            )

    def _documents(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """Each line with its number, or all of the file as line 0."""
        first = file.readline(MAX_DOCUMENT_BYTES + 1)
        try:
            _decode(first)
        except _NOT_JSON:
            rest = file.read(MAX_DOCUMENT_BYTES + 1)
            if len(first) + len(rest) > MAX_DOCUMENT_BYTES:
                raise AccountError(
                    f"{self.path}: a JSON document of more than {MAX_DOCUMENT_BYTES >> 20} MiB. "
                    "Write it as JSON lines, one record or page on a line."
                ) from None
            yield 0, first + rest
            return
        for at, line in enumerate(
            itertools.chain([first], iter(lambda: file.readline(MAX_DOCUMENT_BYTES + 1), b"")), 1
        ):
            if len(line) > MAX_DOCUMENT_BYTES:
                raise AccountError(f"{self.path}:{at}: a line of more than {MAX_DOCUMENT_BYTES >> 20} MiB.")
            if not line.isspace():
                yield at, line


def _records_of(page: object) -> Iterator[Record | str]:
    """A page's records: what its ``data`` holds, and of a bucket of time its ``results``."""
    inner = page.get("data", page) if isinstance(page, dict) else page
    for item in inner if isinstance(inner, list) else [inner]:
        if not isinstance(item, dict):
            yield "no JSON object"
        elif isinstance(results := item.get("results"), list):
            bucket = {name: value for name, value in item.items() if name != "results"}
            for result in results:
                yield _flat(bucket | result) if isinstance(result, dict) else "no JSON object"
        else:
            yield _flat(item)


def _flat(record: Record) -> Record:
    flat: dict[str, Any] = {}  # Any: what JSON holds
    for name, value in record.items():
        if isinstance(value, dict):
            flat.update((f"{name}.{inner}", of) for inner, of in value.items())
        else:
            flat[name] = value
    return flat


def _refuse(why: Record | str) -> Record:
    raise Unreadable(str(why))
