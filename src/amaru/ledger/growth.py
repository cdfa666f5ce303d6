"""The right edge of a log: what of its tiles still grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from amaru.errors import LedgerCorrupt, ProofError
from amaru.ledger.journal import Frame
from amaru.ledger.merkle import HASH_BYTES, Frontier, leaf_hash, perfect_nodes
from amaru.ledger.tiles import ENTRIES, TILE_HEIGHT, TILE_WIDTH, Tile, decode_entries, edge_of, encode_entries, width_at
from amaru.ledger.view import LogView, read_tile

_FULL_BYTES = TILE_WIDTH * HASH_BYTES

Write = Callable[[Tile, bytearray], None]


class Edge:
    """The partial tile of each level, the partial entry bundle, and the roots of what stands left of them.

    Of bounded size: 8 KiB a level, and at most 255 entries.
    """

    def __init__(self, frontier: Frontier, hashes: list[bytearray], bundle: bytearray) -> None:
        self.frontier = frontier
        self._hashes = hashes
        self._bundle = bundle

    @classmethod
    def new(cls) -> Edge:
        """Of an empty log."""
        return cls(Frontier(), [bytearray()], bytearray())

    @classmethod
    def at(cls, view: LogView, base: Frame) -> Edge:
        """Of a log as its journal's base names it. Raises LedgerCorrupt where the log is not that."""
        if not base.payload:
            return cls.new()
        where = f"{view.store.shown}/journal"
        try:
            view.stand_at(base.payload)
        except ProofError as error:
            raise LedgerCorrupt(f"{where}: its base does not hold here: {error}") from None
        if view.size != base.first:
            raise LedgerCorrupt(f"{where}: its base is of {view.size:,} leaves, not {base.first:,}")
        return cls.load(view) if view.size else cls.new()

    @classmethod
    def load(cls, view: LogView) -> Edge:
        """Of a log as it is. Raises LedgerCorrupt where its tiles are not those of its checkpoint."""
        size, store = view.size, view.store
        if view.root(size) != view.head.root:
            raise LedgerCorrupt(f"{store.shown}: its tiles are not those of its checkpoint of {size:,} leaves")
        roots = [view.node(level, index) for level, index in perfect_nodes(0, size)]
        edge = cls(Frontier(size, roots), [bytearray() for _ in range(_levels(size))], bytearray())
        for tile in edge_of(size):
            content, _ = read_tile(store, tile)
            edge._hashes[tile.level][:] = content[: tile.width * HASH_BYTES]
        if width := width_at(ENTRIES, size // TILE_WIDTH, size):
            tile = Tile(ENTRIES, size // TILE_WIDTH, width)
            content, there = read_tile(store, tile)
            leaves = decode_entries(content, where=f"{store.shown}/{tile.path}", width=there)[:width]
            for number, leaf in enumerate(leaves):
                at = number * HASH_BYTES
                if leaf_hash(leaf) != edge._hashes[0][at : at + HASH_BYTES]:
                    index = tile.number * TILE_WIDTH + number
                    raise LedgerCorrupt(f"{store.shown}/{tile.path}: leaf {index:,} is not what was logged")
                edge._bundle += len(leaf).to_bytes(2, "big") + leaf
        return edge

    def copy(self) -> Edge:
        """A second one that goes its own way."""
        return Edge(self.frontier.copy(), [bytearray(row) for row in self._hashes], bytearray(self._bundle))

    def grow(self, leaves: Sequence[bytes], write: Write) -> list[Tile]:
        """Take leaves in, and write every tile and bundle that becomes full; returns those."""
        filled: list[Tile] = []
        frontier, hashes = self.frontier, self._hashes
        at = 0
        while at < len(leaves):
            run = leaves[at : at + TILE_WIDTH - frontier.size % TILE_WIDTH]
            at += len(run)
            self._bundle += encode_entries(run)
            digests = [sha256(b"\x00" + leaf).digest() for leaf in run]
            hashes[0] += b"".join(digests)
            for digest in digests:
                made = frontier.push(digest)
            if len(hashes[0]) < _FULL_BYTES:
                continue
            bundle = Tile(ENTRIES, frontier.size // TILE_WIDTH - 1)
            write(bundle, self._bundle)
            filled.append(bundle)
            self._bundle = bytearray()
            for level, root in enumerate(made[::TILE_HEIGHT]):
                if level == len(hashes):
                    hashes.append(bytearray())
                if level:
                    hashes[level] += root
                if len(hashes[level]) == _FULL_BYTES:
                    tile = Tile(level, (frontier.size >> TILE_HEIGHT * (level + 1)) - 1)
                    write(tile, hashes[level])
                    filled.append(tile)
                    hashes[level] = bytearray()
        return filled

    def write_partials(self, since: int, write: Write) -> list[Tile]:
        """Write the partial tiles that a log of ``since`` leaves did not have; returns those."""
        size = self.frontier.size
        written: list[Tile] = []
        if size == since:
            return written
        if width := size % TILE_WIDTH:
            written.append(Tile(ENTRIES, size // TILE_WIDTH, width))
            write(written[0], self._bundle)
        for level, row in enumerate(self._hashes):
            if row and size >> TILE_HEIGHT * level != since >> TILE_HEIGHT * level:
                written.append(Tile(level, size >> TILE_HEIGHT * (level + 1), len(row) // HASH_BYTES))
                write(written[-1], row)
        return written


def _levels(size: int) -> int:
    """Levels of tiles in a tree; one at least."""
    return max(1, -(-size.bit_length() // TILE_HEIGHT))
