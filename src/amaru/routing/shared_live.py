"""The live state of offers in memory shared by workers: the same logic as ``live``, ``breaker`` and ``retries``, whose
fields lie in shared cells. What one worker concludes binds all at once."""

from __future__ import annotations

import math
import random
import weakref
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from amaru.domain import Offer
from amaru.routing import kernels as k
from amaru.routing import shared as s
from amaru.routing.breaker import Breaker, BreakerSettings, State
from amaru.routing.live import LiveState, Slab
from amaru.routing.patience import PatienceSettings
from amaru.routing.retries import RetryBudget
from amaru.routing.shared import Memory, shared

_STATES = {s.CLOSED: State.CLOSED, s.OPEN: State.OPEN, s.HALF_OPEN: State.HALF_OPEN}
_STEERED = [k.DRAINED_FROM, k.CARE, k.LIMIT, k.RISK, k.LOOK_AT]
_NUMBERS = {state: number for number, state in _STATES.items()}


class SharedSlab(Slab):
    """A ``Slab`` in shared memory. ``follow`` it every few tens of milliseconds: what other workers changed is then
    told to whoever waits."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory
        self.values = memory.live
        self.cells = s.flat(memory.live)
        self.held: dict[int, int] = {}
        """Requests that this worker has under way, by slot."""
        self._seen = self._changes_of_others()

    def state(
        self, offer: Offer, settings: BreakerSettings, rng: random.Random, patience: PatienceSettings
    ) -> LiveState:
        """What the workers know of the offer. Raises ValueError where they know too many."""
        return SharedLiveState(self, offer, settings, rng, patience)

    def retries(self, ratio: float, *, min_per_s: float) -> RetryBudget:
        """One budget for all workers."""
        return SharedRetryBudget(self.memory, ratio, min_per_s=min_per_s)

    def notify(self) -> None:
        """See ``Slab.notify``; other workers are told within their next round."""
        cells, at = self.memory.own_cells, self.memory.worker * s.N_OWN + s.CHANGES
        cells[at] += 1.0
        super().notify()

    def follow(self) -> None:
        """Take note of what other workers changed."""
        self.memory.add_up()
        changes = self._changes_of_others()
        if changes != self._seen:
            self._seen = changes
            super().notify()

    def _changes_of_others(self) -> float:
        changes = self.memory.own[:, s.CHANGES]
        return float(changes.sum() - changes[self.memory.worker])


class SharedLiveState(LiveState):
    """See ``LiveState``. How long an offer is waited for is learned by each worker from its own answers."""

    __slots__ = ("at", "cells", "name", "of")

    asked_at: float = shared(s.ASKED_AT)
    prefill_refused: bool = shared(s.PREFILL_REFUSED, bool)
    recoveries: int = shared(s.RECOVERIES, int)
    _fell_midway: bool = shared(s.FELL_MIDWAY, bool)
    _throttles: int = shared(s.THROTTLES, int)
    _throttled_at: float = shared(s.THROTTLED_AT)

    def __init__(
        self,
        slab: SharedSlab,
        offer: Offer,
        settings: BreakerSettings,
        rng: random.Random,
        patience: PatienceSettings,
    ) -> None:
        self.of = slab
        self.name = f"{offer.id}\0{offer.provider}"
        super().__init__(slab, settings, rng, patience)

    def _settle_in(self) -> None:
        memory = self.of.memory
        self.slot = memory.take_slot(self.name)
        weakref.finalize(self, memory.leave_slot, self.slot)
        self.base = self.slot * k.N_LIVE
        self.cells, self.at = memory.state_cells, self.slot * s.N_STATE
        self.breaker = SharedBreaker(memory, self.slot, self._configured, self._rng)
        if memory.worker == s.OWNER:  # who steers them has begun anew
            memory.live[self.slot, _STEERED] = k.BLANK[_STEERED]

    def _occupy(self, place: float) -> None:
        slab = self.of
        memory, slot = slab.memory, self.slot
        held = slab.held.get(slot, 0) + (1 if place > 0.0 else -1)
        slab.held[slot] = held
        own, at = slot * memory.workers + memory.worker, self.base + k.IN_FLIGHT
        places, cells = memory.place_cells, slab.cells
        places[own] = max(places[own] + place, 0.0) if held else 0.0
        cells[at] = max(cells[at] + place, 0.0)  # of all; what another worker does meanwhile, `add_up` mends


class SharedBreaker(Breaker):
    """A ``Breaker`` whose fields are shared: tickets are of the machine, and of all workers one sends the probe."""

    __slots__ = ("_lock", "_worker", "at", "cells")

    until: float = shared(s.UNTIL)
    due_at: float = shared(s.DUE_AT)
    broken: bool = shared(s.IS_BROKEN, bool)
    generation: int = shared(s.GENERATION, int)
    _openings: int = shared(s.OPENINGS, int)
    _consecutive: int = shared(s.CONSECUTIVE, int)
    _trying: bool = shared(s.TRYING, bool)
    _probed_at: float = shared(s.PROBED_AT)
    _closed_at: float = shared(s.CLOSED_AT)

    def __init__(self, memory: Memory, slot: int, settings: BreakerSettings, rng: random.Random) -> None:
        # Not the parent's: that would close what other workers may have opened.
        self.cells, self.at = memory.state_cells, slot * s.N_STATE
        self.settings = settings
        self._rng = rng
        self._lock = memory.lock(slot)
        self._worker = memory.worker
        self._recent = cast(Any, SharedOutcomes(memory.state_cells, self.at))  # Any: it does what is asked of a deque

    @property
    def state(self) -> State:
        return _STATES[self.cells[self.at + s.STATE]]

    @state.setter
    def state(self, state: State) -> None:
        self.cells[self.at + s.STATE] = _NUMBERS[state]
        if state is State.HALF_OPEN:
            self.cells[self.at + s.PROBER] = self._worker

    def admit(self, now_s: float) -> int | None:
        """See ``Breaker.admit``; takes the lock only where the last outcome was a failure."""
        cells, at = self.cells, self.at
        if cells[at + s.STATE] == s.CLOSED and cells[at + s.CONSECUTIVE] == 0.0:
            return int(cells[at + s.GENERATION])
        if cells[at + s.STATE] == s.OPEN and cells[at + s.UNTIL] > now_s:
            return None
        with self._lock:
            return super().admit(now_s)

    def record(self, ticket: int, now_s: float, *, ok: bool, broken: bool = False) -> bool:
        """See ``Breaker.record``; takes the lock only at a failure, and at the first success after one."""
        cells, at = self.cells, self.at
        if ok and cells[at + s.STATE] == s.CLOSED and cells[at + s.CONSECUTIVE] == 0.0:
            if ticket == cells[at + s.GENERATION]:
                self._recent.append((now_s, True))
            return False
        with self._lock:
            return super().record(ticket, now_s, ok=ok, broken=broken)

    def forget(self, ticket: int) -> bool:
        """See ``Breaker.forget``."""
        if self.cells[self.at + s.STATE] != s.HALF_OPEN:
            return False
        with self._lock:
            return super().forget(ticket)

    def told_open(self, until_s: float, *, broken: bool) -> bool:
        """See ``Breaker.told_open``."""
        with self._lock:
            return super().told_open(until_s, broken=broken)

    def told_well(self, now_s: float) -> bool:
        """See ``Breaker.told_well``."""
        with self._lock:
            return super().told_well(now_s)

    def configure(self, settings: BreakerSettings) -> None:
        """See ``Breaker.configure``."""
        self.settings = settings

    def reset(self) -> None:
        """See ``Breaker.reset``."""
        with self._lock:
            super().reset()


class SharedOutcomes:
    """The last outcomes of an offer, oldest first: what a breaker asks of a deque."""

    __slots__ = ("_at", "_cells")

    def __init__(self, cells: s.Cells, at: int) -> None:
        self._cells = cells
        self._at = at

    def append(self, outcome: tuple[float, bool]) -> None:
        """Take in one; the oldest makes room."""
        cells, at = self._cells, self._at
        seen = int(cells[at + s.OUTCOMES])
        pair = at + s.OUTCOME + 2 * (seen % s.OUTCOMES_KEPT)
        cells[pair], cells[pair + 1] = outcome
        cells[at + s.OUTCOMES] = seen + 1.0

    def __reversed__(self) -> Iterator[tuple[float, bool]]:
        cells, at = self._cells, self._at
        seen = int(cells[at + s.OUTCOMES])
        for number in range(seen - 1, max(seen - s.OUTCOMES_KEPT, 0) - 1, -1):
            pair = at + s.OUTCOME + 2 * (number % s.OUTCOMES_KEPT)
            yield cells[pair], bool(cells[pair + 1])

    def clear(self) -> None:
        """Forget them."""
        self._cells[self._at + s.OUTCOMES] = 0.0


class SharedRetryBudget(RetryBudget):
    """A ``RetryBudget`` over the requests and retries of all workers: each counts its own, and asks for the sum."""

    __slots__ = ("_at_cell", "_memory")

    def __init__(self, memory: Memory, ratio: float, *, min_per_s: float) -> None:
        super().__init__(ratio, min_per_s=min_per_s)
        self._memory = memory
        self._at_cell = memory.worker * s.N_OWN

    def request(self, now_s: float) -> None:
        """See ``RetryBudget.request``."""
        cells, at = self._memory.own_cells, self._at_cell
        if now_s - cells[at + s.RETRY_AT] > self.window_s * 1e-3:
            self._fade_own(now_s)
        cells[at + s.RETRY_REQUESTS] += 1.0

    def try_retry(self, now_s: float) -> bool:
        """See ``RetryBudget.try_retry``."""
        self._fade_own(now_s)
        own = self._memory.own
        kept = np.exp(np.minimum(own[:, s.RETRY_AT] - now_s, 0.0) / self.window_s)
        requests, retries = kept @ own[:, s.RETRY_REQUESTS], kept @ own[:, s.RETRY_SPENT]
        if retries + 1.0 > self.ratio * requests + self.min_per_s * self.window_s:
            return False
        self._memory.own_cells[self._at_cell + s.RETRY_SPENT] += 1.0
        return True

    def _fade_own(self, now_s: float) -> None:
        cells, at = self._memory.own_cells, self._at_cell
        elapsed_s = now_s - cells[at + s.RETRY_AT]
        if elapsed_s > 0.0:
            kept = math.exp(-elapsed_s / self.window_s)
            cells[at + s.RETRY_REQUESTS] *= kept
            cells[at + s.RETRY_SPENT] *= kept
            cells[at + s.RETRY_AT] = now_s
