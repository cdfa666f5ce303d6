"""An evaluation in a terminal: one table that fits 80 columns, and the verdict."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from amaru.learning.evaluation_report import EvaluationReport, is_gap
from amaru.readiness.evaluation_markdown import verdict


def screen(report: EvaluationReport) -> RenderableType:
    """Figures without their intervals, which the report has; the share of the gap with it."""
    shares = report.setup.hidden and is_gap(report.informed_gap)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for head in ("filled", "cost", "latency", "in SLO", "utility", *(("gap closed",) if shares else ())):
        table.add_column(head, justify="right", no_wrap=True)
    for standing in report.standings:
        figures = [
            f"{standing.fill_rate.value * 100:.1f} %",
            f"${standing.avg_cost_usd.value:#.4g}",
            f"{standing.avg_latency_ms.value:.0f} ms",
            f"{standing.slo_attainment.value * 100:.1f} %",
            f"{standing.mean_utility.value:.4f}",
        ]
        if shares:
            closed = standing.of_informed_gap
            if closed is None:
                figures.append("")
            elif closed.interval is None:
                figures.append(f"{closed.value * 100:.0f} %")
            else:
                low, high = closed.interval.low * 100, closed.interval.high * 100
                figures.append(f"{closed.value * 100:.0f} % ({low:.0f} to {high:.0f})")
        style = "bold" if standing.policy == report.baseline else "dim" if standing.role == "reference" else ""
        table.add_row(standing.policy, *figures, style=style)
    parts: list[RenderableType] = [Text(""), table, Text(""), Text(verdict(report))]
    parts += [Text(f"Mind: {words}", style="yellow") for words in report.warnings]
    return Group(*parts)
