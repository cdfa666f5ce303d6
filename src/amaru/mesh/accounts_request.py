"""What one request reserves, and what its attempts cost.

Requests, tokens and concurrency are reserved once for the request, money anew for each attempt. Each reservation is
ended exactly once, whatever happens to the request:

| what became of an attempt | its reservation |
|---|---|
| it never went out: no connection, or its caller left before | released |
| the provider reported its usage | settled at that |
| the provider refused it, and generated nothing | settled at 0 |
| anything else: it broke, its caller left, no usage came | stands; with ``unknown_usage: estimate`` settled at ours |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from amaru.accounts.allowances import Metric
from amaru.accounts.bank import Counter
from amaru.accounts.charges import Charge, ChargeStatus
from amaru.accounts.cost import cost_pusd
from amaru.accounts.estimate import Bounds, bounds_of, unpriced, upper_tokens
from amaru.accounts.lease import Needs, Purse, Reservation
from amaru.accounts.money import nusd_half_even
from amaru.domain import FailureKind, Offer, Provenance, Usage
from amaru.errors import AllowanceExceeded, AmaruError, BankGone, Failure, JournalError, RequestError
from amaru.mesh.accounts_binding import UNBOUND
from amaru.mesh.accounts_words import REFUSALS, Left, is_of_offer, refusal, unpriced_refusal
from amaru.protocols.openai import OpenAIRequest
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.mesh.accounts_till import MeshTill
    from amaru.mesh.attempt import OpenAttempt
    from amaru.mesh.call import Call
    from amaru.mesh.plan import Plan

log = get_logger("mesh")

UNHEARD = frozenset(
    (
        FailureKind.RESET,
        FailureKind.NO_ANSWER,
        FailureKind.STREAM_CUT,
        FailureKind.STREAM_STALLED,
        FailureKind.MALFORMED_EVENT,
        FailureKind.MALFORMED_BODY,
    )
)
"""Failures in which the provider did not say that it refuses: it may have done the work."""
_TOKENS, _REQUESTS = Metric.TOKENS, Metric.REQUESTS  # a member of an enum is not found for nothing
NOTHING = Usage(0, 0, source=Provenance.ESTIMATED)
PLAIN = Reservation([])
"""Of every attempt that no budget binds: nothing is reserved, and there is nothing to end."""


class RequestAccount:
    """The reservations of one request. Belongs to its execution."""

    __slots__ = (
        "_at", "_bounds", "_call", "_calls", "_decision", "_home", "_limits", "_plan", "_till", "_tokens", "bound",
    )  # fmt: skip

    def __init__(self, home: MeshTill, plan: Plan, call: Call, decision: str) -> None:
        self._home = home
        self._till = home.till
        self._plan = plan
        self._call = call
        self._decision = decision
        bindings = home.bindings
        self.bound = UNBOUND if bindings.empty else bindings.of_caller(call.tenant.id, call.team, call.key, self.now())
        """What binds the caller, as of the request's arrival."""
        self._limits: Reservation | None = None
        self._bounds: Bounds | None = None
        self._calls = 0
        """That went out, or were about to."""
        self._at = 0.0
        """When the last of them did, Unix seconds."""
        self._tokens = 0
        """Of the calls that ended."""

    # ---- the request --------------------------------------------------------------------------------------------

    @property
    def is_due(self) -> bool:
        """Limits bind the request, and nothing is reserved of them yet."""
        return bool(self.bound.limits) and self._limits is None

    async def admit(self, offers: Sequence[Offer]) -> None:
        """Reserve of the caller's limits, so that any of ``offers`` may serve. Raises RequestError 429, 503."""
        needs = []
        for metric, counter in self.bound.limits:
            if metric is _TOKENS:
                bounds = self._bounds_of(self._call.request)
                needs.append((counter, max([upper_tokens(bounds, offer) for offer in offers], default=0)))
            else:
                needs.append((counter, 1))
        self._limits = self._till.reserve(needs)
        if self._limits is None:
            try:
                self._limits = await self._till.reserve_slow(needs, purse=self._purse())
            except REFUSALS as error:
                raise self._refusal(error) from None

    def end(self) -> None:
        """The request is over: what it used of the limits is settled. Idempotent."""
        reservation, self._limits = self._limits, None
        if reservation is not None:
            used = []
            for metric, _ in self.bound.limits:
                used.append(self._tokens if metric is _TOKENS else min(self._calls, 1) if metric is _REQUESTS else 0)
            self._till.settle(reservation, used)

    def left(self) -> list[Left]:
        """What the caller has left, of each metric what is nearest to its end."""
        if not self.bound.counters:
            return []
        nearest: dict[Metric, tuple[int, Counter]] = {}
        left_of = self._till.left
        for metric, counter in self.bound.counters:
            left = left_of(counter)
            left = counter.amount if left is None else left
            found = nearest.get(metric)
            if found is None or left < found[0]:
                nearest[metric] = left, counter
        return [Left(metric, counter.amount, left, counter.period_end) for metric, (left, counter) in nearest.items()]

    def now(self) -> float:
        """Unix seconds, by the clock by which periods end."""
        return self._till.now()

    # ---- its attempts -------------------------------------------------------------------------------------------

    def begin(self, attempt: OpenAttempt) -> bool:
        """Reserve what an attempt may cost, and note that it goes out now; False: ``begin_slow`` must be asked.

        What no budget binds is not noted before it ends, as long as the store answers: nothing could be overspent.
        """
        home = self._home
        if not home.is_known:
            return False
        needs = () if home.bindings.empty else self._needs(attempt)
        if not needs and not self._till.gone:
            self._calls += 1
            self._at = self._till.now()
            attempt.reservation = PLAIN
            return True
        if needs and unpriced(self._bounds_of(attempt.ask.request), attempt.offer) is not None:
            return False
        reservation = self._till.reserve(needs)
        if reservation is None:
            return False
        try:
            self._dispatch(attempt, reservation, None, 0)
        except JournalError:
            return False
        return True

    async def begin_slow(self, attempt: OpenAttempt, *, may_refuse: bool) -> RequestError | None:
        """The same, once the bank has been asked; gives why the offer cannot be asked, if so: another one may do.

        Raises RequestError 429, 503 where none may, for the caller's own budget does not cover it, unless its answer
        has begun (not ``may_refuse``): then another offer may be cheaper.
        """
        needs, purse = self._needs(attempt), self._purse()
        nusd = needs[0][1] if needs else 0
        if needs or (purse is not None and not self._home.is_known):
            field = unpriced(self._bounds_of(attempt.ask.request), attempt.offer)
            if field is not None:
                return unpriced_refusal(attempt.offer, field)
        try:
            if not self._home.is_known:
                if purse is None or not self._till.gone:
                    raise BankGone("the accounts store was not read yet: which budgets bind a request is not known")
                nusd = self._most(attempt)
            reservation = await self._till.reserve_slow(needs, purse=purse, purse_nusd=nusd)
            self._dispatch(attempt, reservation, purse, nusd)
        except REFUSALS as error:
            if may_refuse and not is_of_offer(error):
                raise self._refusal(error) from None
            return self._refusal(error)
        return None

    def ended(
        self, attempt: OpenAttempt, usage: Usage | None, pusd: int, failure: Failure | None, answer_id: str | None
    ) -> None:
        """An attempt is over. ``usage`` is what its provider will bill for it, as far as one can tell, ``pusd`` that in
        pico-USD."""
        reservation = attempt.reservation
        if reservation is None:
            return
        attempt.reservation = None
        if failure is not None and failure.unsent:
            if reservation is not PLAIN:
                self._till.release(reservation)
            return
        is_known = usage is not None and usage.source is Provenance.PROVIDER
        if usage is None:
            if failure is not None and _refused(attempt, failure):
                usage, is_known = NOTHING, True
            else:
                usage = _of_prompt(attempt)
                pusd = cost_pusd(attempt.offer.price, usage)
        stands = not is_known and self._plan.holds_unknown
        status = ChargeStatus.STANDING if stands else ChargeStatus.SETTLED
        kind = None if failure is None else failure.kind.value
        charge = self._charge(attempt, usage, pusd, status, kind, answer_id)
        self._tokens += usage.input_tokens + usage.output_tokens
        if reservation is PLAIN:
            self._note(charge)
        elif attempt.charge is not None and not reservation.dispatched and self._till.gone:  # nor has the journal it
            self._home.lose()
            self._till.release(reservation)
        elif stands:
            self._till.stand(reservation, charge)
        else:
            nusd = nusd_half_even(pusd)
            if is_known and reservation.parts and nusd > reservation.parts[0][1]:
                bounds, reserved_nusd = self._bounds_of(attempt.ask.request), reservation.parts[0][1]
                self._home.excesses.learn(attempt.offer, bounds, usage, billed_nusd=nusd, reserved_nusd=reserved_nusd)
            self._till.settle(reservation, [nusd] * len(reservation.parts), charge)

    def abandoned(self, attempt: OpenAttempt) -> None:
        """An attempt is given up without an outcome."""
        reservation = attempt.reservation
        if reservation is None:
            return
        attempt.reservation = None
        charge = attempt.charge or self._standing(attempt)
        if reservation is PLAIN:
            self._note(charge)
        else:
            self._till.stand(reservation, charge)

    def _note(self, charge: Charge) -> None:
        if self._till.is_overfull:
            self._home.lose()
        else:
            self._till.note(charge)

    def _refusal(self, error: AmaruError) -> RequestError:
        if not isinstance(error, AllowanceExceeded):
            log.warning("nothing_reserved", decision=self._decision, reason=str(error))
        return refusal(error, self._till.now())

    def _needs(self, attempt: OpenAttempt) -> Needs:
        offer = attempt.offer
        bindings, call, at = self._home.bindings, self._call, self._till.now()
        counters = bindings.of_offer(offer.resource, offer.provider, at).budgets
        if self.bound.budgets:
            counters = bindings.of_caller(call.tenant.id, call.team, call.key, at).budgets + counters
        if not counters:
            return ()
        nusd = self._most(attempt)
        return [(counter, nusd) for counter in counters]

    def _most(self, attempt: OpenAttempt) -> int:
        """What an attempt may cost, nano-USD."""
        return self._home.excesses.upper_nusd(attempt.offer, self._bounds_of(attempt.ask.request))

    def _dispatch(self, attempt: OpenAttempt, reservation: Reservation, purse: Purse | None, nusd: int) -> None:
        """Raises JournalError, where money is reserved; then nothing is."""
        self._calls += 1
        self._at = self._till.now()
        charge = self._standing(attempt)
        try:
            self._till.dispatched(reservation, charge, purse=purse, purse_nusd=nusd)
        except JournalError:
            if reservation.parts:
                self._till.release(reservation)
                raise
        attempt.reservation, attempt.charge = reservation, charge

    def _standing(self, attempt: OpenAttempt) -> Charge:
        """The charge of the call that went out last, as long as nothing is known: of its prompt, by our estimate."""
        usage = _of_prompt(attempt)
        return self._charge(attempt, usage, cost_pusd(attempt.offer.price, usage), ChargeStatus.STANDING, None, None)

    def _charge(
        self,
        attempt: OpenAttempt,
        usage: Usage,
        pusd: int,
        status: ChargeStatus,
        failure: str | None,
        answer_id: str | None,
    ) -> Charge:
        """The charge of the call that went out last."""
        call, offer, number = self._call, attempt.offer, self._calls - 1
        return Charge(
            id=f"{self._decision}-{number}",
            at=self._at,
            decision=self._decision,
            attempt=number,
            tenant=call.tenant.id,
            team=call.team,
            key=call.key,
            resource=offer.resource,
            provider=offer.provider,
            offer=offer.id,
            model=offer.model,
            kind=call.request.kind.value,
            status=status,
            failure=failure,
            provider_ref=answer_id,
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            output_tokens=usage.output_tokens,
            usage="{}" if usage.details is None else msgspec.json.encode(usage.details).decode(),
            usage_source=usage.source.value,
            price=self._plan.price_ids[offer.id],
            cost_pusd=pusd,
        )

    def _bounds_of(self, request: OpenAIRequest) -> Bounds:
        bounds = self._bounds
        if bounds is None or bounds.request is not request:
            bounds = self._bounds = bounds_of(request)
        return bounds

    def _purse(self) -> Purse | None:
        tenant, accounts = self._call.tenant, self._plan.config.accounts
        serves = tenant.serves_without_store
        if not (accounts.serves_without_store if serves is None else serves):
            return None
        return self._till.purse(tenant.id, accounts.open_nusd if tenant.open_nusd is None else tenant.open_nusd)


def _of_prompt(attempt: OpenAttempt) -> Usage:
    return Usage(attempt.ask.request.input_tokens_estimate, 0, source=Provenance.ESTIMATED)


def _refused(attempt: OpenAttempt, failure: Failure) -> bool:
    """Whether the provider itself said that it does not answer, before it had begun to."""
    if attempt.reply is not None or failure.generated_bytes is not None:
        return False
    return failure.kind not in UNHEARD or (failure.status is not None and failure.status >= 300)
