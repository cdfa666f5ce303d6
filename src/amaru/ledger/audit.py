"""The audit: a log's every tile made again from its entries, and every checkpoint held against them.

It trusts the public keys that it is given, and nothing in the store. It reads the entries once, in order, and keeps the
right edge of the tree and 256 checkpoints in memory. What it cannot know is what others were shown: hand it checkpoints
that were kept elsewhere (``witnessed``), and it holds the log to those too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from amaru.errors import LedgerCorrupt, LedgerError
from amaru.ledger.audit_checkpoints import Checkpoints
from amaru.ledger.audit_report import MOST_COUNTED, MOST_FAULTS, AuditReport, Fault, Finding
from amaru.ledger.canonical import require_canonical
from amaru.ledger.checkpoint import Checkpoint
from amaru.ledger.merkle import HASH_BYTES, Frontier, leaf_hash
from amaru.ledger.notes import NoteVerifier
from amaru.ledger.pruning import pruning_until
from amaru.ledger.tile_store import TileStore
from amaru.ledger.tiles import (
    ENTRIES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    decode_entries,
    decode_hashes,
    partial_widths,
    width_at,
)
from amaru.ledger.view import LogView, Pruned, TileMissing, read_pruned, read_tile


def audit(
    store: TileStore,
    verifiers: Iterable[NoteVerifier],
    *,
    origin: str | None = None,
    witnessed: Iterable[bytes] = (),
    canonical: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Audit a log. ``progress`` is told how many leaves of how many are done, now and then.

    ``canonical`` says whether each entry must be canonical JSON. Raises LedgerError where the store cannot be read;
    what is wrong with the log is in the report.
    """
    return _Audit(store, tuple(verifiers), origin, canonical).run(witnessed, progress)


class _Audit:
    """One run."""

    def __init__(
        self, store: TileStore, verifiers: tuple[NoteVerifier, ...], origin: str | None, canonical: bool
    ) -> None:
        self._store = store
        self._verifiers = verifiers
        self._checkpoints = Checkpoints(store, verifiers, origin, self._found)
        self._canonical = canonical
        self._findings: list[Finding] = []
        self._more = 0
        self._entries = self._tiles = 0
        self._frontier = Frontier()
        self._rows: list[list[bytes]] = [[]]
        self._last: tuple[int, list[bytes]] = (-1, [])
        self._sound_until = 0
        self._faulty: list[int] = []  # one leaf of each bundle at most, in order
        self._pruned = Pruned()

    def run(self, witnessed: Iterable[bytes], progress: Callable[[int, int], None] | None) -> AuditReport:
        head = self._checkpoints.head()
        size = head.size if head is not None else 0
        if head is not None:
            self._pruned = self._read_pruned(size)
            self._walk(head, witnessed, progress or (lambda _done, _all: None))
        return AuditReport(
            size=size,
            walked=self._frontier.size,
            entries=self._entries,
            pruned=min(self._pruned.until, size),
            tiles=self._tiles,
            checkpoints=self._checkpoints.verified,
            findings=tuple(self._findings),
            more=self._more,
            history=self._checkpoints.history,
            missing=tuple(self._checkpoints.missing),
        )

    # ---- entries and tiles ------------------------------------------------------------------------------------------

    def _walk(self, head: Checkpoint, witnessed: Iterable[bytes], progress: Callable[[int, int], None]) -> None:
        latest: Checkpoint | None = None
        for checkpoint, where in self._checkpoints.in_order(head, witnessed):
            if latest is not None and checkpoint.size == latest.size:
                if checkpoint.root != latest.root:
                    words = (
                        f"two checkpoints of {latest.size:,} leaves: {latest.root.hex()} and {checkpoint.root.hex()}"
                    )
                    self._found(Fault.SPLIT, where, words)
                continue
            latest = checkpoint
            if checkpoint.size > head.size:
                if self._checkpoints.has_grown_to(checkpoint.size):
                    continue  # published since the audit began
                words = f"covers {checkpoint.size:,} leaves, and the log shows {head.size:,}: cut short, or replayed"
                self._found(Fault.TRUNCATED, where, words, head.size)
                continue
            self._walk_to(checkpoint.size, head.size, progress)
            if self._frontier.size == checkpoint.size:
                self._hold_against(checkpoint, where)
        if self._frontier.size == head.size:
            self._edge(head.size)
        progress(head.size, head.size)

    def _hold_against(self, checkpoint: Checkpoint, where: str) -> None:
        if self._frontier.root() == checkpoint.root:
            self._sound_until = checkpoint.size
            return
        if not checkpoint.size:
            words = f"of no leaves, and with the root {checkpoint.root.hex()}, which is not the empty tree's"
            self._found(Fault.CHECKPOINT, where, words)
            return
        if self._named(0, checkpoint.size):
            return  # told already, and by leaf
        words = (
            f"the checkpoint of {checkpoint.size:,} leaves is not of these entries; the first of leaves "
            f"{self._sound_until:,} to {checkpoint.size - 1:,} that was exchanged cannot be told: its hash was too"
        )
        self._found(Fault.HISTORY, where, words, self._sound_until)

    def _walk_to(self, size: int, end: int, progress: Callable[[int, int], None]) -> None:
        """Take in the leaves up to ``size``; a bundle is read once, and again only where a checkpoint divides it.

        Fewer where too much is at fault: who has the key can sign any size, and an audit must end.
        """
        while (start := self._frontier.size) < size and self._more < MOST_COUNTED:
            number = start // TILE_WIDTH
            stop = min(size, (number + 1) * TILE_WIDTH)
            hashes = self._leaf_hashes(number, end)
            for index in range(start, stop):
                self._push(hashes[index % TILE_WIDTH])
            progress(stop, end)

    def _leaf_hashes(self, number: int, end: int) -> list[bytes]:
        """The hashes of a bundle's leaves: of the entries, where they are there, else what the tile says."""
        if self._last[0] == number:
            return self._last[1]
        width = width_at(ENTRIES, number, end)
        first = number * TILE_WIDTH
        told = self._hashes_of(Tile(0, number, width))
        entries = self._entries_of(Tile(ENTRIES, number, width))
        hashes = [leaf_hash(entry) for entry in entries] if entries is not None else told or []
        if entries is not None:
            self._compare(first, entries, hashes, told)
        # Where neither is whole, anything but a hash of something: the root cannot come out by chance.
        hashes = (hashes + [bytes(HASH_BYTES)] * width)[:width]
        if hashes != told:
            pairs = zip(hashes, told or (), strict=False)
            self._faulty.append(first + next((i for i, (a, b) in enumerate(pairs) if a != b), 0))
        self._last = (number, hashes)
        return hashes

    def _compare(self, first: int, entries: list[bytes], hashes: list[bytes], told: list[bytes] | None) -> None:
        where = Tile(ENTRIES, first // TILE_WIDTH).path
        self._entries += len(entries)
        differ = [i for i, (a, b) in enumerate(zip(hashes, told or (), strict=False)) if a != b]
        if differ and told is not None:
            at = differ[0]
            how = _how(hashes, told, at)
            words = f"leaf {first + at:,} {how}: it hashes to {hashes[at].hex()}, and the tile has {told[at].hex()}"
            self._found(Fault.ENTRY, where, words, first + at)
        elif told is not None and len(hashes) < len(told):
            words = f"ends before leaf {first + len(hashes):,}, which was logged"
            self._found(Fault.MISSING, where, words, first + len(hashes))
        for number, entry in enumerate(entries if self._canonical else ()):
            try:
                require_canonical(entry)
            except LedgerError as error:
                self._found(Fault.CANONICAL, where, f"leaf {first + number:,}: {error}", first + number)

    def _entries_of(self, tile: Tile) -> list[bytes] | None:
        """A bundle's entries, which every version of it that is there must agree on; ``None``: pruned, or missing."""
        first = tile.number * TILE_WIDTH
        if first + TILE_WIDTH <= self._pruned.until:
            return None
        try:
            content, width = read_tile(self._store, tile)
            entries = decode_entries(content, where=tile.path)
        except TileMissing as error:
            self._pruned = self._pruned_meanwhile() or self._pruned
            if first + TILE_WIDTH > self._pruned.until:
                self._found(Fault.MISSING, tile.path, f"{error}; no pruning is logged", first)
            return None
        except LedgerCorrupt as error:
            self._found(Fault.ENTRY, tile.path, str(error), first)
            return None
        if len(entries) > width:
            self._found(Fault.ENTRY, tile.path, f"holds {len(entries)} entries, not {width}", first + width)
        self._same_in_all(tile._replace(width=width), content, entries)
        return entries[: tile.width]

    def _hashes_of(self, tile: Tile) -> list[bytes] | None:
        try:
            content, width = read_tile(self._store, tile)
            hashes = decode_hashes(content, where=tile.path, width=width)
        except LedgerCorrupt as error:
            fault = Fault.MISSING if isinstance(error, TileMissing) else Fault.TILE
            self._found(fault, tile.path, str(error), _first_leaf(tile))
            return None
        self._tiles += 1
        self._same_in_all(tile._replace(width=width), content, hashes)
        return hashes[: tile.width]

    def _same_in_all(self, tile: Tile, content: bytes, found: list[bytes]) -> None:
        """The other versions of a tile that lie beside it must begin as it does, or an index has two contents.

        One that is cut short says nothing else: a loss of power does that to those that a wider one has replaced.
        """
        widths = (*partial_widths(self._store.names(f"{tile.full.path}.p")), TILE_WIDTH)
        for other in (tile._replace(width=width) for width in widths if width != tile.width):
            try:
                version = self._store.read(other.path, most=other.most_bytes)
                if version is None or content.startswith(version):
                    continue
                parts = _decoded(other, version)
            except LedgerCorrupt as error:
                fault = Fault.ENTRY if tile.level == ENTRIES else Fault.TILE
                self._found(fault, other.path, str(error), _first_leaf(tile))
                continue
            at = next((i for i, (a, b) in enumerate(zip(parts, found, strict=False)) if a != b), None)
            if at is not None:
                leaf = _first_leaf(tile, at)
                what = f"hash {at}" if tile.level > 0 else f"leaf {leaf:,}"
                self._found(Fault.DUPLICATE, other.path, f"has another {what} than {tile.path}", leaf)

    # ---- the tree above ---------------------------------------------------------------------------------------------

    def _push(self, leaf: bytes) -> None:
        """Take a leaf hash in; each tile above that becomes full is compared."""
        for level, root in enumerate(self._frontier.push(leaf)[::TILE_HEIGHT]):
            if level == len(self._rows):
                self._rows.append([])
            if level:
                self._rows[level].append(root)
                if len(self._rows[level]) == TILE_WIDTH:
                    number = (self._frontier.size >> TILE_HEIGHT * (level + 1)) - 1
                    self._tile(Tile(level, number), self._rows[level])
                    self._rows[level] = []

    def _edge(self, size: int) -> None:
        for level in range(1, len(self._rows)):
            if self._rows[level]:
                number = size >> TILE_HEIGHT * (level + 1)
                self._tile(Tile(level, number, len(self._rows[level])), self._rows[level])

    def _tile(self, tile: Tile, expected: list[bytes]) -> None:
        told = self._hashes_of(tile)
        for at, (a, b) in enumerate(zip(told or (), expected, strict=False)):
            first = (tile.number * TILE_WIDTH + at) << TILE_HEIGHT * tile.level
            if a != b and not self._named(first, first + (1 << TILE_HEIGHT * tile.level)):
                self._found(Fault.TILE, tile.path, f"hash {at} is not what the leaves from {first:,} on give", first)
                return

    def _named(self, start: int, end: int) -> bool:
        """Whether a leaf among these is at fault already, so that what stands above it differs too."""
        at = bisect_left(self._faulty, start)
        return at < len(self._faulty) and self._faulty[at] < end

    # ---- prunings ---------------------------------------------------------------------------------------------------

    def _read_pruned(self, size: int) -> Pruned:
        """What is pruned, where the log says so itself."""
        try:
            pruned = read_pruned(self._store)
        except LedgerCorrupt as error:
            self._found(Fault.MISSING, "pruned", str(error), 0)
            return Pruned()
        if not pruned.until:
            return pruned
        if meanwhile := self._pruned_meanwhile(since=size):
            return meanwhile
        tile = Tile(ENTRIES, pruned.leaf // TILE_WIDTH, width_at(ENTRIES, pruned.leaf // TILE_WIDTH, size))
        try:
            if not pruned.until <= pruned.leaf < size:
                raise LedgerCorrupt(
                    f"leaf {pruned.leaf:,} is none that could prune the entries before {pruned.until:,}"
                )
            entries = decode_entries(read_tile(self._store, tile)[0])
            until = pruning_until(entries[pruned.leaf % TILE_WIDTH])
        except (LedgerError, IndexError) as error:
            self._found(Fault.MISSING, "pruned", f"no logged pruning: {error}", 0)
            return Pruned()
        if until < pruned.until:
            self._found(
                Fault.MISSING, "pruned", f"leaf {pruned.leaf:,} prunes the entries before {until:,} only", until
            )
            return Pruned(until, pruned.leaf)
        return pruned

    def _pruned_meanwhile(self, since: int = 0) -> Pruned | None:
        """What a log that is being written has pruned since the audit began, by a leaf beyond its checkpoint then."""
        now = LogView(self._store, self._verifiers)
        try:
            pruned = read_pruned(self._store)
            if pruned == self._pruned or pruned.leaf < since:
                return None
            now.refresh()
            entry = now.entry(pruned.leaf)
            proven = now.inclusion(pruned.leaf).leaf_hash == leaf_hash(entry)
            return pruned if proven and pruned.until <= pruning_until(entry) else None
        except LedgerError:
            return None

    def _found(self, fault: Fault, where: str, message: str, leaf: int | None = None) -> None:
        if len(self._findings) < MOST_FAULTS:
            self._findings.append(Finding(fault, where, message, leaf))
        else:
            self._more += 1


def _how(hashes: list[bytes], told: list[bytes], at: int) -> str:
    """What was done to the first entry of a bundle that is not as the tile has it, as far as the others show."""
    rest, logged = hashes[at:], told[at:]
    if rest[0] in told:
        dropped = rest == logged[1 : len(rest) + 1]
        return "was dropped" if dropped else "was moved, and another entry of this log stands here"
    put_in = len(rest) > 1 and rest[1:] == logged[: len(rest) - 1]
    return "has an entry before it that was put in" if put_in else "was edited"


def _decoded(tile: Tile, content: bytes) -> list[bytes]:
    """What a version of a tile holds. Raises LedgerCorrupt."""
    decode = decode_entries if tile.level == ENTRIES else decode_hashes
    return decode(content, where=tile.path, width=tile.width)


def _first_leaf(tile: Tile, at: int = 0) -> int:
    """The first leaf under the hash, or the entry, at a place in a tile."""
    return (tile.number * TILE_WIDTH + at) << TILE_HEIGHT * max(tile.level, 0)
