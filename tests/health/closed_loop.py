"""Callers, a router and a healer in a closed loop: what is done about an offer changes what is seen of it.

The router takes the offer with the highest score times care that is not drained; beyond ``at_once`` an offer is as if
drained. There is no breaker and no second attempt, so that what healing leaves to them is seen.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

from healer_samples import AT, FakeLevers, seen

from amaru.health.healer import Healer
from amaru.health.observation import Observation

LOOK_EVERY_S = 0.5

Serve = Callable[[str, float], tuple[bool, float]]
"""Offer, instant → whether it serves, and after how many seconds the attempt ends."""


class ClosedLoop:
    """The first offer is preferred, then the second, and so on."""

    def __init__(self, levers: FakeLevers, healer: Healer, serve: Serve, *, per_s: float) -> None:
        self.levers = levers
        self.healer = healer
        self.now = AT
        self.sent: list[tuple[float, str, bool]] = []
        """When, to whom, and whether it was served."""
        self.look: Callable[[float], None] = lambda now: None
        """Called at each look, before the healer's."""
        self._serve = serve
        self._every_s = 1.0 / per_s
        self._under_way: list[tuple[float, int, Observation]] = []
        self._numbers = itertools.count()
        self._rng = random.Random(7)

    def run(self, seconds: float) -> None:
        """So long."""
        until, request_at, look_at = self.now + seconds, self.now, self.now
        while self.now < until:
            self.now = min(request_at, look_at)
            while self._under_way and self._under_way[0][0] <= self.now:
                _, _, observation = heapq.heappop(self._under_way)
                self.levers.flying[observation.offer] -= 1.0
                self.healer.observe(observation)
            if self.now == request_at:
                self._ask()
                request_at += self._every_s * self._rng.uniform(0.5, 1.5)
            else:
                self.look(self.now)
                self.healer.look([], self.now)
                look_at += LOOK_EVERY_S

    def _ask(self) -> None:
        flying, steered = self.levers.flying, self.levers.steered
        open_ = [o for o in steered if flying.get(o, 0.0) + 1.0 <= steered[o].drained_from] or list(steered)
        worth = {offer: 1.0 - 0.05 * place for place, offer in enumerate(steered)}
        offer = max(open_, key=lambda one: worth[one] * steered[one].care)
        ok, after_s = self._serve(offer, self.now)
        flying[offer] = flying.get(offer, 0.0) + 1.0
        self.sent.append((self.now, offer, ok))
        ended = seen(offer, self.now + after_s, ok=ok, ms=after_s * 1e3)
        heapq.heappush(self._under_way, (ended.at, next(self._numbers), ended))

    def share_struck(self, since: float = 0.0) -> float:
        """Share of the requests from then on that were not served."""
        later = [ok for at, _, ok in self.sent if at >= since]
        return 1.0 - sum(later) / len(later)

    def share_of(self, offer: str, since: float, until: float) -> float:
        """Share of the requests of that time that it got."""
        asked = [to for at, to, _ in self.sent if since <= at < until]
        return asked.count(offer) / len(asked)
