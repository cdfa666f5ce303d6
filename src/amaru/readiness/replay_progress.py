"""A replay under way: what came of it so far, counted as it comes, and shown live or in lines."""

from __future__ import annotations

from collections import deque

import msgspec
import numpy as np
from rich.console import Group
from rich.text import Text

from amaru.readiness.markdown import number, seconds
from amaru.readiness.player import Lane
from amaru.readiness.replay_plan import time_text
from amaru.readiness.views import Lines, Picture, title

RATE_OVER_S = 10.0
"""The last so many seconds make the rate."""
RECENT = 10_000
"""The first tokens of the last so many whole answers are looked at: sorting those of a million takes as long as the
load generator must never stand still."""


class Progress(msgspec.Struct, frozen=True):
    """How things stand."""

    elapsed_s: float
    planned_s: float | None
    """How long requests are sent, where that is known."""
    planned: int | None
    sent: int
    """Dropped ones too."""
    per_s: float
    """Sent, of late."""
    in_flight: int
    served: int
    failed: int
    dropped: int
    first_token_p50_s: float | None
    first_token_p95_s: float | None

    @property
    def waiting(self) -> bool:
        """Whether all was sent, and only answers are waited for."""
        if self.planned is not None:
            return self.sent >= self.planned
        return self.planned_s is not None and self.elapsed_s >= self.planned_s

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last request leaves."""
        return None if self.planned_s is None else max(0.0, self.planned_s - self.elapsed_s)


class Tally:
    """Counts what a lane finishes; looking costs as much as came since the last look, and a pass over ``RECENT`` first
    tokens."""

    def __init__(self, lane: Lane, planned: int | None, planned_s: float | None) -> None:
        self._lane = lane
        self._planned = planned
        self._planned_s = planned_s
        self._seen = self._served = 0
        self._first_tokens: deque[float] = deque(maxlen=RECENT)
        self._sent: deque[tuple[float, int]] = deque([(0.0, 0)])

    def look(self, elapsed_s: float) -> Progress:
        """How things stand ``elapsed_s`` after the start."""
        lane = self._lane
        for sample in lane.finished[self._seen :]:
            self._seen += 1
            if sample.ok:
                self._served += 1
                if sample.first_token_s is not None:
                    self._first_tokens.append(sample.first_token_s)
        sent = len(lane.samples) + lane.dropped
        while len(self._sent) > 1 and self._sent[1][0] <= elapsed_s - RATE_OVER_S:
            self._sent.popleft()
        since_s, before = self._sent[0]
        self._sent.append((elapsed_s, sent))
        p50, p95 = self._quantiles()
        return Progress(
            elapsed_s=elapsed_s,
            planned_s=self._planned_s,
            planned=self._planned,
            sent=sent,
            per_s=(sent - before) / max(elapsed_s - since_s, 1e-3),
            in_flight=lane.in_flight,
            served=self._served,
            failed=self._seen - self._served,
            dropped=lane.dropped,
            first_token_p50_s=p50,
            first_token_p95_s=p95,
        )

    def _quantiles(self) -> tuple[float | None, float | None]:
        if not self._first_tokens:
            return None, None
        p50, p95 = np.quantile(np.fromiter(self._first_tokens, np.float64), (0.5, 0.95), method="inverted_cdf")
        return float(p50), float(p95)


class PlainView(Lines):
    """A line every ten seconds."""

    def show(self, progress: Progress) -> None:
        """See `View`."""
        if self._due(progress.elapsed_s):
            self._say(f"{_when(progress)}: {_figures(progress)}")


class LiveView(Picture):
    """A bar and a line or two of figures, drawn anew a few times a second; the last picture stays."""

    def show(self, progress: Progress) -> None:
        """See `View`."""
        self._draw(picture(progress))


def picture(progress: Progress) -> Group:
    """What the live view draws; made for 80 columns and more."""
    head = title("amaru replay", _when(progress), progress.elapsed_s, progress.planned_s)
    return Group(head, Text(_figures(progress), no_wrap=False))


def _when(progress: Progress) -> str:
    if progress.waiting:
        return f"{time_text(progress.elapsed_s)}, waiting for the last answers"
    if progress.planned_s is None or progress.eta_s is None:
        return time_text(progress.elapsed_s)
    return f"{time_text(progress.elapsed_s)} of {time_text(progress.planned_s)}, ETA {time_text(progress.eta_s)}"


def _figures(progress: Progress) -> str:
    of = "" if progress.planned is None else f" of {progress.planned:,}"
    parts = [
        f"sent {progress.sent:,}{of}, {number(progress.per_s)}/s",
        f"{progress.in_flight:,} in flight",
        f"{progress.served:,} served",
        f"{progress.failed:,} failed",
    ]
    if progress.dropped:
        parts.append(f"{progress.dropped:,} dropped")
    if progress.first_token_p50_s is not None:
        p50, p95 = seconds(progress.first_token_p50_s), seconds(progress.first_token_p95_s)
        parts.append(f"first token p50 {p50}, p95 {p95}")
    return "; ".join(parts)
