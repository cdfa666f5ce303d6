"""The checkpoints that a log has published, all of them: 256 a file, in the form of entry bundles.

The last file is partial and named by its width, as tiles are; each publication writes it one wider.
"""

from __future__ import annotations

from collections.abc import Iterator

from amaru.errors import LedgerCorrupt
from amaru.ledger.tile_store import TileStore
from amaru.ledger.tiles import MAX_BUNDLE_BYTES, TILE_WIDTH, decode_entries, encode_entries, number_path


def kept_path(number: int, width: int = TILE_WIDTH) -> str:
    """Where the file of this number and width lies."""
    return f"checkpoints/{number_path(number)}{'' if width == TILE_WIDTH else f'.p/{width}'}"


def kept_checkpoints(store: TileStore) -> Iterator[bytes]:
    """Every published checkpoint, oldest first, as signed notes. Raises LedgerCorrupt."""
    number = 0
    while notes := _read(store, number):
        yield from notes
        number += 1


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


def _read(store: TileStore, number: int) -> list[bytes]:
    """One file, in the widest version that there is; empty where there is none. Raises LedgerCorrupt."""
    for width in (TILE_WIDTH, *_widths(store, number)):
        path = kept_path(number, width)
        content = store.read(path, most=MAX_BUNDLE_BYTES)
        if content is not None:
            return decode_entries(content, where=f"{store.shown}/{path}", width=width)
    return []


def _widths(store: TileStore, number: int) -> list[int]:
    """The partial versions of a file, the widest first."""
    names = store.names(f"{kept_path(number)}.p")
    return sorted((int(name) for name in names if name.isdigit() and 0 < int(name) < TILE_WIDTH), reverse=True)


def _whole(store: TileStore, number: int, width: int = TILE_WIDTH) -> tuple[bytes, ...]:
    """A file that is as it should be; else nothing."""
    content = store.read(kept_path(number, width), most=MAX_BUNDLE_BYTES)
    try:
        return tuple(decode_entries(content, width=width)) if content else ()
    except LedgerCorrupt:
        return ()
