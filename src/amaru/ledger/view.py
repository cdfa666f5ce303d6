"""What anyone who holds a log's files can read and prove from them, with public keys alone."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Generic, NamedTuple, TypeVar

from amaru.errors import EntryPruned, LedgerCorrupt, LedgerError, ProofError
from amaru.ledger.canonical import require_canonical
from amaru.ledger.checkpoint import Checkpoint, verify_checkpoint, verify_succession
from amaru.ledger.kept import kept_checkpoints
from amaru.ledger.merkle import (
    HASH_BYTES,
    MAX_SIZE,
    consistency_ranges,
    inclusion_ranges,
    range_root,
    verify_inclusion,
)
from amaru.ledger.notes import MAX_NOTE_BYTES, NoteVerifier
from amaru.ledger.tile_store import TileStore, open_store
from amaru.ledger.tiles import (
    ENTRIES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    decode_entries,
    decode_hashes,
    width_at,
)
from amaru.ledger.tlog_proof import TlogProof

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

CHECKPOINT = "checkpoint"
PRUNED = "pruned"
TILES_CACHED = 512
"""Each takes 16 KiB with the nodes between its hashes; these see to a thousand proofs a second from random places."""
BUNDLES_CACHED = 2


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That a leaf stands at ``index`` in the tree of ``size`` leaves."""

    index: int
    size: int
    leaf_hash: bytes
    path: tuple[bytes, ...]


class Pruned(NamedTuple):
    """The entries before ``until`` are gone, as leaf ``leaf`` says."""

    until: int = 0
    leaf: int = -1


class TileMissing(LedgerCorrupt):
    """A tile that the checkpoint covers is not there."""


class LogView:
    """A log as its last verified checkpoint has it; ``refresh`` looks for a newer one. Safe from several threads."""

    def __init__(
        self,
        store: TileStore,
        verifiers: Iterable[NoteVerifier],
        *,
        origin: str | None = None,
        tiles_cached: int = TILES_CACHED,
    ) -> None:
        self.store = store
        self.verifiers = tuple(verifiers)
        self.origin = origin
        self._head: tuple[Checkpoint, bytes] | None = None
        self._tiles: _Recent[Tile, list[bytes]] = _Recent(tiles_cached)
        self._bundles: _Recent[Tile, list[bytes]] = _Recent(BUNDLES_CACHED)
        self._pruned = Pruned()

    @classmethod
    def at(
        cls,
        url: str,
        verifiers: Iterable[NoteVerifier],
        *,
        origin: str | None = None,
        options: dict[str, Any] | None = None,  # Any: what the file system takes
    ) -> LogView:
        """The log at a path or URL, to read. Raises LedgerError, and ProofError where its checkpoint does not hold."""
        view = cls(open_store(url, options), verifiers, origin=origin)
        view.refresh()
        return view

    def refresh(self) -> Checkpoint:
        """Read the checkpoint anew, and hold the log to it: it must extend the last one seen.

        Raises ProofError, which names the case: forged, replayed, split view, rewritten; the last one seen stays.
        """
        note = self.store.read(CHECKPOINT, most=MAX_NOTE_BYTES)
        if note is None:
            raise LedgerError(f"{self.store.shown}: no log here: it has no checkpoint")
        new = verify_checkpoint(note, self.verifiers, origin=self.origin)
        if self._head is not None and self._head[0].size <= new.size:
            path = self._roots(consistency_ranges(self._head[0].size, new.size), new.size)
        else:
            path = ()
        if self._head is not None:
            verify_succession(self._head[0], new, path)
        self._pruned = read_pruned(self.store)
        self.origin = new.origin
        self._head = (new, note)
        return new

    def stand_at(self, note: bytes) -> None:
        """See the log as a signed checkpoint of it has it. Raises ProofError where no known key signed that."""
        self._head = (verify_checkpoint(note, self.verifiers, origin=self.origin), note)

    # ---- what it says -----------------------------------------------------------------------------------------------

    @property
    def head(self) -> Checkpoint:
        """The checkpoint that this view stands at."""
        if self._head is None:
            raise LedgerError(f"{self.store.shown}: not opened yet")
        return self._head[0]

    @property
    def size(self) -> int:
        """Entries under that checkpoint."""
        return self.head.size

    @property
    def pruned(self) -> Pruned:
        """Which entries are gone by a logged pruning."""
        return self._pruned

    def checkpoint(self) -> bytes:
        """The signed note of ``head``."""
        return self._head[1] if self._head is not None else b""

    def kept_checkpoints(self) -> Iterator[bytes]:
        """Every checkpoint ever published, oldest first, as signed notes."""
        return kept_checkpoints(self.store)

    # ---- entries ----------------------------------------------------------------------------------------------------

    def entry(self, index: int) -> bytes:
        """A leaf's bytes. Raises LedgerError where there is none, EntryPruned where it was pruned."""
        return next(self.entries(index, index + 1))

    def entries(self, start: int, end: int) -> Iterator[bytes]:
        """The leaves ``[start, end)``, read bundle by bundle. Raises as ``entry``, at once."""
        size = self.size
        if not 0 <= start <= end <= size:
            raise LedgerError(f"{self.store.shown}: has entries 0 to {size - 1:,}, not {start:,} to {end - 1:,}")
        if start < self._pruned.until and start < end:
            raise EntryPruned(
                f"{self.store.shown}: entry {start:,} was pruned, as leaf {self._pruned.leaf:,} says; its hash remains"
            )
        return self._entries(start, end, size)

    def _entries(self, start: int, end: int, size: int) -> Iterator[bytes]:
        while start < end:
            number, offset = divmod(start, TILE_WIDTH)
            bundle = self._bundle(Tile(ENTRIES, number, width_at(ENTRIES, number, size)))
            take = min(len(bundle) - offset, end - start)
            yield from bundle[offset : offset + take]
            start += take

    def _bundle(self, tile: Tile) -> list[bytes]:
        found = self._bundles.get(tile)
        if found is None:
            content, width = read_tile(self.store, tile)
            found = decode_entries(content, where=f"{self.store.shown}/{tile.path}", width=width)[: tile.width]
            self._bundles.put(tile, found)
        return found

    # ---- proofs -----------------------------------------------------------------------------------------------------

    def leaf_hash(self, index: int) -> bytes:
        """The hash of a leaf, pruned or not."""
        if not 0 <= index < self.size:
            raise LedgerError(f"{self.store.shown}: has entries 0 to {self.size - 1:,}, not {index:,}")
        return self._node(0, index, self.size)

    def root(self, size: int) -> bytes:
        """The root of the first ``size`` leaves."""
        return self._roots([(0, self._within(size))], self.size)[0]

    def inclusion(self, index: int, size: int | None = None) -> InclusionProof:
        """The proof that a leaf stands at ``index`` of the first ``size`` leaves; by default, of all.

        A proof of all is checked before it is given. Raises ProofError where there is no such leaf, LedgerCorrupt where
        the tiles are not those of the checkpoint.
        """
        head = self.head
        size = head.size if size is None else self._within(size)
        path = self._roots(inclusion_ranges(index, size), head.size)
        leaf = self._node(0, index, head.size)
        if size == head.size:
            try:
                verify_inclusion(leaf, index, size, path, head.root)
            except ProofError as error:
                raise LedgerCorrupt(f"{self.store.shown}: its tiles are not those of its checkpoint: {error}") from None
        return InclusionProof(index, size, leaf, path)

    def consistency(self, old: int, new: int | None = None) -> tuple[bytes, ...]:
        """The proof that the first ``new`` leaves (by default: all) begin with the first ``old``. Raises ProofError."""
        return self._roots(consistency_ranges(old, self._within(self.size if new is None else new)), self.size)

    def proof(self, index: int) -> TlogProof:
        """The inclusion of a leaf under the current checkpoint, for a file that proves it offline."""
        if self._head is None:
            raise LedgerError(f"{self.store.shown}: not opened yet")
        head, note = self._head  # once: a writer's thread may publish the next one meanwhile
        return TlogProof(index, self.inclusion(index, head.size).path, note)

    def node(self, level: int, index: int) -> bytes:
        """The root of a perfect subtree of the tree."""
        return self._node(level, index, self.size)

    def _within(self, size: int) -> int:
        if not 0 <= size <= self.size:
            raise ProofError(f"{self.store.shown}: the log has {self.size:,} leaves, not {size:,}")
        return size

    def _roots(self, ranges: Sequence[tuple[int, int]], size: int) -> tuple[bytes, ...]:
        return tuple(
            range_root(start, end, lambda level, index: self._node(level, index, size)) for start, end in ranges
        )

    def _node(self, level: int, index: int, size: int) -> bytes:
        """The root of a perfect subtree, which stands in a tile or between two levels of tiles."""
        tile_level, height = divmod(level, TILE_HEIGHT)
        number, offset = divmod(index << height, TILE_WIDTH)
        rows = self._rows(Tile(tile_level, number, width_at(tile_level, number, size)))
        at = (offset >> height) * HASH_BYTES
        return rows[height][at : at + HASH_BYTES]

    def _rows(self, tile: Tile) -> list[bytes]:
        """A tile's hashes, and the perfect nodes above them, each row in one piece."""
        rows = self._tiles.get(tile)
        if rows is None:
            content, width = read_tile(self.store, tile)
            row = decode_hashes(content, where=f"{self.store.shown}/{tile.path}", width=width)[: tile.width]
            rows = [b"".join(row)]
            while len(row) > 1:
                row = [sha256(b"\x01" + row[i] + row[i + 1]).digest() for i in range(0, len(row) - 1, 2)]
                rows.append(b"".join(row))
            self._tiles.put(tile, rows)
        return rows


def read_tile(store: TileStore, tile: Tile) -> tuple[bytes, int]:
    """A tile's bytes, and its width: a partial one may be gone once the full one is there.

    Raises TileMissing, and LedgerCorrupt where it cannot be one.
    """
    for candidate in dict.fromkeys((tile, tile.full)):
        content = store.read(candidate.path, most=tile.most_bytes)
        if content is not None:
            return content, candidate.width
    first = tile.number * TILE_WIDTH * TILE_WIDTH ** max(tile.level, 0)
    raise TileMissing(f"{store.shown}/{tile.path}: is missing (leaves from {first:,} on) — restore it from a copy")


def read_pruned(store: TileStore) -> Pruned:
    """What the store says to be pruned. Raises LedgerCorrupt."""
    content = store.read(PRUNED, most=1024)
    if content is None:
        return Pruned()
    try:
        value = require_canonical(content)
        pruned = Pruned(value["until"], value["leaf"])
        if not all(type(one) is int and 0 <= one < MAX_SIZE for one in pruned):
            raise ValueError("no places in a log")
        return pruned
    except (LedgerError, KeyError, TypeError, ValueError):
        raise LedgerCorrupt(f"{store.shown}/{PRUNED}: cannot be read — restore it from a copy") from None


class _Recent(Generic[_Key, _Value]):
    """The last ``most`` values used."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[_Key, _Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: _Key) -> _Value | None:
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: _Key, value: _Value) -> None:
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._most:
                self._values.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
