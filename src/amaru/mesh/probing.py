"""Probes: tiny requests of amaru's own to offers that nobody has asked for a while.

Live traffic is the probe (law 2), so an offer is probed only when it is idle, when that is free or the operator allows
it to cost something, and within a day's budget. A probe is an ordinary call: it takes a place, its outcome tells
breaker and health, and no tenant is billed for it.
"""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING

from amaru.accounts.cost import cost_usd
from amaru.domain import Attempt, Offer
from amaru.errors import Failure
from amaru.health.probe import EXPECTED, REQUESTS, ask, kind_of
from amaru.mesh.attempt import OpenAttempt
from amaru.mesh.intake import Intake
from amaru.mesh.rescue import Ask
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.mesh.mesh import Mesh

AT_ONCE = 4
DAY_S = 86_400.0

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
        self.cost_usd = 0.0
        """Of all of them."""
        self._mesh = mesh
        self._intake = intake
        self._asked_at: dict[str, float] = {}  # by offer: the last time that it served, or was probed
        self._spent: collections.deque[tuple[float, float]] = collections.deque()  # when, and how much
        self._under_way: set[asyncio.Task[None]] = set()

    def served(self, offer: str, at: float) -> None:
        """The offer was asked by somebody at that instant, Unix seconds."""
        self._asked_at[offer] = max(at, self._asked_at.get(offer, at))

    def look(self, now: float) -> list[str]:
        """Send what probes are due, without waiting for them; the offers that are probed."""
        begun = []
        for offer in self._mesh.plan.board.offers:
            if len(self._under_way) >= AT_ONCE:
                break
            if self._is_due(offer, now):
                self._asked_at[offer.id] = now
                task = asyncio.get_running_loop().create_task(self._probe(offer))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
                begun.append(offer.id)
        return begun

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
        idle_since = self._asked_at.setdefault(offer.id, now)
        if now - idle_since < settings.idle_after_s:
            return False
        expected_usd = cost_usd(offer.price, EXPECTED)
        if expected_usd == 0.0:
            return True
        return settings.offers == "all" and self._spent_today(now) + expected_usd <= settings.max_usd_per_day

    def _spent_today(self, now: float) -> float:
        spent = self._spent
        while spent and spent[0][0] <= now - DAY_S:
            spent.popleft()
        return sum(usd for _, usd in spent)

    async def _probe(self, offer: Offer) -> None:
        mesh, plan = self._mesh, self._mesh.plan
        row, kind = plan.board.row_of[offer.id], kind_of(offer)
        assert kind is not None
        request, started = REQUESTS[kind], mesh.clock()
        admission = plan.board.admit(row, EXPECTED.input_tokens + EXPECTED.output_tokens, started)
        if admission is None:  # its breaker, its limits or its throttle keep it: whoever comes next will see
            return
        plan.hold()
        attempt = OpenAttempt(row, offer, admission, started, Ask(request), 0.0)
        try:
            answer = await ask(offer, plan.providers[offer.provider], request, started)
            failure = answer if isinstance(answer, Failure) else None
            attempt.reply = None if isinstance(answer, Failure) else answer
            kept = self._record(attempt, failure)
            plan.board.observe(admission, mesh.clock(), failure, None, kept.latency_ms, False)
            self._intake.ended(kept, request, attempt.reply, probe=True)
        except Exception as error:  # a bug in here must not end the watching
            log.error("probe_failed", offer=offer.id, error=type(error).__name__, exc_info=error)
        finally:
            plan.board.release(admission)
            plan.let_go()

    def _record(self, attempt: OpenAttempt, failure: Failure | None) -> Attempt:
        now = self._mesh.clock()
        usage = attempt.bill(failure)
        kept = attempt.record(attempt.started_at, now, failure, usage, "", out_of_time=False)
        offer = attempt.offer.id
        self.sent[offer] = self.sent.get(offer, 0) + 1
        self.cost_usd += kept.cost_usd
        if kept.cost_usd > 0.0:
            self._spent.append((self._mesh.wall(), kept.cost_usd))
        return kept
