"""Which faults strike a request, and how hard: each counts its strikes, ends with its time, and may grow slowly."""

from __future__ import annotations

import random
from collections.abc import Callable

from amaru.simulation.faults import EDITS, Fault, FaultKind, Point


class ActiveFault:
    """A fault that is switched on. ``id`` names it, ``hits`` counts the requests it struck."""

    __slots__ = ("fault", "hits", "id", "since", "until")

    def __init__(self, id: str, fault: Fault, since: float) -> None:
        self.id = id
        self.fault = fault
        self.since = since
        self.until = None if fault.duration_s is None else since + fault.duration_s
        self.hits = 0

    def size(self, now: float) -> float:
        """How much of it is there by now, from 0 to 1."""
        ramp_s = self.fault.ramp_s
        return 1.0 if not ramp_s else min(max((now - self.since) / ramp_s, 0.0), 1.0)

    def over(self, now: float) -> bool:
        """Whether its time or its number of strikes is used up."""
        times = self.fault.times
        return (self.until is not None and now >= self.until) or (times is not None and self.hits >= times)


class Plan:
    """What the faults do to one request: where it goes on slower, where it breaks, and what its answer says then."""

    __slots__ = ("breaks", "delay_ms", "edits", "factor")

    def __init__(self) -> None:
        self.factor = 1.0
        self.delay_ms = 0.0
        self.breaks: dict[Point, Fault] = {}
        self.edits: list[Fault] = []


class Faults:
    """The faults of one provider.

    ``on_change`` is called after every change, so that the server can open and close its port. ``clock`` is the
    provider's; ``rng`` draws for faults with a probability.
    """

    def __init__(
        self, clock: Callable[[], float], rng: random.Random, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._on_change = on_change
        self._active: dict[str, ActiveFault] = {}
        self._made = 0
        self.generation = 0
        """Rises with every fault switched on; answers under way look again when it does."""

    def add(self, fault: Fault) -> ActiveFault:
        """Switch ``fault`` on, from now."""
        self._made += 1
        active = ActiveFault(f"f{self._made}", fault, self._clock())
        self._active[active.id] = active
        self.generation += 1
        self._on_change()
        return active

    def remove(self, id: str) -> bool:
        """Switch one off; False where there is none of that id."""
        found = self._active.pop(id, None) is not None
        if found:
            self._on_change()
        return found

    def clear(self) -> None:
        """Switch all off."""
        self._active.clear()
        self._on_change()

    def active(self) -> list[ActiveFault]:
        """Those switched on now, oldest first."""
        now = self._clock()
        for id in [id for id, active in self._active.items() if active.over(now)]:
            del self._active[id]
        return list(self._active.values())

    def of_kind(self, kind: FaultKind) -> Fault | None:
        """The newest active fault of ``kind``: how the lasting kinds (refuse, price, capacity) are asked for."""
        if not self._active:
            return None
        return next((active.fault for active in reversed(self.active()) if active.fault.kind == kind), None)

    def strike_connection(self) -> Fault | None:
        """The fault that strikes a connection being opened, counted as a hit; ``None``: none does."""
        if not self._active:
            return None
        for active in self.active():
            fault = active.fault
            if fault.point == "connect" and fault.kind != "refuse" and self._drawn(active):
                active.hits += 1
                return fault
        return None

    def plan(self, *, model: str, stream: bool, version: str = "v1", since: int | None = None) -> Plan | None:
        """What strikes a request for ``model``, asked under ``version``; each fault that does is counted as a hit.

        ``None``: nothing does.

        ``since`` is the generation that an answer under way has seen: only newer faults that strike answers under way
        are looked at. Where two faults break a request at one point, the older does.
        """
        if not self._active:
            return None
        plan: Plan | None = None
        for active in self.active():
            fault = active.fault
            if since is not None and (int(active.id[1:]) <= since or not fault.under_way):
                continue
            if fault.point == "connect" or fault.kind in ("price", "capacity"):
                continue
            if not _concerns(fault, model, stream, version) or not self._drawn(active):
                continue
            plan = plan or Plan()
            if fault.kind == "slow":
                size = active.size(self._clock())
                plan.factor *= 1.0 + (fault.factor - 1.0) * size
                plan.delay_ms += fault.delay_ms * size
            elif fault.kind in EDITS:
                plan.edits.append(fault)
            elif fault.point in plan.breaks:
                continue
            else:
                plan.breaks[fault.point] = fault
            active.hits += 1
        return plan

    def _drawn(self, active: ActiveFault) -> bool:
        probability = active.fault.probability
        if active.fault.ramp_s is not None and active.fault.kind != "slow":
            probability *= active.size(self._clock())
        return probability >= 1 or self._rng.random() < probability


def _concerns(fault: Fault, model: str, stream: bool, version: str) -> bool:
    if fault.version is not None and fault.version != version:
        return False
    if fault.only is not None and (fault.only == "stream") is not stream:
        return False
    if fault.kind in ("no_done", "error_in_stream", "unstreamed") and not stream:
        return False
    return fault.model is None or fault.model == model
