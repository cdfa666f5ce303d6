"""A circuit breaker per offer (Nygard, *Release It!*, 2007): stop asking what keeps failing, then ask again gently.

It opens on consecutive failures, however far apart, or on a failure rate. The rate needs no throughput: it is taken
over the outcomes of the last minute, and where the minute holds too few, over the last few outcomes of ten minutes.

Opening ends a *generation*. Each admitted request carries the generation it began in as its ticket, and an outcome
whose ticket is of an earlier generation is ignored: late failures of requests that were under way when the breaker
opened neither move nor double its cool-down, and late successes do not close it.

Nobody asks an offer whose last attempts failed: it is ranked last long before its breaker opens. So it is *due* for a
probe once a cool-down has passed without a request, whether the breaker is open or still closed. A cool-down after a
probe that failed is counted from the probe's beginning: one that hung has been a cool-down itself.
"""

from __future__ import annotations

import collections
import enum
import math
import random

import msgspec


class BreakerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When a breaker opens, and for how long."""

    consecutive_failures: int = 5
    failure_rate: float = 0.5
    """Share of recent outcomes, of the last ``last_outcomes`` within ``window_s``, of which there are ``at_least``."""
    last_outcomes: int = 20
    window_s: float = 60.0
    at_least: int = 5
    memory_s: float = 600.0
    """At low traffic the last ``at_least`` outcomes count up to this age."""
    cool_down_s: float = 5.0
    """First cool-down; each failed probe doubles it, and so does falling again within ``window_s`` of closing."""
    max_cool_down_s: float = 25.0
    broken_s: float = 60.0
    """First cool-down of an offer that a person must fix (bad key, no quota, unknown model); doubles likewise."""
    max_broken_s: float = 600.0
    jitter: float = 0.2
    """Cool-downs are stretched at random by up to this share, within their maximum, so that gateways spread out."""


class State(enum.Enum):
    """Closed lets everything through, open nothing, half-open exactly one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Guards one offer. Instants are seconds of one non-decreasing clock."""

    __slots__ = (
        "_closed_at", "_consecutive", "_openings", "_probed_at", "_recent", "_rng", "_trying", "broken", "due_at",
        "generation", "settings", "state", "until",
    )  # fmt: skip

    def __init__(self, settings: BreakerSettings, rng: random.Random) -> None:
        self.settings = settings
        self.state = State.CLOSED
        self.until = -math.inf
        """Instant at which an open breaker lets a probe through."""
        self.due_at = math.inf
        """Instant from which the next request is a probe, were it let through first: see above."""
        self.broken = False
        """It opened for a cause that a person must fix."""
        self._rng = rng
        self.generation = 0
        self._openings = 0
        self._consecutive = 0
        self._trying = False
        """Closed, and a request that was due is under way."""
        self._probed_at = -math.inf
        self._closed_at = -math.inf
        self._recent: collections.deque[tuple[float, bool]] = collections.deque(maxlen=settings.last_outcomes)

    @property
    def refuses_until(self) -> float:
        """Instant until which requests are refused: −inf when closed, +inf while the probe is under way."""
        if self.state is State.CLOSED:
            return -math.inf
        return self.until if self.state is State.OPEN else math.inf

    def admit(self, now_s: float) -> int | None:
        """Let one request through: its ticket, or None. The first one after the cool-down is the probe."""
        if self.state is State.CLOSED:
            if self._consecutive:
                self._trying = self._trying or now_s >= self.due_at
                self.due_at = now_s + self.settings.cool_down_s
            return self.generation
        if self.state is State.OPEN and now_s >= self.until:
            self.state = State.HALF_OPEN
            self.due_at = math.inf
            self._probed_at = now_s
            return self.generation
        return None

    def record(self, ticket: int, now_s: float, *, ok: bool, broken: bool = False) -> bool:
        """Take the outcome of an admitted request; ``broken`` opens at once.

        True where it opened or closed, or where a request that was due found the offer well.
        """
        if ticket != self.generation or self.state is State.OPEN:
            return False
        if self.state is State.HALF_OPEN:
            if ok:
                self._close(now_s)
            else:
                self._open(self._probed_at, broken=broken)
            return True
        self._recent.append((now_s, ok))
        if ok:
            tried = self._trying
            self._consecutive = 0
            self._trying = False
            self.due_at = math.inf
            return tried
        self._consecutive += 1
        self._trying = False
        self.due_at = now_s + self.settings.cool_down_s
        if broken or self._consecutive >= self.settings.consecutive_failures or self._rate_reached(now_s):
            if now_s - self._closed_at > self.settings.window_s:
                self._openings = 0
            self._open(now_s, broken=broken)
            return True
        return False

    @property
    def on_trial(self) -> bool:
        """A probe is under way, or a request that was due."""
        return self._trying or self.state is State.HALF_OPEN

    def is_current(self, ticket: int) -> bool:
        """Whether the request began after the breaker opened or closed last."""
        return ticket == self.generation

    def forget(self, ticket: int) -> bool:
        """Give up an admitted request without an outcome; a probe's place is free again. True where it was a probe."""
        if ticket != self.generation or self.state is not State.HALF_OPEN:
            return False
        self.state = State.OPEN
        self.due_at = self.until
        self.generation += 1
        return True

    @property
    def failing_since(self) -> float:
        """Instant of the first failure after the last success, as far back as outcomes are kept; inf: there is none."""
        since = math.inf
        for at, ok in reversed(self._recent):
            if ok:
                break
            since = at
        return since

    def told_open(self, until_s: float, *, broken: bool) -> bool:
        """Others found the offer failing: let a probe through at that instant, not before. True where that is news."""
        if self.state is State.HALF_OPEN or (self.state is State.OPEN and until_s <= self.until):
            return False
        if self.state is State.CLOSED:
            self.broken = broken
            self.generation += 1
        self.state = State.OPEN
        self.until = self.due_at = until_s
        return True

    def told_well(self, now_s: float) -> bool:
        """Others found the offer well: close, unless a probe of its own is to tell. True where that is news."""
        if self.state is not State.OPEN:
            return False
        self._close(now_s)
        return True

    def configure(self, settings: BreakerSettings) -> None:
        """Take new settings; a cool-down under way keeps its end."""
        self.settings = settings
        self._recent = collections.deque(self._recent, maxlen=settings.last_outcomes)

    def reset(self) -> None:
        """Close, and forget the past."""
        self.state = State.CLOSED
        self.until = -math.inf
        self.due_at = math.inf
        self.broken = False
        self.generation += 1
        self._openings = 0
        self._consecutive = 0
        self._trying = False
        self._recent.clear()

    def _close(self, now_s: float) -> None:
        """Close, and fall harder where it opens again soon."""
        openings = self._openings
        self.reset()
        self._openings, self._closed_at = openings, now_s

    def _open(self, since_s: float, *, broken: bool) -> None:
        if broken is not self.broken:
            self._openings = 0
        settings = self.settings
        base_s, max_s = (
            (settings.broken_s, settings.max_broken_s) if broken else (settings.cool_down_s, settings.max_cool_down_s)
        )
        stretch = 1.0 + settings.jitter * self._rng.random()
        self.until = self.due_at = since_s + min(max_s, base_s * 2.0 ** min(self._openings, 60) * stretch)
        self.state = State.OPEN
        self.broken = broken
        self.generation += 1
        self._openings += 1

    def _rate_reached(self, now_s: float) -> bool:
        settings = self.settings
        seen = failed = 0
        for at, ok in reversed(self._recent):
            age_s = now_s - at
            if age_s > settings.memory_s or (age_s > settings.window_s and seen >= settings.at_least):
                break
            seen += 1
            failed += not ok
        return seen >= settings.at_least and failed >= settings.failure_rate * seen
