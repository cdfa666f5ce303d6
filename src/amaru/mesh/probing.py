"""Probes: tiny requests of amaru's own to offers that nobody has asked for a while.

Live traffic is the probe (law 2), so an offer is probed only when it is idle, when that is free or the operator allows
it to cost something, and within a day's budget, of which what it may cost is reserved before (law 3). A probe is an
ordinary call: it takes a place, and its outcome tells breaker and health. What it costs is charged to the house;
budgets of that, of the model and of the provider bind it, and one that they do not cover is not sent.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

from amaru.accounts.cost import cost_pusd, cost_usd
from amaru.accounts.keys import HOUSE
from amaru.domain import Attempt, Offer, Usage
from amaru.errors import Failure, RequestError
from amaru.health.observation import Observation
from amaru.health.probe import EXPECTED, REQUESTS, ask, kind_of
from amaru.mesh.accounts_request import RequestAccount
from amaru.mesh.attempt import OpenAttempt
from amaru.mesh.call import Call
from amaru.mesh.intake import Intake
from amaru.mesh.rescue import Ask
from amaru.mesh.spending import Spending
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.mesh.mesh import Mesh
    from amaru.mesh.plan import Plan

AT_ONCE = 4
REMEDY = "raise the budget or mend the store; or set health.probes.offers: free"

log = get_logger("mesh")


class Probing:
    """Probes the idle offers of a mesh.

    Parameters
    ----------
    intake
        Where what a probe showed goes.
    """

    def __init__(self, mesh: Mesh, intake: Intake) -> None:
        self.sent: dict[str, int] = {}
        """Probes by offer, since the start."""
        self.refused: dict[str, int] = {}
        """Those that no budget covered, and were not sent."""
        self.cost_usd = 0.0
        """Of all of them."""
        self.spending = Spending()
        """What they cost within a day."""
        self._mesh = mesh
        self._intake = intake
        self._asked_at: dict[str, float] = {}  # by offer: the last time that it served, or was probed
        self._under_way: set[asyncio.Task[None]] = set()
        self._told: set[str] = set()
        """Offers of which the log says already that no budget covers their probes."""

    def served(self, offer: str, at: float) -> None:
        """The offer was asked by somebody at that instant, Unix seconds."""
        self._asked_at[offer] = max(at, self._asked_at.get(offer, at))

    def heard(self, observations: Iterable[Observation]) -> None:
        """Offers were asked in other workers."""
        for one in observations:
            self.served(one.offer, one.at)

    def look(self, now: float) -> list[str]:
        """Send what probes are due, without waiting for them; the offers that are probed."""
        begun = []
        for offer in self._mesh.plan.board.offers:
            if len(self._under_way) >= AT_ONCE:
                break
            expected_usd = cost_usd(offer.price, EXPECTED)
            if self._is_due(offer, now) and self._is_affordable(expected_usd, now):
                self._asked_at[offer.id] = now
                task = asyncio.get_running_loop().create_task(self._probe(offer, expected_usd))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
                begun.append(offer.id)
        return begun

    def keep(self, offers: Container[str]) -> None:
        """Forget all other offers: the configuration changed."""
        self._told = {offer for offer in self._told if offer in offers}
        for known in (self.sent, self.refused, self._asked_at):
            for gone in [offer for offer in known if offer not in offers]:
                del known[gone]

    async def finish(self) -> None:
        """Wait for the probes under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def aclose(self) -> None:
        """Abandon the probes under way."""
        for task in self._under_way:
            task.cancel()
        await self.finish()

    def _is_due(self, offer: Offer, now: float) -> bool:
        settings = self._mesh.plan.config.health.probes
        if settings.offers == "off" or kind_of(offer) is None:
            return False
        return now - self._asked_at.setdefault(offer.id, now) >= settings.idle_after_s

    def _is_affordable(self, usd: float, now: float) -> bool:
        """Whether a probe may cost so much; it is reserved then."""
        settings = self._mesh.plan.config.health.probes
        return usd == 0.0 or (
            settings.offers == "all" and self.spending.reserve(usd, now, most_usd=settings.max_usd_per_day)
        )

    async def _probe(self, offer: Offer, reserved_usd: float) -> None:
        spent_usd = reserved_usd  # as much as is known of one that is abandoned
        try:
            spent_usd = await self._ask(offer)
        except Exception as error:  # a bug in here must not end the watching
            log.error("probe_failed", offer=offer.id, error=type(error).__name__, exc_info=error)
        finally:
            self.spending.settle(reserved_usd, spent_usd, self._mesh.wall())

    async def _ask(self, offer: Offer) -> float:
        """Send one probe; what it cost, in dollars."""
        mesh, plan = self._mesh, self._mesh.plan
        row, kind = plan.board.row_of[offer.id], kind_of(offer)
        assert kind is not None
        request, started = REQUESTS[kind], mesh.clock()
        admission = plan.board.admit(row, EXPECTED.input_tokens + EXPECTED.output_tokens, started)
        if admission is None:  # its breaker, its limits or its throttle keep it: whoever comes next will see
            return 0.0
        plan.hold()
        attempt = OpenAttempt(row, offer, admission, started, Ask(request), 0.0)
        account = self._account(plan, attempt)
        try:
            if account is not None and not await self._is_covered(account, attempt):
                return 0.0
            started = attempt.started_at = mesh.clock()
            answer = await ask(offer, plan.providers[offer.provider], request, started)
            failure = answer if isinstance(answer, Failure) else None
            attempt.reply = None if isinstance(answer, Failure) else answer
            usage = attempt.bill(failure)
            pusd = 0 if usage is None else cost_pusd(offer.price, usage)
            if account is not None:
                account.ended(attempt, usage, pusd, failure, None if attempt.reply is None else attempt.reply.facts.id)
            kept = self._record(attempt, failure, usage, pusd)
            plan.board.observe(admission, mesh.clock(), failure, None, kept.latency_ms, False)
            self._intake.ended(kept, request, attempt.reply, probe=True)
            return kept.cost_usd
        finally:
            if account is not None:
                account.abandoned(attempt)
                account.end()
            plan.board.release(admission)
            plan.let_go()

    def _account(self, plan: Plan, attempt: OpenAttempt) -> RequestAccount | None:
        """By which a probe is charged to the house; ``None``: it costs nothing, or nobody keeps accounts."""
        till = self._mesh.till
        if till is None or cost_pusd(attempt.offer.price, EXPECTED) == 0:
            return None
        call = Call(tenant=HOUSE, request=attempt.ask.request, arrived_at=attempt.started_at)
        return RequestAccount(till, plan, call, f"probe-{secrets.token_hex(12)}")

    async def _is_covered(self, account: RequestAccount, attempt: OpenAttempt) -> bool:
        """Whether budgets cover a probe; what it may cost is reserved then, and it is noted that it goes out."""
        offer, refusal = attempt.offer, None
        try:
            if account.is_due:
                await account.admit([offer])
            if not account.begin(attempt):
                refusal = await account.begin_slow(attempt, may_refuse=False)
        except RequestError as error:
            refusal = error
        if refusal is None:
            self._told.discard(offer.id)
            return True
        self.refused[offer.id] = self.refused.get(offer.id, 0) + 1
        if offer.id not in self._told:
            self._told.add(offer.id)
            log.warning("probe_not_sent", offer=offer.id, reason=refusal.message, remedy=REMEDY)
        return False

    def _record(self, attempt: OpenAttempt, failure: Failure | None, usage: Usage | None, pusd: int) -> Attempt:
        now = self._mesh.clock()
        kept = attempt.record(attempt.started_at, now, failure, usage, pusd, "", out_of_time=False)
        offer = attempt.offer.id
        self.sent[offer] = self.sent.get(offer, 0) + 1
        self.cost_usd += kept.cost_usd
        return kept
