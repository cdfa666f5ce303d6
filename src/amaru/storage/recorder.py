"""The writing side: a bounded queue that the event loop appends to, and the one thread that empties it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError

from amaru.domain import Offer
from amaru.errors import StorageError
from amaru.storage.database import Database
from amaru.storage.engine import storage_error
from amaru.storage.inserting import ROWS_PER_STATEMENT, RowsInsert
from amaru.storage.records import DecisionRecord, PolicyState, StoreSettings, StoreStatus
from amaru.storage.retention import Retention
from amaru.storage.schema import (
    Values,
    decisions,
    encode_offers,
    insert_policy,
    values_of,
)
from amaru.telemetry.logs import get_logger

T = TypeVar("T")
Job = Callable[[Connection], T]

ROWS_PER_COMMIT = 4 * ROWS_PER_STATEMENT
ROWS_PER_PIECE = 128
PAUSE_S = 0.002
"""While there is no hurry, the writer rests after each piece (some 1 ms of work): on a shared core the kernel would let
it run for a whole slice (4 ms), and the event loop's slowest answers would show it. Measured with
``benchmarks/bench_recorder.py --core 1`` at 13,000 records/s: p99 2.9 ms with rests, 5.2 ms without."""
FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 5.0
RETENTION_BUDGET_S = 0.02
"""How long retention may keep the queue waiting in one round."""
BOARDS_KEPT = 64
"""Boards remembered in memory, to be written again where the file was deleted."""

_UNSTORABLE = (
    IntegrityError,
    DataError,
    ProgrammingError,
    InterfaceError,
    OverflowError,
    TypeError,
    ValueError,
    AttributeError,
)
"""Errors that blame a row, not the store: such a batch is written row by row, and the bad rows are dropped."""

_log = get_logger("storage")


class Recorder:
    """Queue and writer thread.

    ``record`` belongs to the event loop's thread and never blocks: it takes no lock and does no I/O. A record leaves
    memory once its batch is committed. When the store fails, the batch in hand is kept and tried again with back-off,
    while the queue fills and then drops.
    """

    def __init__(
        self,
        database: Database,
        settings: StoreSettings,
        retention: Retention,
        *,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._database = database
        self._settings = settings
        self._retention = retention
        self._clock = clock
        self._pause = pause
        self._queue: deque[DecisionRecord] = deque()
        self._queue_size = settings.queue_size
        self._in_hand: list[DecisionRecord] = []
        self._moving = threading.Lock()  # between the writer and readers of `pending`; the event loop never takes it
        self._boards: dict[str, tuple[float, str]] = {}
        self._unwritten_boards: list[str] = []
        self._policies: dict[str, PolicyState] = {}  # the newest of each; never emptied, so that no lock is needed
        self._written_policies: dict[str, PolicyState] = {}
        self._jobs: deque[tuple[Job[object], Future[object]]] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._closed = False
        self._insert: RowsInsert | None = None
        self._written = 0
        self._dropped_full = 0
        self._dropped_unstorable = 0
        self._dropped_unwritten = 0
        self._last_error: str | None = None
        self._last_error_at: float | None = None
        self._healthy = True
        self._backoff_s = 0.0
        self._sizes = (0, 0)
        self._thread = threading.Thread(target=self._run, name="amaru-store", daemon=True)

    def start(self) -> None:
        """Open the file and start the writer. Raises StorageError."""
        self._open()
        self._thread.start()

    # ---- the event loop's side ----------------------------------------------------------------------------------

    def record(self, record: DecisionRecord) -> bool:
        """Queue a record; False where the queue was full and it was dropped."""
        if len(self._queue) >= self._queue_size:
            self._dropped_full += 1
            return False
        self._queue.append(record)
        return True

    # ---- any thread's side --------------------------------------------------------------------------------------

    def remember_board(self, version: str, offers: Iterable[Offer]) -> None:
        """Keep the offers to which ``board_version`` of later records refers; written before them."""
        board = (self._clock(), encode_offers(offers))
        with self._moving:
            self._boards.pop(version, None)
            self._boards[version] = board
            while len(self._boards) > BOARDS_KEPT:
                del self._boards[next(iter(self._boards))]
            self._unwritten_boards.append(version)

    def board(self, version: str) -> str | None:
        """The offers' JSON of a board that this process remembered, written or not."""
        found = self._boards.get(version)
        return None if found is None else found[1]

    def remember_policy(self, policy: PolicyState) -> None:
        """Keep a policy's state, in place of the one before it; written after the records queued before this call."""
        self._policies[policy.policy] = policy

    def policy(self, name: str) -> PolicyState | None:
        """The state of a policy that this process remembered, written or not."""
        return self._policies.get(name)

    def pending(self, decision_id: str) -> DecisionRecord | None:
        """A record that is not committed yet."""
        with self._moving:
            # Each copy is one C call, during which the event loop cannot append.
            waiting = [*self._in_hand, *self._queue.copy()]
        return next((record for record in waiting if record.id == decision_id), None)

    def submit(self, job: Job[T]) -> Future[T]:
        """Run ``job`` in its own transaction on the writer's connection, after every record queued before this call.

        The future raises StorageError where the store fails: a job is not tried again, so that its caller is told.
        """
        future: Future[T] = Future()
        self._jobs.append((job, future))  # type: ignore[arg-type]  # a queue of jobs of every result type
        self._wake.set()
        if self._closed:  # looked at after the append, so that a job is never left unanswered
            self._fail_jobs(self._is_closed())
        return future

    def status(self) -> StoreStatus:
        """How writing fares now."""
        return StoreStatus(
            healthy=self._healthy,
            path=str(self._database.path),
            queue_depth=len(self._queue) + len(self._in_hand),
            written=self._written,
            dropped=self._dropped_full + self._dropped_unstorable + self._dropped_unwritten,
            dropped_queue_full=self._dropped_full,
            dropped_unstorable=self._dropped_unstorable,
            dropped_unwritten=self._dropped_unwritten,
            deleted=self._retention.deleted,
            last_error=self._last_error,
            last_error_at=self._last_error_at,
            file_bytes=self._sizes[0],
            wal_bytes=self._sizes[1],
        )

    def close(self, timeout_s: float) -> bool:
        """Write what waits, for at most ``timeout_s``, and stop; False where records were left, which are dropped."""
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self._closed = True
        self._queue_size = 0  # what comes later is dropped and counted
        left = len(self._queue) + len(self._in_hand)
        if left:
            self._dropped_unwritten += left
            self._queue.clear()
            _log.error("records_lost_at_close", file=str(self._database.path), records=left)
        self._fail_jobs(self._is_closed())
        return left == 0

    def _is_closed(self) -> StorageError:
        return StorageError(f"{self._database.path}: the store is closed.")

    # ---- the writer's thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait(max(self._settings.interval_s, self._backoff_s))
            self._wake.clear()
            closing = self._closing
            try:
                self._round()
            except (DBAPIError, OSError, StorageError) as error:
                self._failed(error)
            except Exception as error:  # the thread must outlive a bug of its own
                _log.exception("store_writer_bug", file=str(self._database.path))
                self._failed(error)
            if closing and (self._closed or not (self._queue or self._in_hand) or not self._healthy):
                break
        self._database.close_writer()

    def _round(self) -> None:
        """Write all that waits, run the jobs, remove what is too old."""
        if not self._database.is_open or self._database.was_replaced():
            self._open()
        jobs = len(self._jobs)
        policies = self._policies.copy()  # before the records are counted: a state holds what was learned from them
        due = len(self._in_hand) + len(self._queue)
        while due > 0:
            taken = self._write_batch()
            if taken == 0:  # dropped meanwhile, by a close that timed out
                break
            due -= taken
        self._write_batch()  # boards alone, where there are any
        self._write_policies(policies)
        self._recovered()
        for _ in range(jobs):
            self._run_job()
        if self._settings.removes:
            self._retention.run(self._database, RETENTION_BUDGET_S)
        self._sizes = self._database.sizes()

    def _open(self) -> None:
        replaced = self._database.is_open
        self._database.open()
        with self._database.writing() as connection:
            self._insert = RowsInsert.into(decisions, connection.dialect)
        with self._moving:
            self._unwritten_boards = list(self._boards)
        self._written_policies = {}
        if replaced:
            self._last_error = f"{self._database.path}: the file was deleted or replaced while in use; opened anew."
            self._last_error_at = self._clock()
            _log.error("store_file_replaced", file=str(self._database.path), lost="the decisions in the old file")

    def _write_batch(self) -> int:
        """Commit up to ``ROWS_PER_COMMIT`` records and the boards before them; returns how many records."""
        with self._moving:
            while self._queue and len(self._in_hand) < ROWS_PER_COMMIT:
                self._in_hand.append(self._queue.popleft())
            boards = list(self._unwritten_boards)
        if not self._in_hand and not boards:
            return 0
        taken = len(self._in_hand)
        try:
            self._commit(boards, self._in_hand)
            unstorable = 0
        except _UNSTORABLE as error:
            unstorable = self._write_one_by_one(boards, error)
        self._written += taken - unstorable
        self._dropped_unstorable += unstorable
        with self._moving:
            del self._unwritten_boards[: len(boards)]
            self._in_hand = []
        return taken

    def _commit(self, boards: list[str], records: list[DecisionRecord]) -> None:
        assert self._insert is not None
        with self._database.writing() as connection:
            for version in boards:
                self._insert_board(connection, version)
            start = 0
            while start < len(records):
                hurry = self._in_a_hurry()
                end = start + (ROWS_PER_STATEMENT if hurry else ROWS_PER_PIECE)
                # Converted piece by piece: the interpreter lock is held for one piece, then let go while SQLite works.
                rows: list[Values] = [values_of(record) for record in records[start:end]]
                self._insert(connection, rows)
                start = end
                if not hurry:
                    self._pause(PAUSE_S)

    def _in_a_hurry(self) -> bool:
        """Somebody waits, or the queue fills faster than it is emptied."""
        return self._closing or bool(self._jobs) or len(self._queue) + len(self._in_hand) > self._queue_size // 4

    def _write_policies(self, policies: dict[str, PolicyState]) -> None:
        for name, policy in policies.items():
            if self._written_policies.get(name) is policy:
                continue
            try:
                with self._database.writing() as connection:
                    insert_policy(connection, policy)
            except _UNSTORABLE as error:
                _log.error("policy_unstorable", policy=name, error=str(storage_error(self._database.path, error)))
            self._written_policies[name] = policy

    def _insert_board(self, connection: Connection, version: str) -> None:
        if version in self._boards:
            at, offers = self._boards[version]
            connection.exec_driver_sql(
                "INSERT INTO boards (version, at, offers) VALUES (?, ?, ?) "
                "ON CONFLICT (version) DO UPDATE SET at = excluded.at",
                (version, at, offers),
            )

    def _write_one_by_one(self, boards: list[str], error: Exception) -> int:
        """Write a batch that holds a bad row; returns how many rows were bad."""
        unstorable = 0
        self._commit(boards, [])
        for record in self._in_hand:
            try:
                self._commit([], [record])
            except _UNSTORABLE as bad:
                unstorable += 1
                error = bad
        _log.error("records_unstorable", records=unstorable, error=str(storage_error(self._database.path, error)))
        return unstorable

    def _run_job(self) -> None:
        job, future = self._next_job()
        if future is None or not future.set_running_or_notify_cancel():
            return
        try:
            with self._database.writing() as connection:
                result = job(connection)
        except DBAPIError as error:
            future.set_exception(storage_error(self._database.path, error))
        except Exception as error:  # the caller's own
            future.set_exception(error)
        else:
            future.set_result(result)

    def _fail_jobs(self, error: StorageError) -> None:
        for _ in range(len(self._jobs)):  # not those that are submitted because these failed
            _, future = self._next_job()
            if future is not None and future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _next_job(self) -> tuple[Job[object], Future[object] | None]:
        """The first job that waits; no future where another thread took the last one to fail it at the close."""
        try:
            return self._jobs.popleft()
        except IndexError:
            return (lambda _: None), None

    def _failed(self, error: Exception) -> None:
        described = error if isinstance(error, StorageError) else storage_error(self._database.path, error)
        if self._healthy:
            _log.error("store_failing", error=str(described), effect="records wait, then are dropped")
        self._healthy = False
        self._last_error, self._last_error_at = str(described), self._clock()
        self._backoff_s = min(max(2 * self._backoff_s, FIRST_BACKOFF_S), LONGEST_BACKOFF_S)
        # A fresh connection next time: a failed one may be stuck in a state of its own.
        self._database.close_writer()
        self._fail_jobs(described)

    def _recovered(self) -> None:
        if not self._healthy:
            _log.warning("store_recovered", file=str(self._database.path), dropped=self.status().dropped)
        self._healthy = True
        self._backoff_s = 0.0
