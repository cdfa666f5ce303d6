"""The latest figures of one kind, and their percentiles."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator


class History:
    """The latest figures, in the order of time and in that of size."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._in_time: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._in_time)

    def __iter__(self) -> Iterator[float]:
        return iter(self._in_time)

    @property
    def last(self) -> float | None:
        return self._in_time[-1] if self._in_time else None

    def add(self, figure: float) -> None:
        if len(self._in_time) == self._size:
            del self._sorted[bisect_left(self._sorted, self._in_time.popleft())]
        self._in_time.append(figure)
        insort(self._sorted, figure)

    def fill(self, figures: list[float]) -> None:
        self._in_time = deque(figures[-self._size :])
        self._sorted = sorted(self._in_time)

    def percentile(self, percent: float) -> float:
        """The smallest figure that so many per cent are not above."""
        place = math.ceil(percent / 100.0 * len(self._sorted)) - 1
        return self._sorted[max(0, place)]
