"""A replay's plots: what a reader would ask of the figures, drawn without a display."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amaru.readiness.markdown import chosen_seconds, number, plain, seconds, share
from amaru.readiness.measuring import UNKNOWN
from amaru.readiness.plotting import (
    BLUE,
    DIM,
    FAINT,
    GREEN,
    HUES,
    INK,
    ORANGE,
    RED,
    SKY,
    YELLOW,
    canvas,
    headline,
    nothing,
    percent_axis,
    run_axis,
    seconds_axis,
    seconds_span,
)
from amaru.readiness.replay_data import ReplayReport
from amaru.readiness.replay_series import OTHERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CDF = "first_token_cdf.png"
LATENCY = "latency.png"
THROUGHPUT = "throughput.png"
PROVIDERS = "providers.png"


def draw(report: ReplayReport, directory: Path) -> list[Path]:
    """Write the four plots as PNG; returns their paths."""
    plots: tuple[tuple[str, Callable[[Figure, ReplayReport], None]], ...] = (
        (CDF, _first_token),
        (LATENCY, _latency),
        (THROUGHPUT, _throughput),
        (PROVIDERS, _providers),
    )
    for name, plot in plots:
        with canvas(directory / name) as figure:
            plot(figure, report)
    return [directory / name for name, _ in plots]


def of_what(report: ReplayReport) -> str:
    """The run, in a line."""
    setup, summary = report.setup, report.summary
    offered = summary.sent + summary.dropped
    return plain(
        f"{offered:,} requests of {setup.trace} at {setup.speed:g}x, model {setup.model}, to {setup.target}", 118
    )


def cdf_points(report: ReplayReport) -> tuple[list[float], list[float]]:
    """Times to first token in seconds, and the share of all requests, failed ones too, that had it by then."""
    summary, curve = report.summary, report.curves
    offered = summary.sent + summary.dropped
    scale = summary.first_token.count / offered if offered else 0.0
    if not curve.first_token_s:
        return [], []
    return [curve.first_token_s[0], *curve.first_token_s], [0.0, *(part * scale for part in curve.shares)]


def _first_token(figure: Figure, report: ReplayReport) -> None:
    summary = report.summary
    axes = figure.subplots()
    times_s, shares = cdf_points(report)
    within = chosen_seconds(summary.slo_first_token_s)
    if not times_s:
        headline(figure, "No request had its first token", of_what(report))
        nothing(axes, "nothing was served")
        return
    title = f"{share(summary.goodput_share)} of all requests had their first token within {within}, and ended whole"
    headline(figure, title, of_what(report))
    slo_s = summary.slo_first_token_s
    low_s, high_s = seconds_span([*times_s, slo_s])
    axes.plot([*times_s, high_s], [*shares, shares[-1]], color=BLUE)
    axes.axvline(slo_s, color=ORANGE, linestyle=(0, (5, 3)), linewidth=1.8)
    side = "right" if slo_s * slo_s > low_s * high_s else "left"  # where there is more room
    axes.text(slo_s, 0.03, f" objective {within} ", color="#9A6A00", ha=side, va="bottom")
    lost = 1 - shares[-1]
    if lost > 0:
        axes.axhspan(shares[-1], 1.0, color=RED, alpha=0.18, linewidth=0)
        where = (shares[-1] + 1) / 2 if lost > 0.05 else shares[-1] - 0.035
        axes.text(low_s * 1.04, where, f"{share(lost)} never got a whole answer", color="#A34700", va="center")
    seconds_axis(axes, low_s, high_s, along="x")
    percent_axis(axes)
    axes.set_xlabel("time to first token, from when the request was due")
    axes.set_ylabel("share of all requests")


def _latency(figure: Figure, report: ReplayReport) -> None:
    summary, series = report.summary, report.series
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    figures = summary.first_token
    if figures.p50 is None:
        headline(figure, "No request had its first token", of_what(report))
    else:
        title = f"Time to first token: median {seconds(figures.p50)}, p95 {seconds(figures.p95)}"
        headline(figure, f"{title}; {summary.failed:,} requests failed", of_what(report))
    middles_s = [start_s + series.interval_s / 2 for start_s in series.starts_s]
    measured = [value for value in (*series.first_token_p50_s, *series.first_token_p95_s) if value is not None]
    if measured:
        nan = float("nan")
        p50 = [nan if value is None else value for value in series.first_token_p50_s]
        p95 = [nan if value is None else value for value in series.first_token_p95_s]
        marker = "o" if len(p50) < 4 else None
        top.fill_between(middles_s, p50, p95, color=BLUE, alpha=0.12, linewidth=0)
        top.plot(middles_s, p95, color=SKY, label="p95", marker=marker)
        top.plot(middles_s, p50, color=BLUE, label="median", marker=marker)
        slo_s = summary.slo_first_token_s
        top.axhline(
            slo_s, color=ORANGE, linestyle=(0, (5, 3)), linewidth=1.8, label=f"objective {chosen_seconds(slo_s)}"
        )
        low_s, high_s = seconds_span([*measured, slo_s])
        seconds_axis(top, low_s, high_s * (high_s / low_s) ** 0.15, along="y")  # with room for the legend
        top.legend(loc="upper right", ncols=3)
        top.set_ylabel("time to first token")
    else:
        nothing(top, "nothing was served")
    bottom.bar(middles_s, series.failed, width=series.interval_s * 0.9, color=RED, linewidth=0)
    bottom.set_ylabel("failed")
    if not summary.failed:
        bottom.text(0.5, 0.5, "none failed", transform=bottom.transAxes, ha="center", va="center", color=DIM)
    _counts_upwards(bottom, max(series.failed, default=0))
    run_axis(bottom, series.interval_s * len(series.sent))


def _throughput(figure: Figure, report: ReplayReport) -> None:
    summary, series = report.summary, report.series
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    title = f"{number(summary.goodput_per_s)} good answers a second, of {number(summary.offered_per_s)} asked for"
    if summary.dropped:
        title += f"; {summary.dropped:,} were never sent"  # and so stand nowhere below
    headline(figure, title, of_what(report))
    width_s = series.interval_s
    edges_s = [*series.starts_s, series.starts_s[-1] + width_s]
    late = [served - good for served, good in zip(series.served, series.good, strict=True)]
    layers = (
        (f"good: within {chosen_seconds(summary.slo_first_token_s)}", GREEN, series.good),
        ("whole, but late", YELLOW, late),
        ("failed", RED, series.failed),
        ("still open at the end", FAINT, series.unfinished),
    )
    floor = [0.0] * len(series.sent)
    for name, colour, counts in layers:
        if sum(counts) == 0 and name != layers[0][0]:
            continue
        ceiling = [below + count / width_s for below, count in zip(floor, counts, strict=True)]
        top.stairs(ceiling, edges_s, baseline=floor, fill=True, color=colour, label=name, linewidth=0)
        floor = ceiling
    top.set_ylim(0, max(floor, default=0.0) * 1.22 or 1.0)
    top.legend(loc="upper right", ncols=4)
    top.set_ylabel("requests a second,\nby when they were due")
    tokens_per_s = [tokens / width_s for tokens in series.output_tokens_delivered]
    bottom.stairs(tokens_per_s, edges_s, fill=True, color=BLUE, linewidth=0)
    bottom.set_ylabel("output tokens\na second")
    _counts_upwards(bottom, max(tokens_per_s, default=0))
    run_axis(bottom, series.interval_s * len(series.sent))


def _providers(figure: Figure, report: ReplayReport) -> None:
    summary, series = report.summary, report.series
    names = list(series.by_provider)
    if not names:
        headline(figure, "Nobody served", of_what(report))
        nothing(figure.subplots(), "nothing was served")
        return
    first = names[0]
    if names == [UNKNOWN]:
        title = "The server did not say who served"
    elif len(summary.by_provider) == 1:
        title = f"{_short(first)} served every whole answer"
    else:
        title = f"{len(summary.by_provider)} providers served; {_short(first)} the most, {_of_all(report, first)}"
    headline(figure, title, of_what(report))
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    colours = [FAINT if name == OTHERS else HUES[place % len(HUES)] for place, name in enumerate(names)]
    totals = [sum(series.by_provider[name]) for name in names]
    places = range(len(names))
    left.barh(places, totals, color=colours, height=0.72, linewidth=0)
    left.set_yticks(places, [_short(name) for name in names], color=INK)
    left.invert_yaxis()
    left.set_xlim(0, max(totals) * 1.32)
    left.set_ylim(max(len(names), 4) - 0.4, -0.6)
    for place, name in zip(places, names, strict=True):
        left.text(totals[place] + max(totals) * 0.025, place, _of_all(report, name), va="center", color=INK)
    left.grid(visible=False)
    left.set_xticks([])
    left.spines["bottom"].set_visible(False)
    left.set_xlabel("share of whole answers")
    edges_s = [*series.starts_s, series.starts_s[-1] + series.interval_s]
    floor = [0.0] * len(series.served)
    for name, colour in zip(names, colours, strict=True):
        parts = _shares(series.by_provider[name], series.served)
        ceiling = [below + part for below, part in zip(floor, parts, strict=True)]
        right.stairs(ceiling, edges_s, baseline=floor, fill=True, color=colour, linewidth=0)
        floor = ceiling
    percent_axis(right)
    right.set_ylabel("share, by when requests were due")
    run_axis(right, series.interval_s * len(series.sent))


def _of_all(report: ReplayReport, name: str) -> str:
    return share(sum(report.series.by_provider[name]) / report.summary.served)


def _shares(counts: Sequence[int], whole: Sequence[int]) -> list[float]:
    return [count / served if served else 0.0 for count, served in zip(counts, whole, strict=True)]


def _short(name: str) -> str:
    return plain(name, 22) or "(no name)"


def _counts_upwards(axes: Axes, most: float) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.set_ylim(0, most * 1.15 or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if most > 1 else "{x:g}"))
