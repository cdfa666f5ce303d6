"""Erasing entry bundles that a logged pruning has given up (``pruning``)."""

from __future__ import annotations

from amaru.ledger.tile_store import TileStore
from amaru.ledger.tiles import ENTRIES, MAX_BUNDLE_BYTES, TILE_WIDTH, Tile


def erase(store: TileStore, start: int, until: int) -> None:
    """Remove the bundles of the entries ``[start, until)``, the oldest first. Raises LedgerError."""
    for number in range(start // TILE_WIDTH, until // TILE_WIDTH):
        _erase_bundle(store, number)


def finish_erasing(store: TileStore, until: int) -> None:
    """Remove what was left where erasing was stopped: the newest bundles before ``until``. Raises LedgerError."""
    number = until // TILE_WIDTH - 1
    while number >= 0 and store.read(Tile(ENTRIES, number).path, most=MAX_BUNDLE_BYTES) is not None:
        _erase_bundle(store, number)
        number -= 1


def _erase_bundle(store: TileStore, number: int) -> None:
    path = Tile(ENTRIES, number).path
    store.delete(f"{path}.p")
    store.delete(path)
