"""Architecture decision records (Nygard, "Documenting Architecture Decisions", 2011): numbered Markdown files.

The file is for people, and lives where they keep their documents; the log holds its digest, number, title and status.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from amaru.errors import LedgerError
from amaru.files.whole import make_whole, remedied
from amaru.ledger.words import words_of

MAX_BYTES = 1024 * 1024
MAX_TITLE = 200

_FILE = re.compile(r"(\d{4,6})-[^/]*\.md")
_REF = re.compile(r"ADR-(\d{4,6})")
_HEADING = re.compile(r"^#\s+(?:(ADR-\d{4,6})\s*[:.–-]\s*)?(\S.*?)\s*$", re.M)
_STATUS = re.compile(r"^\W*status\W*:\W*([A-Za-z]+)", re.M | re.I)


def next_number(folder: Path, refs: Iterable[str]) -> int:
    """One more than the largest among the folder's files and ``refs`` (``ADR-0007``). Raises LedgerError."""
    try:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:
        raise LedgerError(f"{folder}: cannot be read: {error.strerror}") from None
    taken = [int(found[1]) for name in names if (found := _FILE.fullmatch(name))]
    taken += [int(found[1]) for ref in refs if (found := _REF.fullmatch(ref))]
    return max(taken, default=0) + 1


def write_adr(folder: Path, number: int, title: str, *, date: str, status: str, context: str) -> Path:
    """Write the record to fill in, to a file that is not there yet. Raises LedgerError."""
    slug = "-".join(words_of(title, stems=False))[:60].strip("-") or "untitled"
    path = folder / f"{number:04d}-{slug}.md"
    text = f"""# ADR-{number:04d}: {title}

- Status: {status}
- Date: {date}

## Context

{context or "What made a decision necessary: forces, limits, what was known."}

## Decision

What we do, in full sentences: "We …".

## Consequences

What becomes easier, what becomes harder, and what will tell us that we were wrong.
"""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        make_whole(path, text.encode())
    except FileExistsError:
        raise LedgerError(f"{path}: is there already") from None
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written: {remedied(error)}") from None
    return path


def read_adr(path: Path) -> tuple[str, str, str]:
    """Ref (``ADR-0007``, or empty), title and status (or empty) of a file. Raises LedgerError: it has no heading."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror}") from None
    heading = _HEADING.search(text)
    if heading is None:
        raise LedgerError(f"{path}: no title: a record begins with a heading, # ADR-0007: What was decided")
    number = _FILE.fullmatch(path.name)
    ref = heading[1] or (f"ADR-{number[1]}" if number else "")
    status = _STATUS.search(text)
    return ref, heading[2][:MAX_TITLE], status[1].lower() if status else ""
