"""Two replays in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from amaru.readiness.markdown import chosen_seconds, plain, share
from amaru.readiness.plotting import (
    BLUE,
    DIM,
    ORANGE,
    canvas,
    headline,
    nothing,
    percent_axis,
    run_axis,
    seconds_axis,
    seconds_span,
)
from amaru.readiness.replay_comparison import Comparison, Side
from amaru.readiness.replay_plots import cdf_points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CDF = "compare_first_token_cdf.png"
GOODPUT = "compare_goodput.png"
PLOTS = {CDF: "Time to first token of both runs", GOODPUT: "Good answers of both runs over time"}
LOOKS = ((BLUE, "-"), (ORANGE, (0, (6, 1.5))))
"""Told apart by more than their colour."""


def draw(compared: Comparison, directory: Path) -> list[Path]:
    """Write both plots as PNG; returns their paths."""
    with canvas(directory / CDF) as figure:
        _cdf(figure, compared)
    with canvas(directory / GOODPUT) as figure:
        _goodput(figure, compared)
    return [directory / CDF, directory / GOODPUT]


def _cdf(figure: Figure, compared: Comparison) -> None:
    headline(figure, f"Whole, and begun in time: {_both(compared)}", _of_what(compared))
    axes = figure.subplots()
    curves = [cdf_points(side.report) for side in (compared.a, compared.b)]
    known = [value for times_s, _ in curves for value in times_s]
    if not known:
        nothing(axes, "neither run served anything")
        return
    slos_s = {side.report.setup.slo_first_token_s for side in (compared.a, compared.b)}
    low_s, high_s = seconds_span([*known, *slos_s])
    for side, (colour, dashes), (times_s, shares) in zip((compared.a, compared.b), LOOKS, curves, strict=True):
        ends = ([*times_s, high_s], [*shares, shares[-1]]) if times_s else ([low_s, high_s], [0.0, 0.0])
        axes.plot(*ends, color=colour, linestyle=dashes, label=_label(side))
    for slo_s in slos_s:
        axes.axvline(slo_s, color=DIM, linestyle=(0, (2, 2)), linewidth=1.5)
        place = "right" if slo_s * slo_s > low_s * high_s else "left"
        axes.text(slo_s, 0.03, f" objective {chosen_seconds(slo_s)} ", color=DIM, ha=place, va="bottom")
    seconds_axis(axes, low_s, high_s, along="x")
    percent_axis(axes)
    axes.set_xlabel("time to first token, from when the request was due")
    axes.set_ylabel("share of all requests")
    axes.legend(loc="upper left")


def _goodput(figure: Figure, compared: Comparison) -> None:
    headline(figure, f"Good answers over the run: {_both(compared)}", _of_what(compared))
    axes = figure.subplots()
    end_s = 0.0
    for side, (colour, dashes) in zip((compared.a, compared.b), LOOKS, strict=True):
        series = side.report.series
        shares = [good / sent if sent else float("nan") for good, sent in zip(series.good, series.sent, strict=True)]
        middles_s = [start_s + series.interval_s / 2 for start_s in series.starts_s]
        marker = "o" if len(shares) < 4 else None
        axes.plot(middles_s, shares, color=colour, linestyle=dashes, label=_label(side), marker=marker)
        end_s = max(end_s, series.interval_s * len(series.sent))
    percent_axis(axes)
    run_axis(axes, end_s)
    dropped = any(side.report.summary.dropped for side in (compared.a, compared.b))
    axes.set_ylabel("good of those sent, by when due" if dropped else "good, by when requests were due")
    axes.legend(loc="lower left")


def _both(compared: Comparison) -> str:
    one, two = (share(side.report.summary.goodput_share) for side in (compared.a, compared.b))
    return f"A {one}, B {two} of all requests"


def _of_what(compared: Comparison) -> str:
    if not compared.comparable:
        return "not comparable: the runs were not given the same task, or not held to the same objective"
    setup = compared.a.report.setup
    return plain(f"the same requests of {setup.trace} at {setup.speed:g}x, open-loop", 110)


def _label(side: Side) -> str:
    return plain(side.name, 60)
