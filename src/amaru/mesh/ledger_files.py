"""A log's public files, by their names: what whoever checks the log may read of it over HTTP.

A name is matched whole against what such a file can be called, in digits, so that none leads anywhere else.
"""

from __future__ import annotations

import re

from amaru.errors import LedgerError
from amaru.ledger.merkle import HASH_BYTES
from amaru.ledger.notes import MAX_NOTE_BYTES
from amaru.ledger.place import VKEY, Place
from amaru.ledger.proofs import MAX_PIECE_BYTES, STEM
from amaru.ledger.tile_store import TileStore, open_store
from amaru.ledger.tiles import (
    ENTRIES,
    MAX_BUNDLE_BYTES,
    TILE_WIDTH,
    Tile,
    decode_entries,
    encode_entries,
    parse_path,
    width_at,
)
from amaru.ledger.view import CHECKPOINT, PRUNED

SMALL_FILES = {CHECKPOINT: MAX_NOTE_BYTES, VKEY: 64 * 1024, PRUNED: 1024}
"""The log's files beside its folders, and how long each may be."""
_SUBJECT = r"(?:checkpoints/[0-9]{1,13}/[0-9]{1,19}|artifacts/[0-9a-f]{2}/[0-9a-f]{64})"
_FILES = (
    (re.compile(r"checkpoints/(?:x[0-9]{3}/){0,2}[0-9]{3}(?:\.p/[1-9][0-9]{0,2})?"), MAX_BUNDLE_BYTES),
    (re.compile(rf"proofs/{_SUBJECT}/(?:checkpoint|{STEM}\.(?:asc|key|tsr))"), MAX_PIECE_BYTES),
)
_FOLDER = re.compile(
    rf"checkpoints/(?:x[0-9]{{3}}/){{0,2}}(?:[0-9]{{3}}\.p/)?"
    rf"|proofs/(?:checkpoints/(?:[0-9]{{1,13}}/)?|{_SUBJECT}/)"
)
_SHOWN = re.compile(r"[0-9a-z][0-9a-z.-]{0,79}")


class LedgerFiles:
    """Those of the log at a place. Each call may wait for the disk, and raises LedgerError where it cannot be read."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._opened: TileStore | None = None

    def read(self, name: str, size: int) -> bytes | None:
        """The file of this name in a log of ``size`` entries; ``None``: there is none.

        A partial tile that others have replaced is cut from these.
        """
        if name in SMALL_FILES:
            return self._store.read(name, most=SMALL_FILES[name])
        for pattern, most in _FILES:
            if pattern.fullmatch(name):
                return self._store.read(name, most=most)
        try:
            tile = parse_path(name)
        except LedgerError:
            return None
        return self._tile(tile, size)

    def names(self, folder: str) -> list[str] | None:
        """What lies in a folder, named with a ``/`` at its end; ``None``: it is none that is listed, or is not there.

        Folders of tiles are not: which tiles there are follows from the log's size.
        """
        if not _FOLDER.fullmatch(folder):
            return None
        found = self._store.names(folder.rstrip("/"))
        return sorted(name for name in found if _SHOWN.fullmatch(name)) or None

    def _tile(self, tile: Tile, size: int) -> bytes | None:
        most = MAX_BUNDLE_BYTES if tile.level == ENTRIES else TILE_WIDTH * HASH_BYTES
        now = tile._replace(width=max(width_at(tile.level, tile.number, size), tile.width))
        for candidate in dict.fromkeys((tile, now, tile.full)):
            content = self._store.read(candidate.path, most=most)
            if content is not None:
                return content if candidate == tile else _cut(content, tile)
        return None

    @property
    def _store(self) -> TileStore:
        if self._opened is None:
            self._opened = open_store(self._place.url)
        return self._opened


def _cut(content: bytes, tile: Tile) -> bytes:
    if tile.level == ENTRIES:
        return encode_entries(decode_entries(content)[: tile.width])
    return content[: tile.width * HASH_BYTES]
