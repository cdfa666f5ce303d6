"""From the gateway's stored decisions to a data set, and back.

Memory holds a page of the store and a part of the data set, whatever their size: parts are written to files and merged
by Polars' streaming engine. A run that fails leaves the data set that was there as it was.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import polars as pl

from amaru.files.whole import put_whole, write_whole
from amaru.learning.dataset_schema import (
    FORMAT,
    DatasetError,
    Filters,
    LoggedDecision,
    Manifest,
    from_frame,
    to_frame,
)
from amaru.learning.dataset_source import PAGE_ROWS, StoredRows

PART_ROWS = 20_000
ROW_GROUP_ROWS = 10_000
"""Of the Parquet file, and how many rows a reader holds at a time."""


def files_of(dataset: Path) -> tuple[Path, Path]:
    """The rows and the manifest of a data set, which is named by a folder or by its Parquet file."""
    if dataset.suffix == ".parquet":
        return dataset, dataset.with_suffix(".manifest.json")
    return dataset / "decisions.parquet", dataset / "manifest.json"


def build(
    store: Path,
    out: Path,
    *,
    filters: Filters | None = None,
    code: str = "unknown",
    page_rows: int = PAGE_ROWS,
    part_rows: int = PART_ROWS,
    progress: Callable[[int], None] = lambda _: None,
) -> Manifest:
    """Write the decisions of ``store`` to the data set ``out``, which is replaced when all went well.

    Parameters
    ----------
    code
        The version of amaru, for the manifest.
    progress
        Told how many rows there are, now and then.

    Raises
    ------
    DatasetError
        No such store, no decision with an outcome, or ``out`` cannot be written.
    StorageError
        The store cannot be read.
    """
    source = StoredRows(store, filters, page_rows=page_rows)
    file, beside = files_of(out)
    parts = file.with_name(f".{file.name}.{os.getpid()}.parts")
    counts = _Counts()
    try:
        parts.mkdir(parents=True)
        paths: list[Path] = []
        held: list[LoggedDecision] = []

        def flush() -> None:
            paths.append(parts / f"{len(paths):06d}.parquet")
            to_frame(held).write_parquet(paths[-1])
            held.clear()
            progress(counts.rows)

        for row in source:
            counts.take(row)
            held.append(row)
            if len(held) >= part_rows:
                flush()
        if held:
            flush()
        if not paths:
            raise DatasetError(_nothing(source))
        put_whole(
            file, lambda draft: pl.scan_parquet(paths).sink_parquet(draft, row_group_size=ROW_GROUP_ROWS, lazy=False)
        )
        manifest = _manifest(file, source, counts, code)
        write_whole(beside, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DatasetError(f"{out}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    return manifest


class _Counts:
    def __init__(self) -> None:
        self.rows = self.reported = 0
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.policies: dict[str, int] = {}

    def take(self, row: LoggedDecision) -> None:
        self.rows += 1
        self.reported += row.reported
        self.first_at = row.at if self.first_at is None else min(self.first_at, row.at)
        self.last_at = row.at if self.last_at is None else max(self.last_at, row.at)
        self.policies[row.policy] = self.policies.get(row.policy, 0) + 1


def _manifest(file: Path, source: StoredRows, counts: _Counts, code: str) -> Manifest:
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return Manifest(
        format=FORMAT,
        file=file.name,
        sha256=digest,
        bytes=file.stat().st_size,
        rows=counts.rows,
        first_at=counts.first_at,
        last_at=counts.last_at,
        policies=dict(sorted(counts.policies.items())),
        reported=counts.reported,
        without_outcome=source.without_outcome,
        corrupt=source.corrupt,
        corrupt_rows=source.corrupt_rows,
        filters=source.filters,
        store_schema=source.schema,
        code=code,
        boards=dict(sorted(source.boards.items())),
    )


def _nothing(source: StoredRows) -> str:
    what = f"{source.seen:,} decisions passed the filters, {source.without_outcome:,} of them have no outcome"
    corrupt = f", {source.corrupt:,} cannot be used (first: {source.corrupt_rows[0].why})" if source.corrupt else ""
    return f"{source.store}: nothing to learn from: {what}{corrupt}."


def read_manifest(dataset: Path) -> Manifest:
    """The manifest of a data set, whose rows were held against its digest.

    Raises DatasetError where either file is missing, the format is another, or the digest differs.
    """
    file, beside = files_of(dataset)
    try:
        manifest = msgspec.json.decode(beside.read_bytes(), type=Manifest)
        with file.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        if dataset.is_file() and dataset != file:
            raise DatasetError(
                f"{dataset}: is no data set. Of a store: amaru dataset build --store {dataset}"
            ) from error
        raise DatasetError(f"{error.filename}: {error.strerror}. Build it: amaru dataset build") from error
    except msgspec.MsgspecError as error:
        raise DatasetError(f"{beside}: {error}. Build the data set anew: amaru dataset build") from error
    if manifest.format != FORMAT:
        raise DatasetError(f"{beside}: its format is {manifest.format!r}; this amaru reads {FORMAT!r}")
    if digest != manifest.sha256:
        raise DatasetError(f"{file}: its digest is not the manifest's. It was changed, or is of another build.")
    return manifest


def read_rows(dataset: Path, *, page_rows: int = ROW_GROUP_ROWS) -> Iterator[LoggedDecision]:
    """The rows of a data set, in their order, ``page_rows`` at a time. Raises DatasetError."""
    file, _ = files_of(dataset)
    first = 0
    while True:
        try:
            frame = pl.scan_parquet(file).slice(first, page_rows).collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DatasetError(f"{file}: cannot be read: {error}. Build it: amaru dataset build") from error
        if frame.is_empty():
            return
        yield from from_frame(frame, file, first)
        first += len(frame)
