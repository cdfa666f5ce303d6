"""The health of the infrastructure in the terminal."""

from __future__ import annotations

import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from amaru.health.history import Recurrence
from amaru.health.pattern_types import InfrastructurePattern
from amaru.health.report import HealthReport, ProviderHealth

STATUS_STYLES = {
    "healthy": "green",
    "degraded": "yellow",
    "failing": "bold red",
    "drained": "magenta",
    "unknown": "dim",
}
IMPACT_STYLES = {"minor": "", "moderate": "yellow", "major": "red", "critical": "bold red"}
NARROW = 100
"""Columns below which quantiles are left out, and Ψ has a line of its own."""
STEADY, UNSETTLED = 0.6, 0.4
"""Of Ψ."""


def picture(report: HealthReport, width: int, *, trouble: str = "") -> Group:
    """The whole report, for a terminal of ``width`` columns; ``trouble``: why it is not of this moment."""
    wide = width >= NARROW
    parts: list[RenderableType] = [_head(report, wide=wide)]
    if trouble:
        parts.append(Text(f"no news since then: {trouble}", style="bold red"))
    parts += ["", _providers(report, wide=wide)]
    advice = [(one.provider, one.recommended) for one in report.providers if one.recommended]
    if advice:
        parts += ["", _list("recommended", [Text.assemble((name, "bold"), f"  {words}") for name, words in advice])]
    steered = [(one.provider, ", ".join(one.steered)) for one in report.providers if one.steered]
    if steered:
        parts += ["", _list("steered", [Text.assemble((name, "bold"), f"  {words}") for name, words in steered])]
    if report.patterns:
        parts += ["", _list("under way", [_pattern_line(pattern) for pattern in report.patterns])]
    parts += ["", _list("foreseen", _issues(report) or [Text("no failure", style="green")])]
    if report.insights:
        parts += ["", _list("insights", [Text(insight) for insight in report.insights])]
    if report.notes:
        parts += ["", _list("notes", [Text(note, style="yellow") for note in report.notes])]
    return Group(*parts)


def _head(report: HealthReport, *, wide: bool) -> Text:
    at = datetime.datetime.fromtimestamp(report.at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    head = Text.assemble(
        ("infrastructure ", "bold"), (report.status, STATUS_STYLES.get(report.status, "")), ("   " + at, "dim")
    )
    field = report.stability
    if field is not None:
        style = "green" if field.Psi >= STEADY else "yellow" if field.Psi >= UNSETTLED else "bold red"
        head.append_text(
            Text.assemble(
                "   " if wide else "\n", ("Ψ ", "bold"), (f"{field.Psi:.2f}", style),
                (f"  PE {field.PE:.2f}  C {field.C:.2f}  U {field.U:.2f}  Φ {field.Phi:.2f}  H {field.H:.2f}", "dim"),
            )
        )  # fmt: skip
    return head


def _providers(report: HealthReport, *, wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("provider", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for name in ("coherence", "stability", "failure in 1 min", "trend"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        for name in ("p50", "p95", "p99"):
            table.add_column(name, justify="right", no_wrap=True)
    table.add_column("recent errors")
    for provider in report.providers:
        table.add_row(*_row(provider, wide=wide))
    return table


def _row(provider: ProviderHealth, *, wide: bool) -> list[RenderableType]:
    known = provider.signature.total > 0
    status = Text(provider.status, style=STATUS_STYLES.get(provider.status, ""))
    over = provider.signature
    times = [Text(_ms(value)) for value in (over.latency_p50_ms, over.latency_p95_ms, over.latency_p99_ms)]
    errors = ", ".join(
        f"{kind.replace('_', ' ')} {count:.0f}" for kind, count in _most(provider.recent_errors) if count >= 0.5
    )
    return [
        Text(provider.provider, style="bold"),
        status,
        _share(provider.coherence, good=0.8, poor=0.6) if known else Text("-", style="dim"),
        _share(provider.stability, good=0.8, poor=0.6) if known else Text("-", style="dim"),
        _risk(provider.failure_probability) if known else Text("-", style="dim"),
        _trend(provider.trend) if known else Text("-", style="dim"),
        *(times if wide else ()),
        Text(errors or ("none" if known else "-"), style="" if errors else "dim"),
    ]


def _pattern_line(pattern: InfrastructurePattern) -> Text:
    return Text.assemble(
        (pattern.kind.value.replace("_", " "), IMPACT_STYLES.get(pattern.impact.value, "")),
        f": {pattern.detail}",
        (
            f"  ({pattern.impact.value}, confidence {pattern.confidence:.2f}, {len(pattern.similar)} similar before)",
            "dim",
        ),
    )


def _issues(report: HealthReport) -> list[Text]:
    return [
        Text.assemble((issue.offer, "bold"), f" fails within a minute: {issue.probability:.0%}, {issue.why}")
        for issue in report.predicted
    ]


def _list(heading: str, lines: list[Text]) -> Group:
    return Group(Text(heading, style="dim"), *[Text.assemble("  ", line) for line in lines])


def _share(value: float, *, good: float, poor: float) -> Text:
    return Text(f"{value:.2f}", style="green" if value >= good else "red" if value < poor else "yellow")


def _risk(probability: float) -> Text:
    style = "bold red" if probability >= 0.5 else "yellow" if probability >= 0.1 else "green"
    return Text(f"{probability:.0%}" if probability >= 0.01 else "< 1%", style=style)


def _trend(trend: float) -> Text:
    if abs(trend) < 0.1:
        return Text("steady", style="dim")
    return Text(f"better {trend:+.2f}", style="green") if trend > 0 else Text(f"worse {trend:+.2f}", style="red")


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1e3:.1f} s" if value >= 1e3 else f"{value:.0f} ms"


def _most(errors: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(errors.items(), key=lambda entry: -entry[1])[:3]


def history_table(recurrences: list[Recurrence]) -> Table:
    """What came again, one line each, with its hours of the day as a strip."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("provider", "pattern", "cause"):
        table.add_column(name, no_wrap=True)
    for name in ("times", "days"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("worst", no_wrap=True)
    table.add_column("last", no_wrap=True)
    table.add_column("00   hours, UTC   23", no_wrap=True)
    table.add_column("gathers", no_wrap=True)
    for one in recurrences:
        last = datetime.datetime.fromtimestamp(one.last_at, datetime.UTC).strftime("%m-%d %H:%M")
        gathers = "" if one.hour is None else f"{one.hour:02d} to {(one.hour + 2) % 24:02d} h ({one.in_window})"
        impact = Text(one.impact.value, style=IMPACT_STYLES.get(one.impact.value, ""))
        table.add_row(
            Text(one.provider, style="bold"), one.kind.value.replace("_", " "), one.cause, str(one.count),
            str(one.days), impact, last, _strip(one.hours), gathers,
        )  # fmt: skip
    return table


def _strip(hours: tuple[int, ...]) -> str:
    most = max(hours) or 1
    return "".join("·▁▂▃▄▅▆▇█"[-(-count * 8 // most)] for count in hours)
