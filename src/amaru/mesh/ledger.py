"""Record, wired to the live mesh: what was decided, and what was done about the offers, leaves receipts.

The request path makes a leaf and copies it into the writer's queue: a file in memory that outlives the process. All
that may wait for a disk, the log's opening first of all, happens on the writer's thread. Whatever befalls the log,
requests are served: what it cannot take is dropped, counted, told in the log of the process, and later logged as a gap.

A whole answer's decision is logged with its outcome, when its head goes out; a stream's without, and its outcome at the
end, so that the head can name the leaf's hash in either case.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from binascii import hexlify
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from amaru.config.ledger import LedgerSettings
from amaru.domain import Outcome
from amaru.errors import LedgerError
from amaru.health.healing import SelfHealingAction
from amaru.ledger import receipts
from amaru.ledger.guest import Guest
from amaru.ledger.inlet import Inlet
from amaru.ledger.log import Log
from amaru.ledger.marks import PROMPT_FIELD, PromptMarks
from amaru.ledger.place import Place, found, load_salt, note_seen, open_log
from amaru.ledger.remembrancer import Remembrancer
from amaru.ledger.ring import Gap, Ring
from amaru.ledger.writer import Writer
from amaru.mesh.ledger_leaves import COMPONENT, DecisionLeaves, Instants, outcome_leaf, served
from amaru.mesh.ledger_retention import Retention
from amaru.routing.ranking import Ranking
from amaru.stability.guardian import InterventionRecord
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.mesh.execution import Execution
    from amaru.protocols.openai import OpenAIRequest

KIB = 1024
ALARM_EVERY_S = 60.0
"""Between two lines in the log about receipts that are dropped."""
GATHER_S = 0.2
"""Receipts gather for so long in the queue, which outlives the process, before they are flushed together."""
SEEN_EVERY_S = 60.0
"""Between two notes of the last checkpoint, to which every later opening of the log is held."""
READY_POLL_S = 0.01
CLOSE_S = 10.0
"""How long the end may take."""

_log = get_logger("ledger")


class LedgerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the ledger fares now, as ``/status`` shows it."""

    healthy: bool
    entries: int
    """Receipts that are durable."""
    published: int
    """Receipts under the last checkpoint: they can be proven."""
    queued_bytes: int
    """Of receipts that wait to be logged."""
    lag_s: float
    """How long what waits has been waiting, in seconds."""
    dropped: int
    """Receipts that were dropped since the queue was made; each gap is logged."""
    lost: int
    """Receipts that could not be made, since the start of the process."""
    error: str | None
    """Why nothing can be logged now."""


class MeshLedger:
    """What a mesh records, and the writer of its log. All but ``status`` belongs to the event loop's thread.

    Parameters
    ----------
    place
        Where the log lies.
    settings
        What is logged; ``settings`` may be replaced while it runs.
    wall, clock
        Unix seconds, and seconds of a monotonic clock.
    worker
        Of several that log to one: the first writes the log, the others put into its queue.
    """

    def __init__(
        self,
        place: Place,
        settings: LedgerSettings,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        worker: int | None = None,
    ) -> None:
        self.place = place
        self._shared = worker is not None
        self.lost = 0
        self._wall = wall
        self._clock = clock
        self._queue_bytes = int(settings.queue_mib * KIB * KIB)
        self._instant = Instants()
        self._leaves = DecisionLeaves()
        self._marks: PromptMarks | None = None
        self._waiting_since: float | None = None
        self._alarmed_at = -ALARM_EVERY_S
        self._seen_at = clock()
        self._inlet: Inlet | None = None
        self._writer: Writer | Guest = (
            Guest(self._join_ring, clock=wall)
            if worker
            else Writer(
                self._open_log,
                self._open_ring,
                gap_leaf=self._gap_leaf,
                on_committed=self._committed,
                interval_s=GATHER_S,
                clock=wall,
            )
        )
        self._retention = Retention(lambda: self._writer.log, forget=self._forget_pruned, wall=wall)
        self.follow(settings)

    def follow(self, settings: LedgerSettings) -> None:
        """Log as these settings say, from now on; those that need a restart are passed over."""
        self._sampled_below = round(settings.decisions * 2**32)
        self._prompt_bytes = int(settings.prompt_kib * KIB)
        self._retention.days = settings.retention_days
        self._retention.hurry()

    # ---- living -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to open the log, and to take what is to be logged."""
        self._writer.start()
        if isinstance(self._writer, Writer):
            self._retention.start()

    async def ready(self, limit_s: float) -> bool:
        """Wait until the log is open, for as long as that may still succeed at once; whether it is."""
        until = self._clock() + limit_s
        while not self._writer.wait_open(0.0):
            if self._clock() >= until or not self._writer.status().healthy:
                return False
            await asyncio.sleep(READY_POLL_S)
        return True

    def close(self, limit_s: float = CLOSE_S) -> bool:
        """Log and publish what waits, and let go of the log; False where that failed. May wait for the disk.

        What could not be logged stays in the queue for the next start.
        """
        self._retention.close(limit_s)
        if self._inlet is not None:
            self._inlet.close()
        done = self._writer.close(limit_s)
        self._note_seen()
        if not done:
            _log.error("ledger_not_flushed", reason=self._writer.status().last_error, remedy="it is tried at the start")
        return done

    @property
    def log(self) -> Log | None:
        """The log, to read and prove from; ``None`` while it is not open."""
        return self._writer.log

    def status(self) -> LedgerStatus:
        """How it fares now."""
        now, since = self._writer.status(), self._waiting_since
        return LedgerStatus(
            healthy=now.healthy and now.open,
            entries=now.committed,
            published=now.published,
            queued_bytes=now.queued_bytes,
            lag_s=round(self._clock() - since, 3) if now.queued_bytes and since is not None else 0.0,
            dropped=now.dropped,
            lost=self.lost,
            error=now.last_error,
        )

    # ---- what is logged -----------------------------------------------------------------------------------------

    def decided(self, execution: Execution) -> bytes:
        """Log an execution's decision, with its outcome unless a stream has only begun. Never raises.

        Gives the leaf's hash in hexadecimal; empty where it was not taken.
        """
        try:
            streams = execution.open is not None
            execution.outcome_logged = not streams
            if not self.samples(execution.id):
                execution.outcome_logged = True
                return b""
            call, mesh = execution.call, execution.mesh
            outcome = "" if streams else served(execution, (mesh.clock() - call.arrived_at) * 1e3)
            ranking = execution.ranking
            prompt = self._mark(ranking.workload.tenant, call.request)
            leaf = self._leaves.leaf(ranking, execution.id, self._instant(self._wall()), prompt, outcome)
        except Exception as error:  # nothing here may become a request's
            self._lose(error)
            return b""
        return self._offer(leaf)

    def ended(self, execution: Execution) -> None:
        """Log the outcome of an execution whose decision was logged without. Never raises."""
        try:
            self._offer(outcome_leaf(execution, self._instant(self._wall()), execution.duration_s * 1e3))
        except Exception as error:  # as above
            self._lose(error)

    def recommended(self, ranking: Ranking, decision_id: str) -> bytes:
        """Log a decision that its caller carries out; gives what ``decided`` gives. Never raises."""
        try:
            if self.samples(decision_id):
                return self._offer(self._leaves.leaf(ranking, decision_id, self._instant(self._wall())))
        except Exception as error:  # as above
            self._lose(error)
        return b""

    def reported(self, tenant: str, outcome: Outcome) -> None:
        """Log what a caller reported of a decision. Never raises."""
        if not self.samples(outcome.decision):
            return
        usage = outcome.usage
        self._record(
            lambda: receipts.Outcome(
                at=self._instant(self._wall()),
                component=COMPONENT,
                ref=outcome.decision,
                by=tenant,
                outcome=receipts.Served(
                    ok=outcome.ok,
                    offer=outcome.offer or "",
                    failure="" if outcome.failure is None else outcome.failure.value,
                    latency_ms=outcome.latency_ms,
                    first_token_ms=outcome.first_token_ms,
                    input_tokens=None if usage is None else usage.input_tokens,
                    output_tokens=None if usage is None else usage.output_tokens,
                    usage_source="" if usage is None else usage.source.value,
                    cost_usd=outcome.cost_usd,
                ),
            )
        )

    def healed(self, action: SelfHealingAction) -> None:
        """Log that a healing began, or ended. Never raises."""
        ended = action.ended_at is not None
        self._record(
            lambda: receipts.Healing(
                at=self._instant(self._wall()),
                component=COMPONENT,
                ref=action.id,
                by=_words(action.by),
                note=action.reason[: receipts.MAX_NOTE],
                action=action.kind.value,
                pattern=action.pattern,
                offers=action.offers,
                until="" if action.until is None else self._instant(action.until),
                changed=action.changed,
                applied=action.applied,
                ended=_words(action.ended or "ended") if ended else "",
                effect=action.effect,
            )
        )

    def intervened(self, record: InterventionRecord) -> None:
        """Log that the guardian, or a person, intervened. Never raises."""
        self._record(
            lambda: receipts.Intervention(
                at=self._instant(self._wall()),
                component=COMPONENT,
                ref=record.id,
                by=_words(record.by),
                note=record.reason[: receipts.MAX_NOTE],
                action=record.kind.value,
                changed=record.changed,
                psi=record.psi,
            )
        )

    def samples(self, decision_id: str) -> bool:
        """Whether this decision is among those that are logged: by its id alone, so that anyone can check it."""
        below = self._sampled_below
        return below >= 2**32 or zlib.crc32(decision_id.encode()) < below

    # ---- the request path's side --------------------------------------------------------------------------------

    def _mark(self, tenant: str, request: OpenAIRequest) -> str:
        prompt = request.fields.get(PROMPT_FIELD[request.kind])
        if self._marks is None or prompt is None or len(memoryview(prompt)) > self._prompt_bytes:
            return ""
        return self._marks.mark(tenant, prompt)

    def _record(self, make: Callable[[], receipts.Receipt]) -> None:
        try:
            self._offer(receipts.leaf_of(make()))
        except Exception as error:  # what cannot be recorded must not keep from acting
            self._lose(error)

    def _offer(self, leaf: bytes) -> bytes:
        if self._waiting_since is None:
            self._waiting_since = self._clock()
        if leaf_hash := self._writer.offer(leaf):
            return hexlify(leaf_hash)
        now = self._clock()
        if now - self._alarmed_at >= ALARM_EVERY_S:
            self._alarmed_at = now
            status = self._writer.status()
            _log.error(
                "ledger_receipts_dropped", dropped=status.dropped, reason=status.last_error or "too many a second"
            )
        return b""

    def _lose(self, error: Exception) -> None:
        if not self.lost:
            _log.error("ledger_receipt_lost", error=type(error).__name__, exc_info=error)
        self.lost += 1

    # ---- the writer's side --------------------------------------------------------------------------------------

    def _open_log(self) -> Log:
        made = found(self.place)
        if made is not None:
            _log.info("ledger_begun", vkey=made.verifier.vkey, remedy="give this key to whoever checks the log")
        self._marks = PromptMarks(load_salt(self.place))
        log = open_log(self.place, wait_s=0.0)
        _log.info("ledger_open", at=log.store.shown, entries=log.committed)
        self._let_others_in()
        return log

    def _let_others_in(self) -> None:
        if self._inlet is not None:
            return
        assert isinstance(self._writer, Writer)  # it is who opened the log
        inlet = Inlet(self.place.keys, self._writer)
        try:
            inlet.start()
        except LedgerError as error:
            _log.warning("ledger_inlet_closed", reason=str(error), effect="other processes cannot record meanwhile")
        else:
            self._inlet = inlet

    def _forget_pruned(self) -> None:
        with Remembrancer(self.place, clock=self._wall) as remembrancer:
            remembrancer.forget_pruned()

    def _open_ring(self) -> Ring:
        path, shared = queue_of(self.place), self._shared
        return Ring.open(path, capacity_bytes=self._queue_bytes, clock=self._wall, shared=shared)

    def _join_ring(self) -> Ring:
        ring = Ring.join(queue_of(self.place), clock=self._wall)
        self._marks = PromptMarks(load_salt(self.place))
        return ring

    def _gap_leaf(self, gap: Gap) -> bytes:
        return receipts.leaf_of(
            receipts.Gap(
                at=receipts.rfc3339(self._wall()),
                component=COMPONENT,
                note="at least so many: the queue's file was damaged" if gap.at_least else "",
                dropped=gap.dropped,
                since=receipts.rfc3339(gap.since_s),
                until=receipts.rfc3339(gap.until_s),
            )
        )

    def _committed(self, _first: int, _leaves: Sequence[bytes]) -> None:
        self._waiting_since = None
        if self._clock() - self._seen_at >= SEEN_EVERY_S:
            self._note_seen()

    def _note_seen(self) -> None:
        """What was published is known from now on: an older copy that is put in its place will be noticed."""
        log = self._writer.log
        if log is not None and log.size:
            self._seen_at = self._clock()
            note_seen(self.place, log.checkpoint())


def queue_of(place: Place) -> Path:
    """The file of what waits to be logged, beside the folder of keys."""
    return place.keys.with_suffix(".queue")


def _words(text: str) -> str:
    return text[:200]
