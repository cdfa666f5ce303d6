"""Two replays side by side, in figures: what differs in how they were run, and what in what they measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from amaru.readiness.markdown import chosen_seconds, share
from amaru.readiness.measuring import Quantiles, Summary
from amaru.readiness.replay_bootstrap import Differences, differences
from amaru.readiness.replay_data import ReplayReport

SURVIVORS = 0.01
"""From such a difference in the share of whole answers on, their latencies are not of the same requests."""

Unit = Literal["share", "per_s", "requests", "s", "usd"]


class Row(msgspec.Struct, frozen=True):
    """One figure of both runs; ``None``: not measured."""

    figure: str
    unit: Unit
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """What B has more."""
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def ratio(self) -> float | None:
        """B over A, where A is not nothing."""
        return None if self.a is None or self.b is None or self.a == 0 else self.b / self.a


class SetupRow(msgspec.Struct, frozen=True):
    """One fact of how both were run."""

    fact: str
    a: str
    b: str
    decisive: bool
    """Where it differs, the runs cannot be compared."""
    differs: bool


class Side(msgspec.Struct, frozen=True):
    """One of the two."""

    name: str
    """``A`` or ``B``, and what the user called it."""
    report: ReplayReport


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be said of two replays."""

    a: Side
    b: Side
    setup: tuple[SetupRow, ...]
    rows: tuple[Row, ...]
    comparable: bool
    warnings: tuple[str, ...]
    differences: Differences


def comparison(a: Side, b: Side, *, seed: int = 0) -> Comparison:
    """Lay both side by side. ``seed`` is of the resampling."""
    setup = tuple(_setup(a.report, b.report))
    comparable = not any(row.decisive and row.differs for row in setup)
    return Comparison(
        a=a,
        b=b,
        setup=setup,
        rows=tuple(_rows(a.report.summary, b.report.summary)),
        comparable=comparable,
        warnings=tuple(_warnings(a, b, setup)),
        differences=differences(a.report, b.report, seed=seed) if comparable else Differences(),
    )


def _setup(a: ReplayReport, b: ReplayReport) -> Iterator[SetupRow]:
    def row(fact: str, first: str, second: str, *, decisive: bool = False) -> SetupRow:
        return SetupRow(fact, first, second, decisive, first != second)

    one, two = a.setup, b.setup
    yield row("target", one.target, two.target)
    yield row("model", one.model, two.model)
    yield row("trace", one.trace, two.trace, decisive=True)
    yield row("trace format", one.trace_format, two.trace_format, decisive=True)
    yield row("speed", f"{one.speed:g}x", f"{two.speed:g}x", decisive=True)
    yield row("requests due", f"{_offered(a.summary):,}", f"{_offered(b.summary):,}", decisive=True)
    objectives = (chosen_seconds(one.slo_first_token_s), chosen_seconds(two.slo_first_token_s))
    yield row("first token's objective", *objectives, decisive=True)
    yield row("played as planned", _yes(one.complete), _yes(two.complete), decisive=True)
    yield row("seed of the prompts", one.seed, two.seed)
    yield row("client", one.client_words, two.client_words)
    yield row("load generator's machine", one.machine_words, two.machine_words)
    yield row("amaru's version", a.version, b.version)
    yield SetupRow("started at", one.started_at, two.started_at, decisive=False, differs=False)  # of course it does


def _warnings(a: Side, b: Side, setup: tuple[SetupRow, ...]) -> Iterator[str]:
    differing = {row.fact for row in setup if row.differs}
    decisive = [row.fact for row in setup if row.decisive and row.differs]
    if decisive:
        yield f"The two runs are not comparable: they differ in {', '.join(decisive)}. Replay one of them anew."
    if not a.report.setup.complete or not b.report.setup.complete:
        yield "A run that was stopped early measured only the beginning of its trace."
    if "target" not in differing and "model" not in differing:
        yield "Both runs called the same target and model: what differs is what changed there meanwhile, or chance."
        if "seed of the prompts" not in differing:
            yield "Both sent the same prompts: caches of prompts at the target may have known those of the later run."
    if "model" in differing:
        yield "The runs asked for different models: what differs may be the model's doing, not the target's."
    if "client" in differing:
        yield "The clients behaved differently: what differs may be their doing."
    if "load generator's machine" in differing:
        yield "The load generators ran on different machines."
    one, two = _whole(a.report.summary), _whole(b.report.summary)
    if one is not None and two is not None and abs(one - two) >= SURVIVORS:
        fewer = "A" if one < two else "B"
        yield (
            f"{fewer} answered fewer requests whole ({share(one)} by A, {share(two)} by B). Latencies are of whole "
            f"answers, so that the hardest requests may be missing from {fewer}'s."
        )
    for side in (a, b):
        for words in side.report.warnings:
            yield f"{side.name}: {words}"


def _rows(a: Summary, b: Summary) -> Iterator[Row]:
    yield Row("good answers of all due", "share", a.goodput_share, b.goodput_share)
    yield Row("good answers", "per_s", a.goodput_per_s, b.goodput_per_s)
    yield Row("whole answers of all due", "share", _whole(a), _whole(b))
    yield Row("whole answers", "per_s", a.served_per_s, b.served_per_s)
    yield Row("failed", "requests", a.failed, b.failed)
    yield Row("never sent", "requests", a.dropped, b.dropped)
    yield Row("still open at the end", "requests", a.unfinished, b.unfinished)
    yield from _percentiles("time to first token", a.first_token, b.first_token)
    yield from _percentiles("inter-token latency", a.inter_token, b.inter_token)
    yield from _percentiles("time per output token", a.time_per_output_token, b.time_per_output_token)
    yield from _percentiles("end to end", a.latency, b.latency)
    yield Row("output tokens", "per_s", a.output_tokens_per_s, b.output_tokens_per_s)
    yield Row("input and output tokens", "per_s", a.total_tokens_per_s, b.total_tokens_per_s)
    yield Row("input tokens from caches of prompts", "share", a.cached_share, b.cached_share)
    yield Row("cost of 1,000 whole answers", "usd", _unit_cost(a), _unit_cost(b))
    yield Row("took more than one provider's call", "requests", a.saved_by_failover, b.saved_by_failover)
    yield Row("rescued half-way", "requests", sum(a.joined.values()), sum(b.joined.values()))
    yield Row("load generator's lag p99", "s", a.lag.p99, b.lag.p99)


def _percentiles(name: str, a: Quantiles, b: Quantiles) -> Iterator[Row]:
    yield Row(f"{name} p50", "s", a.p50, b.p50)
    yield Row(f"{name} p95", "s", a.p95, b.p95)
    yield Row(f"{name} p99", "s", a.p99, b.p99)


def _offered(summary: Summary) -> int:
    return summary.sent + summary.dropped


def _whole(summary: Summary) -> float | None:
    return summary.served / _offered(summary) if _offered(summary) else None


def _unit_cost(summary: Summary) -> float | None:
    return summary.cost_usd / summary.cost_reported * 1000 if summary.cost_reported else None


def _yes(whole: bool) -> str:
    return "yes" if whole else "no"
