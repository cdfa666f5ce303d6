"""The demo's report in one screen: what a person reads when the run has ended. The whole report is in its file."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from amaru.readiness.demo_report import DemoReport, how_it_ended
from amaru.readiness.measuring import Quantiles, Summary


def verdict(report: DemoReport) -> Group:
    """Both clients side by side, and each incident: 20 lines for the whole scenario, made for 80 columns and more."""
    over = f"{report.through_amaru.duration_s:.0f} s of traffic, {how_it_ended(report).splitlines()[0]}"
    return Group(Text(over, style="bold"), "", _clients(report), "", _incidents(report))


def _clients(report: DemoReport) -> Table:
    amaru, alone = report.through_amaru, report.alone
    table = _table("", "through amaru", f"bound to {report.favourite} alone")
    table.add_row("whole answers", _served(amaru), _served(alone))
    table.add_row("of these saved by failover", Text(str(amaru.saved_by_failover), style="green"), "")
    table.add_row("of these rescued half-way", Text(str(sum(amaru.joined.values())), style="green"), "")
    if amaru.unfinished or alone.unfinished:
        table.add_row("still open when it ended", str(amaru.unfinished), str(alone.unfinished))
    table.add_row("broken after their first token", str(amaru.broken_streams), str(alone.broken_streams))
    table.add_row("first token p50 / p95", _two(amaru.first_token), _two(alone.first_token))
    billed = sum(report.billed_usd.values())
    table.add_row("USD per 1,000 whole answers", _unit(billed, amaru), _unit(report.alone_billed_usd, alone))
    return table


def _incidents(report: DemoReport) -> Table | Text:
    if not report.incidents:
        return Text("No incident had begun.")
    table = _table("while", "through amaru", f"{report.favourite} alone")
    for entry in report.incidents:
        words = Text.assemble((f"{entry.from_s:.0f}-{entry.to_s:.0f} s ", "dim"), f"{entry.provider} {entry.brief}")
        alone = "" if entry.served_alone is None else f"{entry.served_alone} of {entry.sent}"
        table.add_row(words, f"{entry.served_through_amaru} of {entry.sent}", alone)
    return table


def _table(first: str, second: str, third: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, no_wrap=True, overflow="ellipsis", min_width=27)
    for name in (second, third):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _served(summary: Summary) -> str:
    share = "" if summary.success_share is None else f" ({summary.success_share:.1%})"
    return f"{summary.served} of {summary.sent}{share}"


def _unit(billed_usd: float | None, summary: Summary) -> str:
    return "-" if billed_usd is None or not summary.served else f"${billed_usd / summary.served * 1000:.2f}"


def _two(figures: Quantiles) -> str:
    return (
        "-" if figures.p50 is None or figures.p95 is None else f"{figures.p50 * 1e3:.0f} / {figures.p95 * 1e3:.0f} ms"
    )
