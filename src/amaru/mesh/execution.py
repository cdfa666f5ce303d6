"""One request's passage through the loop: the only path by which a provider is called.

An ``Execution`` decides once, then attempts offers in rank order (``attempts.py``). A stream that breaks after its
first byte goes on from another offer (``rescue.py`` knows how). It ends in exactly one ``settle()``, which releases
what was held, feeds health and metrics, and hands the record to the store, after the answer is on its way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaru.domain import FailureKind
from amaru.errors import Failure, RequestError
from amaru.mesh.attempt import CALLER_LEFT, DIVERGED, OpenAttempt
from amaru.mesh.attempts import CALLER_LEFT_STATUS, NO_ROWS, Attempts
from amaru.mesh.call import Call
from amaru.mesh.rescue import Broken
from amaru.protocols.joining import DivergedError, NotContinuedError
from amaru.providers.base import StreamReply

if TYPE_CHECKING:
    from amaru.mesh.mesh import Mesh
    from amaru.mesh.plan import Plan

FORGIVEN_AFTER_S = 5.0
"""What failed before a stream of at least this length began may be asked again when the stream has broken."""
RESULTS = {CALLER_LEFT_STATUS: "cancelled", 500: "internal_error"}


class Execution(Attempts):
    """One request, from decision to settlement.

    ``run()`` gives the reply of the first offer that answers, or raises ``RequestError``; of a stream ``next()`` gives
    the events; ``settle()`` must be called exactly once at the end, whatever happened.
    """

    __slots__ = ("decision_logged", "duration_s", "first_token_ms", "head", "outcome_logged", "receipt", "settled")

    def __init__(self, mesh: Mesh, plan: Plan, call: Call, decision_id: str, at: float) -> None:
        super().__init__(mesh, plan, call, decision_id, at)
        self.duration_s = 0.0
        self.first_token_ms: float | None = None
        self.head = b""
        """The first bytes that the caller got."""
        self.settled = False
        self.decision_logged = self.outcome_logged = False
        self.receipt = b""
        """Hash of the leaf that holds the decision, in hexadecimal; empty: it is not logged, or not yet."""

    # ---- the stream ---------------------------------------------------------------------------------------------

    async def next(self) -> bytes:
        """The next whole events for the caller; ``b""`` at the answer's whole end, and from then on.

        Raises
        ------
        RequestError
            The stream broke, and no other offer could go on from there.
        """
        while True:
            attempt = self.open
            if attempt is None:
                return b""
            reply, joint = attempt.reply, attempt.ask.joint
            assert isinstance(reply, StreamReply)
            try:
                if self.fresh:
                    self.fresh = False
                    data = reply.first or await reply.next()
                else:
                    data = await reply.next()
                if not data:
                    rest = joint.end() if joint is not None else b""
                    return rest + self._finish(attempt)
                if joint is not None:
                    data = joint.take(data)
                    if not data:
                        continue
            except (Failure, DivergedError) as trouble:
                data = await self._go_on(attempt, reply, trouble)
                if not data:
                    continue
            if not self.head:
                self.head = data
                self.first_token_ms = (self.mesh.clock() - self.call.arrived_at) * 1e3
            return data

    def _finish(self, attempt: OpenAttempt) -> bytes:
        """The answer is whole; what may still be missing is the usage of a joined one."""
        ask = attempt.ask
        self._close_attempt(None)
        self.status = 200
        if ask.joint is None:
            return b""
        if self.usage is None or not ask.request.include_usage or ask.joint.told_usage:
            return b""
        return ask.joint.usage_event(self.usage)

    async def _go_on(self, attempt: OpenAttempt, reply: StreamReply, trouble: Failure | DivergedError) -> bytes:
        """The stream broke, or is another answer: have another offer go on. Gives the closing events of an answer
        that turns out to be complete, else ``b""``."""
        joint = attempt.ask.joint
        sent = reply.sent if joint is None else joint.sent
        reply.close()
        if isinstance(trouble, Failure):
            self._close_attempt(trouble)
        else:
            self._close_attempt(None, detail=DIVERGED)
        try:
            now, board = self.mesh.clock(), self.plan.board
            if self.broken is None:
                # Its own prefill, if the caller sent one, was continued by whoever can.
                self.broken = Broken(self._ask.request, continued_its_own=board.can_continue(attempt.row))
            self.broken.broke(attempt.row, self.head, sent)
            self.waits_since = now
            if now - attempt.started_at >= FORGIVEN_AFTER_S:
                self.excluded, self.retried, self.throttled = frozenset(self.broken.rows), NO_ROWS, NO_ROWS
            if self.broken.is_complete:
                data, self.usage = self.broken.closing(attempt.offer.model)
                self.status = 200
                return data
            if isinstance(trouble, Failure):
                self.failure = trouble
            if not self.broken.possible:
                raise self._give_up(None)
            if isinstance(trouble, Failure):
                await self._react(attempt, trouble)
            elif self._is_spent():
                raise self._give_up(None)
            elif isinstance(trouble, NotContinuedError):
                if trouble.certain:
                    self._note_prefill_refused(attempt)
                self._ask_anew(attempt.row, refused_form=False)
            else:
                self.excluded |= self.broken.rows
        except RequestError as error:
            self.status = error.status
            raise
        await self.run()
        return b""

    # ---- the end ------------------------------------------------------------------------------------------------

    def log_decision(self) -> bytes:
        """Log the decision, once, with its outcome where that is known; gives ``receipt``. Never raises."""
        if not self.decision_logged:
            self.decision_logged = True
            ledger = self.mesh.ledger
            if ledger is not None:
                self.receipt = ledger.decided(self)
        return self.receipt

    def log_end(self) -> None:
        """Log what is not logged yet of a settled execution. Never raises."""
        if not self.decision_logged:
            self.log_decision()
        elif not self.outcome_logged and self.mesh.ledger is not None:
            self.outcome_logged = True
            self.mesh.ledger.ended(self)

    def settle(self) -> None:
        """Release, measure, record. Idempotent; the answer (if any) was already handed to the socket."""
        if self.settled:
            return
        self.settled = True
        attempt = self.open
        try:
            if attempt is not None:
                self._close_attempt(None, detail=CALLER_LEFT)
        finally:  # whatever happens, nothing stays taken
            self._abandon()
            if self.account is not None:
                self.account.end()
            if attempt is not None and isinstance(attempt.reply, StreamReply):
                attempt.reply.close()
            self.mesh.ended(self)

    @property
    def provider(self) -> str | None:
        """Who answered, or was tried last."""
        if self.open is not None:
            return self.open.offer.provider
        return self.attempts[-1].provider if self.attempts else None

    @property
    def offer(self) -> str | None:
        """The offer that answered, or the last one tried."""
        return self.attempts[-1].offer if self.attempts else None

    @property
    def failed_by(self) -> FailureKind | None:
        """The failure that the caller was left with; None where it got a whole answer, or no provider was at fault."""
        return None if self.ok or self.failure is None else self.failure.kind

    @property
    def result(self) -> str:
        """How it ended, in one bounded word for metrics: ``ok``, ``cancelled``, a failure's kind, or ``refused``."""
        if self.ok:
            return "ok"
        if self.status in RESULTS:
            return RESULTS[self.status]
        return self.failure.kind.value if self.failure is not None else "refused"

    @property
    def ok(self) -> bool:
        """The caller got a whole answer."""
        return 200 <= self.status < 300

    @property
    def rescued(self) -> str | None:
        """How a broken stream ended, in one bounded word: by which join, ``complete`` (all but its finish reason had
        been sent), ``failed`` or ``cancelled``; ``None``: none broke."""
        if self.broken is None:
            return None
        if not self.ok:
            return "cancelled" if self.status == CALLER_LEFT_STATUS else "failed"
        last = self.attempts[-1]
        return "complete" if last.failure is not None or last.detail else last.joined
