"""What tests of tills share: counters, charges, and a bank in memory that keeps the rules and nothing else."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from amaru.accounts.bank import LIVE_S, RECALL_S, Answer, Counter, Held, Key, Position, Recall, Turn
from amaru.accounts.charges import Charge, ChargeStatus
from amaru.accounts.grants import EVERYBODY, Row, answer_asks, answer_wants, note_overrun
from amaru.errors import StaleTurn

T0 = 1_700_000_000


def counter(
    name: str = "tenant:acme:usd:total", amount: int = 100, *, start: int = 0, end: int | None = None
) -> Counter:
    return Counter(key=(name, start), amount=amount, period_end=end)


def charge(id: str, *, status: ChargeStatus = ChargeStatus.SETTLED, cost_pusd: int = 0) -> Charge:
    return Charge(
        id=id,
        at=float(T0),
        decision=f"d-{id}",
        attempt=0,
        tenant="acme",
        resource="small",
        provider="sim",
        offer="sim/small",
        model="small-1",
        kind="chat",
        status=status,
        cost_pusd=cost_pusd,
    )


@dataclass
class MemoryBank:
    """Counters and leases of several holders, by ``grants``' rules; its clock is moved by hand."""

    now: float = float(T0)
    directory: int = 0
    rows: dict[Key, Row] = field(default_factory=dict)
    leases: dict[str, dict[Key, Held]] = field(default_factory=dict)
    positions: dict[str, Position] = field(default_factory=dict)
    beats: dict[str, float] = field(default_factory=dict)
    recalls: dict[Key, tuple[int, float]] = field(default_factory=dict)
    charges: dict[str, Charge] = field(default_factory=dict)
    standing: dict[str, dict[Key, int]] = field(default_factory=dict)
    generations: int = 0

    def position(self, holder: str) -> Position:
        return self.positions.get(holder, Position())

    def turn(self, turn: Turn) -> Answer:
        before = copy.deepcopy(self.__dict__)
        try:
            return self._turn(turn)
        except BaseException:
            self.__dict__.update(before)
            raise

    def _turn(self, turn: Turn) -> Answer:
        position = self.position(turn.holder)
        if turn.number <= position.turn:
            raise StaleTurn("stale")
        self.beats[turn.holder] = self.now
        had = self.leases.setdefault(turn.holder, {})
        for key, named in turn.counters.items():
            self.rows.setdefault(key, Row(amount=0, settled=0, leased=0)).amount = named.amount
        over = {key: row.settled + row.leased - row.amount for key, row in self.rows.items()}
        through = position.through
        for ended in turn.ended:
            if ended.number > through:
                through = ended.number
                if ended.charge is not None and ended.charge.id in self.charges:
                    continue
                for part in ended.parts:
                    row = self.rows[part.key]
                    if part.used is None:
                        row.leased += part.reserved
                        self.standing.setdefault(ended.id, {})[part.key] = part.reserved
                    else:
                        row.settled += part.used
                if ended.charge is not None:
                    self.charges[ended.charge.id] = ended.charge
        kept = (dict.fromkeys(had, Held(0, 0)) if turn.whole else {}) | dict(turn.leases)
        for key, held in kept.items():
            self.rows[key].leased += held.amount - had.get(key, Held(0, 0)).amount
            had[key] = held
        overruns = {
            key: row.settled + row.leased - row.amount for key, row in self.rows.items() if note_overrun(row, over[key])
        }
        for key, row in self.rows.items():
            generation, at = self.recalls.get(key, (0, 0.0))
            row.generation, row.recalled = generation if abs(self.now - at) <= RECALL_S else 0, False
        granted: dict[Key, int] = {}
        decisions = answer_asks(
            turn.asks,
            self.rows,
            granted,
            acknowledged=lambda key: self._acknowledged(turn.holder, key),
            new_generation=self._new_generation,
        )
        answer_wants(turn.wants, self.rows, granted, holders=len([n for n in self.beats if self.lives(n)]))
        for key, amount in granted.items():
            held = had.get(key, Held(0, 0))
            had[key] = Held(held.amount + amount, held.acknowledged)
        for key, row in self.rows.items():
            if row.recalled:
                self.recalls[key] = row.generation, self.now
        self.positions[turn.holder] = Position(turn.number, through)
        return Answer(
            now=self.now,
            directory=self.directory,
            decisions=decisions,
            granted=granted,
            recalls={
                key: Recall(generation, self.rows[key].free)
                for key, (generation, at) in self.recalls.items()
                if abs(self.now - at) <= RECALL_S
            },
            overruns=overruns,
            free={key: self.rows[key].free for key in turn.leases},
        )

    def resolve(self, charge: Charge, used: dict[Key, int]) -> bool:
        reserved = self.standing.pop(charge.id, None)
        if reserved is None:
            return False
        for key, amount in reserved.items():
            self.rows[key].leased -= amount
        for key, amount in used.items():
            self.rows[key].settled += amount
        self.charges[charge.id] = charge
        return True

    def lives(self, holder: str) -> bool:
        return abs(self.now - self.beats.get(holder, self.now)) <= LIVE_S

    def _acknowledged(self, asking: str, key: Key) -> int:
        found = [
            held[key].acknowledged
            for holder, held in self.leases.items()
            if holder != asking and self.lives(holder) and key in held and held[key].amount
        ]
        return min(found, default=EVERYBODY)

    def _new_generation(self) -> int:
        self.generations += 1
        return self.generations
