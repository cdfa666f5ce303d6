"""What is read of the ledger while it is written: the receipts of a decision with their proofs, and the log's files.

Receipts are logged in the order in which they are recorded, and each says when that was. So a decision's are found by
their time, in any log of any length, without an index: by halving down to where it began, and looking from there.
"""

from __future__ import annotations

import asyncio
import enum
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from amaru.errors import LedgerError
from amaru.ledger import receipts
from amaru.ledger.merkle import HASH_BYTES, leaf_hash
from amaru.ledger.notes import MAX_NOTE_BYTES
from amaru.ledger.place import VKEY, Place
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
from amaru.ledger.view import CHECKPOINT, PRUNED, LogView
from amaru.storage import StoredDecision
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.mesh.ledger import MeshLedger

SLACK_S = 1.0
"""Receipts of several threads and processes may be logged this much out of their order."""
LOOK_EVERY = 64
"""Entries between two looks at what time it was."""
MOST_READ = 250_000
"""Entries that are looked through for one decision: what is recorded in a minute at some thousands a second."""
SMALL_FILES = {CHECKPOINT: MAX_NOTE_BYTES, VKEY: 64 * 1024, PRUNED: 1024}
"""The log's files beside its tiles, and how long each may be."""
log = get_logger("ledger")
_AT = re.compile(rb'"at":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)"')


class ProofState(enum.StrEnum):
    """Whether a decision's receipts can be proven."""

    LOGGED = "logged"
    """They are in the log, under its last checkpoint; of a stream, its outcome may still be missing."""
    PENDING = "pending"
    """They wait to be logged, or for the next checkpoint; or the log fails, see ``/status``."""
    ABSENT = "absent"
    """The log has passed the time of the decision without one: it was not logged, or was dropped; gaps are logged."""
    PRUNED = "pruned"
    """The entries of that time were erased; who has the receipt's text can still prove it."""
    NOT_SAMPLED = "not_sampled"
    """It is not among the share of decisions that is logged now."""
    UNAVAILABLE = "unavailable"
    """The log cannot be read now; why is in the log of the process."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One leaf about a decision, and the proof that it is in the log."""

    type: str
    hash: str
    """RFC 6962 hash of the leaf in hexadecimal: what ``x-amaru-receipt`` said."""
    index: int
    entry: str
    """The leaf: canonical JSON (RFC 8785)."""
    proof: str
    """C2SP tlog-proof: the index, the hashes from the leaf to the root, and the signed checkpoint."""


class DecisionReceipts(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger has of a decision."""

    state: ProofState
    receipts: tuple[Receipt, ...] = ()


class _Reported(msgspec.Struct):
    """What is read of a report that the store kept."""

    at: float


_reported = msgspec.json.Decoder(_Reported).decode


class LedgerReader:
    """Reads beside the event loop, on threads."""

    def __init__(self, ledger: MeshLedger) -> None:
        self._ledger = ledger
        self._files = LedgerFiles(ledger.place)

    async def receipts(self, stored: StoredDecision) -> DecisionReceipts:
        """The receipts of a stored decision: where the log cannot be read, what it says is that. Never raises."""
        record, feedback = stored.record, stored.feedback
        spans = [(record.at, record.at + (record.latency_ms or 0.0) / 1e3)]
        if feedback is not None:
            reported_at = _reported(feedback).at
            spans.append((reported_at, reported_at))
        try:
            found = await asyncio.to_thread(receipts_of, self._ledger.log, record.id, spans)
        except LedgerError as error:
            log.error("ledger_not_read", reason=str(error))
            return DecisionReceipts(state=ProofState.UNAVAILABLE)
        if not found.receipts and not self._ledger.samples(record.id):
            return DecisionReceipts(state=ProofState.NOT_SAMPLED)
        return found

    async def file(self, name: str) -> bytes | None:
        """One of the log's public files; ``None``: there is none of this name. Raises LedgerError."""
        opened = self._ledger.log
        return await asyncio.to_thread(self._files.read, name, 0 if opened is None else opened.size)


def receipts_of(view: LogView | None, decision_id: str, spans: Sequence[tuple[float, float]]) -> DecisionReceipts:
    """The receipts of a decision that were recorded within spans of time, Unix seconds; the first is the decision's.

    Waits for the disk. Raises LedgerError where the log cannot be read.
    """
    if view is None or not view.size:
        return DecisionReceipts(state=ProofState.PENDING)
    states: list[ProofState] = []
    found: dict[int, Receipt] = {}
    for since, until in spans:
        states.append(_look(view, decision_id, since - SLACK_S, until + SLACK_S, found))
    return DecisionReceipts(
        state=ProofState.LOGGED if found else states[0], receipts=tuple(found[index] for index in sorted(found))
    )


def _look(view: LogView, decision_id: str, since: float, until: float, found: dict[int, Receipt]) -> ProofState:
    """Put into ``found`` what was recorded in a span of time; what it means where that is nothing."""
    wanted, last = f'"ref":"{decision_id}"'.encode(), receipts.rfc3339(until).encode()
    size, pruned = view.size, view.pruned.until
    start = _first_since(view, receipts.rfc3339(since).encode(), pruned, size)
    end = min(size, start + MOST_READ)
    for index, leaf in enumerate(view.entries(start, end), start):
        if wanted in leaf and (kind := _kind_of(leaf, decision_id)):
            proof = view.proof(index).encode().decode()
            found[index] = Receipt(type=kind, hash=leaf_hash(leaf).hex(), index=index, entry=leaf.decode(), proof=proof)
        if index % LOOK_EVERY == 0 and (at := _AT.search(leaf)) is not None and at[1] > last:
            break
    else:
        if end == size:
            return ProofState.PENDING
    return ProofState.PRUNED if start == pruned > 0 else ProofState.ABSENT


def _first_since(view: LogView, at: bytes, low: int, high: int) -> int:
    """The first entry from ``low`` on that was recorded at ``at`` or later."""
    while low < high:
        middle = (low + high) // 2
        said = _AT.search(view.entry(middle))
        if said is not None and said[1] < at:
            low = middle + 1
        else:  # also what says no time: the ones before it are looked through instead
            high = middle
    return low


def _kind_of(leaf: bytes, decision_id: str) -> str:
    """``decision`` or ``outcome``, where the leaf is one about this decision."""
    receipt = receipts.read_leaf(leaf)
    if isinstance(receipt, receipts.Decision | receipts.Outcome) and receipt.ref == decision_id:
        return type(receipt).__name__.lower()
    return ""


class LedgerFiles:
    """A log's public files, by the names that C2SP tlog-tiles gives them."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._opened: TileStore | None = None

    def read(self, name: str, size: int) -> bytes | None:
        """The file of this name in a log of ``size`` entries; ``None``: there is none. Waits for the disk.

        A partial tile that others have replaced is cut from these. Raises LedgerError where the store cannot be read.
        """
        if name in SMALL_FILES:
            return self._store.read(name, most=SMALL_FILES[name])
        try:
            tile = parse_path(name)
        except LedgerError:
            return None
        return self._tile(tile, size)

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
