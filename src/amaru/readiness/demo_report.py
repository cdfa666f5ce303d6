"""The demo's report: what was served, saved by failover and spent, and what the lone client suffered. All measured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from amaru import __version__
from amaru.domain import Weights
from amaru.readiness.demo_board import brief, struck
from amaru.readiness.machine import Machine
from amaru.readiness.markdown import table
from amaru.readiness.measuring import Quantiles, Sample, Summary
from amaru.simulation.faults import Incident


class IncidentReport(msgspec.Struct, frozen=True):
    """One incident, and how each client fared with what it sent meanwhile."""

    provider: str
    what: str
    brief: str
    """``what`` in a word or two."""
    from_s: float
    to_s: float
    sent: int
    served_through_amaru: int
    saved_by_failover: int
    served_alone: int | None
    """``None``: it did not concern the lone provider."""


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the run measured; written as ``report.json``."""

    version: str = __version__
    written_at: str
    machine: Machine
    command: str
    policy: str = "rules"
    """By which amaru ranked."""
    trace: str
    speed: float
    seed: int
    planned_s: float
    complete: bool
    """False: the run was stopped early, and the figures are of what had happened until then."""
    stopped_because: str
    failed: bool
    """It ended because something of ours broke, not because the user wanted."""
    favourite: str
    ranking: tuple[str, ...]
    through_amaru: Summary
    alone: Summary
    incidents: tuple[IncidentReport, ...]
    first_token_without_incident: dict[str, Quantiles]
    """Of both clients, over what was sent while no incident struck anyone."""
    billed_usd: dict[str, float]
    """Each provider's own bill."""
    alone_billed_usd: float | None
    failed_attempts_usd: float | None
    """What amaru reckons that failed attempts cost, apart from the answers."""
    provider_calls: dict[str, int]
    """amaru's own count: ``attempts``, ``failed_attempts``, ``failovers``, ``retries``."""
    example: dict[str, Any] | None  # Any: JSON
    """One answer saved by failover, as amaru recorded it."""


def incident_reports(
    incidents: Sequence[Incident], through: Sequence[Sample], alone: Sequence[Sample], favourite: str, elapsed_s: float
) -> tuple[IncidentReport, ...]:
    """Each incident that began, with what both clients got of the requests sent while it lasted."""
    reports = []
    for incident in incidents:
        if incident.at_s >= elapsed_s:
            continue
        mine = struck(through, incident)
        theirs = struck(alone, incident) if incident.provider == favourite else None
        reports.append(
            IncidentReport(
                provider=incident.provider,
                what=incident.fault.describe(),
                brief=brief(incident.fault),
                from_s=incident.at_s,
                to_s=min(elapsed_s, incident.at_s + (incident.duration_s or elapsed_s)),
                sent=len(mine),
                served_through_amaru=sum(sample.ok for sample in mine),
                saved_by_failover=sum(sample.ok and sample.attempts > 1 for sample in mine),
                served_alone=None if theirs is None else sum(sample.ok for sample in theirs),
            )
        )
    return tuple(reports)


def undisturbed(samples: Sequence[Sample], incidents: Sequence[Incident]) -> list[Sample]:
    """Those sent while no incident struck any provider."""
    hit = {id(sample) for incident in incidents for sample in struck(samples, incident)}
    return [sample for sample in samples if id(sample) not in hit]


def write(report: DemoReport, directory: Path) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.md``; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    data, text = directory / "report.json", directory / "report.md"
    data.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    text.write_text(markdown(report), encoding="utf-8")
    return data, text


def now_text() -> str:
    """The local time with its zone, ISO 8601, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def markdown(report: DemoReport) -> str:
    """The report for people."""
    amaru, alone = report.through_amaru, report.alone
    parts = [
        "# amaru demo: what was measured",
        _setting(report),
        "## The same traffic, two ways",
        table(
            ("", "through amaru", f"bound to {report.favourite} alone"),
            [
                ("requests sent", str(amaru.sent), str(alone.sent)),
                ("whole answers", _share(amaru), _share(alone)),
                ("of these saved by failover", str(amaru.saved_by_failover), "-"),
                ("of these rescued after they had broken", str(sum(amaru.joined.values())), "-"),
                ("failed", str(amaru.failed), str(alone.failed)),
                ("of these broken after their first token", str(amaru.broken_streams), str(alone.broken_streams)),
                ("not sent: too many open", str(amaru.dropped), str(alone.dropped)),
                ("still open at the end", str(amaru.unfinished), str(alone.unfinished)),
                ("asked again by the client itself", str(amaru.client_retries), str(alone.client_retries)),
                ("first token p50 / p95 / p99", _three(amaru.first_token), _three(alone.first_token)),
                ("the same, while nothing was broken", *_calm(report)),
                ("whole answer p50 / p95 / p99", _three(amaru.latency), _three(alone.latency)),
                (f"good answers a second (first token within {amaru.slo_first_token_s:g} s)", *_goodput(amaru, alone)),
                ("output tokens a second", f"{amaru.output_tokens_per_s:.0f}", f"{alone.output_tokens_per_s:.0f}"),
                ("billed by the providers", _usd(sum(report.billed_usd.values())), _usd(report.alone_billed_usd)),
                ("USD per 1,000 whole answers", *_unit_costs(report)),
            ],
        ),
        "Errors through amaru: " + _errors(amaru) + ".  \n" + f"Errors of the lone client: {_errors(alone)}.",
        "## Incidents",
        _incidents(report),
        "## Who served",
        _served(report),
        *_example(report),
        "## How to read this",
        _notes(report),
    ]
    return "\n\n".join(parts) + "\n"


def how_it_ended(report: DemoReport) -> str:
    """In a few words."""
    if not report.complete:
        return f"ended early ({report.stopped_because})"
    if report.through_amaru.duration_s < report.planned_s - 1:
        return "ended with the trace"
    return "complete"


def _setting(report: DemoReport) -> str:
    machine = report.machine
    ended = how_it_ended(report)
    return (
        f"amaru {report.version}, {report.written_at}. Machine: {machine.processor}, {machine.cores} cores, "
        f"{machine.system}, {machine.python}.\n\n"
        f"Seven simulated providers, amaru, both clients and the measuring all ran on this machine, over loopback. "
        f"Trace: {report.trace}, played open-loop at {report.speed:g}x for {report.through_amaru.duration_s:.0f} s of "
        f"{report.planned_s:g} s planned; {ended}. amaru's policy: {report.policy}. Measure it yourself: "
        f"`{report.command}`."
    )


def _incidents(report: DemoReport) -> str:
    rows = [
        (
            f"{entry.from_s:.0f}-{entry.to_s:.0f} s",
            entry.provider,
            entry.what,
            f"{entry.served_through_amaru} of {entry.sent}",
            str(entry.saved_by_failover),
            "not concerned" if entry.served_alone is None else f"{entry.served_alone} of {entry.sent}",
        )
        for entry in report.incidents
    ]
    if not rows:
        return "None had begun."
    head = (
        "when",
        "provider",
        "what",
        "served through amaru",
        "saved by failover",
        f"served by {report.favourite} alone",
    )
    return "Requests are counted by when they were sent.\n\n" + table(head, rows, words=(0, 1, 2))


def _served(report: DemoReport) -> str:
    amaru = report.through_amaru
    rows = [
        (name, str(count), f"{count / amaru.served:.1%}", _usd(report.billed_usd.get(name)))
        for name, count in amaru.by_provider.items()
    ]
    silent = [name for name in report.ranking if name not in amaru.by_provider]
    rows += [(name, "0", "0.0%", _usd(report.billed_usd.get(name))) for name in silent]
    calls = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in report.provider_calls.items())
    spent = (
        f"amaru reckons {_usd(amaru.cost_usd)} for the whole answers and {_usd(report.failed_attempts_usd)} for failed "
        f"attempts; the providers' own bills say {_usd(sum(report.billed_usd.values()))}, answers that broke or were "
        "still open included."
    )
    shown = table(("provider", "whole answers", "share", "its own bill"), rows)
    return f"{shown}\n\n{spent}" + (f" By amaru's own count: {calls}." if calls else "")


def _example(report: DemoReport) -> list[str]:
    record = report.example
    if record is None:
        return []
    attempts = [
        (
            attempt["provider"],
            attempt["failure"] or "served",
            str(attempt["status"] or "-"),
            f"{attempt['latency_ms']:.0f} ms",
        )
        for attempt in record.get("attempts", ())
    ]
    first = next(iter(record.get("ranked", ())), None)
    refused = [f"{entry['provider']} ({entry['detail']})" for entry in record.get("refused", ())]
    words = f"Decision `{record.get('id', '')}`, policy `{record.get('policy', '')}`"
    if first is not None:
        words += f"; ranked first: {first['provider']} ({first['reason']})"
    if refused:
        words += f"; refused: {', '.join(refused)}"
    shown = table(("attempt at", "what came of it", "status", "took"), attempts, words=(0, 1))
    return ["## One saved answer, as amaru recorded it", f"{words}. The whole record is in report.json.", shown]


def _notes(report: DemoReport) -> str:
    amaru = report.through_amaru
    counts = ", ".join(f"{who} {count}" for who, count in amaru.token_counts_by.items()) or "none"
    weights = Weights()
    notes = (
        (
            f"The lone client is bound to a twin of {report.favourite}, the provider that the rules rank first: same "
            "speed, capacity and price, and the same incidents at the same instants, on a server of its own, so that "
            "neither client's load slows the other."
        ),
        (
            "The incidents are aimed at the providers that amaru prefers. Providers and incidents are simulated; the "
            "requests, the gateway and every figure are real."
        ),
        (
            f"amaru weighs price {weights.price:g}, latency {weights.latency:g}, reputation {weights.reputation:g} and "
            f"availability {weights.availability:g} (its defaults), so it gives up some speed for a lower price; a "
            "tenant's own weights change that."
        ),
        (
            "Both clients retry as the official `openai` library does: twice, on connection errors, 408, 409, 429 and "
            "5xx."
        ),
        "A stream that broke after its first token and was not rescued ended in an error event; it counts as failed.",
        (
            "Latencies count from when a request was due, not from when it left; it left "
            f"{_three(amaru.lag)} late (p50 / p95 / p99)."
        ),
        f"Who counted the output tokens of the whole answers: {counts}.",
    )
    return "\n".join(f"- {note}" for note in notes)


def _share(summary: Summary) -> str:
    share = "" if summary.success_share is None else f" ({summary.success_share:.2%})"
    return f"{summary.served}{share}"


def _goodput(amaru: Summary, alone: Summary) -> tuple[str, str]:
    return f"{amaru.goodput_per_s:.1f}", f"{alone.goodput_per_s:.1f}"


def _calm(report: DemoReport) -> tuple[str, str]:
    calm = report.first_token_without_incident
    return _three(calm["through_amaru"]), _three(calm["alone"])


def _unit_costs(report: DemoReport) -> tuple[str, str]:
    amaru, alone = report.through_amaru, report.alone
    costs = []
    for billed, served in ((sum(report.billed_usd.values()), amaru.served), (report.alone_billed_usd, alone.served)):
        costs.append(_usd(billed / served * 1000) if served and billed is not None else "-")
    return costs[0], costs[1]


def _errors(summary: Summary) -> str:
    return ", ".join(f"{error} {count}" for error, count in summary.errors.items()) or "none"


def _three(figures: Quantiles) -> str:
    if figures.p50 is None or figures.p95 is None or figures.p99 is None:
        return "-"
    return " / ".join(f"{value * 1000:.0f}" for value in (figures.p50, figures.p95, figures.p99)) + " ms"


def _usd(amount: float | None) -> str:
    return "-" if amount is None else f"${amount:.4f}"
