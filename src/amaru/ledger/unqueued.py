"""What was offered while no queue was open: dropped, and counted until that is logged as a gap."""

from __future__ import annotations

import threading
from collections.abc import Callable

from amaru.ledger.ring import Gap, Ring

_NONE = Gap(0, 0.0, 0.0)


class Unqueued:
    """Counts in memory what ``Ring`` counts in its file. Safe from several threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counting = threading.Lock()
        self._gap = _NONE
        self._logged = 0

    @property
    def dropped(self) -> int:
        """Leaves dropped since the start, but those that a queue counts."""
        return self._gap.dropped + self._logged

    def count(self) -> None:
        """Count one."""
        now = self._clock()
        with self._counting:
            self._gap = Gap(self._gap.dropped + 1, self._gap.since_s if self._gap.dropped else now, now)

    def gap(self) -> Gap | None:
        """What was dropped since the last gap was logged."""
        return self._gap if self._gap.dropped else None

    def gap_logged(self, gap: Gap) -> None:
        """The gap is in the log."""
        with self._counting:
            self._gap = Gap(self._gap.dropped - gap.dropped, gap.until_s, self._gap.until_s)
            self._logged += gap.dropped

    def move_to(self, ring: Ring) -> None:
        """Have a queue that was opened count it."""
        if self._gap.dropped:
            with self._counting:
                gap, self._gap = self._gap, _NONE
            ring.count_dropped(gap)
