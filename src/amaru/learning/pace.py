"""How a training stands, how fast it goes, and what it came to. No result depends on it."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import msgspec

BATCH_S = 0.4
"""Episodes are handed out for about so long at once: a Ctrl-C, and the picture, wait for no longer."""
RATE_OVER_S = 10.0
"""The last so many seconds make the rate."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How things stand."""

    episode: int
    """The last finished one."""
    episodes: int
    elapsed_s: float
    """In this run."""
    requests_per_s: float
    """Of late, all agents together."""
    eta_s: float | None
    agents: int
    avg_reward: float
    best_reward: float
    utility: float
    fill_rate: float
    epsilon: float
    table_size: float


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to."""

    episode: int
    complete: bool
    requests: int
    """Of the whole training, earlier runs included, as the next."""
    seconds: float
    run_requests: int
    """Of this run, as the next."""
    run_seconds: float
    score: float
    """The best agent's mean utility lately."""
    best: int
    files: tuple[Path, ...]


class Pace:
    """Counts what is done.

    Attributes
    ----------
    last_s
        When it last counted, by the caller's clock.
    """

    def __init__(self, start_s: float) -> None:
        self.last_s = start_s
        self._marks: deque[tuple[float, int, int]] = deque([(start_s, 0, 0)])  # instant, episodes, requests

    def add(self, episodes: int, requests: int, now_s: float) -> None:
        """So many were just done."""
        _, done, asked = self._marks[-1]
        self._marks.append((now_s, done + episodes, asked + requests))
        while len(self._marks) > 2 and self._marks[1][0] < now_s - RATE_OVER_S:
            self._marks.popleft()
        self.last_s = now_s

    def batch(self) -> int:
        """Episodes to hand out next."""
        (since_s, before, _), (now_s, done, _) = self._marks[0], self._marks[-1]
        return 1 if done == before else max(1, int(BATCH_S * (done - before) / max(now_s - since_s, 1e-6)))

    @property
    def requests_per_s(self) -> float:
        """Of late."""
        (since_s, _, before), (now_s, _, asked) = self._marks[0], self._marks[-1]
        return (asked - before) / max(now_s - since_s, 1e-6)

    def eta_s(self, episodes: int) -> float | None:
        """Seconds that so many more will take; ``None``: nothing is done yet."""
        (since_s, before, _), (now_s, done, _) = self._marks[0], self._marks[-1]
        return None if done == before else episodes * (now_s - since_s) / (done - before)
