"""The front in one picture: cost against latency, with success as colour; and success against each of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from amaru.learning.pareto_play import Front, Fronts, Point
from amaru.readiness.plotting import DIM, FAINT, INK, canvas, headline, nothing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

PLOT = "pareto.png"
CORNERS = ("cost", "latency", "success")
_MARKS = ("o", "s")
_COLOURS = "cividis"
"""Told apart by colour-blind readers, and still a scale in grey."""


def draw(found: Fronts) -> bytes:
    """The picture as PNG."""
    drawn = io.BytesIO()
    with canvas(drawn) as figure:
        _picture(figure, found)
    return drawn.getvalue()


def _picture(figure: Figure, found: Fronts) -> None:
    policy = found.fronts[0].policy
    free = sum(point.non_dominated for point in found.fronts[0].points)
    headline(
        figure,
        f"One {policy} model, {len(found.fronts[0].points)} preferences: {free} that no other beats",
        f"{found.scenario}, {len(found.worlds)} worlds, {found.requests:,} requests each; what really happened",
    )
    grid = figure.add_gridspec(2, 2, width_ratios=(1.9, 1.0))
    main = figure.add_subplot(grid[:, 0])
    known = [point for front in found.fronts for point in front.points if point.success > 0]
    if not known:
        nothing(main, "nothing was served")
        return
    low, high = min(point.success for point in known), max(point.success for point in known)
    shades = None
    for front, mark in zip(found.fronts, _MARKS, strict=False):
        shades = _cloud(main, front, mark, (low, max(high, low + 1e-3))) or shades
    _name_corners(main, found.fronts[0])
    main.set_xlabel("cost of a served request, USD")
    main.set_ylabel("latency of a served request, ms")
    main.margins(0.12)
    _legend(main, found.fronts)
    if shades is not None:
        _success_scale(figure, main, shades)
    for place, (what, axis) in enumerate((("cost, USD", "avg_cost_usd"), ("latency, ms", "avg_latency_ms"))):
        side = figure.add_subplot(grid[place, 1])
        for front, mark, colour in zip(found.fronts, _MARKS, (INK, FAINT), strict=False):
            _side(side, front, axis, mark, colour)
        side.set_xlabel(what)
        side.set_ylabel("served, %")
        side.margins(0.12)


def _side(axes: Axes, front: Front, axis: str, mark: str, colour: str) -> None:
    """Success against one of the others."""
    for free in (False, True):
        chosen = [point for point in front.points if point.non_dominated is free and point.success > 0]
        axes.scatter(
            [getattr(point, axis) for point in chosen],
            [point.success * 100 for point in chosen],
            s=26 if free else 12,
            marker=mark,
            facecolor=colour if free else "none",
            edgecolor=colour,
            linewidth=0.8,
            zorder=3 if colour == INK else 2,
        )


def _cloud(axes: Axes, front: Front, mark: str, span: tuple[float, float]) -> ScalarMappable | None:
    """Draw a policy's points; large and filled those that no other beats."""
    shades = None
    for free in (False, True):
        chosen = [point for point in front.points if point.non_dominated is free and point.success > 0]
        if not chosen:
            continue
        drawn = axes.scatter(
            [point.avg_cost_usd for point in chosen],
            [point.avg_latency_ms for point in chosen],
            c=[point.success for point in chosen],
            cmap=_COLOURS,
            vmin=span[0],
            vmax=span[1],
            s=110 if free else 30,
            marker=mark,
            edgecolor=INK if free else FAINT,
            linewidth=1.0 if free else 0.6,
            zorder=3 if free else 2,
        )
        shades = drawn
    return shades


def _name_corners(axes: Axes, front: Front) -> None:
    """Say which points wanted one thing only."""
    from matplotlib.patheffects import withStroke

    for axis, name in enumerate(CORNERS):
        corner = next((point for point in front.points if point.weights[axis] == 1.0 and point.success > 0), None)
        if corner is not None:
            axes.annotate(
                f"only {name}",
                (corner.avg_cost_usd, corner.avg_latency_ms),
                xytext=(9, 7),
                textcoords="offset points",
                color=DIM,
                fontsize=11,
                zorder=4,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )


def _legend(axes: Axes, fronts: Sequence[Front]) -> None:
    from matplotlib.lines import Line2D

    def entry(mark: str, size: float, words: str) -> Line2D:
        return Line2D([], [], linestyle="none", marker=mark, markersize=size, color=DIM, label=words)

    entries = [entry(mark, 9, front.policy) for front, mark in zip(fronts, _MARKS, strict=False)]
    if not all(point.non_dominated for front in fronts for point in front.points):
        entries.append(entry("o", 4, "small: another beats it"))
    axes.legend(handles=entries, loc="best")


def _success_scale(figure: Figure, axes: Axes, shades: ScalarMappable) -> None:
    from matplotlib.ticker import FuncFormatter

    scale = figure.colorbar(shades, ax=axes, pad=0.02, aspect=36, format=FuncFormatter(lambda value, _: f"{value:.1%}"))
    scale.set_label("served", color=DIM)
    scale.outline.set_visible(False)


def ordered(points: Sequence[Point]) -> list[Point]:
    """By cost, cheapest first; what served nothing last."""
    return sorted(points, key=lambda point: (not point.success, point.avg_cost_usd))
