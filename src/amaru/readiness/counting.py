"""A command that counts up to a known number: how far it is, how fast, and when it will be done."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from rich.console import Console, Group
from rich.text import Text

from amaru.readiness.replay_plan import time_text
from amaru.readiness.views import Lines, Picture, title


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """How things stand."""

    elapsed_s: float
    done: int
    of: int
    words: str
    """What was done, and how fast."""
    eta_s: float | None
    """Seconds until the end, if it goes on as it went since the first was done: before that, things were made ready."""


class CountLines(Lines):
    """A line every ten seconds."""

    def show(self, count: Count) -> None:
        """See `View`."""
        if self._due(count.elapsed_s):
            self._say(f"{_when(count)}: {count.words}")


class CountPicture(Picture):
    """A bar, drawn anew as it goes; the last picture stays."""

    def __init__(self, console: Console, name: str) -> None:
        super().__init__(console)
        self._name = name

    def show(self, count: Count) -> None:
        """See `View`."""
        head = title(self._name, _when(count), count.done, count.of)
        self._draw(Group(head, Text(count.words)))


class Stopwatch:
    """Shows counts in a view, with the time since it was made."""

    def __init__(self, view: CountLines | CountPicture, clock: Callable[[], float] = time.monotonic) -> None:
        self._view = view
        self._clock = clock
        self._began = clock()
        self._first: tuple[float, int] | None = None

    @property
    def elapsed_s(self) -> float:
        """Since it was made."""
        return self._clock() - self._began

    def show(self, done: int, of: int, words: str) -> None:
        """Show that ``done`` of ``of`` are done."""
        elapsed_s = self.elapsed_s
        if self._first is None and done:
            self._first = elapsed_s, done
        since_s, before = self._first or (elapsed_s, done)
        eta_s = (elapsed_s - since_s) / (done - before) * (of - done) if done > before else None
        self._view.show(Count(elapsed_s=elapsed_s, done=done, of=of, words=words, eta_s=eta_s))


def view_on(console: Console, name: str) -> CountLines | CountPicture:
    """A picture in a terminal, else lines."""
    return CountPicture(console, name) if console.is_terminal else CountLines(console)


def _when(count: Count) -> str:
    so_far = time_text(count.elapsed_s)
    return so_far if count.eta_s is None or count.done == count.of else f"{so_far}, ETA {time_text(count.eta_s)}"
