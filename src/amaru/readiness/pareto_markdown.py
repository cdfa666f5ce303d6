"""The front as text: a table of preferences, and how much they cover."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from amaru.learning.pareto import MARGIN
from amaru.learning.pareto_play import Front, Fronts, Point
from amaru.readiness.evaluation_markdown import estimate
from amaru.readiness.markdown import code_block, counted, escaped, table
from amaru.readiness.pareto_plots import PLOT, ordered

HEAD = ("preference (cost / latency / success)", "cost", "latency", "served", "on the front")
PICTURE = f"![Cost against latency against success]({PLOT})"
DATA, TEXT = "pareto.json", "pareto.md"


def markdown(found: Fronts, *, command: str, machine: str) -> str:
    """The whole file."""
    first = found.fronts[0]
    parts = [
        f"# The front of {first.policy} on {escaped(found.scenario)}",
        f"**{verdict(found)}**",
        PICTURE,
        f"## What each preference gets from {name(first)}",
        table(HEAD, rows(first)),
    ]
    for front in found.fronts[1:]:
        parts += [f"## What it gets from {name(front)}", table(HEAD, rows(front))]
    parts += ["## How to read this", notes(found), "## Measure it again", code_block(command)]
    parts.append(f"Measured on: {escaped(machine)}. Every figure is in `{DATA}`.")
    return "\n\n".join(parts) + "\n"


def verdict(found: Fronts) -> str:
    """The fronts in two sentences, without Markdown."""
    first = found.fronts[0]
    free = [point for point in first.points if point.non_dominated]
    if not free:
        return "Nothing was served, so there is no front."
    costs, latencies = [point.avg_cost_usd for point in free], [point.avg_latency_ms for point in free]
    served = [point.success * 100 for point in free]
    words = (
        f"{len(free)} of {len(first.points)} preferences are on the front of {first.policy}: "
        f"${min(costs):.4g} to ${max(costs):.4g}, {min(latencies):.0f} to {max(latencies):.0f} ms, "
        f"{min(served):.1f} to {max(served):.1f} % served. It covers {first.covered * 100:.1f} % of the box between "
        "the reference point and the best on each axis"
    )
    for front in found.fronts[1:]:
        words += f"; that of {front.policy} {front.covered * 100:.1f} %"
    gained = found.volume_gained
    chance = gained is not None and gained.interval is not None and not gained.interval.sure
    return f"{words}{', a difference that could be chance' if chance else ''}."


def screen(found: Fronts) -> RenderableType:
    """The first front and the verdict for a terminal, in 80 columns."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, head in enumerate(("cost / latency / success", *HEAD[1:])):
        grid.add_column(head, justify="right" if place else "left", no_wrap=True)
    for point, cells in zip(ordered(found.fronts[0].points), rows(found.fronts[0]), strict=True):
        grid.add_row(*cells, style="" if point.non_dominated else "dim")
    return Group(Text(""), grid, Text(""), Text(verdict(found)))


def rows(front: Front) -> list[tuple[str, ...]]:
    """Cells, cheapest first."""
    return [
        (
            preference(point),
            f"${point.avg_cost_usd:#.4g}",
            f"{point.avg_latency_ms:,.1f} ms",
            f"{point.success * 100:.2f} %",
            "yes" if point.non_dominated else "",
        )
        for point in ordered(front.points)
    ]


def preference(point: Point) -> str:
    """``0.50 / 0.33 / 0.17``."""
    return " / ".join(f"{weight:.2f}" for weight in point.weights)


def name(front: Front) -> str:
    """The policy, and where what it knows comes from."""
    return f"{front.policy} ({escaped(front.origin)})" if front.origin else front.policy


def notes(found: Fronts) -> str:
    """How it was measured, as a list."""
    return "\n".join(f"- {line}" for line in _notes(found))


def _notes(found: Fronts) -> Iterator[str]:
    cost, latency, success = found.reference
    yield (
        f"In each of {counted(len(found.worlds), 'world')} (seeds {found.worlds[0]} to {found.worlds[-1]}) the policy "
        f"played and learned under the tenants' own weights. After {counted(found.learn_steps, 'step')}, and at every "
        f"fifth of the next {found.steps:,}, it was frozen, and that step was played once for each preference: same "
        "model, same requests, same luck; only the weights differ. Then it went on as if it had not been asked: "
        "nothing is learned from the answers. The rules were asked the same, with what they had observed by then."
    )
    yield (
        "A preference puts these weights on price, latency and success (availability) for every tenant; hard limits "
        "and budgets stay. Cost and latency are means over served requests."
    )
    yield "On the front is what no other preference of the same policy beats: as good on all three, better on one."
    volumes = "; ".join(
        f"{front.policy} {estimate(front.hypervolume, lambda value: f'{value:.4g}')}" for front in found.fronts
    )
    if found.volume_gained is not None:
        more = estimate(found.volume_gained, lambda value: f"{value:+.4g}")
        volumes += f"; the first more than the second, paired: {more}"
    yield (
        f"Hypervolume (USD · ms · share of requests; exact) up to the reference point ${cost:.4g}, {latency:,.1f} ms, "
        f"{success * 100:.2f} % served: {volumes}. In brackets the 95 % interval over worlds ({found.resamples:,} "
        f"resamples, seed {found.bootstrap_seed}). Unless --reference gives it, that point lies {MARGIN * 100:.0f} % "
        "of the range beyond the worst that any policy here got on each axis; volumes of two runs compare only with "
        "the same one."
    )
