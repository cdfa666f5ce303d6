"""A till's memory: what is idle of each lease, what is reserved, who waits. No I/O, no clock, no lock.

A lease of the bank's is split in three: ``idle`` may be reserved from; ``reserved`` is; ``ended`` was used, and the
bank has not heard of it. Their sum never exceeds what the bank keeps as leased to this holder, so whatever is reserved
here is free for nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence, Set
from itertools import islice

import msgspec

from amaru.accounts.bank import Answer, Counter, Ended, Held, Key, Need, Part, Turn, Verdict
from amaru.accounts.charges import Charge
from amaru.accounts.lease import Lease, Needs, Reservation, Waiter, exceeded
from amaru.errors import AmaruError, TillBusy

MOST_WAITING = 2_000
MOST_ASKS = 500
"""In one turn."""
MOST_ENDED = 2_000
"""In one turn."""
AHEAD_TURNS = 8
"""A lease is meant to last so many turns at the pace of the last ones."""
SWEEP_TURNS = 100
"""A lease that was not used during so many turns goes back."""


class Sent(msgspec.Struct, frozen=True):
    """A turn on its way, with what only its sender knows of it."""

    turn: Turn
    uses: dict[Key, int]
    """Part of each lease's ``ended`` that the turn tells of."""
    waiters: list[Waiter]
    """Of the asks."""


class Drawer:
    """The leases of one holder. Everything is called from one thread."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.leases: dict[Key, Lease] = {}
        self.waiters: deque[Waiter] = deque()
        self.ended: deque[tuple[Ended, tuple[int, ...]]] = deque()
        """Not yet known to be in the bank, and what of it each lease bears."""
        self._plain: dict[Key, list[int]] = {}
        """Used, of reservations without a dispatch or a charge: what was reserved, used, and what leases bear of it."""
        self._failed = False
        """The last turn failed: whether the bank took it in is not known."""
        self._dirty: set[Key] = set()
        self._recalled: set[Key] = set()
        self._turns = 0
        self._ends = 0
        self._epoch = ""
        self._announce = True
        self.urgent = False
        """Something would be decided, or given back, by a turn now."""
        self.due = False
        """Something became idle that somebody waits for: ``serve``."""

    # Reservations

    def reserve(self, needs: Needs) -> Reservation | None:
        """Reserve all of it from what is idle, or ``None``: one lease does not suffice, or is of another amount."""
        find = self.leases.get
        parts = []
        for counter, amount in needs:
            lease = find(counter.key)
            if lease is None or lease.counter is not counter:
                return None
            backed = amount if counter.hard else 0
            if backed and (lease.idle < backed or lease.waiting):
                return None
            parts.append((lease, amount, backed))
        for lease, _, backed in parts:
            lease.idle -= backed
            lease.reserved += backed
            lease.used += backed
        return Reservation(parts)

    def wait(self, needs: Needs, decide: Callable[[Reservation | AmaruError], None]) -> Waiter:
        """Reserve as soon as the leases suffice; first come, first served, counter by counter.

        Raises AllowanceExceeded where as much was refused just now, and TillBusy where too many wait.
        """
        self.refuse_known(needs)
        if len(self.waiters) >= MOST_WAITING:
            raise TillBusy(f"{MOST_WAITING} requests wait for their budgets already; try again")
        waiter = Waiter(needs, decide)
        if not self._serve_one(waiter, {counter.key for counter, _ in needs if self.lease_of(counter).waiting}):
            self.waiters.append(waiter)
        return waiter

    def refuse_known(self, needs: Needs) -> None:
        """Raises AllowanceExceeded where as much was refused just now."""
        for counter, amount in needs:
            lease = self.leases.get(counter.key)
            if lease is None or lease.counter is not counter or lease.refused is None:
                continue
            if counter.hard and amount >= lease.refused and amount > lease.idle:
                raise exceeded(lease, amount)

    def cancel(self, waiter: Waiter) -> None:
        """It waits no more, and is not decided."""
        if not waiter.over:
            self._forget(waiter)

    def unbacked(self, needs: Needs) -> Reservation:
        """Reserve without a lease: what is used beyond an amount then is an overrun."""
        return Reservation([(self.lease_of(counter), amount, 0) for counter, amount in needs])

    def lease_of(self, counter: Counter) -> Lease:
        """The lease of a counter, empty where there was none; takes over the counter's amount as of now."""
        lease = self.leases.get(counter.key)
        if lease is None:
            lease = self.leases[counter.key] = Lease(counter)
        elif lease.counter is not counter:
            if counter.amount < lease.counter.amount:
                lease.idle = 0  # it was leased of more than there is now
                self._dirty.add(counter.key)
            lease.counter, lease.refused = counter, None
        return lease

    def end(self, reservation: Reservation, used: Sequence[int] | None, charge: Charge | None) -> Ended | None:
        """End a reservation: ``used`` of each part, or ``None``: it stands. Gives what the bank is to hear of it.

        More used than reserved is taken from what is idle; beyond that it is an overrun.
        """
        if reservation.over:
            raise ValueError("the reservation was ended before")
        if used is not None and (len(used) != len(reservation.parts) or min(used, default=0) < 0):
            raise ValueError(f"each of {len(reservation.parts)} parts needs what was used of it, at least 0")
        reservation.over = True
        parts, bears = [], []
        for at, (lease, amount, backed) in enumerate(reservation.parts):
            spent = amount if used is None else used[at]
            bear = spent if spent < backed else backed
            lease.reserved -= backed
            lease.idle += backed - bear
            if spent > backed > 0:
                more = min(spent - backed, lease.idle)
                lease.idle -= more
                bear += more
            lease.ended += bear
            bears.append(bear)
            parts.append(Part(lease.key, amount, None if used is None else spent))
            if lease.waiting:
                self.due = True
            self._dirty.add(lease.key)
        if not reservation.dispatched and charge is None:
            self._count(parts, bears)
            return None
        self._ends += 1
        ended = Ended(self._ends, reservation.dispatched, charge, tuple(parts))
        self.ended.append((ended, tuple(bears)))
        return ended

    def note(self, charge: Charge) -> Ended:
        """A charge that no lease bears. Gives what the bank is to hear of it."""
        self._ends += 1
        ended = Ended(self._ends, "", charge, ())
        self.ended.append((ended, ()))
        return ended

    def _count(self, parts: Sequence[Part], bears: Sequence[int]) -> None:
        """Add up what nobody will ask for one by one: as many as there are, they take the memory of one a counter."""
        for (key, reserved, used), bear in zip(parts, bears, strict=True):
            if used is None:
                raise ValueError("what stands needs a charge, by which it is resolved")
            if used:
                sums = self._plain.get(key)
                if sums is None:
                    sums = self._plain[key] = [0, 0, 0]
                sums[0] += reserved
                sums[1] += used
                sums[2] += bear

    def _end_plain(self) -> None:
        self._ends += 1
        parts = tuple(Part(key, reserved, used) for key, (reserved, used, _) in self._plain.items())
        self.ended.append((Ended(self._ends, "", None, parts), tuple(sums[2] for sums in self._plain.values())))
        self._dirty.update(self._plain)
        self._plain = {}

    # Turns

    @property
    def is_owing(self) -> bool:
        """The bank has not heard of all that ended."""
        return bool(self.ended or self._plain)

    def leave(self) -> None:
        """Have the next turn give back all that is idle."""
        for lease in self.leases.values():
            lease.leaving = True
        self._dirty.update(self.leases)

    def compose(self, now: float) -> Sent:
        """The next turn. What it gives back is not idle any more, whatever becomes of the turn."""
        self._turns += 1
        self.urgent = False
        if self._turns % SWEEP_TURNS == 0:
            self._sweep(now)
        if self._plain and not self._failed:  # else it waits for the bank, added up
            self._end_plain()
        told = list(islice(self.ended, MOST_ENDED))
        uses: dict[Key, int] = {}
        for ended, bears in told:
            if bears:
                for part, bear in zip(ended.parts, bears, strict=True):
                    if bear:
                        uses[part.key] = uses.get(part.key, 0) + bear
        asks, asking = self._asks()
        named = self.leases.keys() if self._announce else self._dirty | self._unanswered()
        leases, wants, counters = {}, {}, {}
        for key in named | {need.key for needs in asks for need in needs}:
            lease = self.leases.get(key)
            if lease is None:
                continue
            ended_period = lease.counter.period_end is not None and lease.counter.period_end <= now
            lease.pace = max(lease.used, lease.pace * 3 // 4)
            lease.used = 0
            if lease.waiting or lease.recall or lease.leaving or ended_period:
                if lease.idle:  # what goes back is free again: whoever needs it now must ask
                    lease.refused = None
                lease.idle = 0
            held = lease.idle + lease.reserved + lease.ended - uses.get(key, 0)
            leases[key] = Held(held, lease.recall or lease.acknowledged)
            counters[key] = lease.counter
            target = AHEAD_TURNS * lease.pace
            if lease.counter.hard and not (lease.recall or lease.leaving or ended_period) and 2 * lease.idle < target:
                wants[key] = target - lease.idle
        turn = Turn(
            holder=self.holder,
            number=self._turns,
            ended=[ended for ended, _ in told],
            leases=leases,
            whole=self._announce,
            counters=counters,
            asks=asks,
            wants=wants,
            epoch=self._epoch,
        )
        self._dirty.clear()
        return Sent(turn, uses, asking)

    def _asks(self) -> tuple[list[tuple[Need, ...]], list[Waiter]]:
        asks, asking = [], []
        for waiter in islice(self.waiters, MOST_ASKS):
            asks.append(
                tuple(
                    Need(counter.key, amount, waiter.short[counter.key])
                    for counter, amount in waiter.needs
                    if counter.key in waiter.short
                )
            )
            asking.append(waiter)
        return asks, asking

    def apply(self, sent: Sent, answer: Answer) -> None:
        """Take in the answer to a turn; decides who waits."""
        self._failed = False
        for _ in sent.turn.ended:
            self.ended.popleft()
        for key, used in sent.uses.items():
            self.leases[key].ended -= used
        for key, held in sent.turn.leases.items():
            lease = self.leases[key]
            lease.acknowledged = max(lease.acknowledged, held.acknowledged)
            if lease.leaving:
                self._drop(key, lease)
        for key, amount in answer.granted.items():
            self.lease_of(sent.turn.counters[key]).idle += amount
        for key, free in answer.free.items():
            if key in self.leases:
                self.leases[key].free = free
        self._epoch, self._announce = answer.epoch, answer.announce
        self._take_recalls(answer)
        for waiter, needs, decision in zip(sent.waiters, sent.turn.asks, answer.decisions, strict=True):
            if waiter.over:
                continue
            if decision.verdict is Verdict.WAIT:
                waiter.short.update((need.key, since) for need, since in zip(needs, decision.since, strict=True))
            elif decision.verdict is Verdict.REFUSED:
                self._refuse(waiter, needs[decision.short])
        self.serve()
        if answer.announce or len(self.ended) >= MOST_ENDED:
            self.urgent = True

    def resume(self, turn: int) -> None:
        """Go on after a turn of this number, which somebody took for this holder; all is told anew."""
        self._turns = max(self._turns, turn)

    def fail(self, sent: Sent) -> None:
        """A turn may have been taken in or not: the next one tells everything anew."""
        self._announce = self._failed = True
        for key in [key for key, lease in self.leases.items() if lease.leaving]:
            self._drop(key, self.leases[key])  # what the bank still has of it goes back once all is told
        self._dirty.update(sent.turn.leases)
        for waiter in self.waiters:
            waiter.short = dict.fromkeys(waiter.short, 0)

    def serve(self) -> None:
        """Reserve for those that wait, as far as the leases suffice."""
        self.due = False
        blocked: set[Key] = set()
        for _ in range(len(self.waiters)):
            waiter = self.waiters.popleft()
            if not waiter.over and not self._serve_one(waiter, blocked):
                blocked.update(waiter.short)
                self.waiters.append(waiter)

    def _serve_one(self, waiter: Waiter, blocked: Set[Key]) -> bool:
        short = False
        for counter, amount in waiter.needs:
            if counter.hard and (counter.key in blocked or self.lease_of(counter).idle < amount):
                self._queue(waiter, counter.key, amount)
                short = True
        if short:
            return False
        self._forget(waiter)
        parts = []
        for counter, amount in waiter.needs:
            lease = self.lease_of(counter)
            backed = amount if counter.hard else 0
            lease.idle -= backed
            lease.reserved += backed
            parts.append((lease, amount, backed))
        waiter.decide(Reservation(parts))
        return True

    def _queue(self, waiter: Waiter, key: Key, amount: int) -> None:
        if key not in waiter.short:
            waiter.short[key] = 0
            lease = self.leases[key]
            lease.waiting += 1
            lease.used += amount
            self.urgent = True

    def _forget(self, waiter: Waiter) -> None:
        waiter.over = True
        for key in waiter.short:
            self.leases[key].waiting -= 1
            self._dirty.add(key)

    def _refuse(self, waiter: Waiter, short: Need) -> None:
        self._forget(waiter)
        lease = self.leases[short.key]
        lease.refused = short.amount if lease.refused is None else min(lease.refused, short.amount)
        waiter.decide(exceeded(lease, short.amount))

    def _take_recalls(self, answer: Answer) -> None:
        for key in self._recalled - answer.recalls.keys():
            lease = self.leases.get(key)
            if lease is not None:
                lease.recall, lease.refused = 0, None
        self._recalled = answer.recalls.keys() & self.leases.keys()
        for key in self._recalled:
            lease, recall = self.leases[key], answer.recalls[key]
            lease.free = recall.free
            if lease.refused is not None and recall.free >= lease.refused:
                lease.refused = None
            if lease.recall != recall.generation:
                lease.recall = recall.generation
                # Others wait for an answer to it, unless this holder made it itself, or has nothing of it.
                self.urgent |= lease.idle > 0 or (lease.reserved + lease.ended > 0 and not lease.waiting)

    def _unanswered(self) -> set[Key]:
        """Recalled counters of which something is idle, or whose recall was not acknowledged."""
        leases = self.leases
        return {key for key in self._recalled if leases[key].idle or leases[key].acknowledged < leases[key].recall}

    def _sweep(self, now: float) -> None:
        for key, lease in self.leases.items():
            over = lease.counter.period_end is not None and lease.counter.period_end <= now
            if not lease.waiting and (over or not (lease.used or lease.pace or lease.reserved)):
                lease.leaving = True
                self._dirty.add(key)
            elif not lease.used:
                self._dirty.add(key)  # so that its pace fades

    def _drop(self, key: Key, lease: Lease) -> None:
        lease.leaving = False
        if not (lease.idle or lease.reserved or lease.ended or lease.waiting or lease.used):
            del self.leases[key]
            self._dirty.discard(key)
            self._recalled.discard(key)
