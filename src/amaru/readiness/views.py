"""What the views of a run have in common: lines where there is no terminal, a picture where there is one."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self, TypeVar

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_EVERY_S = 10.0
"""So often lines tell how things stand."""

T_contra = TypeVar("T_contra", contravariant=True)


class View(Protocol[T_contra]):
    """Shows a run while it goes on. Used as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, state: T_contra, /) -> None:
        """Show how things stand."""


class Lines:
    """A view of lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = PLAIN_EVERY_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _due(self, elapsed_s: float) -> bool:
        """Whether it is time to tell how things stand."""
        if elapsed_s < self._next_s:
            return False
        self._next_s += PLAIN_EVERY_S * (1 + (elapsed_s - self._next_s) // PLAIN_EVERY_S)  # nothing is caught up
        return True

    def _say(self, words: str) -> None:
        self._console.print(words, markup=False, highlight=False, soft_wrap=True)


class Picture:
    """A view that is drawn anew each time. ``screen``: it fills the terminal, and is gone when it is left."""

    def __init__(self, console: Console, *, screen: bool = False) -> None:
        self._live = Live(console=console, auto_refresh=False, screen=screen)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def _draw(self, picture: RenderableType) -> None:
        self._live.update(picture, refresh=True)


def title(name: str, when: str, elapsed_s: float, planned_s: float | None) -> Table:
    """A picture's first line: whose it is, and how far the run is; ``planned_s``: ``None`` where it is not known."""
    line = Table.grid(expand=True, padding=(0, 2, 0, 0))
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    line.add_column(no_wrap=True)
    total = planned_s or None
    bar = ProgressBar(total=total, completed=min(elapsed_s, total or 0.0), pulse=total is None)
    line.add_row(Text(name, style="bold"), bar, when, Text("Ctrl-C ends it", style="dim"))
    return line
