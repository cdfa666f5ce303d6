"""A replay's report in one screen: what a person reads when the run has ended. The whole report is in its files."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group
from rich.table import Table
from rich.text import Text

from amaru.readiness.markdown import chosen_seconds, number, seconds, share, usd
from amaru.readiness.measuring import Quantiles, Summary
from amaru.readiness.replay_data import ReplayReport

_NAMED = 5
"""So many kinds of errors, and providers, are named."""


def verdict(report: ReplayReport) -> Group:
    """The figures that decide, made for 80 columns and more."""
    summary, setup = report.summary, report.setup
    head = f"{setup.trace} at {setup.speed:g}x against {setup.model}, {summary.duration_s:.0f} s of sending"
    parts: list[Text | Table | str] = [Text(head, style="bold"), "", _counts(summary), "", _latencies(summary)]
    if report.warnings:
        parts.append("")
    parts += [Text(f"mind: {words}", style="yellow") for words in report.warnings]
    return Group(*parts)


def _counts(summary: Summary) -> Table:
    table = _table("", "")
    table.show_header = False
    for name, words in _rows(summary):
        table.add_row(name, words)
    return table


def _rows(summary: Summary) -> Iterator[tuple[str, str]]:
    offered = summary.sent + summary.dropped
    good = f"{share(summary.goodput_share)} of {offered:,}, {number(summary.goodput_per_s)} a second"
    yield f"good: first token within {chosen_seconds(summary.slo_first_token_s)}", good
    yield "answered whole", f"{summary.served:,}, {number(summary.served_per_s)} a second"
    if summary.failed:
        yield "failed", f"{summary.failed:,}: {_named(summary.errors)}"
    if summary.broken_streams:
        yield "of these broken after their first token", f"{summary.broken_streams:,}"
    if summary.dropped:
        yield "never sent: too many in flight", f"{summary.dropped:,}"
    if summary.unfinished:
        yield "still open at the end", f"{summary.unfinished:,}"
    if summary.saved_by_failover:
        yield "saved by failover", f"{summary.saved_by_failover:,}"
    if summary.joined:
        yield "rescued half-way", _named(summary.joined)
    yield "tokens a second", f"{number(summary.output_tokens_per_s)} out, {number(summary.total_tokens_per_s)} in all"
    counts = summary.token_counts_by
    if set(counts) != {"server"} and counts:
        yield "tokens counted by", _named(counts)
    if summary.cached_input_tokens:
        cached = f"{share(summary.cached_share)} of {summary.input_tokens:,}"
        yield "input tokens from caches of prompts", cached
    if summary.cost_reported:
        yield "cost of whole answers", f"{usd(summary.cost_usd)}, as the server reports it"
    if set(summary.by_provider) - {"unknown"}:
        yield "served by", _named(summary.by_provider)


def _latencies(summary: Summary) -> Table:
    table = _table("", "p50", "p95", "p99")
    _latency(table, "time to first token", summary.first_token)
    _latency(table, "inter-token latency", summary.inter_token)
    _latency(table, "time per output token", summary.time_per_output_token)
    _latency(table, "end to end", summary.latency)
    _latency(table, "sent late by", summary.lag)
    return table


def _latency(table: Table, name: str, figures: Quantiles) -> None:
    if figures.count:
        table.add_row(name, *map(seconds, (figures.p50, figures.p95, figures.p99)))


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, no_wrap=True, min_width=39)
    for name in others:
        table.add_column(name, justify="right" if len(others) > 1 else "left")
    return table


def _named(counts: dict[str, int]) -> str:
    shown = [f"{count:,} {name}" for name, count in list(counts.items())[:_NAMED]]
    more = [f"{len(counts) - _NAMED} more"] if len(counts) > _NAMED else []
    return ", ".join(shown + more)
