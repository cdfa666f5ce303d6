"""Partial files that others have replaced: which need not last, and which may go.

Who holds an older checkpoint may ask for the partial tiles of its size, until full ones can stand in for them. So a
partial tile stays when a wider one comes, and goes when the full one does.
"""

from __future__ import annotations

import contextlib

from amaru.errors import LedgerError
from amaru.ledger.tile_store import TileStore
from amaru.ledger.tiles import ENTRIES, TILE_WIDTH, Tile, edge_of


class Superseded:
    """The partial files of a log's writer since its journal's base."""

    def __init__(self, store: TileStore) -> None:
        self._store = store
        self._latest: dict[str, str] = {}
        self._base_folders: frozenset[str] = frozenset()
        self._to_delete: dict[str, None] = {}

    def based(self, size: int, kept_folder: str) -> None:
        """The journal has a new base, of this size; partial files that only the one before stood on go."""
        tiles = [*edge_of(size), Tile(ENTRIES, size // TILE_WIDTH)]
        self._base_folders = frozenset(f"{tile.full.path}.p" for tile in tiles) | {kept_folder}
        self._latest.clear()
        to_delete, self._to_delete = self._to_delete, {}
        for folder in to_delete:
            self._delete(folder)

    def by_wider(self, what: str, path: str) -> None:
        """``path`` is the latest partial file of its kind; the one before need not outlast a loss of power."""
        before = self._latest.get(what)
        if before is not None and before != path:
            self._store.forget(before)
        self._latest[what] = path

    def by_full(self, folder: str) -> None:
        """A full file stands for the partial ones in ``folder``: they go, but a recovery may begin with the base's."""
        if folder in self._base_folders:
            self._to_delete[folder] = None
        else:
            self._delete(folder)

    def _delete(self, folder: str) -> None:
        with contextlib.suppress(LedgerError):  # what stays takes room, and does no harm
            self._store.delete(folder)
