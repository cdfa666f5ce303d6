"""What budgets have left for work that somebody else will place: nothing is dispatched, so nothing is reserved.

What is settled and what stands counts as used, as the store has it, or had it half a second ago; what requests under
way may come to cost does not. Soft budgets refuse nothing here either, and limits a minute are over before work begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping

import msgspec

from amaru.accounts.allowances import Metric
from amaru.accounts.bank import Counter, Key
from amaru.domain import Decision, Offer
from amaru.errors import AllowanceExceeded, BankGone, RequestError, StorageError
from amaru.mesh.accounts import Caller
from amaru.mesh.accounts_binding import Bound
from amaru.mesh.accounts_till import MeshTill
from amaru.mesh.accounts_words import refusal, work_refusal
from amaru.mesh.plan import Plan
from amaru.routing import kernels as k
from amaru.routing.explanation import why_none
from amaru.routing.ranking import Ranking

FRESH_S = 0.5
"""How old what is known of a counter may be."""
WAIT_S = 2.0
"""How long the store may take to tell."""
MOST_KNOWN = 20_000
"""Counters; then the memory begins anew."""


class Outlook:
    """What hard budgets have left for one caller, now."""

    def __init__(self, home: MeshTill, own: Bound, at: float, spent: Mapping[Key, int]) -> None:
        self._home = home
        self._own = own
        self._at = at
        self._spent = spent

    def rule_out(self, ranking: Ranking) -> dict[str, AllowanceExceeded]:
        """Rule out the offers that budgets do not cover at what the workload is expected to cost there; why, by id."""
        refused: dict[str, AllowanceExceeded] = {}
        cost_of = dict(zip(ranking.rows.tolist(), ranking.table[:, k.COST].tolist(), strict=True))
        for row in list(ranking.order):
            offer = ranking.board.offers[row]
            over = self._over(offer, round(cost_of[row] * 1e9))
            if over is not None:
                refused[offer.id] = over
                ranking.rule_out(row, k.Code.BUDGET)
                ranking.table[ranking.rows == row, k.FIGURE] = 0.0  # no field of a request is why
        return refused

    def _over(self, offer: Offer, nusd: int) -> AllowanceExceeded | None:
        of_offer = self._home.bindings.of_offer(offer.resource, offer.provider, self._at)
        for counter in (*_hard(self._own), *_hard(of_offer)):
            left = max(counter.amount - self._spent.get(counter.key, 0), 0)
            if nusd > left:
                return AllowanceExceeded(
                    counter.key[0], counter.period_end, amount=counter.amount, left=left, needed=nusd
                )
        return None


def why_not(ranking: Ranking, refused: Mapping[str, AllowanceExceeded]) -> RequestError:
    """What a caller is told where no offer is left: of a budget, unless an offer may come back by itself."""
    none = why_none(ranking)
    over = next(iter(refused.values()), None)
    return none if over is None or none.status in (429, 503) else work_refusal(over)


def told(decision: Decision, refused: Mapping[str, AllowanceExceeded]) -> Decision:
    """The decision, with what each budget that refuses has left in words."""
    if not refused:
        return decision
    refusals = (
        msgspec.structs.replace(one, detail=work_refusal(refused[one.offer]).message) if one.offer in refused else one
        for one in decision.refused
    )
    return msgspec.structs.replace(decision, refused=tuple(refusals))


class Prospects:
    """Looks at what budgets have left. Belongs to one event loop."""

    def __init__(self, home: MeshTill) -> None:
        self._home = home
        self._spent: dict[Key, tuple[float, int]] = {}
        """When it was read, and what was used then."""

    @property
    def is_bound(self) -> bool:
        """There are hard budgets, or nobody knows yet whether there are."""
        home = self._home
        return not home.is_known or any(one.hard and one.metric is Metric.USD for one in home.allowances)

    async def of(self, caller: Caller, plan: Plan) -> Outlook | None:
        """That of a caller; ``None``: no budget binds it, or the store is away and it goes on without.

        Raises RequestError 503: the store is away, and the caller's work has to wait for it.
        """
        home, at = self._home, self._home.till.now()
        own = home.bindings.of_caller(caller.tenant.id, caller.team, caller.key, at)
        pairs = {(offer.resource, offer.provider) for offer in plan.board.offers}
        bounds = [own, *(home.bindings.of_offer(resource, provider, at) for resource, provider in pairs)]
        keys = {counter.key for bound in bounds for counter in _hard(bound)}
        if home.is_known and not keys:
            return None
        try:
            if not home.is_known:
                raise StorageError("the accounts store was not read yet")
            return Outlook(home, own, at, await self._read(keys))
        except (StorageError, TimeoutError) as error:
            goes_on = caller.tenant.serves_without_store
            if plan.config.accounts.serves_without_store if goes_on is None else goes_on:
                return None
            raise refusal(BankGone(str(error)), at) from None

    async def _read(self, keys: Collection[Key]) -> Mapping[Key, int]:
        """Of each of the counters. Raises StorageError and TimeoutError."""
        now = asyncio.get_running_loop().time()
        read = {key: found for key in keys if (found := self._spent.get(key)) is not None}
        known = {key: nusd for key, (at, nusd) in read.items() if now - at <= FRESH_S}
        old = [key for key in keys if key not in known]
        if old:
            async with asyncio.timeout(WAIT_S):
                found_now = await self._home.spent(old)
            if len(self._spent) + len(old) > MOST_KNOWN:
                self._spent.clear()
            self._spent.update((key, (now, found_now.get(key, 0))) for key in old)
            known |= found_now
        return known


def _hard(bound: Bound) -> Iterator[Counter]:
    return (counter for counter in bound.budgets if counter.hard)
