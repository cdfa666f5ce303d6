"""When a checkpoint is anchored, and when an anchor that failed is tried again.

Time is cut into slots that begin at whole multiples of a cadence's interval since 1970, so that a slot is the same
for whoever looks at the clock, before and after a restart. A slot is named by the second in which it begins.
"""

from __future__ import annotations

import math

import msgspec

from amaru.ledger.troubles import Trouble

PHI = (1 + math.sqrt(5)) / 2
TRIES = 7
"""Of one anchor; then its slot has failed, and the next one begins anew."""
FACTORS = {Trouble.NETWORK: 1.0, Trouble.AUTHENTICATION: 2.0, Trouble.VALIDATION: 0.5}
INTERVALS_S = {"fast": 90, "strong": 3_600, "cold": 86_400}
"""The cadences that there are without being configured."""
_BASES_AN_INTERVAL = 60
"""The six waits between seven tries are 27.4 times the base, at most doubled: the next slot finds the last one done."""


class Cadence(msgspec.Struct, frozen=True):
    """An interval in whole seconds, and the base of the back-off within it, in seconds."""

    name: str
    interval_s: int
    base_s: float

    @classmethod
    def of(cls, name: str, interval_s: int, base_s: float | None = None) -> Cadence:
        """One whose base, where it is not given, fits the interval."""
        return cls(name, interval_s, interval_s / _BASES_AN_INTERVAL if base_s is None else base_s)

    def slot(self, now_s: float) -> int:
        """The slot that ``now_s`` (Unix seconds) lies in."""
        return math.floor(now_s) // self.interval_s * self.interval_s

    def due(self, settled: int | None, now_s: float) -> int | None:
        """The slot to anchor in now, where ``settled`` was the last one that was seen to; ``None``: none yet.

        Slots that passed unseen, as in a scheduler that was not running, are made up for by the one of now: its
        checkpoint covers all that theirs would have. Where the clock has been set back, a slot is not taken twice;
        but where what was settled lies more than an interval ahead, the clock was wrong then, and is believed now.
        """
        slot = self.slot(now_s)
        if settled is None or slot > settled or settled > now_s + self.interval_s:
            return slot
        return None

    def next_s(self, settled: int | None, now_s: float) -> float:
        """When there is a slot to anchor in, Unix seconds; ``now_s`` where that is now."""
        if settled is None or self.due(settled, now_s) is not None:
            return now_s
        return float(self.slot(settled) + self.interval_s)

    @property
    def longest_wait_s(self) -> float:
        """No wait of a line is longer."""
        return max(self.interval_s, self.backoff_s(TRIES, Trouble.AUTHENTICATION))

    def backoff_s(self, tries: int, trouble: Trouble) -> float:
        """How long to wait after the try of this number, from 1: factor times base times φ to the (number - 1)."""
        return FACTORS[trouble] * self.base_s * PHI ** (tries - 1)
