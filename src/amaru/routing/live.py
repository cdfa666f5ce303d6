"""What outcomes say about each offer: one slot of a slab per offer, shared by every board that knows the offer.

A reload builds a new board while requests admitted on the old one are still under way. Both boards point at the same
``LiveState``, so a place given back through the old board is free on the new one.
"""

from __future__ import annotations

import math
import random
import weakref
from collections.abc import Callable, MutableSequence, Sequence
from typing import cast

import numpy as np

from amaru.domain import FailureKind, Offer
from amaru.errors import Failure
from amaru.routing import kernels as k
from amaru.routing import limits
from amaru.routing.breaker import Breaker, BreakerSettings, State
from amaru.routing.patience import Patience, PatienceSettings
from amaru.routing.reactions import Health, reaction_to
from amaru.routing.retries import RetryBudget
from amaru.routing.steering import UNSTEERED, Steering

GAIN = 0.2
"""Weight of one observation in its moving average."""
THROTTLE_S = 0.1
"""Pause of an offer that was rate limited without a Retry-After; doubles while it goes on, with full jitter on top."""
MAX_THROTTLE_S = 30.0
MAX_RETRY_AFTER_S = 3600.0
"""The longest Retry-After believed: a mistaken one must not remove an offer for good."""

LAST_RESORT = -1
"""Ticket of a request that an open breaker let through since there was no other offer: it moves no breaker."""

_MIDWAY = frozenset((FailureKind.STREAM_CUT, FailureKind.STREAM_STALLED, FailureKind.MALFORMED_EVENT))


class Slab:
    """The live columns of all offers, float64 [slots, N_LIVE], and whoever waits for them to change.

    A slot is free again when its ``LiveState`` is gone: no board and no admission holds it. ``shared_live`` has one
    that lies in memory shared by workers.
    """

    def __init__(self) -> None:
        self.changed: set[Callable[[], None]] = set()
        self._states: weakref.WeakValueDictionary[int, LiveState] = weakref.WeakValueDictionary()
        self.values = np.zeros((0, k.N_LIVE))
        self.cells = _flat(self.values)
        """``values``, flat: reads and writes of single numbers through it cost a third of NumPy's."""

    def state(self, _: Offer, settings: BreakerSettings, rng: random.Random, patience: PatienceSettings) -> LiveState:
        """What is known of an offer that no board before knew: nothing."""
        return LiveState(self, settings, rng, patience)

    def retries(self, ratio: float, *, min_per_s: float) -> RetryBudget:
        """The budget of second calls, over all offers."""
        return RetryBudget(ratio, min_per_s=min_per_s)

    def place(self, state: LiveState) -> int:
        """Give ``state`` a slot, blank: closed, idle, nothing observed."""
        slot = next((i for i in range(len(self.values)) if i not in self._states), len(self.values))
        if slot == len(self.values):
            # Boards reach the arrays through the slab, so replacing them is seen by all.
            self.values = np.concatenate([self.values, np.zeros((max(8, slot), k.N_LIVE))])
            self.cells = _flat(self.values)
        self.values[slot] = k.BLANK
        self._states[slot] = state
        return slot

    def notify(self) -> None:
        """Wake whoever waits: a place became free or a breaker changed. Callbacks stay until they are removed."""
        for wake in tuple(self.changed):
            wake()


class Admission:
    """A place taken at an offer: ``release`` it in every case, ``observe`` it first where there is an outcome."""

    __slots__ = ("admitted_at", "place", "row", "state", "ticket", "tokens")

    def __init__(
        self, state: LiveState, row: int, ticket: int, place: float, tokens: float, admitted_at: float
    ) -> None:
        self.state = state
        self.row = row
        self.ticket: int | None = ticket
        """Of the breaker; None once a probe was given up."""
        self.place = place
        """Requests or GPU-hours taken; 0 once released."""
        self.tokens = tokens
        """Reserved against the tokens a minute."""
        self.admitted_at = admitted_at


class LiveState:
    """One offer's breaker, throttle, places, limits, moving averages and patience, and how it is steered."""

    __slots__ = (
        "__weakref__", "_admitted", "_configured", "_fell_midway", "_rng", "_throttled_at", "_throttles",
        "asked_at", "base", "breaker", "first_token", "idle", "prefill_refused", "recoveries",
        "retries", "slab", "slot", "steering",
    )  # fmt: skip

    def __init__(self, slab: Slab, settings: BreakerSettings, rng: random.Random, patience: PatienceSettings) -> None:
        self.slab = slab
        self._configured = settings
        self.steering = UNSTEERED
        self.first_token = Patience(patience.least_first_token_s, patience.first_token_s)
        self.idle = Patience(patience.least_idle_s, patience.idle_s)
        self.retries: RetryBudget | None = None
        """Of its second requests, where it is steered by one."""
        self._rng = rng
        self._admitted = 0
        self._settle_in()

    def _settle_in(self) -> None:
        """Take a slot, of which nothing is known."""
        self.slot = self.slab.place(self)
        self.base = self.slot * k.N_LIVE
        self.breaker = Breaker(self._configured, self._rng)
        self.asked_at = -math.inf
        """Instant of its last admission."""
        self.prefill_refused = False
        """It was asked to continue an assistant message, and would not."""
        self.recoveries = 0
        """How often a probe found it well after it had been given up on."""
        self._fell_midway = False
        """Its last failure came after its first token, which therefore proves nothing."""
        self._throttles = 0
        self._throttled_at = -math.inf

    def _occupy(self, place: float) -> None:
        """Take so much, or give it back."""
        cells, at = self.slab.cells, self.base + k.IN_FLIGHT
        # Sums of fractions of GPU-hours drift; an idle offer is exactly idle.
        cells[at] = max(cells[at] + place, 0.0) if self._admitted else 0.0

    def admit(
        self,
        offer: Sequence[float],
        row: int,
        tokens: float,
        gpu_hours: float,
        now_s: float,
        *,
        again: bool,
        last_resort: bool,
    ) -> Admission | None:
        """See ``Board.admit``; ``offer`` is the offer's row of ``static``."""
        cells, base = self.slab.cells, self.base
        if cells[base + k.THROTTLED_UNTIL] > now_s and not again:
            return None
        place = gpu_hours if gpu_hours > 0.0 else 1.0
        if cells[base + k.IN_FLIGHT] + place > self.most_at_once(offer):
            return None
        request_s = offer[k.REQUEST_INTERVAL_S]
        token_s = tokens * offer[k.TOKEN_INTERVAL_S]
        burst_s = offer[k.BURST_S]
        if request_s > 0.0 and k.gcra_free_at(cells[base + k.REQUEST_TAT], request_s, burst_s) > now_s:
            return None
        if token_s > 0.0 and k.gcra_free_at(cells[base + k.TOKEN_TAT], token_s, burst_s) > now_s:
            return None
        ticket = LAST_RESORT if last_resort else self.breaker.admit(now_s)
        if ticket is None:
            return None
        if request_s > 0.0:
            cells[base + k.REQUEST_TAT] = limits.spend(cells[base + k.REQUEST_TAT], request_s, now_s)
        if token_s > 0.0:
            cells[base + k.TOKEN_TAT] = limits.spend(cells[base + k.TOKEN_TAT], token_s, now_s)
        self._admitted += 1
        self._occupy(place)
        if self.breaker.state is State.HALF_OPEN:
            self._mirror_breaker()
        if self.retries is not None and not again:
            self.retries.request(now_s)
        self.asked_at = now_s
        if self.steering.look_s is not None:
            cells[base + k.LOOK_AT] = now_s + self.steering.look_s
        return Admission(self, row, ticket, place, tokens, now_s)

    def release(self, admission: Admission) -> None:
        """Give the place back; a probe without an outcome is given up."""
        if admission.place == 0.0:
            return
        self._admitted -= 1
        self._occupy(-admission.place)
        admission.place = 0.0
        if admission.ticket is not None and self.breaker.forget(admission.ticket):
            admission.ticket = None
            self._mirror_breaker()
        self.slab.notify()

    def answering(self, admission: Admission, now_s: float) -> None:
        """See ``Board.answering``."""
        breaker, ticket = self.breaker, admission.ticket
        if not breaker.on_trial or ticket is None or not breaker.is_current(ticket) or self._fell_midway:
            return
        self._record(admission, now_s, ok=True, broken=False)
        admission.ticket = breaker.generation

    def observe(
        self,
        admission: Admission | None,
        now_s: float,
        failure: Failure | None,
        first_token_ms: float | None,
        latency_ms: float | None,
        stream: bool,
        input_tokens: int = 0,
        longest_gap_ms: float | None = None,
    ) -> None:
        """See ``Board.observe``; without an admission, someone else's request is reported."""
        if failure is None:
            self._record(admission, now_s, ok=True, broken=False)
            # A reported outcome that leaves a latency out has 0 there.
            if first_token_ms is not None and 0.0 < first_token_ms < math.inf:
                self._average(k.FIRST_TOKEN, first_token_ms, now_s)
                if stream and admission is not None:
                    self.first_token.answered(first_token_ms * 1e-3, input_tokens, now_s)
            if longest_gap_ms is not None and 0.0 < longest_gap_ms < math.inf:
                self.idle.answered(longest_gap_ms * 1e-3, 0, now_s)
            if not stream and latency_ms is not None and 0.0 < latency_ms < math.inf:
                self._average(k.ANSWER, latency_ms, now_s)
            self._average(k.SUCCESS, 1.0, now_s)
            if admission is None or admission.admitted_at >= self._throttled_at:
                self._throttles = 0
            return
        health = reaction_to(failure).health
        if health is not Health.HEALTHY:  # a caller's mistake says nothing about the offer
            began_at = now_s if admission is None else admission.admitted_at
            ticket = None if admission is None else admission.ticket
            # Nor does one that began before the offer fell say anything of it as it is now.
            if ticket is None or ticket == LAST_RESORT or self.breaker.is_current(ticket):
                self._average(k.SUCCESS, 0.0, now_s)
                self._fell_midway = failure.kind in _MIDWAY
                if stream and admission is not None:
                    self._wait_in_vain(failure.kind, began_at, input_tokens, longest_gap_ms, now_s)
            if health is Health.THROTTLED or failure.kind is FailureKind.OVERLOADED:
                self._throttle(failure, began_at, now_s)
        if health is not Health.THROTTLED:  # neither sick nor proven well: a throttled probe is given up at its release
            self._record(admission, now_s, ok=health is Health.HEALTHY, broken=health is Health.BROKEN)

    def _record(self, admission: Admission | None, now_s: float, *, ok: bool, broken: bool) -> None:
        """Tell the breaker; where that finds the offer well again, it is to be ranked as before its fall."""
        ticket = admission.ticket if admission is not None else None
        if ticket is None:
            # Outside requests never take a probe's place, but after the cool-down they are as good as one.
            ticket = self.breaker.admit(now_s)
            if ticket is None:
                return
        if not self.breaker.record(ticket, now_s, ok=ok, broken=broken):
            return
        if self.breaker.state is State.CLOSED:
            self.found_well(now_s)
        self.breaker_moved()

    def found_well(self, now_s: float) -> None:
        """It came back: its shares and latencies are as before its fall."""
        cells, base = self.slab.cells, self.base
        cells[base + k.SUCCESS_WEIGHT] = 0.0
        cells[base + k.FIRST_TOKEN_AT] = cells[base + k.ANSWER_AT] = now_s  # what nobody could renew has not faded
        self.recoveries += 1

    def breaker_moved(self) -> None:
        """Show the breaker's state to the kernels and to whoever waits."""
        self._mirror_breaker()
        self.slab.notify()

    def settle(self, reserved: float, used: float, interval_s: float) -> None:
        """Correct the token limit from an estimate to what was used."""
        if interval_s > 0.0:
            self.slab.cells[self.base + k.TOKEN_TAT] += (used - reserved) * interval_s

    def mend(self, settings: BreakerSettings, patience: PatienceSettings) -> None:
        """Take new settings; an offer that was broken until fixed, or refused to continue, is taken to be fixed. What
        it is steered by stays."""
        self._configured = settings
        self.breaker.configure(self.steering.over(settings))
        self.first_token.floor_s, self.first_token.most_s = patience.least_first_token_s, patience.first_token_s
        self.idle.floor_s, self.idle.most_s = patience.least_idle_s, patience.idle_s
        self.prefill_refused = False
        if self.breaker.broken:
            self.breaker.reset()
            self.breaker_moved()

    def steer(self, steering: Steering) -> Steering:
        """See ``Board.steer``."""
        before, self.steering = self.steering, steering
        if steering.retry_ratio != before.retry_ratio:
            ratio = steering.retry_ratio
            self.retries = None if ratio is None else RetryBudget(ratio, min_per_s=0.0)
        cells, base = self.slab.cells, self.base
        cells[base + k.DRAINED_FROM] = steering.drained_from
        cells[base + k.CARE] = steering.care
        cells[base + k.RISK] = steering.risk
        cells[base + k.LOOK_AT] = math.inf if steering.look_s is None else self.asked_at + steering.look_s
        cells[base + k.LIMIT] = math.inf if steering.concurrency is None else steering.concurrency
        settings = steering.over(self._configured)
        if settings != self.breaker.settings:
            self.breaker.configure(settings)
        self.slab.notify()  # it may let in who waits
        return before

    def look_due(self, now_s: float) -> bool:
        """Whether whoever steers it wants it tried now."""
        cells = self.slab.cells
        return cells[self.base + k.LOOK_AT] <= now_s and cells[self.base + k.IN_FLIGHT] == 0.0

    def most_at_once(self, offer: Sequence[float]) -> float:
        """Requests, or GPU-hours, that may be under way; ``offer`` is the offer's row of ``static``."""
        limit = self.slab.cells[self.base + k.LIMIT]
        return limit if limit < offer[k.CAPACITY] else offer[k.CAPACITY]

    def limits_s(self, adaptive: bool, input_tokens: int, now_s: float) -> tuple[float, float]:
        """See ``Board.limits_s``."""
        steering, first_token, idle = self.steering, self.first_token, self.idle
        first_token_s, idle_s = first_token.most_s, idle.most_s
        if adaptive and steering.patience < 1.0:
            first_token_s = first_token.hurried_s(steering.patience, input_tokens, now_s)
            idle_s = idle.hurried_s(steering.patience, 0, now_s)
        elif adaptive:
            first_token_s, idle_s = first_token.limit_s(input_tokens, now_s), idle.limit_s(0, now_s)
        if steering.first_token_ms is not None:
            first_token_s = min(steering.first_token_ms * 1e-3, first_token.most_s)
        if steering.idle_ms is not None:
            idle_s = min(steering.idle_ms * 1e-3, idle.most_s)
        return first_token_s, idle_s

    def estimate(self, column: int, now_s: float) -> tuple[float, float]:
        """Value and remaining weight in [0, 1] of the average ``FIRST_TOKEN``, ``ANSWER`` or ``SUCCESS``."""
        cells, at = self.slab.cells, self.base + column
        return cells[at], k.faded(cells[at + 1], cells[at + 2], now_s)

    def _average(self, column: int, observed: float, now_s: float) -> None:
        """Exponentially weighted moving average whose memory also fades with time."""
        cells, at = self.slab.cells, self.base + column
        kept = k.faded(cells[at + 1], cells[at + 2], now_s) * (1.0 - GAIN)
        weight = kept + GAIN
        cells[at] = (kept * cells[at] + GAIN * observed) / weight
        cells[at + 1] = weight
        cells[at + 2] = now_s

    def _wait_in_vain(
        self, kind: FailureKind, began_at: float, input_tokens: int, longest_gap_ms: float | None, now_s: float
    ) -> None:
        probed = self.breaker.state is State.HALF_OPEN
        if kind is FailureKind.NO_ANSWER:
            self.first_token.unanswered(now_s - began_at, input_tokens, now_s, probed=probed)
        elif kind is FailureKind.STREAM_STALLED:
            idle, silence_s = self.idle, (longest_gap_ms or 0.0) * 1e-3
            if began_at >= idle.backed_off_at:  # then it was silent for at least as long as is granted now
                silence_s = max(silence_s, idle.limit_s(0, now_s))
            idle.unanswered(silence_s, 0, now_s, probed=probed)

    def _throttle(self, failure: Failure, began_at: float, now_s: float) -> None:
        if failure.retry_after_s is not None:
            pause_s = min(max(failure.retry_after_s, 0.0), MAX_RETRY_AFTER_S)
        elif failure.kind is FailureKind.OVERLOADED:
            return  # the breaker deals with it
        else:
            longest_s = min(THROTTLE_S * 2.0 ** min(self._throttles, 60), MAX_THROTTLE_S / 2.0)
            pause_s = longest_s * (1.0 + self._rng.random())
        # Requests that were under way when the throttle began tell nothing new: they do not double it.
        if began_at >= self._throttled_at:
            self._throttles += 1
            self._throttled_at = now_s
        elif failure.retry_after_s is None:
            return
        cells, at = self.slab.cells, self.base + k.THROTTLED_UNTIL
        cells[at] = max(cells[at], now_s + pause_s)

    def _mirror_breaker(self) -> None:
        cells, base = self.slab.cells, self.base
        cells[base + k.REFUSES_UNTIL] = self.breaker.refuses_until
        cells[base + k.IS_BROKEN] = float(self.breaker.broken)


def _flat(values: k.Floats) -> MutableSequence[float]:
    return cast(MutableSequence[float], values.reshape(-1).data)
