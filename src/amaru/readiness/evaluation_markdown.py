"""An evaluation's report for people: the verdict first, then the figures, then how to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from amaru.learning.envelope import Corner, Envelope, Mean
from amaru.learning.evaluation import WORLDS
from amaru.learning.evaluation_report import DATA, EvaluationReport, Standing, is_gap
from amaru.learning.intervals import Estimate
from amaru.readiness.markdown import code_block, counted, escaped, number, table

Words = Callable[[float], str]
Row = tuple[str, ...]

STANDINGS: Row = ("policy", "filled", "cost", "latency", "within SLO", "utility")
GAPS: Row = ("policy", "utility over the best rule", "of what informed gains", "of what the oracle gains")


def markdown(report: EvaluationReport) -> str:
    """The whole file."""
    setup = report.setup
    parts = [
        f"# Evaluation on {escaped(setup.scenario)}",
        f"**{verdict(report)}**",
        *(f"> **Mind:** {escaped(words, 1000)}" for words in report.warnings),
        _setting(report),
        "## Every policy in the same worlds",
        table(STANDINGS, standing_rows(report)),
        "Cost and latency are per served request. In brackets: 95 % intervals.",
        "## How much of what can be learned was learned",
        gap_words(report),
        table(GAPS, gap_rows(report)),
        "## Who beats whom",
        table(("", "more utility per request", "sure?"), contrast_rows(report)),
        *envelope_parts(report.envelope),
        "## How to read this",
        "\n".join(f"- {line}" for line in _notes(report)),
        "## Measure it again",
        code_block(setup.command),
        f"Every figure, and what each policy did in each world, is in `{DATA}`, form `{report.schema}`.",
    ]
    return "\n\n".join(parts) + "\n"


def verdict(report: EvaluationReport) -> str:
    """The evaluation in a sentence or two, without Markdown."""
    learned = [standing for standing in report.standings if standing.role == "learned"]
    best = max(learned, key=lambda standing: standing.mean_utility.value, default=None)
    start = f"The best rule is {report.baseline}."
    if best is None:
        return start
    if report.envelope is not None:
        found = report.envelope
        return (
            f"{start} Nothing is hidden in {report.setup.scenario}, so there is no gap that learning could close. "
            f"Beside rules_classic at most {_percent(found.cost_saving)} of the cost or "
            f"{_percent(found.latency_saving)} of the latency can be saved, never both at once."
        )
    if report.informed_gap is not None and not is_gap(report.informed_gap):
        return f"{start} There is no gap to close: knowing the world's parameters gains nothing over it."
    sure = best.over_baseline.interval
    if sure is None:
        return f"{start} {_worlds(report)} cannot tell whether a learned policy beats it: take at least {WORLDS}."
    if not sure.sure:
        return f"{start} No learned policy differs from it by more than chance over {_worlds(report)}."
    if best.over_baseline.value < 0:
        return f"{start} It beats every learned policy over {_worlds(report)}."
    closes = ""
    if best.of_informed_gap is not None:
        closes = f", and closes {estimate(best.of_informed_gap, _percent)} of the gap to what could be known"
    baseline = next(standing for standing in report.standings if standing.policy == report.baseline)
    return (
        f"{start} {best.policy} beats it over {_worlds(report)}: it serves {_percent(best.fill_rate.value)} of the "
        f"requests instead of {_percent(baseline.fill_rate.value)}{closes}."
    )


def standing_rows(report: EvaluationReport) -> list[Row]:
    """Cells of the first table."""
    return [
        (
            name(standing, report),
            estimate(standing.fill_rate, _percent),
            estimate(standing.avg_cost_usd, _usd),
            estimate(standing.avg_latency_ms, _ms),
            estimate(standing.slo_attainment, _percent),
            estimate(standing.mean_utility, _utility),
        )
        for standing in report.standings
    ]


def gap_rows(report: EvaluationReport) -> list[Row]:
    """Cells of the second table: those that are no rules, beside the best one."""

    def share(closed: Estimate | None) -> str:
        return "-" if closed is None else estimate(closed, _percent)

    return [
        (
            name(standing, report),
            estimate(standing.over_baseline, _difference),
            share(standing.of_informed_gap),
            share(standing.of_oracle_gap),
        )
        for standing in report.standings
        if standing.role != "rule"
    ]


def contrast_rows(report: EvaluationReport) -> list[Row]:
    """Cells of the third table."""

    def sure(interval_known: Estimate) -> str:
        if interval_known.interval is None:
            return "too few worlds"
        return "yes" if interval_known.interval.sure else "no: could be chance"

    return [
        (f"{found.policy} than {found.than}", estimate(found.utility, _difference), sure(found.utility))
        for found in report.contrasts
    ]


def name(standing: Standing, report: EvaluationReport) -> str:
    """The policy, and what to know of it."""
    if standing.policy == report.baseline:
        return f"{standing.policy} (best rule)"
    return f"{standing.policy} ({escaped(standing.origin)})" if standing.origin else standing.policy


def estimate(found: Estimate, words: Words) -> str:
    """``91.2 % [90.5 %, 91.8 %]``."""
    if found.value != found.value:
        return "-"
    if found.interval is None:
        return words(found.value)
    return f"{words(found.value)} [{words(found.interval.low)}, {words(found.interval.high)}]"


def gap_words(report: EvaluationReport) -> str:
    """What there was to be gained, or that there was nothing."""
    informed, oracle = (
        "-" if gap is None else estimate(gap, _difference) for gap in (report.informed_gap, report.oracle_gap)
    )
    if report.informed_gap is None:
        return (
            f"`informed` could not play. Over {report.baseline}, the best rule, `oracle` has {oracle} of utility a "
            "request."
        )
    if not report.setup.hidden:
        return (
            "**There is no gap to close**: nothing is hidden in this scenario, so there is nothing to learn, and no "
            f"shares of it are given. What `oracle` has over {report.baseline}, the best rule ({oracle} of utility a "
            "request), it does not owe to knowing more: it chooses by the very utility that is measured here, and the "
            "rules by scores of their own, which also weigh how much capacity is left."
        )
    if is_gap(report.informed_gap):
        return (
            f"Over {report.baseline}, the best rule, `informed` has {informed} of utility a request, and `oracle` "
            f"{oracle}. A share of 100 % is a policy that is as good as the reference."
        )
    more = f" `oracle` has {oracle}." if is_gap(report.oracle_gap) else ""
    return (
        f"**There is no gap to close**: over {report.baseline}, the best rule, `informed` has {informed} of utility a "
        f"request, which over these worlds is not surely more than nothing. No shares of it are given.{more}"
    )


def envelope_parts(found: Envelope | None) -> Iterator[str]:
    """What is possible at all, where nothing is hidden."""
    if found is None:
        return
    yield "## What is possible at all"
    yield (
        "What is posted here is the truth, so nobody can do better on price than whoever takes the cheapest feasible "
        "offer for each request, nor on latency than whoever takes the fastest:"
    )
    rows = [
        _corner_row(words, corner)
        for words, corner in (
            ("rules_classic", found.classic),
            ("cheapest feasible", found.cheapest),
            ("fastest feasible", found.fastest),
        )
    ]
    yield table(("choice", "filled", "cost", "latency"), rows)
    yield (
        f"**Claims outside this are impossible.** Beside rules_classic, at most {_percent(found.cost_saving)} of the "
        f"cost can be saved, at {_change(found.cheapest.avg_latency_ms, found.classic.avg_latency_ms)} latency; at "
        f"most {_percent(found.latency_saving)} of the latency, at "
        f"{_change(found.fastest.avg_cost_usd, found.classic.avg_cost_usd)} cost; never both at once. (± is the "
        "standard error of the mean over worlds. Choices are request by request; a planner that saw a step's requests "
        "beforehand could do a hair better where capacity is short.)"
    )


def _corner_row(words: str, corner: Corner) -> Row:
    def cell(mean: Mean, digits: int, unit: str) -> str:
        return f"{mean.value:.{digits}f} ± {mean.error:.{digits + 1}f}{unit}"

    return (
        words,
        cell(corner.fill_rate, 4, ""),
        cell(corner.avg_cost_usd, 3, " USD"),
        cell(corner.avg_latency_ms, 1, " ms"),
    )


def _change(now: Mean, before: Mean) -> str:
    share = now.value / before.value - 1
    return f"{abs(share):.1%} {'more' if share >= 0 else 'less'}".replace("%", " %")


def _setting(report: EvaluationReport) -> str:
    setup = report.setup
    repeats = (
        f" An episode has {setup.scenario_steps} steps; in a longer run its events repeat."
        if setup.steps > setup.scenario_steps
        else ""
    )
    return (
        f"{counted(len(setup.seeds), 'world')} (seeds {setup.seeds[0]} to {setup.seeds[-1]}) of "
        f"{counted(setup.steps, 'step')} each, all {len(report.standings)} policies in each.{repeats} Begun "
        f"{escaped(setup.started_at)}, took {number(setup.seconds)} s with amaru {escaped(report.version)} on: "
        f"{escaped(setup.machine)}."
    )


def _notes(report: EvaluationReport) -> Iterator[str]:
    setup = report.setup
    yield (
        f"All policies play the same worlds: same requests, same truth, same luck. Intervals are of the {setup.method} "
        f"({setup.resamples:,} resamples, seed {setup.bootstrap_seed}); at least {WORLDS} worlds make a claim."
    )
    yield (
        "Utility is the score of what really happened, by the same code that scores live: for a served request the "
        "tenant's weights on its price and latency (each beside the lowest posted), reputation, and having been "
        "served; 0 for one that was not."
    )
    yield (
        "The best rule is the one with the highest mean utility over these very worlds, which favours the rules, if "
        "anyone. It stays the same in all resamples."
    )
    yield (
        "`informed` is a Bayes filter that is given each world's true parameters but not its hidden state: what any "
        "learner could reach at best. `oracle` sees the hidden state at that moment, not the future. Both obey every "
        "hard limit, and choose request by request."
    )
    yield (
        "Learned policies learn in each world from its first step, exploration included; one that was trained starts "
        "each world with what it brought."
    )


def _worlds(report: EvaluationReport) -> str:
    return counted(len(report.setup.seeds), "world")


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def _usd(value: float) -> str:
    return f"${value:.3f}" if abs(value) >= 1 else f"${value:#.3g}"


def _ms(value: float) -> str:
    return f"{value:,.1f} ms"


def _utility(value: float) -> str:
    return f"{value:.4f}"


def _difference(value: float) -> str:
    return f"{value:+.4f}"
