"""``amaru train`` under way: lines where there is no terminal, a picture where there is one."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from amaru.learning.pace import Progress
from amaru.readiness.markdown import number
from amaru.readiness.replay_plan import time_text
from amaru.readiness.views import Lines, Picture, title


class PlainView(Lines):
    """A line every ten seconds."""

    def show(self, progress: Progress) -> None:
        """See `View`."""
        if self._due(progress.elapsed_s):
            self._say(f"{_when(progress)}: {_figures(progress)}")


class LiveView(Picture):
    """A bar, and a line of figures; the last picture stays."""

    def show(self, progress: Progress) -> None:
        """See `View`."""
        left_s = progress.eta_s or 0.0
        head = title("amaru train", _when(progress), progress.elapsed_s, progress.elapsed_s + left_s)
        self._draw(Group(head, Text(_figures(progress), no_wrap=False)))


def _when(progress: Progress) -> str:
    words = time_text(progress.elapsed_s)
    return words if progress.eta_s is None else f"{words}, ETA {time_text(progress.eta_s)}"


def _figures(progress: Progress) -> str:
    parts = [
        f"episode {progress.episode:,} of {progress.episodes:,}",
        f"{number(progress.requests_per_s)} requests/s",
        f"utility {progress.utility:.3f}",
        f"reward {progress.avg_reward:.3f} (best {progress.best_reward:.3f})",
        f"{progress.fill_rate:.1%} served".replace("%", " %"),
        f"epsilon {progress.epsilon:.3f}",
        f"table {progress.table_size:,.0f}",
    ]
    return "; ".join(parts)
