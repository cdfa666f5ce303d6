"""The audit: a log's every tile made again from its entries, and every checkpoint held against them.

It trusts the public keys that it is given, and nothing in the store. It reads the entries once, in order, and keeps the
right edge of the tree and 256 checkpoints in memory. What it cannot know is what others were shown: hand it checkpoints
that were kept elsewhere (``witnessed``), and it holds the log to those too.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

import msgspec

from amaru.errors import LedgerCorrupt, LedgerError, ProofError
from amaru.ledger.canonical import require_canonical
from amaru.ledger.checkpoint import Checkpoint, verify_checkpoint
from amaru.ledger.kept import kept_checkpoints
from amaru.ledger.merkle import HASH_BYTES, Frontier, leaf_hash
from amaru.ledger.notes import MAX_NOTE_BYTES, NoteVerifier
from amaru.ledger.pruning import pruning_until
from amaru.ledger.tile_store import TileStore
from amaru.ledger.tiles import (
    ENTRIES,
    MAX_BUNDLE_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    decode_entries,
    decode_hashes,
    width_at,
)
from amaru.ledger.view import CHECKPOINT, Pruned, read_pruned, read_tile

MOST_FAULTS = 100
"""Named one by one; a log with more is told from a sound one all the same."""


class Fault(enum.Enum):
    """What can be wrong with a log."""

    CHECKPOINT = "checkpoint"
    """Missing, forged, signed by an unknown key, or of another log."""
    ENTRY = "entry"
    """Edited, dropped, added or moved: it does not have the hash that was logged at its index."""
    DUPLICATE = "duplicate index"
    """Two different entries, or hashes, at one index."""
    CANONICAL = "not canonical"
    """Not RFC 8785 canonical JSON, so that another text could say the same."""
    MISSING = "missing"
    """Entries or tiles that the checkpoint covers are not there, and no pruning says why."""
    TILE = "tile"
    """A tile does not hold what the tiles below it give."""
    TRUNCATED = "truncated"
    """A checkpoint covers more than is there: the log was cut, or an older checkpoint put back."""
    SPLIT = "split view"
    """Two checkpoints of one size with different roots."""
    HISTORY = "history"
    """A checkpoint that was signed once is not of these entries: they were exchanged together with their hashes."""


class Finding(msgspec.Struct, frozen=True):
    """One fault: which, where, and the first leaf that it concerns, where that can be told."""

    fault: Fault
    where: str
    message: str
    leaf: int | None = None


class AuditReport(msgspec.Struct, frozen=True):
    """What an audit found; ``ok`` where nothing."""

    size: int
    """Leaves under the checkpoint."""
    entries: int
    """Entries read and hashed."""
    pruned: int
    """Entries gone by a logged pruning, whose hashes were taken from the tiles."""
    tiles: int
    checkpoints: int
    findings: tuple[Finding, ...]
    more: int = 0
    """Findings beyond the first hundred."""

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def first_leaf(self) -> int | None:
        """The first leaf at fault, where one can be named."""
        return min((found.leaf for found in self.findings if found.leaf is not None), default=None)


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
        self._origin = origin
        self._canonical = canonical
        self._findings: list[Finding] = []
        self._more = 0
        self._entries = self._tiles = self._checkpoints = 0
        self._frontier = Frontier()
        self._rows: list[list[bytes]] = [[]]
        self._last: tuple[int, list[bytes]] = (-1, [])
        self._sound_until = 0
        self._faulty: list[int] = []  # one leaf of each bundle at most, in order
        self._pruned = Pruned()

    def run(self, witnessed: Iterable[bytes], progress: Callable[[int, int], None] | None) -> AuditReport:
        head = self._head()
        size = head.size if head is not None else 0
        if head is not None:
            self._pruned = self._read_pruned(size)
            self._walk(head, witnessed, progress or (lambda _done, _all: None))
        pruned = min(self._pruned.until, size)
        findings = tuple(self._findings)
        return AuditReport(size, self._entries, pruned, self._tiles, self._checkpoints, findings, self._more)

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def _head(self) -> Checkpoint | None:
        note = self._store.read(CHECKPOINT, most=MAX_NOTE_BYTES)
        if note is None:
            self._found(Fault.CHECKPOINT, CHECKPOINT, "there is none")
            return None
        return self._verified(note, CHECKPOINT)

    def _verified(self, note: bytes, where: str) -> Checkpoint | None:
        try:
            found = verify_checkpoint(note, self._verifiers, origin=self._origin)
        except ProofError as error:
            self._found(Fault.CHECKPOINT, where, str(error))
            return None
        self._origin = found.origin
        self._checkpoints += 1
        return found

    def _history(self, head: Checkpoint, witnessed: Iterable[bytes]) -> Iterator[tuple[Checkpoint, str]]:
        """Every checkpoint to hold the entries against, in order of size: those kept, those handed in, and the last."""
        others = [
            (found, "a checkpoint kept elsewhere") for note in witnessed if (found := self._verified(note, "given"))
        ]
        others.append((head, CHECKPOINT))
        others.sort(key=lambda item: item[0].size, reverse=True)
        latest: Checkpoint | None = None
        for kept in self._kept():
            if latest is not None and kept.size < latest.size:
                self._found(Fault.TRUNCATED, "checkpoints", f"of size {kept.size:,} after one of {latest.size:,}")
                continue
            while others and others[-1][0].size <= kept.size:
                yield others.pop()
            yield kept, "checkpoints"
            latest = kept
        yield from reversed(others)

    def _kept(self) -> Iterator[Checkpoint]:
        try:
            for number, note in enumerate(kept_checkpoints(self._store)):
                found = self._verified(note, f"checkpoints, number {number:,}")
                if found is not None:
                    yield found
        except LedgerCorrupt as error:
            self._found(Fault.CHECKPOINT, "checkpoints", str(error))

    # ---- entries and tiles ------------------------------------------------------------------------------------------

    def _walk(self, head: Checkpoint, witnessed: Iterable[bytes], progress: Callable[[int, int], None]) -> None:
        latest: Checkpoint | None = None
        for checkpoint, where in self._history(head, witnessed):
            if latest is not None and checkpoint.size == latest.size:
                if checkpoint.root != latest.root:
                    words = (
                        f"two checkpoints of {latest.size:,} leaves: {latest.root.hex()} and {checkpoint.root.hex()}"
                    )
                    self._found(Fault.SPLIT, where, words)
                continue
            latest = checkpoint
            if checkpoint.size > head.size:
                if self._has_grown_to(checkpoint.size):
                    continue  # published since the audit began
                words = f"covers {checkpoint.size:,} leaves, and the log shows {head.size:,}: cut short, or replayed"
                self._found(Fault.TRUNCATED, where, words, head.size)
                continue
            self._walk_to(checkpoint.size, head.size, progress)
            self._hold_against(checkpoint, where)
        self._edge(head.size)
        progress(head.size, head.size)

    def _has_grown_to(self, size: int) -> bool:
        note = self._store.read(CHECKPOINT, most=MAX_NOTE_BYTES)
        try:
            return note is not None and verify_checkpoint(note, self._verifiers, origin=self._origin).size >= size
        except ProofError:
            return False

    def _hold_against(self, checkpoint: Checkpoint, where: str) -> None:
        if self._frontier.root() == checkpoint.root:
            self._sound_until = checkpoint.size
            return
        if self._named(0, checkpoint.size):
            return  # told already, and by leaf
        words = (
            f"the checkpoint of {checkpoint.size:,} leaves is not of these entries; the first of leaves "
            f"{self._sound_until:,} to {checkpoint.size - 1:,} that was exchanged cannot be told: its hash was too"
        )
        self._found(Fault.HISTORY, where, words, self._sound_until)

    def _walk_to(self, size: int, end: int, progress: Callable[[int, int], None]) -> None:
        """Take in the leaves up to ``size``; a bundle is read once, and again only where a checkpoint divides it."""
        while (start := self._frontier.size) < size:
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
            moved = " — another entry of this log stands here" if hashes[at] in told else ""
            words = f"leaf {first + at:,} hashes to {hashes[at].hex()}, and the tile has {told[at].hex()}{moved}"
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
        except LedgerCorrupt as error:
            self._found(Fault.MISSING, tile.path, f"{error}; no pruning is logged", first)
            return None
        try:
            entries = decode_entries(content, where=tile.path)
        except LedgerCorrupt as error:
            self._found(Fault.ENTRY, tile.path, str(error), first)
            return None
        if len(entries) > width:
            self._found(Fault.ENTRY, tile.path, f"holds {len(entries)} entries, not {width}", first + width)
        self._same_in_all(tile, content, lambda other: decode_entries(other, where=tile.path), entries)
        return entries[: tile.width]

    def _hashes_of(self, tile: Tile) -> list[bytes] | None:
        try:
            content, width = read_tile(self._store, tile)
            hashes = decode_hashes(content, where=tile.path, width=width)
        except LedgerCorrupt as error:
            first = tile.number * TILE_WIDTH << TILE_HEIGHT * tile.level
            self._found(Fault.MISSING if "missing" in str(error) else Fault.TILE, tile.path, str(error), first)
            return None
        self._tiles += 1
        if tile.level == 0:
            self._same_in_all(tile, content, lambda other: decode_hashes(other, width=len(other) // HASH_BYTES), hashes)
        return hashes[: tile.width]

    def _same_in_all(
        self, tile: Tile, content: bytes, decode: Callable[[bytes], list[bytes]], found: list[bytes]
    ) -> None:
        """The partial versions that lie beside a tile must begin as it does, or an index has two contents."""
        most = MAX_BUNDLE_BYTES
        widths = [name for name in self._store.names(f"{tile.full.path}.p") if name.isdigit()]
        for path in [f"{tile.full.path}.p/{name}" for name in sorted(widths, key=int)]:
            other = self._store.read(path, most=most)
            if other is None or content.startswith(other):
                continue
            try:
                parts = decode(other)
            except LedgerError:
                parts = []
            at = next((i for i, (a, b) in enumerate(zip(parts, found, strict=False)) if a != b), None)
            if at is not None:
                leaf = tile.number * TILE_WIDTH + at
                self._found(Fault.DUPLICATE, path, f"has another leaf {leaf:,} than {tile.path}", leaf)

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

    def _found(self, fault: Fault, where: str, message: str, leaf: int | None = None) -> None:
        if len(self._findings) < MOST_FAULTS:
            self._findings.append(Finding(fault, where, message, leaf))
        else:
            self._more += 1
