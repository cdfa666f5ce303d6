"""How amaru's plots look, and what they have in common.

Colours are those of Okabe and Ito (*Color Universal Design*, 2008), which colour-blind readers tell apart. matplotlib
is imported when something is drawn, since nothing else of amaru needs it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from amaru.readiness.markdown import chosen_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

BLUE, ORANGE, GREEN, RED, SKY, YELLOW, PINK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#F0E442",
    "#CC79A7",
)
INK, DIM, FAINT = "#222222", "#666666", "#BBBBBB"
HUES = (BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, "#44546A", "#8C6D31")
INCHES = (10.0, 5.6)
DOTS_PER_INCH = 144
STYLE: dict[RcKeyType, Any] = {  # Any: matplotlib's word
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "axes.labelcolor": DIM,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": DIM,
    "ytick.color": DIM,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "text.color": INK,
    "text.parse_math": False,  # a model's name may hold dollar signs
    "lines.linewidth": 2.2,
    "lines.solid_capstyle": "round",
}


@contextmanager
def canvas(path: Path | IO[bytes]) -> Iterator[Figure]:
    """An empty figure, written to ``path`` when the block ends. It touches no global state but warnings."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in a script that the font lacks
        figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, format="png")


def headline(figure: Figure, title: str, subtitle: str) -> None:
    """What is seen, and beneath it of what."""
    figure.suptitle(f"{title}\n", x=0.012, ha="left", fontsize=16, fontweight="bold", color=INK)
    figure.text(0.012, 0.925, subtitle, ha="left", va="top", fontsize=11.5, color=DIM)


def nothing(axes: Axes, words: str) -> None:
    """Say that there is nothing to draw."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, ha="center", va="center", fontsize=15, color=DIM, transform=axes.transAxes)


def seconds_span(values_s: Sequence[float]) -> tuple[float, float]:
    """Where a logarithmic axis that shows ``values_s`` begins and ends, with some room; a logarithm has no nought."""
    low_s = max(min(values_s), 1e-6)
    return low_s / 1.3, max(*values_s, low_s * 1.5) * 1.3


def seconds_axis(axes: Axes, low_s: float, high_s: float, *, along: str) -> None:
    """A logarithmic axis of seconds whose marks read as people write them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if along == "x" else axes.yaxis
    (axes.set_xscale if along == "x" else axes.set_yscale)("log")
    (axes.set_xlim if along == "x" else axes.set_ylim)(low_s, high_s)
    wide = high_s / low_s > 2000
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: chosen_seconds(value)))
    axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)


def run_axis(axes: Axes, end_s: float) -> None:
    """The seconds of a run, in marks that a clock would show."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    axes.set_xlim(0, end_s)
    if end_s <= 600:
        axes.set_xlabel("seconds from the start of the run")
        return
    step_s = next((60 * step for step in (1, 2, 5, 10, 15, 30, 60, 120, 240, 480) if end_s / step / 60 <= 10), 86400)
    axes.xaxis.set_major_locator(MultipleLocator(step_s))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 60:g}"))
    axes.set_xlabel("minutes from the start of the run")


def percent_axis(axes: Axes) -> None:
    """Shares from 0 to 100 % upwards."""
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
