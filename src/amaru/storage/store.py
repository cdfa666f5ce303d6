"""The store of decisions: what the mesh, the gateway and the auditor's tools hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import msgspec
from sqlalchemy.engine import Connection

from amaru.domain import Offer
from amaru.errors import StorageError
from amaru.storage import reader
from amaru.storage.database import Database
from amaru.storage.recorder import Recorder
from amaru.storage.records import (
    DecisionRecord,
    Page,
    PolicyState,
    StoredDecision,
    StoreSettings,
    StoreStatus,
    UnknownDecisionError,
)
from amaru.storage.retention import Retention
from amaru.storage.schema import decode_offers

FLUSH_TIMEOUT_S = 2.0
FEEDBACK_TIMEOUT_S = 10.0


class DecisionStore:
    """Decisions, outcomes, boards and feedback in one SQLite file.

    Parameters
    ----------
    settings
        Path, retention, queue.
    clock
        Unix seconds.
    timer
        Monotonic seconds.

    Notes
    -----
    ``start()``, then ``record(…)`` from the event loop, ``await close()`` at the end. What was recorded within the last
    ``interval_s`` before a crash is lost; everything before it is not.
    """

    def __init__(
        self,
        settings: StoreSettings,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._database = Database(settings.path, busy_timeout_s=settings.busy_timeout_s, clock=clock)
        self._retention = Retention(settings.retention_days, settings.retention_gb, clock=clock, timer=timer)
        self._recorder = Recorder(self._database, settings, self._retention, clock=clock)
        # The hot path: bound once, so that a call goes straight to the queue.
        self.record: Callable[[DecisionRecord], bool] = self._recorder.record
        """Queue a record, from the event loop's thread; False where the queue was full and it was dropped."""

    def start(self) -> None:
        """Open (or create) the file and start writing. Raises StorageError, naming the file and the remedy."""
        self._recorder.start()

    async def close(self, timeout_s: float = 5.0) -> bool:
        """Write what waits, for at most ``timeout_s``; False where some records were left and dropped."""
        return await asyncio.to_thread(self._recorder.close, timeout_s)

    def status(self) -> StoreStatus:
        """How the store fares now; cheap."""
        return self._recorder.status()

    def set_retention(self, *, days: float, gigabytes: float) -> None:
        """Change how long records are kept; takes effect within the writer's next round."""
        self._retention.days, self._retention.gigabytes = days, gigabytes
        self._retention.hurry()

    def remember_board(self, version: str, offers: Iterable[Offer]) -> None:
        """Keep the offers that ``version`` stands for, so that later records of it can be explained for ever."""
        self._recorder.remember_board(version, offers)

    async def board(self, version: str) -> tuple[Offer, ...] | None:
        """The offers of a board; ``None`` where it is unknown. Raises StorageError."""
        text = self._recorder.board(version)
        if text is None:
            text = await asyncio.to_thread(reader.read_board, self._database, version)
        return None if text is None else decode_offers(text)

    def remember_policy(self, policy: PolicyState) -> None:
        """Keep what a policy has learned, in place of what it had; written after every record queued before.

        From the event loop's thread; takes no lock and does no I/O.
        """
        self._recorder.remember_policy(policy)

    async def policy(self, name: str) -> PolicyState | None:
        """What the policy of that name had learned; ``None``: nothing. Raises StorageError, also if it is damaged."""
        waiting = self._recorder.policy(name)
        if waiting is not None:
            return waiting
        return await asyncio.to_thread(reader.read_policy, self._database, name)

    async def get(self, decision_id: str) -> StoredDecision | None:
        """One decision with its feedback, also while it waits to be written; ``None``: unknown. Raises StorageError."""
        return await asyncio.to_thread(self._get, decision_id)

    def _get(self, decision_id: str) -> StoredDecision | None:
        # Waiting ones first: a record moves from the queue to the file, never back, so it cannot be missed.
        waiting = self._recorder.pending(decision_id)
        if waiting is not None:
            return StoredDecision(record=waiting, pending=True)
        found = reader.read_decision(self._database, decision_id)
        return None if found is None else StoredDecision(record=found[0], feedback=found[1])

    async def recent(
        self,
        limit: int = 50,
        *,
        cursor: str | None = None,
        tenant: str | None = None,
        team: str | None = None,
        key: str | None = None,
        resource: str | None = None,
        offer: str | None = None,
        provider: str | None = None,
        ok: bool | None = None,
        since: float | None = None,
        until: float | None = None,
        min_cost_usd: float | None = None,
    ) -> Page:
        """Decisions that pass every filter given, newest first, at most ``limit`` (and 1,000).

        ``cursor`` is the page before's ``next_cursor``; ``since`` and ``until`` are Unix seconds, the second not
        included; ``provider`` was asked, whether it answered or not. What was recorded before this call is seen, unless
        the store is failing. Raises StorageError.
        """
        if cursor is None and self.status().healthy:
            await self.flush()
        return await asyncio.to_thread(
            reader.read_page,
            self._database,
            limit=limit,
            cursor=cursor,
            tenant=tenant,
            team=team,
            key=key,
            resource=resource,
            offer=offer,
            provider=provider,
            ok=ok,
            since=since,
            until=until,
            min_cost_usd=min_cost_usd,
        )

    async def count(self, at_most: int = 1_000_000) -> int:
        """How many decisions are stored, counted up to ``at_most`` (the whole file is read to count more)."""
        return await asyncio.to_thread(reader.count_decisions, self._database, at_most)

    async def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> bool:
        """Wait until all that was recorded before is committed; False where that failed or took too long."""
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._recorder.submit(lambda _: None)), timeout_s)
        except (StorageError, TimeoutError):
            return False
        return True

    async def add_feedback(self, decision_id: str, outcome: object) -> bool:
        """Keep the outcome that a caller reports for a decision, exactly once, and return when it is committed.

        ``outcome`` is anything that msgspec encodes as JSON. False: an outcome had been reported already, which stands.

        Raises
        ------
        UnknownDecisionError
            No such decision is stored.
        StorageError
            It cannot be written now; nothing was kept, and the caller may try again.
        """
        now, text = self._clock(), msgspec.json.encode(outcome).decode()

        def write(connection: Connection) -> bool:
            known = connection.exec_driver_sql("SELECT 1 FROM decisions WHERE id = ?", (decision_id,)).first()
            if known is None:
                raise UnknownDecisionError(f"no stored decision has the id {decision_id[:64]!r}")
            return (
                connection.exec_driver_sql(
                    "INSERT INTO feedback (decision, at, outcome) VALUES (?, ?, ?) ON CONFLICT (decision) DO NOTHING",
                    (decision_id, now, text),
                ).rowcount
                == 1
            )

        future = asyncio.wrap_future(self._recorder.submit(write))
        try:
            return await asyncio.wait_for(future, FEEDBACK_TIMEOUT_S)
        except TimeoutError:
            raise StorageError(f"{self.settings.path}: the store did not answer in time; try again.") from None
