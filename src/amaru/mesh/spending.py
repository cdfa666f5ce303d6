"""What is spent within a day, against a limit: reserved before, settled after, and remembered across restarts."""

from __future__ import annotations

import math

import msgspec

DAY_S = 86_400.0
SLOT_S = 600.0
"""What is spent is summed by slots of time: it is a day ago when all of its slot is, up to so much later."""
MOST_SLOTS = 1000
"""Of a state that is believed: a day has 144, and a clock that was set back adds a few."""


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    spent: dict[int, float]


class Spending:
    """Dollars spent and reserved. Instants are Unix seconds."""

    def __init__(self) -> None:
        self._spent: dict[int, float] = {}  # by slot, the earliest first
        self._today_usd = 0.0
        self._reserved_usd = 0.0

    def usd(self, now: float) -> float:
        """Spent within the last day, or reserved."""
        last, gone = (now - DAY_S) // SLOT_S, False
        while self._spent and (slot := next(iter(self._spent))) < last:
            del self._spent[slot]
            gone = True
        if gone:  # anew, since differences of sums drift
            self._today_usd = math.fsum(self._spent.values())
        return self._today_usd + self._reserved_usd

    def reserve(self, usd: float, now: float, *, most_usd: float) -> bool:
        """Reserve so much, where ``most_usd`` a day allows it; whether it does. To be settled."""
        if self.usd(now) + usd > most_usd:
            return False
        self._reserved_usd += usd
        return True

    def settle(self, reserved_usd: float, spent_usd: float, now: float) -> None:
        """In place of what was reserved, this was spent."""
        self._reserved_usd = max(self._reserved_usd - reserved_usd, 0.0)
        if spent_usd > 0.0:
            slot = int(now // SLOT_S)
            self._spent[slot] = self._spent.get(slot, 0.0) + spent_usd
            self._today_usd += spent_usd

    def state(self, now: float) -> bytes:
        """What is to be kept across a restart; of what is reserved nobody will know then, so it counts as spent."""
        spent = dict(self._spent)
        if self._reserved_usd > 0.0:
            slot = int(now // SLOT_S)
            spent[slot] = spent.get(slot, 0.0) + self._reserved_usd
        return msgspec.msgpack.encode(_State(spent))

    def load(self, state: bytes | None, now: float) -> list[str]:
        """Go on from a state that was kept; gives back why it cannot be used."""
        if state is None:
            return []
        try:
            spent = msgspec.msgpack.decode(state, type=_State).spent
        except msgspec.MsgspecError as error:
            return [f"what probes cost today is not known: {error}"]
        if len(spent) > MOST_SLOTS or not all(math.isfinite(usd) and usd >= 0.0 for usd in spent.values()):
            return ["what probes cost today is not known: its figures are no costs"]
        self._spent = {}
        for slot, usd in sorted(spent.items()):  # what lies ahead was spent before the clock was set back
            held = min(slot, int(now // SLOT_S))
            self._spent[held] = self._spent.get(held, 0.0) + usd
        self._today_usd = math.fsum(self._spent.values())
        return []
