"""The process's writer: one thread that commits the leaves of many callers together.

Two ways in:

- ``append``: a future, resolved once the leaf is durable. While one commit is being flushed the next gathers, so that
  any number of callers share a flush; a caller alone waits for its own.
- ``offer``: for the request path. It copies the leaf into a queue that survives the process (``ring``) and returns; the
  thread logs it within ``interval_s``. What finds the queue full is dropped and counted, and the count is logged as a
  gap. A leaf taken is logged once, also over a kill: each commit notes in the journal up to where it emptied the queue.

The log is opened by the thread and opened again where it fails, with growing pauses: a disk that is full or gone at the
start or later costs the receipts of that time (up to the queue's length, none), and never a request.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import msgspec

from amaru.errors import LedgerBusy, LedgerError
from amaru.ledger.journal import Mark
from amaru.ledger.log import Log
from amaru.ledger.ring import Gap, Ring
from amaru.ledger.tiles import MAX_ENTRY_BYTES
from amaru.telemetry.logs import get_logger

MOST_LEAVES = 4_096
MOST_BYTES = 4 * 1024 * 1024
"""Of one commit; less than a frame of the journal, so that it is logged whole or not at all."""
MOST_WAITING = 16_384
"""Appends that may wait; one more is refused."""
FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 5.0

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


class Writer:
    """A log's thread. ``append`` and ``offer`` are for any thread, and neither waits for a disk.

    ``open_log`` and ``open_ring`` are called by the thread; ``gap_leaf`` makes the leaf that says what was dropped;
    ``on_committed`` is told, by the thread, of each commit: the index of the first leaf, and the leaves.
    """

    def __init__(
        self,
        open_log: Callable[[], Log],
        open_ring: Callable[[Mark], Ring] | None = None,
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
        self._early = Gap(0, 0.0, 0.0)
        self._counting = threading.Lock()
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

    def offer(self, leaf: bytes) -> bool:
        """Queue a leaf to be logged; False where it was dropped, and counted."""
        ring = self._ring
        if ring is not None:
            return ring.put(leaf)
        with self._counting:
            now = self._clock()
            self._early = Gap(self._early.dropped + 1, self._early.since_s or now, now)
        return False

    def publish(self) -> Future[bytes]:
        """Have all that was appended or offered before published now. The future gives the signed checkpoint."""
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
            dropped=self._early.dropped + (ring.dropped if ring is not None else 0),
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
                self._backoff_s, self._last_error = 0.0, None
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
        log, ring = self._opened_log()
        publishes = len(self._publishes)
        appended = self._take_appends()
        taken = sum(len(leaf) for leaf, _ in appended)
        offered, position = ring.peek(MOST_LEAVES - len(appended), MOST_BYTES - taken) if ring else ([], 0)
        gap = ring.gap() if ring is not None and self._gap_leaf is not None else None
        leaves = [leaf for leaf, _ in appended]
        leaves += [self._gap_leaf(gap)] if gap is not None and self._gap_leaf is not None else []
        leaves += offered
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
                    ring.gap_logged(gap)
            for index, (_, future) in enumerate(appended, first):
                future.set_result(index)
            if self._on_committed is not None:
                self._on_committed(first, leaves)
        # What was offered meanwhile gathers for the next time: at some thousands a second there is always something.
        full = len(leaves) >= MOST_LEAVES or sum(map(len, leaves)) >= MOST_BYTES
        more = bool(self._appends) or bool(ring is not None and (full or self._closing) and ring.waiting_bytes)
        self._publish_if_due(log, 0 if more else publishes)
        return more

    def _publish_if_due(self, log: Log, asked: int) -> None:
        if log.size == log.committed and not asked:
            return
        if not asked and self._timer() - self._published_at < self._publish_interval_s:
            return
        try:
            log.publish()
        except LedgerError as error:
            for _ in range(asked):
                self._publishes.popleft().set_exception(error)
            raise
        self._published_at = self._timer()
        for _ in range(asked):
            self._publishes.popleft().set_result(log.checkpoint())

    def _opened_log(self) -> tuple[Log, Ring | None]:
        if self._log is None:
            self._log = self._open_log()
            if self._ring is not None:
                self._ring.skip_to(self._log.mark)
        if self._ring is None and self._open_ring is not None:
            ring = self._open_ring(self._log.mark)
            with self._counting:
                if self._early.dropped:
                    ring.count_dropped(self._early)
                    self._early = Gap(0, 0.0, 0.0)
                self._ring = ring
        self._opened.set()
        return self._log, self._ring

    def _take_appends(self) -> list[tuple[bytes, Future[int]]]:
        """Those that wait, as many as a commit takes; those that were cancelled or cannot be logged are let go."""
        taken: list[tuple[bytes, Future[int]]] = []
        size = 0
        while self._appends and len(taken) < MOST_LEAVES and size < MOST_BYTES:
            leaf, future = self._appends.popleft()
            if future.set_running_or_notify_cancel():
                taken.append((leaf, future))
                size += len(leaf)
        return taken

    def _failed(self, error: Exception) -> None:
        if self._last_error is None:
            _log.error("ledger_not_written", reason=str(error))
        self._last_error = str(error)
        self._backoff_s = min(max(2 * self._backoff_s, FIRST_BACKOFF_S), LONGEST_BACKOFF_S)
        if isinstance(error, LedgerBusy) and self._log is not None:  # its lease on a remote store was lost
            self._log.close()
            self._log = None
        if self._log is None:  # callers of a log that cannot be opened are told, rather than kept waiting
            for _, future in self._take_appends():
                future.set_exception(_as_ledger_error(error))

    def _refuse_waiting(self) -> None:
        closed = LedgerError("the ledger is closed; this was not logged")
        for queue in (self._appends, self._publishes):
            while queue:
                try:
                    item = queue.popleft()
                except IndexError:
                    break  # another thread was faster
                future = item[1] if isinstance(item, tuple) else item
                if future.set_running_or_notify_cancel():
                    future.set_exception(closed)


def _as_ledger_error(error: BaseException) -> LedgerError:
    return error if isinstance(error, LedgerError) else LedgerError(f"not logged: {type(error).__name__}")
