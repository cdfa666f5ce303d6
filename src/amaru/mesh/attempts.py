"""The attempts of one request: which offer is asked next, and what a failure makes of that.

What a failure makes amaru do is read from the table in ``routing/reactions.py``; this file only carries it out, before
the first byte as well as after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaru.accounts.cost import cost_pusd
from amaru.domain import Attempt, FailureKind, Join, Usage
from amaru.errors import Failure, RequestError
from amaru.mesh.accounts_request import RequestAccount
from amaru.mesh.accounts_words import over_budget
from amaru.mesh.attempt import DIVERGED, OpenAttempt, used_tokens
from amaru.mesh.call import Call, as_held, caller_error, workload_of
from amaru.mesh.rescue import Ask, Broken, delivered_usage
from amaru.providers.base import StreamReply, WholeReply
from amaru.routing.explanation import why_none
from amaru.routing.kernels import Code
from amaru.routing.ranking import Ranking
from amaru.routing.reactions import Again, Health, Next, Reaction, reaction_to
from amaru.routing.retries import BACKOFF_S, MAX_BACKOFF_S, backoff_s
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.mesh.mesh import Mesh
    from amaru.mesh.plan import Plan

CALLER_LEFT_STATUS = 499
"""The status recorded for a request whose caller went away (nginx's convention)."""
NO_ROWS: frozenset[int] = frozenset()
"""Shared by the many requests of which nothing fails."""
WAITED = frozenset((FailureKind.CONNECT, FailureKind.NO_ANSWER, FailureKind.STREAM_STALLED))
"""Failures by which a wait ends, be it at the offer's own limit or at the request's deadline."""
CLOCK_GRAIN_S = 0.005
"""A deadline may strike this much early: event loops count in milliseconds."""
REFUSED = (None, 400)
"""What the caller sees of failures that are its own request's."""
BUSY = frozenset((Code.THROTTLED, Code.RATE_LIMIT, Code.CAPACITY))
REMEDY = "mend its key, quota or model name and reload; a probe looks every minute or so"
PREFILL_REMEDY = "it is not asked to continue answers again; take `prefill` from its capabilities"
log = get_logger("mesh")


class Attempts:
    """One request's attempts, from the decision to a reply; ``Execution`` goes on from there."""

    __slots__ = (
        "_ask", "account", "at", "attempts", "broken", "call", "cost", "deadline_at", "decision_s", "excluded",
        "failure", "fresh", "id", "latest", "mesh", "open", "plan", "ranking", "retried", "status", "throttled",
        "tokens", "unaffordable", "usage", "waited", "waits_since", "workload",
    )  # fmt: skip

    def __init__(self, mesh: Mesh, plan: Plan, call: Call, decision_id: str, at: float) -> None:
        self.mesh = mesh
        self.plan = plan
        self.call = call
        self.id = decision_id
        self.at = at
        """When it was decided, in Unix seconds."""
        self.workload = workload = workload_of(call)
        self.tokens = workload.input_tokens + workload.output_tokens
        limit_s = plan.deadline_s if call.deadline_s is None else min(call.deadline_s, plan.deadline_s)
        self.deadline_at = call.arrived_at + limit_s
        self.attempts: list[Attempt] = []
        self.account = None if mesh.till is None else RequestAccount(mesh.till, plan, call, decision_id)
        self.excluded = self.retried = self.throttled = NO_ROWS
        self.unaffordable: dict[int, RequestError] = {}
        """Offers that a budget of their own, or of the caller's once its stream has broken, rules out; and why."""
        self.open: OpenAttempt | None = None
        self._ask = Ask(as_held(call))
        """What offers are asked while nothing has broken."""
        self.broken: Broken | None = None
        """The stream that broke, once one has."""
        self.fresh = False
        """The events that came with the reply's first content are still to be handed on."""
        self.failure: Failure | None = None
        self.status = CALLER_LEFT_STATUS
        self.usage: Usage | None = None
        self.cost = 0.0
        self.waited = False
        """It has waited in line for an offer, and goes to the front of it now."""
        self.waits_since = call.arrived_at
        """Since when nobody answers it: its arrival, or the last break of its stream."""
        started = mesh.clock()
        self.ranking = self.latest = plan.decide(workload, started, call.conversation)
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
        plan = self.plan
        candidates = self.ranking.order
        if self.broken is not None:
            candidates = self._decide_again(self.mesh.clock()).order
        account = self.account
        try:
            if account is not None and account.is_due:
                offers = plan.board.offers
                await account.admit([offers[row] for row in self.ranking.rows.tolist()])
            while True:
                attempt = self.open if self.open is not None else self._admit_next(candidates)
                if attempt is None:
                    candidates = await self._wait_for_an_offer()
                    continue
                offer = attempt.offer
                if self.broken is not None:
                    attempt.ask = self.broken.ask(offer, attempt.row, plan.board)
                if account is not None and not account.begin(attempt) and not await self._begin_slow(account, attempt):
                    continue
                timing = plan.timing(
                    offer,
                    attempt.started_at,
                    self.deadline_at,
                    input_tokens=self.workload.input_tokens,
                    alone=not self.call.request.stream or self._is_alone(candidates, attempt.row),
                )
                try:
                    attempt.whole = plan.board.steering(attempt.row).non_stream
                    provider = plan.providers[offer.provider]
                    reply = await provider.call(offer, attempt.ask.request, timing, whole=attempt.whole)
                    break
                except Failure as failure:
                    self._close_attempt(failure)
                    await self._react(attempt, failure)
        except RequestError as error:
            self.status = error.status
            raise
        attempt.reply = reply
        if isinstance(reply, WholeReply):
            self._close_attempt(None)
            self.status = reply.status
        else:
            self.fresh = True
            plan.board.answering(attempt.admission, self.mesh.clock())
            self.mesh.learner.attempt_began(self.ranking, attempt)
            if self.broken is not None:
                self._learn_form(attempt)
        return reply

    async def _begin_slow(self, account: RequestAccount, attempt: OpenAttempt) -> bool:
        """Have the bank asked for what an attempt may cost; False: its offer is ruled out."""
        try:
            refused = await account.begin_slow(attempt, may_refuse=self.broken is None)
        except BaseException:
            self._abandon()
            raise
        if refused is None:
            attempt.started_at = self.mesh.clock()
            return True
        self._abandon()
        self.excluded |= {attempt.row}
        self.unaffordable[attempt.row] = refused
        over_budget(self.latest, attempt.row, refused)
        # Not of a decision that was handed out, nor of an offer that was asked before.
        if self.broken is None and all(tried.offer != attempt.offer.id for tried in self.attempts):
            over_budget(self.ranking, attempt.row, refused)
        return False

    def _is_alone(self, candidates: list[int], row: int) -> bool:
        """No other provider could take over if this one is late."""
        offers = self.plan.board.offers
        provider = offers[row].provider
        for other in candidates:
            if other != row and other not in self.excluded and offers[other].provider != provider:
                return False
        return True

    def _learn_form(self, attempt: OpenAttempt) -> None:
        """The request that was refused as a continuation was taken as it is: it was the form that it refused."""
        assert self.broken is not None
        if self.broken.refused.get(attempt.row, False):
            self._note_prefill_refused(attempt)

    def _note_prefill_refused(self, attempt: OpenAttempt) -> None:
        if self.plan.board.can_continue(attempt.row):
            self.plan.board.prefill_refused(attempt.row)
            log.warning("offer_does_not_continue", offer=attempt.offer.id, remedy=PREFILL_REMEDY)

    def _admit_next(self, candidates: list[int]) -> OpenAttempt | None:
        """Take the place at the best candidate that is free now and not ruled out for this request."""
        if self.broken is not None:
            candidates = self.broken.preferred(candidates, self.plan.board)
        elif not self.attempts and len(candidates) > 1:
            candidates = self._probe_first(candidates)
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

    def _probe_first(self, candidates: list[int]) -> list[int]:
        """One request tries an offer that was given up on, wherever it ranks: else it would idle when it is well."""
        board, now = self.plan.board, self.mesh.clock()
        for place, row in enumerate(candidates):
            if board.probe_due(row, now):
                self.ranking.propensity = 0.0  # no draw: nobody can say how probable this first attempt was
                return [row, *candidates[:place], *candidates[place + 1 :]]
        return candidates

    def _admit(self, row: int, *, again: bool = False, last_resort: bool = False) -> bool:
        plan, now = self.plan, self.mesh.clock()
        load = plan.board.load(row)
        admission = plan.board.admit(row, self.tokens, now, again=again, last_resort=last_resort)
        if admission is None:
            return False
        self.open = OpenAttempt(row, plan.board.offers[row], admission, now, self._ask, load)
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
        if self._admit_last_resort(latest, now):
            return []
        soonest_s = plan.board.soonest_return_s(rows, now, self.tokens)
        limit_at = self.deadline_at
        if self.call.deadline_s is None:  # who names no deadline is not kept for as long as an answer may take
            limit_at = min(limit_at, self.waits_since + plan.longest_wait_s)
        remaining_s = limit_at - now
        if remaining_s <= 0.0 or (soonest_s is not None and soonest_s >= remaining_s):
            raise self._give_up(soonest_s)
        timeout_s = remaining_s if soonest_s is None else soonest_s
        await mesh.lines.wait_for_change(self.workload.resource, timeout_s, again=self.waited)
        self.waited = True
        return self._decide_again(mesh.clock()).order

    def _admit_last_resort(self, latest: Ranking, now: float) -> bool:
        """Where breakers keep away every offer there is, take the one that still serves most."""
        kept_away = [
            row
            for row, code in zip(latest.rows.tolist(), latest.codes.tolist(), strict=True)
            if code == Code.COOLING_DOWN
        ]
        if any(code in BUSY for code in latest.codes.tolist()):  # a well offer is worth waiting for
            return False
        return any(self._admit(row, last_resort=True) for row in self.plan.board.last_resorts(kept_away, now))

    def _decide_again(self, now: float) -> Ranking:
        """Rank anew what was not tried yet; before the first attempt, that is the decision."""
        self.latest = self.plan.decide(self.workload, now, self.call.conversation, self.excluded)
        for row, refused in self.unaffordable.items():
            over_budget(self.latest, row, refused)
        if not self.attempts:
            self.ranking = self.latest
        return self.latest

    async def _react(self, attempt: OpenAttempt, failure: Failure) -> None:
        """Do what the table says: ask the same offer again (``open`` is set then), rule it out, or give up."""
        row, broken = attempt.row, self.broken
        reaction = reaction_to(failure, rescuing=broken is not None)
        # Once an offer has begun to answer, another's refusal of the very request is nothing to tell the caller.
        if broken is None or reaction.caller_status not in REFUSED:
            self.failure = failure
        if reaction.alert:
            log.error("offer_broken", offer=self.plan.board.offers[row].id, failure=str(failure), remedy=REMEDY)
        if self._is_spent() or reaction.next is Next.NO:
            raise self._give_up(None)
        if broken is not None and attempt.ask.join is Join.CONTINUED and failure.kind is FailureKind.BAD_REQUEST:
            self._ask_anew(row, refused_form=True)
            return
        pause_s = self._pause_before_again(row, failure, reaction.again)
        now = self.mesh.clock()
        if pause_s is not None and self.plan.board.may_retry(row, now) and self.plan.retries.try_retry(now):
            self.retried |= {row}
            if pause_s > 0.0:
                await self.mesh.sleep(pause_s)
            if self._admit(row, again=True):
                self.mesh.metrics.observe_retry(self.plan.board.offers[row].id)
                return
        self._rule_out(row, reaction)

    def _ask_anew(self, row: int, *, refused_form: bool) -> None:
        """Ask the same offer at once for an answer begun anew: it did not continue, or refused the very form."""
        assert self.broken is not None
        self.broken.refused[row] = refused_form
        self._admit(row, again=True)

    def _is_spent(self) -> bool:
        return self.mesh.clock() >= self.deadline_at or len(self.attempts) >= self.plan.max_attempts

    def _pause_before_again(self, row: int, failure: Failure, again: Again) -> float | None:
        """Seconds to wait before the same offer is asked a second time; None: it is not."""
        if again is Again.NEVER or row in self.retried:
            return None
        if again is Again.ONCE:
            return 0.0
        remaining_s = self.deadline_at - self.mesh.clock()
        if again is Again.BACKOFF:
            factor = self.plan.board.steering(row).backoff
            pause_s = backoff_s(0, self.mesh.rng, base_s=BACKOFF_S * factor, max_s=MAX_BACKOFF_S * factor)
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

    # ---- the end of an attempt ----------------------------------------------------------------------------------

    def _close_attempt(self, failure: Failure | None, *, detail: str = "") -> None:
        """The attempt is over: give its place back, tell health what happened, keep its record.

        ``detail`` says why an attempt that did not fail was given up; empty: its answer was delivered.
        """
        attempt = self.open
        if attempt is None:
            return
        now = self.mesh.clock()
        usage = attempt.bill(failure)
        pusd = 0 if usage is None else cost_pusd(attempt.offer.price, usage)
        facts = attempt.reply.facts if attempt.reply is not None else None
        if self.account is not None:
            self.account.ended(attempt, usage, pusd, failure, None if facts is None else facts.id)
        # A request that ran out of its own time says nothing about the offer.
        impatient = failure is not None and failure.kind in WAITED and now >= self.deadline_at - CLOCK_GRAIN_S
        board = self.plan.board
        if not detail and not impatient:
            gap_s = facts.longest_gap_s if facts is not None else None
            board.observe(
                attempt.admission,
                now,
                failure,
                attempt.first_token_ms(),
                (now - attempt.started_at) * 1e3,
                attempt.streamed,
                tokens_used=used_tokens(usage, failure),
                input_tokens=self.workload.input_tokens,
                longest_gap_ms=None if gap_s is None else gap_s * 1e3,
            )
        board.release(attempt.admission)
        attempt.ended = True
        self.open = None
        kept = attempt.record(self.call.arrived_at, now, failure, usage, pusd, detail, out_of_time=impatient)
        self.attempts.append(kept)
        self.mesh.learner.attempt_ended(self.ranking, kept, self.at, begun=attempt.begun)
        if not detail and not impatient:
            self.mesh.witness.attempt_ended(kept, attempt)
        if failure is None and detail != DIVERGED and usage is not None:  # failed attempts are accounted apart
            self.usage = usage if self.broken is None else delivered_usage(attempt.ask, usage, self.broken)
            self.cost = kept.cost_usd

    def _abandon(self) -> None:
        """Give a place back without an outcome."""
        if self.open is not None:
            if self.account is not None:
                self.account.abandoned(self.open)
            self.plan.board.release(self.open.admission)
            self.open.ended = True
            self.open = None

    # ---- giving up ----------------------------------------------------------------------------------------------

    def _give_up(self, soonest_s: float | None) -> RequestError:
        """The error the caller sees, by the taxonomy's last column."""
        failure = self.failure
        if failure is None:
            none = why_none(self.latest, soonest_s)
            over = next(iter(self.unaffordable.values()), None)
            # An offer that may come back is worth waiting for; else it is a budget that must be waited for.
            return none if over is None or none.status in (429, 503) else over
        if soonest_s is None and reaction_to(failure).health is Health.THROTTLED:
            soonest_s = self.plan.board.soonest_return_s(self.latest.rows.tolist(), self.mesh.clock(), self.tokens)
        begun = self.broken is not None and self.broken.sent.anything
        return caller_error(failure, self.attempts, soonest_s, begun=begun)
