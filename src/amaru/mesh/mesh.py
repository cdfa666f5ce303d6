"""The mesh: what outlives a configuration, and the front door of the loop."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from amaru.accounts.keys import KeyRing
from amaru.config import Config
from amaru.domain import Decision, FailureKind, Kind, Outcome, Tenant, Workload
from amaru.errors import Failure, RequestError
from amaru.mesh.accounts_outlook import Outlook, Prospects, told, why_not
from amaru.mesh.accounts_till import MeshTill
from amaru.mesh.call import Call
from amaru.mesh.company import Company
from amaru.mesh.conversations import conversations_of
from amaru.mesh.execution import Execution
from amaru.mesh.learner import Learner
from amaru.mesh.ledger import MeshLedger
from amaru.mesh.lines import Lines
from amaru.mesh.member import Member, MemberLearner
from amaru.mesh.origin import Origin, used_of
from amaru.mesh.outpost import Outpost
from amaru.mesh.plan import Plan
from amaru.mesh.records import record_of_execution, record_of_recommendation
from amaru.mesh.reports import no_such_decision, offer_meant
from amaru.mesh.sensing import Sensing
from amaru.routing.board import OfferHealth
from amaru.routing.experience import REPORT_BOUND
from amaru.routing.ranking import Figures, Ranking, unpack
from amaru.routing.reactions import Health, reaction_to
from amaru.routing.router import model_not_found
from amaru.storage import DecisionStore, StoredDecision, UnknownDecisionError
from amaru.telemetry.logs import get_logger
from amaru.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from amaru.mesh.artifact import ArtifactSource

log = get_logger("mesh")

RECORD_AFTER_S = 0.01
RECORD_AT_MOST = 256
"""How long, and how many, executions that ended wait to be recorded together."""


class Recommendation(NamedTuple):
    """A decision that amaru does not carry out itself, waiting to be recorded."""

    ranking: Ranking
    decision_id: str
    at: float
    duration_s: float


class Mesh:
    """The loop over one configuration at a time.

    Parameters
    ----------
    config
        What to serve; ``reload`` replaces it.
    store, metrics, ledger, till
        Where decisions and outcomes go, counts and times, receipts and charges, if they do; all owned by the caller.
    clock, wall
        Seconds of the event loop's (monotonic) clock, and Unix seconds.
    rng
        Draws ties, exploration, back-off and ids.
    sleep
        Waits between attempts; for tests.
    origin
        Where the policy's state comes from (see ``origin_of``); left out, it begins untrained.
    company
        Its place among the workers of a machine; left out, it is alone.
    """

    def __init__(
        self,
        config: Config,
        store: DecisionStore,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        origin: Origin | None = None,
        ledger: MeshLedger | None = None,
        till: MeshTill | None = None,
        company: Company | None = None,
    ) -> None:
        self.store, self.metrics = store, metrics
        self.ledger, self.till = ledger, till
        self.prospects = None if till is None else Prospects(till)
        if till is not None:
            till.on_excess, till.on_lost = metrics.observe_bill_above_estimate, metrics.observe_charge_lost
        self.clock = clock
        self.wall = wall
        self.rng = rng if rng is not None else random.Random()  # noqa: S311 - lots and ids, not secrets
        self.sleep = sleep
        self.salt = secrets.token_bytes(32) if company is None else company.memory.salt
        """Of the hashes that stand for texts: they can be told apart within one run, and not traced back."""
        self.conversations = conversations_of(self, config, company)
        """What is remembered of conversations between their turns."""
        self.workers = 1 if company is None else company.memory.workers
        """Processes of this machine that serve as one."""
        member = company if isinstance(company, Member) else None
        learner = Learner if member is None else partial(MemberLearner, member)
        self.learner = learner(used_of(config, origin or Origin(), None), store, wall=wall)
        """The policy in use, and what it learns."""
        self.artifacts: ArtifactSource | None = None
        """What finds and follows the policy's artifact, where someone does."""
        slab = None if company is None else company.slab
        self.plan = Plan(config, self.rng, policy=self.learner.policy, slab=slab, at=self.wall())
        self.witness: Sensing | Outpost = Sensing(self) if member is None else Outpost(self, member)
        """What it senses of its offers, or hands over to the worker that senses for all."""
        self._tell_time()
        self.in_flight = 0
        self._ended: list[Execution | Recommendation] = []
        self.lines = Lines()
        """Who waits for an offer to come back."""
        self.plan.board.changed.add(self.lines.wake_next)  # the boards to come carry it on
        self._retirement: asyncio.Task[None] | None = None
        self._retiring: list[Plan] = []
        store.remember_board(self.plan.board.version, self.plan.board.offers)
        metrics.watch(
            in_flight=lambda: self.in_flight,
            offers=self.offer_health,
            store=store.status,
            policy=lambda: self.learner,
            artifact_failures=lambda: 0 if self.artifacts is None else self.artifacts.failures,
        )
        if company is not None:
            company.mesh = self

    @property
    def sensing(self) -> Sensing:
        """What it senses of its offers, and does about it; of a worker that senses."""
        assert isinstance(self.witness, Sensing)
        return self.witness

    @property
    def keyring(self) -> KeyRing:
        """Who may call, now."""
        return self.plan.keyring

    # ---- serving ------------------------------------------------------------------------------------------------

    def begin(self, call: Call) -> Execution:
        """Decide for one request. The caller runs the execution and must ``settle`` it.

        Raises
        ------
        RequestError
            Nobody serves the resource, or the tenant may not use it; nothing needs settling then.
        """
        plan = self.plan
        self._check_allowed(plan, call.tenant, call.request.model)
        at = self.wall()
        execution = Execution(self, plan, call, self._id_at(at), at)
        plan.hold()
        self.in_flight += 1
        plan.retries.request(call.arrived_at)
        return execution

    def ended(self, execution: Execution) -> None:
        """Take in a settled execution. It is recorded with others a moment later: in a batch that costs half."""
        execution.duration_s = self.clock() - execution.call.arrived_at
        self.in_flight -= 1
        execution.plan.let_go()
        if execution.call.session is not None:
            self.conversations.ended(execution)
        self._record_later(execution)

    def _record_later(self, what: Execution | Recommendation) -> None:
        ended = self._ended
        ended.append(what)
        if len(ended) == 1:
            asyncio.get_running_loop().call_later(RECORD_AFTER_S, self.record_ended)
        elif len(ended) >= RECORD_AT_MOST:
            self.record_ended()

    def record_ended(self) -> None:
        """Count what ended, hand its records to the store, and let the policy learn from it."""
        self._tell_time()
        self.learner.catch_up()
        ended, self._ended = self._ended, []
        for what in ended:
            try:
                if isinstance(what, Execution):
                    self._record(what)
                else:
                    workload = what.ranking.workload
                    self.metrics.observe_recommendation(workload.tenant, workload.kind, what.duration_s)
                    self.store.record(record_of_recommendation(what.ranking, what.decision_id, what.at))
            except Exception as error:  # one that cannot be recorded must not take the others with it
                log.error("record_lost", error=type(error).__name__, exc_info=error)

    def _tell_time(self) -> None:
        """Tell the router what the time is in Unix seconds, now and then, since people set their clocks."""
        self.plan.router.wall_offset_s = self.wall() - self.clock()

    def _record(self, execution: Execution) -> None:
        workload, duration_s = execution.workload, execution.duration_s
        first_token_s = None if execution.first_token_ms is None else execution.first_token_ms / 1e3
        metrics = self.metrics
        metrics.observe_request(
            workload.tenant, workload.kind, workload.resource, execution.result, duration_s, first_token_s
        )
        if execution.usage is not None:
            metrics.observe_usage(workload.tenant, execution.attempts[-1].offer, execution.usage, execution.cost)
        metrics.observe_attempts(execution.attempts)
        if execution.rescued is not None:
            metrics.observe_rescue(execution.rescued)
        metrics.observe_decision(execution.decision_s)
        self.store.record(record_of_execution(execution))
        execution.log_end()

    # ---- recommending -------------------------------------------------------------------------------------------

    def recommend(
        self,
        tenant: Tenant,
        workload: Workload,
        *,
        must_be_feasible: bool = False,
        words: bool = True,
        outlook: Outlook | None = None,
    ) -> tuple[Decision, bytes]:
        """Rank every offer for a workload that somebody else will place; stored, so that feedback can refer to it.

        ``outlook`` refuses offers that budgets do not cover. Gives the decision and its receipt, a leaf's hash in
        hexadecimal, empty where none was taken. Without ``words`` the reasons of the ranks stay empty;
        ``/decisions/{id}`` has them all the same.

        Raises
        ------
        RequestError
            Unknown or forbidden resource; with ``must_be_feasible`` also where no offer is feasible.
        """
        plan = self.plan
        self._check_allowed(plan, tenant, workload.resource)
        started = self.clock()
        ranking = plan.router.decide(workload, started)
        refused = {} if outlook is None else outlook.rule_out(ranking)
        if must_be_feasible and not ranking.order:
            raise why_not(ranking, refused)
        at = self.wall()
        decision_id = self._id_at(at)
        decision = told(plan.router.explain(ranking, decision_id, at, words=words), refused)
        self._record_later(Recommendation(ranking, decision_id, at, self.clock() - started))
        return decision, b"" if self.ledger is None else self.ledger.recommended(ranking, decision_id)

    async def feedback(self, tenant: Tenant, decision_id: str, outcome: Outcome) -> None:
        """Take a caller's report of what became of a decision, exactly once, and learn from it.

        Raises
        ------
        RequestError
            404 unknown decision (or another tenant's), 409 reported already, 400 an offer that was not among its own.
        StorageError
            It cannot be kept now; nothing was learned, and the caller may try again.
        """
        stored = await self.find(decision_id)
        if stored is None or stored.record.tenant != tenant.id:
            raise no_such_decision()
        if stored.record.ok is not None:
            raise RequestError(
                409,
                "amaru served this decision itself and knows its outcome; feedback is for decisions of /agent/route.",
                code="already_known",
            )
        figures = unpack(stored.record.ranking)
        offers = await self.store.board(figures.version)
        if offers is None:
            raise no_such_decision()
        outcome = msgspec.structs.replace(outcome, offer=offer_meant(outcome.offer, offers, figures))
        try:
            if not await self.store.add_feedback(decision_id, outcome):
                raise RequestError(409, "The outcome of this decision was already reported.", code="already_reported")
        except UnknownDecisionError:
            raise no_such_decision() from None
        if self.ledger is not None:
            self.ledger.reported(tenant.id, outcome)
        self._learn(figures, [offer.id for offer in offers].index(outcome.offer or ""), outcome)

    async def find(self, decision_id: str) -> StoredDecision | None:
        """A decision with its outcome, also when it ended just now. Raises ``StorageError``."""
        self.record_ended()
        return await self.store.get(decision_id)

    def _learn(self, figures: Figures, was: int, outcome: Outcome) -> None:
        """Feed an outcome that amaru did not see itself into the policy, and into the health of what it cannot call.

        ``figures`` are the decision's, and ``was`` the offer's row in its board, which may be an earlier one.

        GPU jobs are placed by the callers, so their reports are all there is; one report moves an offer's expected
        latency by no more than a tenfold advertisement would, and a caller's own key or quota says nothing about it.
        What amaru calls itself it judges by its own calls: one tenant's word must not close an offer to the others.
        """
        plan, workload = self.plan, figures.workload
        row = plan.board.row_of.get(outcome.offer or "")
        if row is None:  # the offer is no longer configured
            return
        offer = plan.board.offers[row]
        if workload.kind is Kind.GPU_JOB:
            failure = None
            if not outcome.ok:
                failure = Failure(outcome.failure or FailureKind.SERVER_ERROR, "reported by the caller")
            if failure is None or reaction_to(failure).health in (Health.FAILING, Health.SUSPECT):
                first_token_ms = outcome.latency_ms if outcome.first_token_ms is None else outcome.first_token_ms
                first_token_ms = min(first_token_ms, REPORT_BOUND * offer.latency_ms)
                plan.board.observe(row, self.clock(), failure, first_token_ms)
            self.witness.reported(offer, workload.kind, outcome)
        self.learner.learn_from_report(figures, was, offer, outcome)

    # ---- the configuration --------------------------------------------------------------------------------------

    def reload(self, config: Config, origin: Origin | None = None) -> None:
        """Serve ``config`` from the next request on; requests under way end under the old one.

        Offers that remain keep what is known of them, and providers whose settings did not change keep their
        connections. The policy goes on with what it has learned where it is the same one, with the same settings and
        on top of the same artifact; else it begins as ``origin`` says. Raises what ``Plan`` raises; then the old
        configuration serves on.
        """
        old = self.plan
        used = used_of(config, origin or Origin(version=self.learner.used.artifact), self.learner.used)
        new = Plan(config, self.rng, previous=old, policy=used.policy, at=self.wall())
        self.learner.use(used)
        self.plan = new
        self._tell_time()
        self.store.remember_board(new.board.version, new.board.offers)
        self.witness.reload()
        if self.ledger is not None:
            self.ledger.follow(config.ledger)
        self.conversations.settings = config.sessions
        self.store.set_retention(days=config.storage.retention_days, gigabytes=config.storage.retention_gb)
        earlier = self._retirement
        self._retiring.append(old)

        async def retire() -> None:
            if earlier is not None:  # an older plan's requests may still use the same providers
                await earlier
            await old.retire(new)
            self._retiring.remove(old)

        self._retirement = asyncio.create_task(retire())

    async def aclose(self) -> None:
        """Record what ended, keep what was learned, and close every provider's connections."""
        self.record_ended()
        await self.witness.aclose()
        await self.learner.aclose()
        await self.conversations.aclose()
        if self._retirement is not None:
            self._retirement.cancel()
        for plan in (*self._retiring, self.plan):
            await plan.aclose()

    def _id_at(self, at: float) -> str:
        """A time-ordered id of 32 hex digits: 48 bits of Unix milliseconds and 80 random ones (after RFC 9562's
        version 7, without its version bits)."""
        return f"{int(at * 1e3):012x}{self.rng.getrandbits(80):020x}"

    def offer_health(self) -> list[OfferHealth]:
        """How each offer fares now, in the configuration's order."""
        board, now = self.plan.board, self.clock()
        return [board.health(row, now) for row in range(len(board.offers))]

    @staticmethod
    def _check_allowed(plan: Plan, tenant: Tenant, resource: str) -> None:
        allowed = tenant.resources
        if allowed is None or resource in allowed:
            return
        if plan.board.pool(resource) is None:
            raise model_not_found(resource, allowed)
        raise RequestError(
            403,
            f"Tenant {tenant.id!r} may not use {resource!r}; it may use: {', '.join(allowed)}.",
            type="permission_error",
            code="resource_not_allowed",
            param="model",
        )
