"""A replay's report for people: the verdict first, then the figures, then how to read them."""

from __future__ import annotations

from collections.abc import Iterator

from amaru.readiness.markdown import chosen_seconds, code_block, counted, escaped, number, seconds, share, table, usd
from amaru.readiness.measuring import Quantiles, Summary
from amaru.readiness.replay_data import DATA, ReplayReport
from amaru.readiness.replay_plots import CDF, LATENCY, PROVIDERS, THROUGHPUT

ROWS = 20
"""Providers and kinds of errors shown; the JSON has all."""


def markdown(report: ReplayReport) -> str:
    """The whole file."""
    setup, summary = report.setup, report.summary
    parts = [
        f"# Replay of {escaped(setup.trace)} at {setup.speed:g}x",
        verdict(summary),
        *(f"> **Mind:** {words}" for words in report.warnings),
        _setting(report),
        "## Latency",
        _latencies(summary),
        f"![Time to first token of all requests]({CDF})",
        f"![Time to first token over the run, and failures]({LATENCY})",
        "## Requests",
        _requests(summary),
        f"![What became of the requests, and tokens, over the run]({THROUGHPUT})",
        "## Tokens and cost",
        _tokens(summary),
        "## What failed, and what was rescued",
        _errors(report),
        _rescues(summary),
        "## Who served",
        _providers(summary),
        f"![Who served, over the run]({PROVIDERS})",
        "## How to read this",
        _notes(summary),
        "## Measure it again",
        code_block(setup.command),
        f"Every figure, with its distribution and its course over the run, is in `{DATA}`, form `{report.schema}`.",
    ]
    return "\n\n".join(parts) + "\n"


def verdict(summary: Summary) -> str:
    """The run in two or three sentences of Markdown."""
    offered = summary.sent + summary.dropped
    if not offered:
        return "**Nothing was sent, so nothing was measured.**"
    if not summary.served:
        return f"**Not one of {counted(offered, 'request')} was served.** {_lost(summary)}."
    within = chosen_seconds(summary.slo_first_token_s)
    were, they_were = ("was", "it was") if offered == 1 else ("were", "they were")
    words = (
        f"**{share(summary.goodput_share)} of {counted(offered, 'request')} {were} good: answered whole, with the "
        f"first token within {within} of when {they_were} due.** That is {number(summary.goodput_per_s)} good answers "
        f"a second, of {number(summary.offered_per_s)} asked for. "
    )
    tail = summary.first_token
    if tail.p50 is not None:
        words += f"Half of the answers began within {seconds(tail.p50)}, 99 % within {seconds(tail.p99)}. "
    words += f"{_lost(summary)}."
    if summary.saved_by_failover:
        rescued = sum(summary.joined.values())
        words += f" It took more than one provider's call for {counted(summary.saved_by_failover, 'answer')}"
        words += f", and a rescue half-way for {counted(rescued, 'answer')}." if rescued else "."
    return words


def _lost(summary: Summary) -> str:
    lost = [
        f"{count:,} {what}"
        for count, what in (
            (summary.failed, "failed"),
            (summary.dropped, "were never sent"),
            (summary.unfinished, "did not end"),
        )
        if count
    ]
    return ", ".join(lost) if lost else "None failed"


def _setting(report: ReplayReport) -> str:
    setup = report.setup
    return (
        f"Sent open-loop to {escaped(setup.target)}, model {escaped(setup.model)}, for "
        f"{number(report.summary.duration_s)} s from {escaped(setup.started_at)}; trace format "
        f"{escaped(setup.trace_format)}. amaru {escaped(report.version)} measured it, on: "
        f"{escaped(setup.machine_words)}. The client: {escaped(setup.client_words)}; seed of the prompts "
        f"{escaped(setup.seed)}."
    )


def _latencies(summary: Summary) -> str:
    def row(name: str, figures: Quantiles, of: str) -> tuple[str, ...]:
        return (name, *map(seconds, (figures.p50, figures.p95, figures.p99)), f"{figures.count:,} {of}")

    return table(
        ("", "p50", "p95", "p99", "of"),
        [
            row("time to first token", summary.first_token, "answers"),
            row("inter-token latency", summary.inter_token, "gaps"),
            row("time per output token", summary.time_per_output_token, "answers"),
            row("end to end", summary.latency, "answers"),
            row("the load generator's own lag", summary.lag, "requests"),
        ],
    )


def _requests(summary: Summary) -> str:
    offered = summary.sent + summary.dropped

    def row(name: str, count: int, per_s: str = "") -> tuple[str, ...]:
        return name, f"{count:,}", share(count / offered if offered else None), per_s

    return table(
        ("", "requests", "share", "a second"),
        [
            row("due by the trace", offered, number(summary.offered_per_s)),
            row("answered whole", summary.served, number(summary.served_per_s)),
            row(
                f"good (first token within {chosen_seconds(summary.slo_first_token_s)})",
                summary.good,
                _goodput(summary),
            ),
            row("failed", summary.failed),
            row("of these broken after their first token", summary.broken_streams),
            row("never sent: too many open", summary.dropped),
            row("still open at the end", summary.unfinished),
        ],
    )


def _goodput(summary: Summary) -> str:
    return number(summary.goodput_per_s)


def _tokens(summary: Summary) -> str:
    counts = summary.token_counts_by
    counted = ", ".join(f"{share(count / summary.served)} by the {who}" for who, count in counts.items()) or "-"
    if summary.cost_reported:
        unit = summary.cost_usd / summary.cost_reported * 1000
        cost = f"{usd(summary.cost_usd)}, {usd(unit)} for 1,000 answers"
    else:
        cost = "not reported by the server"
    if summary.cached_input_tokens is None:
        cached = "not reported by the server"
    else:
        cached = f"{summary.cached_input_tokens:,}, {share(summary.cached_share)} of the input tokens"
    return table(
        ("", "of whole answers"),
        [
            ("output tokens", f"{summary.output_tokens:,}, {number(summary.output_tokens_per_s)} a second"),
            (
                "input and output tokens",
                f"{summary.input_tokens + summary.output_tokens:,}, {number(summary.total_tokens_per_s)} a second",
            ),
            ("input tokens from caches of prompts", cached),
            ("who counted the tokens", counted),
            ("cost", cost),
        ],
    )


def _errors(report: ReplayReport) -> str:
    summary = report.summary
    if not summary.errors:
        return "Nothing failed."
    shown = list(summary.errors.items())[:ROWS]
    rows = [
        (escaped(kind), f"{count:,}", share(count / summary.sent), escaped(report.error_examples.get(kind, ""), 160))
        for kind, count in shown
    ]
    head = ("error", "requests", "of all sent", "for example")
    return table(head, rows, words=(0, 3)) + _more(len(summary.errors), "kinds")


def _rescues(summary: Summary) -> str:
    words = f"Whole answers that took more than one provider's call: {summary.saved_by_failover:,}."
    if summary.joined:
        how = ", ".join(f"{count:,} {escaped(name)}" for name, count in summary.joined.items())
        words += f" Rescued after they had broken: {sum(summary.joined.values()):,} ({how})."
    else:
        words += " Rescued after they had broken: none that the server told of."
    return words + f" Asked again by the client itself: {summary.client_retries:,}."


def _providers(summary: Summary) -> str:
    shown = list(summary.by_provider.items())[:ROWS]
    if not shown:
        return "Nobody."
    rows = [(escaped(name, 60), f"{count:,}", share(count / summary.served)) for name, count in shown]
    return table(("provider", "whole answers", "share"), rows) + _more(len(summary.by_provider), "providers")


def _more(count: int, what: str) -> str:
    return f"\n\n{count - ROWS:,} more {what} are in `{DATA}`." if count > ROWS else ""


def _notes(summary: Summary) -> str:
    return "\n".join(f"- {note}" for note in _lines(summary))


def _lines(summary: Summary) -> Iterator[str]:
    yield (
        "Requests left when the trace says, however slow the answers were (open-loop), and latencies count from when a "
        "request was due, not from when it left (no coordinated omission: Tene, *How NOT to Measure Latency*, 2013)."
    )
    yield "Latencies are of whole answers. A request that failed counts against goodput, never into a latency."
    yield (
        "Inter-token latency is each gap between content events, over all streams together; time per output token is, "
        "for each request, from its first token to its last over its output tokens less one. Both as in vLLM's "
        "`bench serve`. Percentiles are by nearest rank."
    )
    yield (
        f"Rates of requests are over the {number(summary.duration_s)} s in which they were due; rates of tokens, over "
        f"the {number(summary.measured_s)} s until the last whole answer ended."
    )
    yield (
        "The load generator's own lag is how much later than due a request left. Where it is not small beside the time "
        "to first token, it was the load generator that was slow."
    )
