"""One request's passage through the loop: the only path by which a provider is called.

An ``Execution`` decides once, then attempts offers in rank order. What a failure makes it do next is read from the
table in ``routing/reactions.py``; this file only carries it out. It ends in exactly one ``settle()``, which releases
what was held, feeds health and metrics, and hands the record to the store, after the answer is on its way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaru.accounts.cost import cost_usd
from amaru.accounts.tokens import count_usage
from amaru.domain import Attempt, FailureKind, Kind, Offer, Provenance, Usage
from amaru.errors import Failure, RequestError
from amaru.mesh.call import Call, caller_error, workload_of
from amaru.protocols.openai import BYTES_PER_TOKEN
from amaru.protocols.prompts import prompt_of
from amaru.providers.base import StreamReply, WholeReply
from amaru.routing.explanation import why_none
from amaru.routing.live import Admission
from amaru.routing.ranking import Ranking
from amaru.routing.reactions import Again, Health, Next, Reaction, reaction_to
from amaru.routing.retries import backoff_s
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.mesh.mesh import Mesh
    from amaru.mesh.plan import Plan

CALLER_LEFT = 499
"""The status recorded for a request whose caller went away (nginx's convention)."""
NO_ROWS: frozenset[int] = frozenset()
"""Shared by the many requests of which nothing fails."""
RESULTS = {CALLER_LEFT: "cancelled", 500: "internal_error"}
WAITED = frozenset((FailureKind.CONNECT, FailureKind.NO_ANSWER, FailureKind.STREAM_STALLED))
"""Failures by which a wait ends, be it at the offer's own limit or at the request's deadline."""
CLOCK_GRAIN_S = 0.005
"""A deadline may strike this much early: event loops count in milliseconds."""

REMEDY = "mend its key, quota or model name and reload; a probe looks every minute or so"

log = get_logger("mesh")


class OpenAttempt:
    """An attempt under way: what must be released and measured when it ends."""

    __slots__ = ("admission", "offer", "row", "started_at")

    def __init__(self, row: int, offer: Offer, admission: Admission, started_at: float) -> None:
        self.row = row
        self.offer = offer
        self.admission = admission
        self.started_at = started_at


class Execution:
    """One request, from decision to settlement.

    ``run()`` gives the first piece of an answer or raises ``RequestError``; for a stream ``next()`` gives the rest;
    ``settle()`` must be called exactly once at the end, whatever happened.
    """

    __slots__ = (
        "at", "attempts", "call", "cost", "deadline_at", "decision_s", "duration_s", "excluded", "failure",
        "first_token_ms", "id", "latest", "mesh", "open", "plan", "ranking", "reply", "retried", "settled", "status",
        "throttled", "tokens", "usage", "waited", "workload",
    )  # fmt: skip

    def __init__(self, mesh: Mesh, plan: Plan, call: Call, decision_id: str, at: float) -> None:
        self.mesh = mesh
        self.plan = plan
        self.call = call
        self.id = decision_id
        self.at = at
        """When it was decided, in Unix seconds."""
        self.duration_s = 0.0
        self.workload = workload = workload_of(call)
        self.tokens = workload.input_tokens + workload.output_tokens
        limit_s = plan.deadline_s if call.deadline_s is None else min(call.deadline_s, plan.deadline_s)
        self.deadline_at = call.arrived_at + limit_s
        self.attempts: list[Attempt] = []
        self.excluded = self.retried = self.throttled = NO_ROWS
        self.open: OpenAttempt | None = None
        self.reply: WholeReply | StreamReply | None = None
        self.failure: Failure | None = None
        self.status = CALLER_LEFT
        self.usage: Usage | None = None
        self.cost = 0.0
        self.first_token_ms: float | None = None
        self.settled = False
        self.waited = False
        started = mesh.clock()
        self.ranking = self.latest = plan.router.decide(workload, started)
        """The decision, and the last re-ranking while waiting for an offer to come back."""
        self.decision_s = mesh.clock() - started

    # ---- the attempts -------------------------------------------------------------------------------------------

    async def run(self) -> WholeReply | StreamReply:
        """Attempt offers until one answers.

        Raises
        ------
        RequestError
            No offer could serve, all failed, or the deadline passed; with the status the taxonomy gives.
        """
        plan, request = self.plan, self.call.request
        candidates = self.ranking.order
        try:
            while True:
                attempt = self.open if self.open is not None else self._admit_next(candidates)
                if attempt is None:
                    candidates = await self._wait_for_an_offer()
                    continue
                offer = attempt.offer
                timing = plan.timing(offer, attempt.started_at, self.deadline_at)
                try:
                    reply = await plan.providers[offer.provider].call(offer, request, timing)
                    break
                except Failure as failure:
                    self._close_attempt(failure)
                    await self._react(attempt.row, failure)
        except RequestError as error:
            self.status = error.status
            raise
        self.reply = reply
        if isinstance(reply, WholeReply):
            self._account(reply)
            self._close_attempt(None)
            self.status = reply.status
        else:
            self.first_token_ms = (self.mesh.clock() - self.call.arrived_at) * 1e3
        return reply

    def _admit_next(self, candidates: list[int]) -> OpenAttempt | None:
        """Take the place at the best candidate that is free now and not ruled out for this request."""
        for row in candidates:
            if row in self.excluded or not self._admit(row):
                continue
            if row not in self.throttled:
                return self.open
            # It said "later" once before: asking it again is a retry like any other, and the last one.
            self.retried |= {row}
            if self.plan.retries.try_retry(self.mesh.clock()):
                self.mesh.metrics.observe_retry(self.plan.board.offers[row].id)
                return self.open
            self.excluded |= {row}
            self._abandon()
        return None

    def _admit(self, row: int, *, again: bool = False) -> bool:
        plan, now = self.plan, self.mesh.clock()
        admission = plan.board.admit(row, self.tokens, now, again=again)
        if admission is None:
            return False
        self.open = OpenAttempt(row, plan.board.offers[row], admission, now)
        return True

    async def _wait_for_an_offer(self) -> list[int]:
        """Every offer is ruled out or busy: wait for the first to come back, where that is in time, or give up."""
        plan, mesh = self.plan, self.mesh
        now = mesh.clock()
        latest = self._decide_again(now)
        if latest.order:  # one became free meanwhile
            await mesh.sleep(0.0)
            return latest.order
        rows = [row for row in latest.rows.tolist() if row not in self.excluded]
        if not rows or not latest.may_return(rows):
            raise self._give_up(None)
        soonest_s = plan.board.soonest_return_s(rows, now, self.tokens)
        limit_at = self.deadline_at
        if self.call.deadline_s is None:  # who names no deadline is not kept for as long as an answer may take
            limit_at = min(limit_at, self.call.arrived_at + plan.longest_wait_s)
        remaining_s = limit_at - now
        if remaining_s <= 0.0 or (soonest_s is not None and soonest_s >= remaining_s):
            raise self._give_up(soonest_s)
        timeout_s = remaining_s if soonest_s is None else soonest_s
        await mesh.wait_for_change(self.workload.resource, timeout_s, again=self.waited)
        self.waited = True
        return self._decide_again(mesh.clock()).order

    def _decide_again(self, now: float) -> Ranking:
        """Rank anew what was not tried yet; before the first attempt, that is the decision."""
        self.latest = self.plan.router.decide(self.workload, now, self.excluded)
        if not self.attempts:
            self.ranking = self.latest
        return self.latest

    async def _react(self, row: int, failure: Failure) -> None:
        """Do what the table says: ask the same offer again (``open`` is set then), rule it out, or give up."""
        self.failure = failure
        reaction = reaction_to(failure)
        if reaction.alert:
            log.error("offer_broken", offer=self.plan.board.offers[row].id, failure=str(failure), remedy=REMEDY)
        spent = self.mesh.clock() >= self.deadline_at or len(self.attempts) >= self.plan.max_attempts
        if spent or reaction.next is Next.NO:
            raise self._give_up(None)
        pause_s = self._pause_before_again(row, failure, reaction.again)
        if pause_s is not None and self.plan.retries.try_retry(self.mesh.clock()):
            self.retried |= {row}
            if pause_s > 0.0:
                await self.mesh.sleep(pause_s)
            if self._admit(row, again=True):
                self.mesh.metrics.observe_retry(self.plan.board.offers[row].id)
                return
        self._rule_out(row, reaction)

    def _pause_before_again(self, row: int, failure: Failure, again: Again) -> float | None:
        """Seconds to wait before the same offer is asked a second time; None: it is not."""
        if again is Again.NEVER or row in self.retried:
            return None
        if again is Again.ONCE:
            return 0.0
        remaining_s = self.deadline_at - self.mesh.clock()
        if again is Again.BACKOFF:
            pause_s = backoff_s(0, self.mesh.rng)
            return pause_s if pause_s < remaining_s else None
        pause_s = failure.retry_after_s or 0.0
        short = pause_s <= self.plan.longest_retry_after_s
        return pause_s if short and pause_s < remaining_s else None

    def _rule_out(self, row: int, reaction: Reaction) -> None:
        """Keep this request from offers that the failure rules out; a throttled one may still be waited for."""
        board = self.plan.board
        if reaction.health is Health.THROTTLED and row not in self.retried:
            self.throttled |= {row}
        else:
            self.excluded |= {row}
        if reaction.exclude_provider:
            self.excluded |= set(board.rows_of_provider[board.offers[row].provider])
        if reaction.next is Next.LARGER_WINDOW:
            self.excluded |= {other for other in self.ranking.rows.tolist() if not board.larger_window(other, row)}

    # ---- the stream ---------------------------------------------------------------------------------------------

    async def next(self) -> bytes:
        """The next verbatim events of the stream; ``b""`` at its whole end. Raises ``Failure`` when it breaks."""
        reply = self.reply
        assert reply is not None
        assert not isinstance(reply, WholeReply)
        try:
            data = await reply.next()
        except Failure as failure:
            self.failure = failure
            self._account(reply)
            self._close_attempt(failure)
            self.status = reaction_to(failure).caller_status or 502
            raise
        if not data:
            self._account(reply)
            self._close_attempt(None)
            self.status = 200
        return data

    # ---- the end ------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Release, measure, record. Idempotent; the answer (if any) was already handed to the socket."""
        if self.settled:
            return
        self.settled = True
        try:
            if self.open is not None:  # the caller went away
                if self.reply is not None:
                    self._account(self.reply)
                self._close_attempt(None, abandoned=True)
        finally:  # whatever happens, nothing stays taken
            self._abandon()
            if self.call.request.stream and isinstance(self.reply, StreamReply):
                self.reply.close()
            self.mesh.ended(self)

    def _abandon(self) -> None:
        """Give a place back without an outcome."""
        if self.open is not None:
            self.plan.board.release(self.open.admission)
            self.open = None

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

    def _account(self, reply: WholeReply | StreamReply) -> None:
        """Usage and cost of an answer: the provider's figures where given, else counted, else estimated."""
        attempt = self.open
        assert attempt is not None
        facts = reply.facts
        usage = facts.usage
        if usage is None and self.workload.kind is not Kind.GPU_JOB:
            usage = count_usage(
                attempt.offer.model, prompt_of(self.call.request), facts.output_text, facts.output_chars
            )
        self.usage = usage
        self.cost = cost_usd(attempt.offer.price, usage) if usage is not None else 0.0

    def _unseen_usage(self, attempt: OpenAttempt, failure: Failure | None) -> Usage | None:
        """What an attempt used that failed before any of its answer was handed on, as its provider will bill it."""
        if failure is None or failure.generated_bytes is None:
            return None
        prompt = count_usage(attempt.offer.model, prompt_of(self.call.request), "")
        output_tokens = min(-(-failure.generated_bytes // BYTES_PER_TOKEN), self.workload.output_tokens)
        return Usage(prompt.input_tokens, output_tokens, source=Provenance.ESTIMATED)

    def _close_attempt(self, failure: Failure | None, *, abandoned: bool = False) -> None:
        """The attempt is over: give its place back, tell health what happened, keep its record."""
        attempt = self.open
        if attempt is None:
            return
        now = self.mesh.clock()
        latency_ms = (now - attempt.started_at) * 1e3
        stream = self.call.request.stream
        facts = self.reply.facts if self.reply is not None else None
        first_ms = None
        if facts is not None and facts.first_token_at is not None:
            first_ms = (facts.first_token_at - attempt.started_at) * 1e3
        usage, cost = self.usage, self.cost
        if facts is None:  # nothing of it was handed on: its cost is the attempt's alone
            usage = self._unseen_usage(attempt, failure)
            cost = cost_usd(attempt.offer.price, usage) if usage is not None else 0.0
        # A request that ran out of its own time says nothing about the offer.
        impatient = failure is not None and failure.kind in WAITED and now >= self.deadline_at - CLOCK_GRAIN_S
        board = self.plan.board
        if not abandoned and not impatient:
            board.observe(
                attempt.admission, now, failure, first_ms, latency_ms, stream, tokens_used=_used(usage, failure)
            )
        board.release(attempt.admission)
        self.open = None
        served = facts is not None
        self.attempts.append(
            Attempt(
                offer=attempt.offer.id,
                provider=attempt.offer.provider,
                started_ms=(attempt.started_at - self.call.arrived_at) * 1e3,
                latency_ms=latency_ms,
                first_token_ms=first_ms,
                failure=failure.kind if failure is not None else None,
                status=failure.status if failure is not None else 200 if served else None,
                detail=failure.message if failure is not None else "the caller went away" if abandoned else "",
                usage=usage,
                cost_usd=cost,
                bytes_received=facts.bytes_received if facts is not None else failure.bytes_received if failure else 0,
            )
        )

    # ---- giving up ----------------------------------------------------------------------------------------------

    def _give_up(self, soonest_s: float | None) -> RequestError:
        """The error the caller sees, by the taxonomy's last column."""
        failure = self.failure
        if failure is None:
            return why_none(self.latest, soonest_s)
        if soonest_s is None and reaction_to(failure).health is Health.THROTTLED:
            soonest_s = self.plan.board.soonest_return_s(self.latest.rows.tolist(), self.mesh.clock(), self.tokens)
        return caller_error(failure, self.attempts, soonest_s)


def _used(usage: Usage | None, failure: Failure | None) -> float | None:
    """Tokens to hold against the offer's limit: what was used, none for a failure that used none, else the estimate."""
    if usage is None:
        return None if failure is None else 0.0
    return usage.input_tokens + usage.output_tokens
