"""Holders that reserve, settle, die, lose answers and live through changes of the clock: the books are always right."""

from __future__ import annotations

import contextlib
from collections import Counter as Bag

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from till_samples import MemoryBank, charge

from amaru.accounts.bank import Counter, Key, Part
from amaru.accounts.charges import ChargeStatus
from amaru.accounts.drawer import Drawer, Sent
from amaru.accounts.journal import Dispatched, Left
from amaru.accounts.lease import Reservation, Waiter
from amaru.accounts.recovery import last_turn
from amaru.errors import AllowanceExceeded, StaleTurn

AMOUNTS = {"total": 60, "minute": 25}
HOLDERS = 3


class Process:
    """One process: its memory, which dies with it, and its journal, which does not."""

    def __init__(self, name: str) -> None:
        self.drawer = Drawer(name)
        self.left = Left(holder=name, whole=True, open={}, ended=[])
        self.live: list[tuple[Reservation, tuple[int, ...]]] = []
        self.flying: list[Sent] = []

    def flushed(self) -> None:
        waiting = {ended.number for ended, _ in self.drawer.ended}
        self.left.ended = [ended for ended in self.left.ended if ended.number in waiting]


class Books(RuleBasedStateMachine):
    dispatched = Bundle("dispatched")

    def __init__(self) -> None:
        super().__init__()
        self.bank = MemoryBank()
        self.counters: dict[Key, Counter] = {}
        self.names = 0
        self.truth: Bag[Key] = Bag()
        """What was truly used, and acknowledged as settled."""
        self.stands: dict[str, dict[Key, int]] = {}
        self.settled_ids: set[str] = set()
        self.overrunning = False
        self.processes: list[Process] = []
        self.dead: list[Process] = []

    @initialize()
    def begin(self) -> None:
        self.processes = [self._start() for _ in range(HOLDERS)]

    def _start(self) -> Process:
        self.names += 1
        return Process(f"h{self.names}")

    def _needs(self, amounts: tuple[int, int]) -> list[tuple[Counter, int]]:
        minute = int(self.bank.now) // 60 * 60
        found = []
        for name, start, end, amount in (("total", 0, None, amounts[0]), ("minute", minute, minute + 60, amounts[1])):
            key = (name, start)
            made = self.counters.setdefault(key, Counter(key, AMOUNTS[name], end))
            if amount:
                found.append((made, amount))
        return found

    def _turn(self, process: Process) -> None:
        sent = process.drawer.compose(self.bank.now)
        process.drawer.apply(sent, self.bank.turn(sent.turn))
        process.flushed()

    amounts = st.tuples(st.integers(0, 20), st.integers(0, 8)).filter(any)
    which = st.integers(0, HOLDERS - 1)

    @rule(which=which, amounts=amounts)
    def reserve(self, which: int, amounts: tuple[int, int]) -> None:
        """Somebody asks, and all holders take their turns: then it is decided, and a refusal was right."""
        process = self.processes[which]
        needs = self._needs(amounts)
        made = process.drawer.reserve(needs)
        if made is not None:
            process.live.append((made, tuple(amount for _, amount in needs)))
            return
        said: list[Reservation | AllowanceExceeded] = []
        try:
            process.drawer.wait(needs, said.append)
        except AllowanceExceeded:
            return
        for other in (process, *self.processes) * 16:
            # In all more than six seconds: nobody waits longer for a dead holder, though its last sign of life lie
            # ahead, the clock having been set back.
            self.bank.now += 0.1
            self._turn(other)
            if said:
                break
        assert len(said) == 1, "not decided after sixteen rounds"
        if isinstance(said[0], AllowanceExceeded):
            self._assert_rightly(said[0], needs)
        if isinstance(said[0], Reservation):
            process.live.append((said[0], tuple(amount for _, amount in needs)))

    def _assert_rightly(self, refusal: AllowanceExceeded, needs: list[tuple[Counter, int]]) -> None:
        key = next(counter.key for counter, _ in needs if counter.key[0] == refusal.allowance)
        live = [process.drawer for process in self.processes if self.bank.lives(process.drawer.holder)]
        held = [drawer.leases[key] for drawer in live if key in drawer.leases]
        idle = sum(lease.idle for lease in held if not lease.waiting)  # else it is for somebody who came before
        assert self.bank.rows[key].free + idle < refusal.needed, "refused, though there was enough"

    @rule(which=which, amounts=amounts)
    def ask(self, which: int, amounts: tuple[int, int]) -> None:
        """Somebody asks, and nothing else happens: others may ask besides, or the process dies."""
        process = self.processes[which]
        needs = self._needs(amounts)

        def decide(what: Reservation | AllowanceExceeded) -> None:
            if isinstance(what, Reservation):
                process.live.append((what, tuple(amount for _, amount in needs)))

        with contextlib.suppress(AllowanceExceeded):
            process.drawer.wait(needs, decide)

    @rule(which=which, at=st.integers(0, 5))
    def cancel(self, which: int, at: int) -> None:
        waiters: list[Waiter] = [w for w in self.processes[which].drawer.waiters if not w.over]
        if at < len(waiters):
            self.processes[which].drawer.cancel(waiters[at])

    @rule(target=dispatched, which=which, at=st.integers(0, 5))
    def dispatch(self, which: int, at: int) -> object:
        process = self.processes[which]
        fresh = [pair for pair in process.live if not pair[0].dispatched and not pair[0].over]
        if at >= len(fresh):
            return multiple()
        made, amounts = fresh[at]
        self.names += 1
        made.dispatched = id = f"c{self.names}"
        parts = tuple(Part(lease.counter.key, amount, None) for lease, amount, _ in made.parts)
        process.left.open[id] = Dispatched(charge(id), parts)
        return process, made, amounts

    @rule(which=which, at=st.integers(0, 5))
    def release(self, which: int, at: int) -> None:
        process = self.processes[which]
        fresh = [pair for pair in process.live if not pair[0].dispatched]
        if at < len(fresh):
            process.live.remove(fresh[at])
            assert process.drawer.end(fresh[at][0], [0] * len(fresh[at][1]), None) is None

    @rule(one=dispatched, share=st.integers(0, 100), stands=st.booleans(), more=st.integers(0, 3))
    def settle(self, one: tuple[Process, Reservation, tuple[int, ...]], share: int, stands: bool, more: int) -> None:
        process, made, amounts = one
        if process not in self.processes or made.over:
            return
        process.live = [pair for pair in process.live if pair[0] is not made]
        id = made.dispatched
        keys = [lease.counter.key for lease, _, _ in made.parts]
        del process.left.open[id]
        if stands:
            ended = process.drawer.end(made, None, charge(id, status=ChargeStatus.STANDING))
            self.stands[id] = dict(zip(keys, amounts, strict=True))
        else:
            used = [amount * share // 100 + (more if share == 100 else 0) for amount in amounts]
            self.overrunning |= share == 100 and more > 0
            ended = process.drawer.end(made, used, charge(id))
            self.truth.update(dict(zip(keys, used, strict=True)))
            self.settled_ids.add(id)
        assert ended is not None
        process.left.ended.append(ended)

    @rule(which=which)
    def turn(self, which: int) -> None:
        self._turn(self.processes[which])

    @rule(which=which, taken_in=st.booleans())
    def turn_without_answer(self, which: int, taken_in: bool) -> None:
        """The bank is gone before the turn, or after it; a turn that never arrived may arrive later."""
        process = self.processes[which]
        sent = process.drawer.compose(self.bank.now)
        if taken_in:
            self.bank.turn(sent.turn)
        else:
            process.flying.append(sent)
        process.drawer.fail(sent)

    @rule(which=which)
    def late_turn(self, which: int) -> None:
        process = self.processes[which]
        if process.flying:
            with contextlib.suppress(StaleTurn):
                self.bank.turn(process.flying.pop().turn)

    @rule(which=which)
    def die(self, which: int) -> None:
        self.dead.append(self.processes[which])
        self.processes[which] = self._start()

    @rule(twice=st.booleans())
    def recover(self, twice: bool) -> None:
        if self.dead:
            self._recover(self.dead.pop(), twice)

    def _recover(self, process: Process, twice: bool = False) -> None:
        for _ in range(1 + twice):
            self.bank.turn(last_turn(process.left, self.bank.position(process.left.holder)))
        for id, open in process.left.open.items():
            self.stands[id] = {part.key: part.reserved for part in open.parts}
        for late in process.flying:
            try:
                self.bank.turn(late.turn)
            except StaleTurn:
                continue
            raise AssertionError("a dead process's turn was taken in")

    @rule(by=st.sampled_from([0.05, 0.4, 3.0, 61.0, -61.0, -3.0, 86_400.0]))
    def clock(self, by: float) -> None:
        self.bank.now += by

    @rule(at=st.integers(0, 5), share=st.integers(0, 100))
    def usage_arrives_late(self, at: int, share: int) -> None:
        known = sorted(self.stands.keys() & self.bank.standing.keys())
        if at < len(known):
            reserved = self.stands.pop(known[at])
            used = {key: amount * share // 100 for key, amount in reserved.items()}
            assert self.bank.resolve(charge(known[at], status=ChargeStatus.RECONCILED), used)
            self.truth.update(used)

    @invariant()
    def holds(self) -> None:
        every = [*self.processes, *self.dead]
        for key, row in self.bank.rows.items():
            leases = sum(held[key].amount for held in self.bank.leases.values() if key in held)
            standing = sum(reserved.get(key, 0) for reserved in self.bank.standing.values())
            assert row.leased == leases + standing
            assert row.settled + row.leased <= row.amount + row.overrun
            under_way = sum(lease.reserved for p in every for k, lease in p.drawer.leases.items() if k == key) + sum(
                reserved.get(key, 0) for reserved in self.stands.values()
            )
            if not self.overrunning:
                assert row.overrun == 0
                assert self.truth[key] + under_way <= row.amount, "more is promised than there is"
        for process in self.processes:
            for key, lease in process.drawer.leases.items():
                held = self.bank.leases.get(process.drawer.holder, {}).get(key)
                assert min(lease.idle, lease.reserved, lease.ended) >= 0
                assert lease.idle + lease.reserved <= (held.amount if held else 0)

    def teardown(self) -> None:
        """Once all is settled, given back and recovered, nothing is leased, and every use is counted once."""
        for process in self.processes:
            for made, amounts in process.live:
                if made.dispatched:
                    del process.left.open[made.dispatched]
                process.drawer.end(made, [0] * len(amounts), None)
            for waiter in list(process.drawer.waiters):
                process.drawer.cancel(waiter)
            process.drawer.leave()
            self._turn(process)
            process.drawer.leave()
            self._turn(process)
        for process in self.dead:
            self._recover(process)
        for key, row in self.bank.rows.items():
            assert row.leased == sum(reserved.get(key, 0) for reserved in self.stands.values())
            assert row.settled == self.truth[key]
        assert self.settled_ids <= self.bank.charges.keys()
        assert self.stands.keys() == self.bank.standing.keys()


Books.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase
