"""A training's pictures: what it learned, how it served, how it explored, what the stability field saw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from amaru.learning.visualize import FIELD, Series, Standing, TrainingRun, smoothed
from amaru.readiness.markdown import counted, number, plain, share
from amaru.readiness.plotting import (
    BLUE,
    DIM,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PINK,
    RED,
    SKY,
    canvas,
    headline,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEARNING = "training_learning.png"
SERVICE = "training_service.png"
EXPLORATION = "training_exploration.png"
BASELINE = "training_baseline.png"
STABILITY = "training_field.png"

_MARKS = {"nigredo": (RED, "the worst agent reset"), "albedo": (ORANGE, "exploration raised")}
_FIELD_WORDS = {
    "Psi": "Ψ, the whole",
    "C": "C",
    "U": "U",
    "Phi": "Φ",
    "H": "H",
    "PE": "PE",
}


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """One drawn file, and what a reader sees in it."""

    name: str
    title: str
    words: str
    """For those who cannot see it."""


def draw(run: TrainingRun, standings: Sequence[Standing], directory: Path) -> list[Picture]:
    """Write a PNG for each thing that there are figures of; returns what was drawn.

    ``standings`` come from an evaluation: the best rule among them is drawn beside the curves.
    """
    rule = baseline_of(standings)
    plots: list[tuple[str, Callable[[Figure], str]]] = [
        (LEARNING, lambda figure: _learning(figure, run, rule)),
        (SERVICE, lambda figure: _service(figure, run, rule)),
    ]
    if standings:
        plots.append((BASELINE, lambda figure: _standings(figure, standings)))
    if run.has("epsilon") or run.has("q_table_size"):
        plots.append((EXPLORATION, lambda figure: _exploration(figure, run)))
    if any(run.has(name) for name in FIELD):
        plots.append((STABILITY, lambda figure: _field(figure, run)))
    pictures = []
    for name, plot in plots:
        with canvas(directory / name) as figure:
            title = plot(figure)
            words = of_what(run, smooth=name in (LEARNING, SERVICE, STABILITY))
            headline(figure, title, words)
        pictures.append(Picture(name=name, title=title, words=f"{title}; {words}"))
    return pictures


def of_what(run: TrainingRun, *, smooth: bool = False) -> str:
    """The training, in a line; with ``smooth``, what its thick lines are."""
    words = f"{run.source}, {counted(len(run.episodes), 'episode')}"
    if smooth and run.window() > 1:
        words += f"; thick lines: mean of the last {run.window():,} episodes"
    return plain(words + ("; still being written" if run.unfinished else ""), 118)


def baseline_of(standings: Sequence[Standing]) -> Standing | None:
    """The best rule of an evaluation."""
    return next((standing for standing in standings if standing.is_baseline), None)


def _learning(figure: Figure, run: TrainingRun, rule: Standing | None) -> str:
    reward, utility = run.columns["avg_reward"], run.columns.get("utility")
    with_utility = utility is not None and run.has("utility")
    axes = figure.subplots(2 if with_utility else 1, 1, sharex=True, squeeze=False)[:, 0]
    top = axes[0]
    if run.has("best_reward") and run.has("worst_reward"):
        top.fill_between(
            run.episodes,
            run.columns["worst_reward"],
            run.columns["best_reward"],
            color=SKY,
            alpha=0.25,
            linewidth=0,
            label="worst to best agent",
        )
    _curve(top, run, reward, BLUE, "mean of the agents")
    top.set_ylabel("reward")
    _legend(top)
    if utility is not None and with_utility:
        _curve(axes[1], run, utility, GREEN, "this training")
        axes[1].set_ylabel("utility per request\n(0 to 1)")
        if rule is not None:
            _level(axes[1], rule.utility, f"{rule.name}, in the evaluation")
        _legend(axes[1])
    _episode_axis(axes[-1], run)
    parts = [f"reward {_from_to(run, reward)}"] if run.has("avg_reward") else []
    if utility is not None and with_utility:
        parts.append(f"utility {_from_to(run, utility)}")
    return _sentence(", ".join(parts) or "nothing is known of its reward")


def _service(figure: Figure, run: TrainingRun, rule: Standing | None) -> str:
    axes = figure.subplots(3, 1, sharex=True)
    rows = (
        ("fill_rate", "served", GREEN, rule.fill_rate if rule else None),
        ("avg_cost", "USD\nper served", ORANGE, rule.avg_cost_usd if rule else None),
        ("avg_latency", "ms\nper served", BLUE, rule.avg_latency_ms if rule else None),
    )
    for panel, (name, unit, colour, level) in zip(axes, rows, strict=True):
        _curve(panel, run, run.columns[name], colour, "this training")
        panel.set_ylabel(unit)
        if rule is not None and level is not None:
            _level(panel, level, f"{rule.name}, in the evaluation")
        panel.margins(y=0.15)
    _shares(axes[0], [run.columns["fill_rate"], np.array([np.nan if rule is None else rule.fill_rate or np.nan])])
    if rule is not None:
        _legend(axes[0])
    _episode_axis(axes[-1], run)
    fill, cost, latency = (_ends(run, run.columns[name])[1] for name, *_ in rows)
    if math.isnan(fill):
        return "Nothing is known of how it served"
    if math.isnan(cost) or math.isnan(latency):
        return f"Lately {share(fill)} served"
    return f"Lately {share(fill)} served, at {_usd(cost)} and {number(latency)} ms a request"


def _exploration(figure: Figure, run: TrainingRun) -> str:
    top, bottom = figure.subplots(2, 1, sharex=True)
    epsilon, size = run.columns["epsilon"], run.columns["q_table_size"]
    top.plot(run.episodes, epsilon, color=PINK, marker=_marker(run))
    _shares(top, [epsilon])
    top.set_ylabel("requests placed\nat random (ε)")
    bottom.plot(run.episodes, size, color=BLUE, marker=_marker(run))
    bottom.set_ylabel("entries in\nthe table")
    bottom.set_ylim(bottom=0)
    _thousands(bottom)
    _episode_axis(bottom, run)
    known = epsilon[np.isfinite(epsilon)], size[np.isfinite(size)]
    parts = []
    if len(known[0]):
        parts.append(f"exploration went from {share(known[0][0])} to {share(known[0][-1])}")
    if len(known[1]):
        parts.append(f"the table holds {_entries(int(known[1][-1]))}")
    return _sentence(", ".join(parts))


def _standings(figure: Figure, standings: Sequence[Standing]) -> str:
    from matplotlib.ticker import FuncFormatter

    axes = figure.subplots()
    order = sorted(standings, key=lambda standing: standing.utility)
    colours = {"learned": BLUE, "rule": ORANGE, "reference": DIM}
    for place, standing in enumerate(order):
        colour = GREEN if standing.trained else colours.get(standing.role, FAINT)
        gain, low, high = standing.gain, standing.gain_low, standing.gain_high
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=colour, linewidth=5, alpha=0.35)
        axes.plot([gain], [place], marker="o", markersize=9, color=colour)
        axes.annotate(
            f"{standing.utility:.4f}",
            (gain, place),
            (0, 9),
            textcoords="offset points",
            ha="center",
            size=10,
            bbox={"facecolor": "white", "linewidth": 0, "pad": 1},
        )
    axes.axvline(0.0, color=INK, linestyle=(0, (5, 3)), linewidth=1.5, zorder=0.9)
    axes.set_yticks(range(len(order)), [_who(standing) for standing in order], color=INK)
    axes.set_ylim(-0.6, len(order) - 0.2)
    axes.margins(x=0.08)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.4g}" if abs(value) > 1e-9 else "0"))
    axes.set_xlabel("utility per request more than the best rule, with its 95 % interval; the figure is the utility")
    trained = [standing for standing in standings if standing.trained]
    rule = baseline_of(standings)
    if not trained or rule is None:
        return "The policies of the evaluation"
    best = max(trained, key=lambda standing: standing.utility)
    more = f"{abs(best.gain):.4f} {'more' if best.gain >= 0 else 'less'} utility"
    unsure = best.gain_low is not None and best.gain_high is not None and best.gain_low <= 0 <= best.gain_high
    chance = ": that could be chance" if unsure else ""
    return f"Trained, {plain(best.name, 20)} gets {more} than {plain(rule.name, 20)}, the best rule{chance}"


def _who(standing: Standing) -> str:
    notes = {"learned": "trained" if standing.trained else "untrained", "rule": "rule", "reference": "reference"}
    return f"{plain(standing.name, 24)} ({notes.get(standing.role, plain(standing.role, 16))})"


def _field(figure: Figure, run: TrainingRun) -> str:
    names = [name for name in FIELD if run.has(name)]
    columns = 1 if len(names) == 1 else 2
    panels = figure.subplots(-(-len(names) // columns), columns, sharex=True, squeeze=False)
    places = [panels[row, column] for column in range(columns) for row in range(panels.shape[0])]
    for panel, name in zip(places, names, strict=False):
        asked: set[str] = set()
        for episode, word in run.interventions:
            colour, meaning = _MARKS.get(word.lower(), (FAINT, plain(word, 20)))
            label = None if word in asked else f"{plain(word, 20)}: {meaning}"
            asked.add(word)
            panel.axvline(episode, color=colour, linewidth=1.2, alpha=0.7, zorder=1.5, label=label)
        _curve(panel, run, run.columns[name], BLUE if name == "Psi" else DIM, "")
        panel.set_ylabel(_FIELD_WORDS[name])
        panel.margins(y=0.15)
    for panel in places[len(names) :]:
        panel.set_axis_off()
    for column in range(columns):
        _episode_axis(panels[-1, column], run)
    if run.interventions:
        handles, labels = places[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    words = [word for _, word in run.interventions]
    counts = ", ".join(f"{plain(word, 20)} {words.count(word)}×" for word in dict.fromkeys(words))
    return "The stability field" + (f" asked for {counts}" if words else " asked for nothing")


def _curve(axes: Axes, run: TrainingRun, values: Series, colour: str, label: str) -> None:
    """Each episode faintly, and the moving average; few episodes as points."""
    if run.window() > 1:
        axes.plot(run.episodes, values, color=colour, alpha=0.3, linewidth=0.9)
    axes.plot(run.episodes, smoothed(values, run.window()), color=colour, label=label or None, marker=_marker(run))


def _level(axes: Axes, value: float, label: str) -> None:
    axes.axhline(value, color=INK, linestyle=(0, (5, 3)), linewidth=1.5, label=plain(label, 60))


def _legend(axes: Axes) -> None:
    """Above the panel, where it hides no curve."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.1, fontsize=10)


def _marker(run: TrainingRun) -> str | None:
    return "o" if len(run.episodes) < 12 else None


def _episode_axis(axes: Axes, run: TrainingRun) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    first, last = float(run.episodes[0]), float(run.episodes[-1])
    room = 0.5 if _marker(run) else 0.0  # a point at the edge is shown whole
    axes.set_xlim(first - room, last + room)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("episode")


def _thousands(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _shares(axes: Axes, series: Sequence[Series]) -> None:
    """Percent, over what is there rather than from 0 to 100: a training moves by a few."""
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))
    values = np.concatenate(series)
    values = values[np.isfinite(values)]
    if len(values):
        low, high = float(values.min()), float(values.max())
        room = max((high - low) * 0.15, 0.005)
        axes.set_ylim(max(low - room, 0.0) if low >= 0 else low - room, high + room)


def _ends(run: TrainingRun, values: Series) -> tuple[float, float]:
    """The mean of the first and of the last known values, as many as a moving average spans; NaN where none is."""
    known = values[np.isfinite(values)]
    if not len(known):
        return math.nan, math.nan
    span = min(run.window(), len(known))
    return float(known[:span].mean()), float(known[-span:].mean())


def _from_to(run: TrainingRun, values: Series) -> str:
    first, last = _ends(run, values)
    return _digits(first) if len(values) < 2 else f"{_digits(first)} → {_digits(last)}"


def _digits(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _usd(value: float) -> str:
    return f"{value:.3g} USD"


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count:,} entries"


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]
