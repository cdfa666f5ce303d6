"""Memory that the workers of one machine share: what outcomes say of each offer, and what each worker has under way.

One anonymous file is mapped by every worker. It holds the slab's live columns, so that the kernels of all workers read
the same numbers, and beside them what else must be one for a machine: breakers, throttles, the retry budget.

Nothing on the way of a request takes a lock. What must not be lost is counted by worker: each writes its own cells
only, and what a dead worker left is taken out by blanking them. Averages, throttles, rate limits and the sum of places
taken have one cell for all: where two workers write it within the same microsecond, one of the two is lost. An average
has its next observation soon, and the sum is set anew in every round of each worker (``add_up``). A breaker is locked
only to change its state, by a record lock (POSIX ``fcntl``) on its slot, which the kernel lets go of when a process
dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import tempfile
from collections.abc import Callable, MutableSequence
from types import TracebackType
from typing import Any, cast

import numpy as np

from amaru.routing import kernels as k
from amaru.routing.breaker import BreakerSettings
from amaru.routing.conversation_table import SIZE as TABLE_BYTES
from amaru.routing.conversation_table import ConversationTable

SLOTS = 4096
"""Offers that the workers of a machine may know at one time, those of a configuration that is being left included."""
OWNER = 0
"""The worker that does what only one may do: it heals, learns, keeps and shows."""
SALT_BYTES = 32
_SALT_CELLS = SALT_BYTES // 8

# Columns of a worker's own cells.
CHANGES, CONNECTIONS, IN_FLIGHT, RETRY_REQUESTS, RETRY_SPENT, RETRY_AT = range(6)
N_OWN = 6

OUTCOMES_KEPT = BreakerSettings().last_outcomes
# Columns of a slot's state: its key, then the breaker's fields, then what else is known of the offer. Instants are of
# the system's monotonic clock, which all processes of a machine share.
(
    KEY,  # 48 bits of a digest of the offer's id and provider
    STATE,  # as `shared_breaker.STATES` numbers them
    UNTIL,
    DUE_AT,
    IS_BROKEN,
    GENERATION,
    OPENINGS,
    CONSECUTIVE,
    TRYING,
    PROBED_AT,
    CLOSED_AT,
    PROBER,  # the worker that sent the probe
    THROTTLES,
    THROTTLED_AT,
    FELL_MIDWAY,
    PREFILL_REFUSED,
    RECOVERIES,
    ASKED_AT,
    OUTCOMES,  # outcomes taken in since the breaker was reset
    OUTCOME,  # the first of ``OUTCOMES_KEPT`` pairs: instant, and 1 where it was well
) = range(20)
N_STATE = OUTCOME + 2 * OUTCOMES_KEPT

Cells = MutableSequence[float]


class Memory:
    """The shared cells, as arrays and flat; single numbers are read through the flat views, which costs a third.

    Parameters
    ----------
    file
        Descriptor of the anonymous file, which the object takes over.
    workers
        How many share it.
    worker
        Which of them this process is; the supervisor, which only tidies up, is none: -1.

    Attributes
    ----------
    live
        float64 [SLOTS, N_LIVE], as ``kernels`` has it.
    state
        float64 [SLOTS, N_STATE].
    places, users
        float64 [SLOTS, workers] each: requests (or GPU-hours) that each worker has under way at an offer, and how many
        of its boards' states use the slot.
    own
        float64 [workers, N_OWN].
    salt
        Of the hashes that stand for sessions and texts: the same ones in every worker.
    conversations
        What is remembered of conversations.
    """

    def __init__(self, file: int, workers: int, worker: int = -1) -> None:
        self.file = file
        self.workers = workers
        self.worker = worker
        self._map = mmap.mmap(file, size_of(workers))
        cells = np.frombuffer(self._map, dtype=np.float64, count=_cells_of(workers))
        self.salt = cells[:_SALT_CELLS].tobytes()
        at, arrays = _SALT_CELLS, []
        for shape in _shapes(workers):
            more = shape[0] * shape[1]
            arrays.append(cells[at : at + more].reshape(shape))
            at += more
        begin = at * 8
        self.conversations = ConversationTable(memoryview(self._map)[begin : begin + TABLE_BYTES], self._bucket_lock)
        self.own, self.live, self.state, self.places, self.users = arrays
        self.own_cells, self.state_cells, self.place_cells = map(flat, (self.own, self.state, self.places))
        self._known = SLOTS if worker < 0 else 0  # slots below it are looked at

    @classmethod
    def create(cls, workers: int) -> Memory:
        """Blank memory for so many workers, with a salt of its own; hand ``file`` on to them."""
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("amaru-workers")
        else:
            with tempfile.TemporaryFile() as made:
                file = os.dup(made.fileno())
        os.ftruncate(file, size_of(workers))
        os.pwrite(file, os.urandom(SALT_BYTES), 0)
        made_blank = cls(file, workers)
        made_blank.own[:] = _BLANK_OWN
        return made_blank

    def lock(self, slot: int) -> SlotLock:
        """The lock of one slot; ``SLOTS`` is that of the list of slots."""
        return SlotLock(self.file, slot)

    def _bucket_lock(self, bucket: int) -> SlotLock:
        return SlotLock(self.file, SLOTS + 1 + bucket)

    def take_slot(self, name: str) -> int:
        """The slot of that name, made blank where no worker uses it yet. Raises ValueError where all are in use."""
        key = float(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest()))
        with self.lock(SLOTS):
            in_use = self.users.any(axis=1)
            known = np.flatnonzero(in_use & (self.state[:, KEY] == key))
            if known.size:
                slot = int(known[0])
            else:
                free = np.flatnonzero(~in_use)
                if not free.size:
                    raise ValueError(f"the workers of one machine can know {SLOTS} offers at a time, and know as many")
                slot = int(free[0])
                self.live[slot], self.state[slot], self.places[slot] = k.BLANK, BLANK, 0.0
                self.state[slot, KEY] = key
            self.users[slot, self.worker] += 1.0
        self._known = max(self._known, slot + 1)
        return slot

    def leave_slot(self, slot: int) -> None:
        """One state of this worker uses it no longer."""
        with self.lock(SLOTS):
            self.users[slot, self.worker] -= 1.0

    def add_up(self) -> None:
        """Set each offer's places taken to the sum over the workers: of two that count at once, one may be lost."""
        self.live[: self._known, k.IN_FLIGHT] = self.places[: self._known].sum(axis=1)

    def bury(self, worker: int) -> None:
        """Take out what a worker that has died left: its places, its slots, and the probes that it had under way."""
        self.places[:, worker] = 0.0
        half_open = (self.state[:, STATE] == HALF_OPEN) & (self.state[:, PROBER] == worker)
        for slot in np.flatnonzero(half_open).tolist():
            with self.lock(slot):
                cells = self.state[slot]
                if cells[STATE] == HALF_OPEN and cells[PROBER] == worker:
                    cells[STATE], cells[DUE_AT] = OPEN, cells[UNTIL]
                    cells[GENERATION] += 1.0
                    self.live[slot, k.REFUSES_UNTIL] = cells[UNTIL]
        changes = self.own[worker, CHANGES]
        self.own[worker] = _BLANK_OWN
        self.own[worker, CHANGES] = changes + 1.0  # whoever waits for a place tries again
        with self.lock(SLOTS):
            self.users[:, worker] = 0.0
        self.add_up()


class SlotLock:
    """A record lock on one byte of the shared file: between processes; within one it may be entered again."""

    __slots__ = ("_at", "_depth", "_file")

    def __init__(self, file: int, at: int) -> None:
        self._file = file
        self._at = at
        self._depth = 0

    def __enter__(self) -> None:
        if not self._depth:
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self._at)
        self._depth += 1

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._depth -= 1
        if not self._depth:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._at)


class Cell:
    """An attribute that lies in the shared state of a slot; its object has ``cells``, and ``at``, where that begins."""

    __slots__ = ("_column", "_of")

    def __init__(self, column: int, of: Callable[[float], float]) -> None:
        self._column = column
        self._of = of

    def __get__(self, owner: Any, _: type) -> float:  # Any: whatever has `cells` and `at`
        return self._of(owner.cells[owner.at + self._column])

    def __set__(self, owner: Any, value: float) -> None:  # Any: as above
        owner.cells[owner.at + self._column] = value


def shared(column: int, of: Callable[[float], float] = float) -> Any:  # Any: an attribute of what `of` gives
    """A ``Cell`` in the place of an attribute of a parent class."""
    return Cell(column, of)


CLOSED, OPEN, HALF_OPEN = 0.0, 1.0, 2.0

BLANK = np.zeros(N_STATE)
"""The state of an offer of which nothing is known."""
BLANK[[UNTIL, PROBED_AT, CLOSED_AT, THROTTLED_AT, ASKED_AT]] = -np.inf
BLANK[DUE_AT] = np.inf
_BLANK_OWN = np.zeros(N_OWN)
_BLANK_OWN[RETRY_AT] = -np.inf
_BLANK_OWN[CONNECTIONS] = np.inf  # nobody leaves a caller to one that is away


def flat(values: k.Floats) -> Cells:
    """The same cells, flat."""
    return cast(Cells, values.reshape(-1).data)


def size_of(workers: int) -> int:
    """Bytes of the memory of so many workers."""
    return 8 * _cells_of(workers) + TABLE_BYTES


def _cells_of(workers: int) -> int:
    return _SALT_CELLS + sum(rows * columns for rows, columns in _shapes(workers))


def _shapes(workers: int) -> tuple[tuple[int, int], ...]:
    return (workers, N_OWN), (SLOTS, k.N_LIVE), (SLOTS, N_STATE), (SLOTS, workers), (SLOTS, workers)
