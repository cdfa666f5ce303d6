"""What is read of the ledger while it is written: the receipts of a decision with their proofs, and the log's files.

Receipts are logged in the order in which they are recorded, and each says when that was. So a decision's are found by
their time, in any log of any length, without an index: by halving down to where it began, and looking from there. The
order of times is no promise, though: a clock is set back, a gap is logged before what had waited longer. What is not
where its time says is looked for all around; and that it is absent is only said where all of the log was looked at.
"""

from __future__ import annotations

import asyncio
import enum
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from amaru.errors import LedgerError
from amaru.ledger import receipts
from amaru.ledger.merkle import leaf_hash
from amaru.ledger.view import LogView
from amaru.mesh.ledger_files import LedgerFiles
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
LOOK_S = 3.0
"""How long one decision is looked for, at most."""
MOST_LOOKING = 2
"""Decisions that are looked for at once; the next ones wait, and leave the other threads to others."""
log = get_logger("ledger")
_AT = re.compile(rb'"at":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)"')


class ProofState(enum.StrEnum):
    """Whether a decision's receipts can be proven."""

    words: str

    def __new__(cls, value: str, words: str) -> ProofState:
        state = str.__new__(cls, value)
        state._value_ = value
        state.words = words
        return state

    LOGGED = "logged", "In the log, under its last checkpoint; of a stream, the outcome may still be missing."
    PENDING = "pending", "Waits to be logged, or for the next checkpoint; or the log fails: see /status."
    ABSENT = "absent", "All of the log was looked at: it was not logged, or was dropped; gaps are logged."
    UNKNOWN = (
        "unknown",
        "Not where its time says, and not all of the log was looked at: `remembrancer query ref:ID` tells.",
    )
    PRUNED = "pruned", "The entries of its time were erased; who has the receipt's text can still prove it."
    NOT_SAMPLED = "not_sampled", "Not among the share of decisions that is logged now."
    UNAVAILABLE = "unavailable", "The log cannot be read now; why is in the log of the process."


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
    words: str
    """What the state says."""
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
        self._looking = asyncio.Semaphore(MOST_LOOKING)

    async def receipts(self, stored: StoredDecision) -> DecisionReceipts:
        """The receipts of a stored decision: where the log cannot be read, what it says is that. Never raises."""
        record, feedback = stored.record, stored.feedback
        spans = [(record.at, record.at + (record.latency_ms or 0.0) / 1e3)]
        if feedback is not None:
            reported_at = _reported(feedback).at
            spans.append((reported_at, reported_at))
        sampled = self._ledger.samples(record.id)
        async with self._looking:
            # In this order: what leaves the queue between the two is counted by the latter.
            queued, entries = self._ledger.status().queued_bytes, self._ledger.status().entries
            settled = None if queued else entries
            try:
                found = await asyncio.to_thread(
                    receipts_of, self._ledger.log, record.id, spans, settled=settled, around=sampled
                )
            except LedgerError as error:
                log.error("ledger_not_read", reason=str(error))
                return _in_state(ProofState.UNAVAILABLE)
        return found if found.receipts or sampled else _in_state(ProofState.NOT_SAMPLED)

    async def file(self, name: str) -> bytes | None:
        """One of the log's public files; ``None``: there is none of this name. Raises LedgerError."""
        opened = self._ledger.log
        return await asyncio.to_thread(self._files.read, name, 0 if opened is None else opened.size)

    async def names(self, folder: str) -> list[str] | None:
        """What lies in one of the log's public folders; ``None``: it is not one. Raises LedgerError."""
        return await asyncio.to_thread(self._files.names, folder)


def receipts_of(
    view: LogView | None,
    decision_id: str,
    spans: Sequence[tuple[float, float]],
    *,
    settled: int | None = None,
    around: bool = True,
    timer: Callable[[], float] = time.monotonic,
) -> DecisionReceipts:
    """The receipts of a decision that were recorded within spans of time, Unix seconds; the first is the decision's.

    ``settled``: its receipts are among so many entries, if anywhere; ``None``: they may still wait to be logged.
    ``around``: it is worth looking beyond where its time says. ``timer`` gives seconds. Waits for the disk. Raises
    LedgerError where the log cannot be read.
    """
    if view is None or not view.size:
        return _in_state(ProofState.PENDING)
    look = _Look(view, decision_id, timer)
    passed = True
    for since, until in spans:
        passed = look.near(since - SLACK_S, until + SLACK_S) and passed
    whole = look.around() if around and "decision" not in look.kinds else False
    if look.found:
        state = ProofState.LOGGED
    elif look.start == view.pruned.until > 0:
        state = ProofState.PRUNED
    elif settled is None or settled > look.size:
        state = ProofState.UNKNOWN if passed else ProofState.PENDING
    else:
        state = ProofState.ABSENT if whole and not view.pruned.until else ProofState.UNKNOWN
    return _in_state(state, tuple(look.found[index] for index in sorted(look.found)))


class _Look:
    """For one decision, in the log as it is now, and for ``LOOK_S`` at most."""

    def __init__(self, view: LogView, decision_id: str, timer: Callable[[], float]) -> None:
        self._view = view
        self._id = decision_id
        self._timer = timer
        self._ends_at = timer() + LOOK_S
        self.size = view.size
        self.found: dict[int, Receipt] = {}
        self.start = -1
        """Where the decision should stand, by its time."""

    @property
    def kinds(self) -> set[str]:
        """Of what was found."""
        return {receipt.type for receipt in self.found.values()}

    def near(self, since: float, until: float) -> bool:
        """Look at what was recorded in a span of time; whether the log has passed it."""
        start = _first_since(self._view, receipts.rfc3339(since).encode(), self._view.pruned.until, self.size)
        if self.start < 0:
            self.start = start
        end = min(self.size, start + MOST_READ)
        return not (self._through(start, end, receipts.rfc3339(until).encode()) and end == self.size)

    def around(self) -> bool:
        """Look at as much as may be, on both sides of where it should stand; whether that was all that is there."""
        first = self._view.pruned.until
        end = min(self.size, max(first, self.start - MOST_READ // 2) + MOST_READ)
        start = max(first, end - MOST_READ)
        return self._through(start, end) and (start, end) == (first, self.size)

    def _through(self, start: int, end: int, last: bytes | None = None) -> bool:
        """Look at the entries ``[start, end)``, up to what was recorded after ``last``; whether at all of them."""
        wanted = f'"ref":"{self._id}"'.encode()
        for index, leaf in enumerate(self._view.entries(start, end), start):
            if wanted in leaf and (kind := _kind_of(leaf, self._id)):
                proof, hash = self._view.proof(index).encode().decode(), leaf_hash(leaf).hex()
                self.found[index] = Receipt(type=kind, hash=hash, index=index, entry=leaf.decode(), proof=proof)
            if index % LOOK_EVERY == 0:
                if self._timer() > self._ends_at:
                    return False
                if last is not None and (at := _AT.search(leaf)) is not None and at[1] > last:
                    return False
        return True


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


def _in_state(state: ProofState, found: tuple[Receipt, ...] = ()) -> DecisionReceipts:
    return DecisionReceipts(state=state, words=state.words, receipts=found)


def _kind_of(leaf: bytes, decision_id: str) -> str:
    """``decision`` or ``outcome``, where the leaf is one about this decision."""
    receipt = receipts.read_leaf(leaf)
    if isinstance(receipt, receipts.Decision | receipts.Outcome) and receipt.ref == decision_id:
        return type(receipt).__name__.lower()
    return ""
