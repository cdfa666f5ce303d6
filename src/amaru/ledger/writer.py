"""The process's writer: one thread that commits the leaves of many callers together.

Two ways in:

- ``append``: a future, resolved once the leaf is durable. While one commit is being flushed the next gathers, so that
  any number of callers share a flush; a caller alone waits for its own.
- ``offer``: for the request path. It copies the leaf into a queue that survives the process (``ring``) and returns; the
  thread logs it within ``interval_s``. What finds the queue full is dropped and counted, and the count is logged as a
  gap. A leaf taken is logged once, also over a kill: each commit notes in the journal up to where it emptied the queue.

The thread opens the queue, then the log, and opens again what fails, with growing pauses: a disk that is full or gone
at the start or later costs the receipts of that time that the queue has no room for, and never a request. They are
counted, too, where the queue itself cannot be opened.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

import msgspec

from amaru.errors import LedgerBusy, LedgerError
from amaru.ledger.log import Log
from amaru.ledger.ring import Gap, Ring
from amaru.ledger.tiles import MAX_ENTRY_BYTES
from amaru.ledger.unqueued import Unqueued
from amaru.telemetry.logs import get_logger

MOST_LEAVES = 4_096
MOST_BYTES = 4 * 1024 * 1024
"""Of what is appended, in one commit. With what is offered, of which there is at least room for a quarter as much, less
than a frame of the journal, so that it is logged whole or not at all."""
MOST_WAITING = 16_384
"""Appends that may wait; one more is refused."""
FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 5.0
QUEUE_RETRY_S = 1.0

_Item = TypeVar("_Item")

_log = get_logger("ledger")


class WriterStatus(msgspec.Struct, frozen=True):
    """How writing fares."""

    healthy: bool
    open: bool
    committed: int
    """Leaves that are durable."""
    published: int
    """Leaves under the last checkpoint."""
    waiting: int
    """Appends that are not committed yet."""
    queued_bytes: int
    """In the queue of what was offered."""
    dropped: int
    """Offers dropped, ever."""
    last_error: str | None


class _Asked(NamedTuple):
    """Publications that were asked for, and what is to be committed before."""

    futures: list[Future[bytes]]
    appends: int
    """Taken by then, since the start."""
    position: int
    """Of the queue."""


class Writer:
    """A log's thread. ``append`` and ``offer`` are for any thread, and neither waits for a disk.

    ``open_log`` and ``open_ring`` are called by the thread; ``gap_leaf`` makes the leaf that says what was dropped;
    ``on_committed`` is told, by the thread, of each commit: the index of the first leaf, and the leaves.
    """

    def __init__(
        self,
        open_log: Callable[[], Log],
        open_ring: Callable[[], Ring] | None = None,
        *,
        gap_leaf: Callable[[Gap], bytes] | None = None,
        on_committed: Callable[[int, Sequence[bytes]], None] | None = None,
        interval_s: float = 0.05,
        publish_interval_s: float = 1.0,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_log = open_log
        self._open_ring = open_ring
        self._gap_leaf = gap_leaf
        self._on_committed = on_committed
        self._interval_s = interval_s
        self._publish_interval_s = publish_interval_s
        self._clock = clock
        self._timer = timer
        self._appends: deque[tuple[bytes, Future[int]]] = deque()
        self._publishes: deque[Future[bytes]] = deque()
        self._log: Log | None = None
        self._ring: Ring | None = None
        self._reconciled = False
        self._open_ring_at = timer()
        self._ring_error: str | None = None
        self._unqueued = Unqueued(clock)
        self._noticed: tuple[Gap, int] | None = None
        self._taken = 0
        self._asked: _Asked | None = None
        self._wake = threading.Event()
        self._opened = threading.Event()
        self._closing = False
        self._closed = False
        self._backoff_s = 0.0
        self._published_at = timer()
        self._last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="amaru-ledger", daemon=True)

    def start(self) -> None:
        """Begin; the log is opened by the thread."""
        self._wake.set()
        self._thread.start()

    def wait_open(self, timeout_s: float) -> bool:
        """Whether the log is open, at the latest after this time."""
        return self._opened.wait(timeout_s)

    # ---- any thread's side ------------------------------------------------------------------------------------------

    @property
    def log(self) -> Log | None:
        """The log, to read and prove from; ``None`` while it is not open."""
        return self._log

    def append(self, leaf: bytes) -> Future[int]:
        """Have a leaf logged. The future gives its index once it is durable, or raises LedgerError."""
        future: Future[int] = Future()
        if reason := self._refusal(leaf):
            future.set_exception(LedgerError(f"{reason}; this one was not taken"))
            return future
        self._appends.append((leaf, future))
        self._wake.set()
        if self._closed:  # looked at after the append, so that none is left unanswered
            self._refuse_waiting()
        return future

    def _refusal(self, leaf: bytes) -> str:
        if self._closing:
            return "the ledger is closed"
        if len(leaf) > MAX_ENTRY_BYTES:
            return f"an entry of {len(leaf):,} bytes, where the format takes at most {MAX_ENTRY_BYTES:,}"
        if len(self._appends) >= MOST_WAITING:
            return f"{MOST_WAITING:,} entries wait to be logged already"
        return ""

    def offer(self, leaf: bytes) -> bytes:
        """Queue a leaf to be logged; gives its hash (RFC 6962), or nothing where it was dropped, and counted."""
        ring = self._ring
        if ring is not None:
            return ring.put(leaf)
        self._unqueued.count()
        return b""

    def publish(self) -> Future[bytes]:
        """Have all that was appended or offered before published now, whatever else is appended meanwhile.

        The future gives the signed checkpoint, or raises LedgerError.
        """
        future: Future[bytes] = Future()
        self._publishes.append(future)
        self._wake.set()
        if self._closed:
            self._refuse_waiting()
        return future

    def status(self) -> WriterStatus:
        """How writing fares now."""
        log, ring = self._log, self._ring
        return WriterStatus(
            healthy=self._last_error is None,
            open=log is not None and not self._closed,
            committed=log.committed if log is not None else 0,
            published=log.size if log is not None else 0,
            waiting=len(self._appends),
            queued_bytes=ring.waiting_bytes if ring is not None else 0,
            dropped=self._unqueued.dropped + (ring.dropped if ring is not None else 0),
            last_error=self._last_error,
        )

    def close(self, timeout_s: float = 30.0) -> bool:
        """Log what waits and let go of the log; False where that took longer, or failed.

        What was offered and not logged stays in the queue for the next start.
        """
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        done = not self._thread.is_alive() and self._last_error is None
        self._closed = True
        self._refuse_waiting()
        return done

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            if not (self._appends and not self._backoff_s):
                self._wake.wait(max(self._interval_s, self._backoff_s))
            self._wake.clear()
            closing = self._closing
            try:
                more = self._round()
                self._backoff_s, self._last_error = 0.0, self._ring_error
            except LedgerError as error:
                more = False
                self._failed(error)
            except Exception as error:  # the thread must outlive a bug of its own
                _log.exception("ledger_writer_bug")
                more = False
                self._failed(error)
            if closing and not more:
                break
            if more:
                self._wake.set()
        self._closed = True
        if self._ring is not None:
            self._ring.close()
        if self._log is not None:
            self._log.close()
        self._refuse_waiting()

    def _round(self) -> bool:
        """Commit once and publish where it is due; whether there is more to commit at once."""
        self._have_ring()
        log, ring = self._opened_log(), self._ring
        end = _end_of(ring)
        self._notice_asked(end)
        self._notice_gap(end)
        appended = self._take_appends()
        leaves = [leaf for leaf, _ in appended]
        offered, position = ([], 0) if ring is None else ring.peek(*_room_beside(leaves))
        leaves += offered
        # What was dropped had found the queue full: that is told after all that was queued by then.
        gap = self._noticed[0] if self._noticed is not None and position >= min(self._noticed[1], end) else None
        if gap is not None and self._gap_leaf is not None:
            leaves.append(self._gap_leaf(gap))
        if leaves:
            try:
                first = log.commit(leaves, mark=ring.mark(position, gap) if ring is not None else None)
            except BaseException as error:
                for _, future in appended:
                    future.set_exception(_as_ledger_error(error))
                raise
            if ring is not None:
                ring.advance(position)
            if gap is not None:
                (ring or self._unqueued).gap_logged(gap)
                self._noticed = None
            for index, (_, future) in enumerate(appended, first):
                future.set_result(index)
            if self._on_committed is not None:
                self._on_committed(first, leaves)
        else:
            log.renew()
        # What was offered meanwhile gathers for the next time: at some thousands a second there is always something.
        more = bool(self._appends) or position < end or bool(ring is not None and self._closing and ring.waiting_bytes)
        asked = self._asked
        self._publish_if_due(
            log, asked is not None and self._taken >= asked.appends and position >= min(asked.position, end)
        )
        return more or self._asked is not None

    def _notice_asked(self, end: int) -> None:
        if self._asked is None and self._publishes:
            futures = [future for future in _drained(self._publishes) if future.set_running_or_notify_cancel()]
            self._asked = _Asked(futures, self._taken + len(self._appends), end) if futures else None

    def _notice_gap(self, end: int) -> None:
        if self._ring is not None:
            self._unqueued.move_to(self._ring)
        if self._noticed is None and self._gap_leaf is not None:
            gap = (self._ring or self._unqueued).gap()
            self._noticed = (gap, end) if gap is not None else None

    def _publish_if_due(self, log: Log, asked: bool) -> None:
        due = log.size != log.committed and self._timer() - self._published_at >= self._publish_interval_s
        if not due and not asked:
            return
        log.publish()
        self._published_at = self._timer()
        if asked:
            self._answer_asked(lambda future: future.set_result(log.checkpoint()))

    def _answer_asked(self, answer: Callable[[Future[bytes]], None]) -> None:
        asked, self._asked = self._asked, None
        for future in asked.futures if asked is not None else ():
            answer(future)

    def _have_ring(self) -> None:
        """Open the queue, before the log: what is offered waits there until the log is open."""
        if self._ring is not None or self._open_ring is None or self._timer() < self._open_ring_at:
            return
        try:
            ring = self._open_ring()
        except Exception as error:  # whatever it is, it must not keep the log from being opened
            if self._ring_error is None:
                _log.error(
                    "ledger_queue_not_opened", reason=str(error), effect="what is offered is dropped, and counted"
                )
            self._ring_error = str(error)
            self._open_ring_at = self._timer() + QUEUE_RETRY_S
            return
        self._ring, self._ring_error, self._reconciled = ring, None, False

    def _opened_log(self) -> Log:
        if self._log is None:
            self._log = self._open_log()
            self._reconciled = False
        if not self._reconciled and self._ring is not None:
            self._ring.reconcile(self._log.mark)
            self._noticed = None
            self._reconciled = True
        self._opened.set()
        return self._log

    def _take_appends(self) -> list[tuple[bytes, Future[int]]]:
        """Those that wait, as many as a commit takes; those that were cancelled are let go."""
        taken: list[tuple[bytes, Future[int]]] = []
        size = 0
        for leaf, future in _drained(self._appends):
            self._taken += 1
            if future.set_running_or_notify_cancel():
                taken.append((leaf, future))
                size += len(leaf)
            if len(taken) >= MOST_LEAVES or size >= MOST_BYTES:
                break
        return taken

    def _failed(self, error: Exception) -> None:
        if self._last_error is None:
            _log.error("ledger_not_written", reason=str(error))
        self._last_error = str(error)
        self._backoff_s = min(max(2 * self._backoff_s, FIRST_BACKOFF_S), LONGEST_BACKOFF_S)
        if isinstance(error, LedgerBusy) and self._log is not None:  # another writer has taken it
            self._log.abandon()
            self._log = None
        told = _as_ledger_error(error)
        self._answer_asked(lambda future: future.set_exception(told))
        if self._log is None:  # callers of a log that cannot be opened are told, rather than kept waiting
            self._refuse_waiting(told)

    def _refuse_waiting(self, told: LedgerError | None = None) -> None:
        told = told or LedgerError("the ledger is closed; this was not logged")
        _refuse((future for _, future in _drained(self._appends)), told)
        _refuse(_drained(self._publishes), told)


def _refuse(futures: Iterable[Future[_Item]], told: LedgerError) -> None:
    for future in futures:
        if future.set_running_or_notify_cancel():
            future.set_exception(told)


def _drained(queue: deque[_Item]) -> Iterator[_Item]:
    """What is in the queue, taken from it, unless another thread is faster."""
    while True:
        try:
            yield queue.popleft()
        except IndexError:
            return


def _room_beside(appended: Sequence[bytes]) -> tuple[int, int]:
    """How many offered leaves, and bytes of them, go with these: some always do."""
    size = sum(map(len, appended))
    return max(MOST_LEAVES - len(appended), MOST_LEAVES // 4), max(MOST_BYTES - size, MOST_BYTES // 4)


def _end_of(ring: Ring | None) -> int:
    """The position after all that is queued."""
    return ring.mark().position + ring.waiting_bytes if ring is not None else 0


def _as_ledger_error(error: BaseException) -> LedgerError:
    return error if isinstance(error, LedgerError) else LedgerError(f"not logged: {type(error).__name__}")
