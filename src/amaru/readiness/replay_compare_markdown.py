"""Two replays side by side, for people: first what can be concluded, and what cannot."""

from __future__ import annotations

from amaru.learning.intervals import Interval
from amaru.readiness.markdown import chosen_seconds, escaped, number, seconds, share, table, usd
from amaru.readiness.replay_comparison import Comparison, Row, Unit


def markdown(compared: Comparison, plots: dict[str, str] | None = None) -> str:
    """The whole text; ``plots`` are file names with what each shows."""
    a, b = compared.a, compared.b
    parts = [
        f"# {escaped(a.name)} beside {escaped(b.name)}",
        verdict(compared),
        *(f"> **Mind:** {escaped(words, 600)}" for words in compared.warnings),
        "## What was measured",
        table(
            ("", escaped(a.name, 60), escaped(b.name, 60), "B less A", "B over A"),
            [_cells(row) for row in compared.rows if _telling(row)],
        ),
        *(f"![{words}]({name})" for name, words in (plots or {}).items()),
        "## How it was run",
        table(
            ("", escaped(a.name, 60), escaped(b.name, 60), "differs"),
            [(row.fact, escaped(row.a), escaped(row.b), "**yes**" if row.differs else "") for row in compared.setup],
            words=(0, 1, 2, 3),
        ),
        "## How to read this",
        _notes(compared),
    ]
    return "\n\n".join(parts) + "\n"


def verdict(compared: Comparison) -> str:
    """One paragraph that claims no more than two runs can show."""
    one, two = compared.a.report.summary, compared.b.report.summary
    if not compared.comparable:
        return (
            "**No verdict: the two runs were not given the same task, or not held to the same objective.** The figures "
            "below describe each; their differences say nothing of the targets."
        )
    if not one.served or not two.served:
        idle = [name for name, summary in (("A", one), ("B", two)) if not summary.served]
        return f"{_goodput(compared)} Of latency nothing can be said: {' and '.join(idle)} served nothing.".strip()
    sure = compared.differences
    words = [
        _goodput(compared),
        _time("the median time to first token", one.first_token.p50, two.first_token.p50, sure.first_token_p50_s),
        _time("its 95th percentile", one.first_token.p95, two.first_token.p95, sure.first_token_p95_s),
    ]
    if sure.block_s is None:
        words.append("The runs are too short to say how sure that is.")
    else:
        words.append("That is one run of each: another pair may turn out otherwise, so repeat before concluding.")
    return " ".join(word for word in words if word)


def _goodput(compared: Comparison) -> str:
    one, two = compared.a.report.summary, compared.b.report.summary
    first, second = one.goodput_share, two.goodput_share
    if first is None or second is None:
        return ""
    both = f"{share(second)} by B, {share(first)} by A"
    within = f"good answers (whole, first token within {chosen_seconds(one.slo_first_token_s)})"
    points = (second - first) * 100
    interval = compared.differences.goodput_share
    if interval is None:
        return f"**B gave {number(abs(points))} points {_more(points)} {within} than A**: {both}."
    span = f"95 % interval {interval.low * 100:+.2f} to {interval.high * 100:+.2f} points"
    if not interval.sure:
        return f"**The share of {within} cannot be told apart**: {both} ({span})."
    return f"**B gave {number(abs(points))} points {_more(points)} {within} than A**: {both} ({span})."


def _more(points: float) -> str:
    return "fewer" if points < 0 else "more"


def _time(what: str, a_s: float | None, b_s: float | None, interval: Interval | None) -> str:
    if a_s is None or b_s is None:
        return ""
    both = f"{seconds(b_s)} in B, {seconds(a_s)} in A"
    what = what[0].upper() + what[1:]
    way = "longer" if b_s > a_s else "shorter"
    if interval is None:
        return (
            f"{what} was {seconds(abs(b_s - a_s))} {way} in B: {both}."
            if a_s != b_s
            else f"{what} was the same: {both}."
        )
    span = f"95 % interval of B less A {_signed(interval.low)} to {_signed(interval.high)}"
    if not interval.sure:
        return f"{what} cannot be told apart: {both} ({span})."
    return f"{what} was {seconds(abs(b_s - a_s))} {way} in B: {both} ({span})."


def _signed(value_s: float) -> str:
    return f"{'+' if value_s >= 0 else '-'}{seconds(abs(value_s))}"


def _telling(row: Row) -> bool:
    if row.unit == "requests":
        return bool(row.a or row.b)
    return row.a is not None or row.b is not None


def _cells(row: Row) -> tuple[str, ...]:
    difference, ratio = row.difference, row.ratio
    return (
        row.figure + {"per_s": " a second"}.get(row.unit, ""),
        _value(row.a, row.unit),
        _value(row.b, row.unit),
        "-" if difference is None else _difference(difference, row.unit),
        "-" if ratio is None else f"{ratio:.2f}",
    )


def _value(value: float | None, unit: Unit) -> str:
    if value is None:
        return "-"
    match unit:
        case "share":
            return share(value)
        case "s":
            return seconds(value)
        case "usd":
            return usd(value)
        case "requests":
            return f"{value:,.0f}"
        case "per_s":
            return number(value)


def _difference(value: float, unit: Unit) -> str:
    sign = "-" if value < 0 else "+" if value > 0 else ""
    return sign + (f"{abs(value) * 100:.2f} points" if unit == "share" else _value(abs(value), unit))


def _notes(compared: Comparison) -> str:
    notes = [
        (
            "Latencies are of whole answers, from when each request was due. Good answers are of all requests that "
            "were due, failed and never sent ones too."
        ),
    ]
    block_s = compared.differences.block_s
    if block_s is not None:
        notes.append(
            f"The intervals come from resampling both runs in blocks of {number(block_s)} s (circular block bootstrap, "
            "2,000 draws). They say how much these runs vary within themselves, not how another pair would turn out."
        )
    return "\n".join(f"- {note}" for note in notes)
