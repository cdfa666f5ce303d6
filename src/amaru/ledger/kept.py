"""The checkpoints that a log has published, all of them: 256 a file, in the form of entry bundles.

None is ever removed, by no retention either: each is some 200 bytes, and an audit holds the entries to every one.

The last file is partial and named by its width, as tiles are; each publication writes it one wider.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from amaru.errors import LedgerCorrupt
from amaru.ledger.tile_store import TileStore
from amaru.ledger.tiles import (
    MAX_BUNDLE_BYTES,
    TILE_WIDTH,
    decode_entries,
    encode_entries,
    number_path,
    partial_widths,
)

DEEPEST = 2
"""Folders below ``checkpoints``: a thousand million files, at one publication a second some thousand years'."""
_NUMBER = re.compile(r"[0-9]{3}")


def kept_path(number: int, width: int = TILE_WIDTH) -> str:
    """Where the file of this number and width lies."""
    return f"checkpoints/{number_path(number)}{'' if width == TILE_WIDTH else f'.p/{width}'}"


class KeptFile(NamedTuple):
    """One file of them, as it is there."""

    number: int
    notes: tuple[bytes, ...]
    damage: str = ""
    """Why it cannot be read, in words."""


def kept_files(store: TileStore) -> Iterator[KeptFile]:
    """The files that are there, in order; a number that is passed over is one that is not.

    From a store that lists no folders, as many HTTP servers, come the full ones before the first that is not there.
    """
    last = -1
    for number in _listed(store):
        if (file := kept_file(store, number)) is not None:
            yield file
        last = number
    while (file := kept_file(store, last + 1)) is not None:  # begun since they were listed
        yield file
        last = file.number


def kept_checkpoints(store: TileStore) -> Iterator[bytes]:
    """Every published checkpoint that is there, oldest first, as signed notes. Raises LedgerCorrupt."""
    for file in kept_files(store):
        if file.damage:
            raise LedgerCorrupt(file.damage)
        yield from file.notes


class KeptCheckpoints:
    """Where the writer stands in them."""

    def __init__(self, number: int = 0, notes: tuple[bytes, ...] = ()) -> None:
        self.number = number
        self.notes = notes

    @classmethod
    def load(cls, store: TileStore, *, since: bytes = b"") -> KeptCheckpoints:
        """The last file that is whole; those with checkpoints after ``since`` are written again, to become durable.

        A loss of power may cut short what was written since the journal was last settled; the version before is there
        then.
        """
        last = cls._last(store)
        number, notes = last.number, last.notes
        while notes:
            store.write(kept_path(number, len(notes)), encode_entries(notes))
            if since in notes or not number:
                break
            number -= 1
            notes = _whole(store, number)
        return last

    @classmethod
    def _last(cls, store: TileStore) -> KeptCheckpoints:
        step = 1
        while _whole(store, step - 1):
            step *= 2
        low, high = step // 2, step - 1  # the first ``low`` files are full, and number ``high`` is not
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if _whole(store, middle) else (low, middle)
        for width in _widths(store, low):
            if notes := _whole(store, low, width):
                return cls(low, notes)
        return cls(low - 1, _whole(store, low - 1)) if low else cls()

    @property
    def path(self) -> str:
        """Of the last file."""
        return kept_path(self.number, len(self.notes))

    @property
    def folder(self) -> str:
        """Where its partial versions lie."""
        return f"{kept_path(self.number)}.p"

    def add(self, store: TileStore, note: bytes) -> KeptCheckpoints:
        """Write the file that has this one too; returns where the writer stands then."""
        if self.notes and self.notes[-1] == note:
            return self  # a recovery publishes again
        full = len(self.notes) == TILE_WIDTH
        added = KeptCheckpoints(self.number + full, (note,) if full else (*self.notes, note))
        store.write(added.path, encode_entries(added.notes))
        return added


def _listed(store: TileStore) -> list[int]:
    """The numbers of the files whose names the store lists."""
    found: set[int] = set()

    def look(folder: str, above: int, depth: int) -> None:
        for name in store.names(folder):
            part = name.removesuffix(".p")
            if _NUMBER.fullmatch(part):
                found.add(above + int(part))
            elif depth < DEEPEST and _NUMBER.fullmatch(part.removeprefix("x")):
                look(f"{folder}/{part}", (above + int(part[1:])) * 1_000, depth + 1)

    look("checkpoints", 0, 0)
    return sorted(found)


def kept_file(store: TileStore, number: int) -> KeptFile | None:
    """One file, in the widest version that there is; ``None``: none is."""
    # Once more as a full one: the partial ones go when it comes.
    for width in (TILE_WIDTH, *_widths(store, number), TILE_WIDTH):
        path = kept_path(number, width)
        try:
            content = store.read(path, most=MAX_BUNDLE_BYTES)
            if content is None:
                continue
            return KeptFile(number, tuple(decode_entries(content, where=f"{store.shown}/{path}", width=width)))
        except LedgerCorrupt as error:
            return KeptFile(number, (), str(error))
    return None


def _widths(store: TileStore, number: int) -> list[int]:
    """The partial versions of a file, the widest first."""
    return partial_widths(store.names(f"{kept_path(number)}.p"))[::-1]


def _whole(store: TileStore, number: int, width: int = TILE_WIDTH) -> tuple[bytes, ...]:
    """A file that is as it should be; else nothing."""
    content = store.read(kept_path(number, width), most=MAX_BUNDLE_BYTES)
    try:
        return tuple(decode_entries(content, width=width)) if content else ()
    except LedgerCorrupt:
        return ()
