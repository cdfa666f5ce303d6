"""Two policies side by side, for people: what each served, how fast, at what price, and worth what."""

from __future__ import annotations

from pathlib import Path

import msgspec

from amaru import __version__
from amaru.readiness.demo_comparison import BLOCK_S, Comparison, Difference, Side
from amaru.readiness.machine import Machine
from amaru.readiness.markdown import table
from amaru.readiness.measuring import Quantiles

DATA, TEXT = "compare.json", "compare.md"


class ComparisonReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the run measured; written as ``compare.json``."""

    version: str = __version__
    written_at: str
    machine: Machine
    command: str
    trace: str
    speed: float
    seed: int
    planned_s: float
    stopped_because: str
    """Empty: it ran to its end."""
    failed: bool
    """It ended because something of ours broke, not because the user wanted."""
    sides: tuple[Side, ...]
    comparison: Comparison


def write(report: ComparisonReport, directory: Path) -> tuple[Path, Path]:
    """Write ``compare.json`` and ``compare.md``; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    data, text = directory / DATA, directory / TEXT
    data.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    text.write_text(markdown(report), encoding="utf-8")
    return data, text


def markdown(report: ComparisonReport) -> str:
    """The report for people."""
    first, second = report.sides
    ended = f"; ended early ({report.stopped_because})" if report.stopped_because else ""
    machine = report.machine
    setting = (
        f"amaru {report.version}, {report.written_at}. Machine: {machine.processor}, {machine.cores} cores, "
        f"{machine.system}, {machine.python}.\n\n"
        f"The same requests left at the same instants through amaru by `{first.policy}` and through amaru by "
        f"`{second.policy}`, each before seven simulated providers of its own, and the same incidents struck both. "
        f"`{second.policy}` began untrained. Trace: {report.trace}, played open-loop at {report.speed:g}x for "
        f"{first.summary.duration_s:.0f} s of {report.planned_s:g} s planned{ended}. Measure it yourself: "
        f"`{report.command}`."
    )
    parts = ["# amaru demo: two policies, measured", setting, "## Side by side", _sides(report)]
    parts += ["## Phase by phase", _phases(report), "## How to read this", _NOTES]
    return "\n\n".join(parts) + "\n"


def _sides(report: ComparisonReport) -> str:
    first, second = report.sides
    found = report.comparison
    whole = found.phases[0]
    a, b = first.summary, second.summary
    rows = [
        ("requests sent", str(a.sent), str(b.sent), ""),
        ("whole answers", _share(first), _share(second), _percent(found.success)),
        ("of these saved by failover", str(a.saved_by_failover), str(b.saved_by_failover), ""),
        ("providers' calls", str(first.attempts), str(second.attempts), ""),
        ("first token p50 / p95 / p99", _three(a.first_token), _three(b.first_token), ""),
        ("first token, where both served", "", "", _ms(found.first_token_ms)),
        (f"good answers (first token within {a.slo_first_token_s:g} s)", str(a.good), str(b.good), ""),
        ("billed per 1,000 whole answers", _unit(first), _unit(second), ""),
        ("mean utility of a request", f"{whole.utility[0]:.4f}", f"{whole.utility[1]:.4f}", _plain(found.utility)),
        ("outcomes learned from", str(first.outcomes_learned), str(second.outcomes_learned), ""),
    ]
    return table(("", first.policy, second.policy, "difference (95 %)"), rows)


def _phases(report: ComparisonReport) -> str:
    rows = [
        (
            phase.name,
            f"{phase.from_s:.0f}-{phase.to_s:.0f} s",
            str(phase.requests),
            str(phase.served[0]),
            str(phase.served[1]),
            f"{phase.utility[0]:.4f}",
            f"{phase.utility[1]:.4f}",
        )
        for phase in report.comparison.phases
    ]
    columns = [f"{what}, {side.policy}" for what in ("served", "utility") for side in report.sides]
    return table(("while", "when", "requests", *columns), rows, words=(0, 1))


_NOTES = f"""\
- Utility is what policies are trained and judged by: an answer is worth the tenant's weights' share of the best posted
  price over its provider's, of the best posted first token over the one measured at the client, of the provider's
  reputation, and of having been served; no answer is worth nothing. Weights: amaru's defaults.
- Differences are of the same requests by pairs, the second policy's less the first's; intervals are taken over blocks
  of {BLOCK_S:g} s, since requests of one moment share their luck. It is one run of one seed.
- Both kept amaru's retries, failover, breakers and rescue: the policy decides only whom to ask first, and whom next.
- Everything ran on this machine at once, so latencies hold its load too, for both alike."""


def _share(side: Side) -> str:
    share = side.summary.success_share
    return f"{side.summary.served}" + ("" if share is None else f" ({share:.2%})")


def _unit(side: Side) -> str:
    return f"${side.billed_usd / side.summary.served * 1000:.4f}" if side.summary.served else "-"


def _three(figures: Quantiles) -> str:
    if figures.p50 is None or figures.p95 is None or figures.p99 is None:
        return "-"
    return " / ".join(f"{value * 1000:.0f}" for value in (figures.p50, figures.p95, figures.p99)) + " ms"


def _percent(found: Difference) -> str:
    return _between(found, 100.0, ".2f", " points")


def _ms(found: Difference) -> str:
    return _between(found, 1.0, ".0f", " ms")


def _plain(found: Difference) -> str:
    return _between(found, 1.0, ".4f", "")


def _between(found: Difference, factor: float, form: str, unit: str) -> str:
    mean = f"{found.mean * factor:+{form}}{unit}"
    if found.low is None or found.high is None:
        return mean
    return f"{mean} ({found.low * factor:+{form}} to {found.high * factor:+{form}})"
