"""The policies that learn: Thompson sampling over beliefs, its hybrid with the rules, and tabular Q-learning."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Sequence
from typing import TypeVar

import msgspec
import numpy as np

from amaru.domain import Experience, Kind, Offer, Seen, Workload
from amaru.routing import belief_kernels as b
from amaru.routing import kernels as k
from amaru.routing import q_kernels as q
from amaru.routing import score_kernels as s
from amaru.routing.evidence import Evidence, SlotSums, arrays_of, current, merged
from amaru.routing.knobs import Knobs
from amaru.routing.mind import Mind, offer_of
from amaru.routing.policies_base import KernelPolicy, is_whole

_State = TypeVar("_State", "_BeliefState", "_QState")

FORMAT = 1
MAX_STATE_BYTES = 64 * 1024 * 1024
"""A larger state is neither kept nor unpacked."""


class _BeliefState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    policy: str
    knobs: Knobs
    evidence: list[Evidence]
    """Its own first."""
    sensed: dict[str, tuple[float, ...]]
    """By slot: SENSED_AT to OUTCOMES of ``belief_kernels``."""


class BeliefPolicy(KernelPolicy):
    """``thompson`` and ``hybrid``: a Bayesian belief about each offer, asked with the tenant's weights.

    Parameters
    ----------
    origin, epoch
        Under which name, and since when (Unix seconds), it sums what it sees: see ``evidence``.
    """

    __slots__ = ("_others", "_own", "epoch", "origin", "outcomes")

    def __init__(self, name: str, kind: int, knobs: Knobs, *, origin: str = "local", epoch: float = 0.0) -> None:
        super().__init__(name, kind, Mind(knobs, believes=True))
        self.origin = origin
        self.epoch = epoch
        self.outcomes = 0
        """Learned from, by itself, in this epoch, beginnings of answers too: evidence with more is newer."""
        self._own: Mind = self.mind
        """What it saw itself; the mind holds that and what others saw."""
        self._others: list[Evidence] = []

    @property
    def learns(self) -> bool:
        """It does."""
        return True

    def learn(self, workload: Workload, offer: Offer, experience: Experience) -> None:
        """See ``Policy.learn``."""
        if not experience.blame:
            return
        seen = experience.seen
        posted_ms = seen.posted_ms if seen is not None else offer.latency_ms
        log_latency = log_price = math.nan
        known = experience.latency_ms is not None and not (experience.ended and experience.begun)
        if known and experience.latency_ms and posted_ms > 0.0:
            log_latency = math.log(experience.latency_ms / posted_ms)
        if experience.expected_cost_usd and experience.cost_usd > 0.0:
            log_price = math.log(experience.cost_usd / experience.expected_cost_usd)
        if not experience.ended and (not experience.ok or math.isnan(log_latency)):
            return  # nothing is known yet
        whole = is_whole(workload)
        for mind in (self.mind,) if self._own is self.mind else (self.mind, self._own):
            own, group = mind.pair(offer, whole=whole)
            b.learn(
                own, group, experience.at, experience.ended, experience.ok, min(max(experience.load, 0.0), 1.0),
                log_latency, log_price, mind.sums, mind.beliefs, mind.knobs,
            )  # fmt: skip
        self.outcomes += 1

    def reset(self) -> None:
        """Forget what it saw and what it was told; a new epoch must be begun by whoever shares its evidence."""
        self._others = []
        self._own = self.mind
        self.mind.forget()
        self.outcomes = 0

    def table_size(self) -> int:
        """Offers with evidence."""
        slots = self.mind.slot_of or {}
        offers = {offer_of(key) for key, slot in slots.items() if self.mind.sums[slot, b.SLOW, b.TRIES] > 0.0}
        return len(offers - {None})

    # ---- evidence -----------------------------------------------------------------------------------------------

    def evidence(self) -> Evidence:
        """What it saw itself."""
        mind = self._own
        knobs = mind.settings
        # What faded away from below is -0: + 0 makes it 0, so that equal states are equal bytes.
        slots = {
            key: SlotSums(float(mind.beliefs[slot, b.SUMS_AT]), (mind.sums[slot] + 0.0).astype("<f8").tobytes())
            for key, slot in sorted((mind.slot_of or {}).items())
            if mind.sums[slot].any()
        }
        lives = half_lives_of(knobs)
        return Evidence(self.origin, self.epoch, self.outcomes, lives, slots)

    def begin_as(self, origin: str, epoch: float, *, anew: bool) -> None:
        """Sum what it sees under another name from now on.

        ``anew``: what it knows by now came with an artifact, or lies under its former name elsewhere too; it counts
        here, and is no longer told as its own.
        """
        if anew:
            own = self.evidence()
            self._others = current([own, *self._others]) if own.slots else self._others
            self._own = _mind_of({}, self.mind.settings)
            self._own.knobs[:] = self.mind.knobs
            self.outcomes = 0
        self.origin, self.epoch = origin, epoch

    @property
    def others(self) -> Sequence[Evidence]:
        """What other origins saw."""
        return self._others

    def receive(self, *evidence: Evidence, forget: Collection[str] = ()) -> None:
        """Take in what other origins saw, in place of what they had sent before; ``forget`` all that these sent.

        Raises ValueError where it cannot be merged, or claims to be this policy's own; nothing changes then.
        """
        own = self.evidence()
        if any(_key(one) == _key(own) for one in evidence):
            raise ValueError(f"evidence of {own.origin!r} itself: give each node an origin of its own")
        others = [one for one in current([*evidence, *self._others]) if one.origin not in forget]
        total = merged([own, *others])
        self._own = _mind_of(own.slots, self.mind.settings)
        self._own.knobs[:] = self.mind.knobs
        self._others = others
        _fill(self.mind, total)

    # ---- state --------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """See ``Policy.state``."""
        evidence = [self.evidence(), *self._others]
        stored = _BeliefState(FORMAT, self.name, self.mind.settings, evidence, _sensed(self.mind))
        return msgspec.msgpack.encode(stored, order="deterministic")

    def restore(self, state: bytes) -> None:
        """See ``Policy.restore``."""
        stored = _decoded(state, _BeliefState, self.name)
        if not stored.evidence:
            raise ValueError("a state without its own evidence")
        own, *others = stored.evidence
        if any(_key(other) == _key(own) for other in others):
            raise ValueError(f"a state with the evidence of {own.origin!r} itself twice")
        total = merged(stored.evidence)
        lives = half_lives_of(stored.knobs)
        if own.half_lives_s != lives:
            raise ValueError(f"its evidence fades with half-lives of {own.half_lives_s} s, its knobs say {lives}")
        for key, columns in stored.sensed.items():
            if len(columns) != b.OUTCOMES + 1 - b.SENSED_AT or not all(map(math.isfinite, columns)):
                raise ValueError(f"what it sensed of {key[:80]!r} is not {b.OUTCOMES + 1 - b.SENSED_AT} finite numbers")
            matters = columns[b.MILD - b.SENSED_AT : b.SHIFT - b.SENSED_AT]
            if min(matters) < 0.0 or sum(matters) > 1.000001 or abs(columns[b.SHIFT - b.SENSED_AT]) > b.LOG_MOST:
                raise ValueError(f"what it sensed of {key[:80]!r} is no probability, or no latency")
        alone = _mind_of(own.slots, stored.knobs)
        # The slots that rankings know stay where they are.
        self.mind.settings, self.mind.knobs[:] = stored.knobs, stored.knobs.array()
        _fill(self.mind, total)
        self.mind.reserve(stored.sensed)
        self.mind.beliefs[:, b.SENSED_AT : b.OUTCOMES + 1] = 0.0
        self.mind.beliefs[:, b.SENSED_AT] = -math.inf
        assert self.mind.slot_of is not None
        for key, columns in stored.sensed.items():
            self.mind.beliefs[self.mind.slot_of[key], b.SENSED_AT : b.OUTCOMES + 1] = columns
        self._own = alone if others else self.mind
        self._others = others
        self.origin, self.epoch, self.outcomes = own.origin, own.epoch, own.outcomes


def half_lives_of(knobs: Knobs) -> tuple[float, ...]:
    """Of each scale of sums, in seconds."""
    return knobs.fast_s, knobs.slow_s


def _sensed(mind: Mind) -> dict[str, tuple[float, ...]]:
    return {
        key: tuple(mind.beliefs[slot, b.SENSED_AT : b.OUTCOMES + 1].tolist())
        for key, slot in sorted((mind.slot_of or {}).items())
        if mind.beliefs[slot, b.OUTCOMES] > 0.0
    }


def _key(evidence: Evidence) -> tuple[str, float]:
    return evidence.origin, evidence.epoch


def _mind_of(slots: dict[str, SlotSums], knobs: Knobs) -> Mind:
    mind = Mind(knobs, believes=True)
    _fill(mind, slots)
    return mind


def _fill(mind: Mind, slots: dict[str, SlotSums]) -> None:
    at, sums = arrays_of(slots.values())
    mind.reserve(slots)
    mind.sums[:] = 0.0
    mind.beliefs[:, [b.SUMS_AT, b.AS_OF]] = -math.inf  # what was sensed stays
    assert mind.slot_of is not None
    rows = [mind.slot_of[key] for key in slots]
    mind.sums[rows], mind.beliefs[rows, b.SUMS_AT] = sums, at


class _QState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    policy: str
    knobs: Knobs
    epsilon: float
    states: bytes
    """int32 numbers of the states that were visited, then float64 values and visits of each; zlib."""
    memory: bytes
    """float64 [held, 3]; zlib."""
    count: int
    outcomes: int


class QPolicy(KernelPolicy):
    """``qlearning``: the value of each discretised state, epsilon-greedy, with experience replay."""

    __slots__ = ("outcomes",)

    def __init__(self, name: str, knobs: Knobs) -> None:
        super().__init__(name, s.QLEARNING, Mind(knobs, values_states=True))
        self.outcomes = 0

    @property
    def learns(self) -> bool:
        """It does."""
        return True

    def learn(self, workload: Workload, offer: Offer, experience: Experience) -> None:
        """See ``Policy.learn``."""
        if not experience.blame or not experience.ended:
            return
        seen = experience.seen or as_advertised(workload, offer)
        weights = self.preferences(workload.weights)
        reward = 0.0
        if experience.ok:
            ratio = 1.0
            if experience.expected_cost_usd and experience.cost_usd > 0.0:
                ratio = experience.cost_usd / experience.expected_cost_usd
            latency_ms = experience.latency_ms or seen.latency_ms  # 0: nobody measured it
            reward = s.utility(
                weights, seen.best_price, seen.best_ms, seen.unit_price * ratio, latency_ms, seen.reputation
            )
        quickness = max(seen.best_ms, k.FLOOR) / max(seen.latency_ms, k.FLOOR)
        cheapness = max(seen.best_price, k.FLOOR) / max(seen.unit_price, k.FLOOR)
        state = q.state_in(
            q.preference_of(weights), quickness, cheapness, 1.0 - experience.load, seen.reputation, seen.success
        )
        mind = self.mind
        lot = (self.outcomes * 0.6180339887498949) % 1.0  # which past ones are replayed: spread evenly
        q.learn(state, reward, lot, mind.values, mind.memory, mind.ring, mind.knobs)
        self.outcomes += 1

    def reset(self) -> None:
        """Back to an empty table."""
        self.mind.forget()
        self.outcomes = 0

    def table_size(self) -> int:
        """States visited."""
        return int(np.count_nonzero(self.mind.values[:, q.VISITS]))

    def state(self) -> bytes:
        """See ``Policy.state``."""
        mind = self.mind
        visited = np.flatnonzero(mind.values[:, q.VISITS]).astype("<i4")
        count = int(mind.ring[q.COUNT])
        table = visited.tobytes() + mind.values[visited].astype("<f8").tobytes()
        memory = mind.memory[: min(count, q.MEMORY)].astype("<f8").tobytes()
        return msgspec.msgpack.encode(
            _QState(
                FORMAT, self.name, mind.settings, float(mind.knobs[b.EPSILON]), zlib.compress(table, 1),
                zlib.compress(memory, 1), count, self.outcomes,
            )
        )  # fmt: skip

    def restore(self, state: bytes) -> None:
        """See ``Policy.restore``."""
        stored = _decoded(state, _QState, self.name)
        table, past = _inflated(stored.states), _inflated(stored.memory)
        held = min(max(stored.count, 0), q.MEMORY)
        if len(table) % 20 or not 0 <= stored.count < 2**53 or len(past) != 24 * held:
            raise ValueError("its table is cut short")
        memory = np.frombuffer(past, dtype="<f8").reshape(held, 3)
        n = len(table) // 20
        visited = np.frombuffer(table[: 4 * n], dtype="<i4")
        values = np.frombuffer(table[4 * n :], dtype="<f8").reshape(n, 2)
        before, after = memory[:, [q.STATE, q.NEXT]].T
        if np.unique(visited).size < n:
            raise ValueError("its table names a state twice")
        if not (np.isfinite(values).all() and np.isfinite(memory).all() and 0.0 <= stored.epsilon <= 1.0):
            raise ValueError("its table holds what is not a finite number, or an epsilon that is no probability")
        if n and values[:, q.VISITS].min() <= 0.0:
            raise ValueError("its table holds a state that was never visited")
        numbers = np.concatenate([visited, before, after[after != -1.0]])
        if numbers.size and (numbers.min() < 0 or numbers.max() >= q.N_STATES or (numbers % 1.0).any()):
            raise ValueError(f"its table names a state that there is not; there are {q.N_STATES}")
        mind = self.mind
        mind.settings = stored.knobs
        mind.forget()
        mind.values[visited] = values
        mind.memory[:held] = memory
        mind.ring[q.COUNT] = stored.count
        mind.knobs[b.EPSILON] = stored.epsilon
        self.outcomes = stored.outcomes


def as_advertised(workload: Workload, offer: Offer) -> Seen:
    """What stands for a decision's view of an offer where that is not known: the advertisement, alone in its pool."""
    tokens = workload.input_tokens + workload.output_tokens
    share = workload.output_tokens / tokens if tokens else 0.5
    price = offer.price
    unit = price.input_usd_per_mtok + (price.output_usd_per_mtok - price.input_usd_per_mtok) * share
    if workload.kind is Kind.GPU_JOB:
        unit = price.usd_per_gpu_hour
    return Seen(unit, offer.latency_ms, offer.latency_ms, offer.reputation, 1.0, unit, offer.latency_ms)


def _inflated(data: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        inflated = decompressor.decompress(data, MAX_STATE_BYTES)
    except zlib.error as error:
        raise ValueError(f"its table is damaged: {error}") from None
    if decompressor.unconsumed_tail or not decompressor.eof:
        raise ValueError("its table is too large, or cut short")
    return inflated


def _decoded(state: bytes, type_: type[_State], name: str) -> _State:
    try:
        stored = msgspec.msgpack.decode(state, type=type_)
    except msgspec.MsgspecError as error:
        raise ValueError(f"this is no state of the policy {name!r}: {error}") from None
    if stored.format != FORMAT:
        raise ValueError(f"the state has format {stored.format}; this version of amaru reads {FORMAT}")
    if stored.policy != name:
        raise ValueError(f"the state is of the policy {stored.policy!r}, not {name!r}")
    return stored
