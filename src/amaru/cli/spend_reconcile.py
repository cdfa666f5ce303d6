"""``amaru spend reconcile``: a provider's usage export beside our charges."""

from __future__ import annotations

import datetime
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amaru.accounts.money import usd_text
from amaru.accounts.spend_records import as_json_record
from amaru.cli.accounts_session import DEFAULT_CONFIG, AsJson, ConfigOption, bank_session, print_json, print_table, who
from amaru.cli.spend_view import moment, usd

if TYPE_CHECKING:
    from amaru.accounts.comparison import Comparison, Finding, Side
    from amaru.accounts.corrections import Applied
    from amaru.accounts.exports import Export

_FIGURES = ("how many", "ours $", "theirs $", "difference $")
COLUMNS: dict[str, type] = {
    "cause": str, "at": float, "model": str, "line": int, "ref": str, "charge": str,
    "our_input_tokens": int, "our_cached_input_tokens": int, "our_output_tokens": int, "our_usd": int,
    "their_input_tokens": int, "their_cached_input_tokens": int, "their_output_tokens": int, "their_usd": int,
}  # fmt: skip
"""Of files that hold every difference."""


def reconcile(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The provider's export: CSV, JSON, or JSON lines. Of OpenAI, Anthropic, OpenRouter, or plain: "
            "id, at, model, input_tokens, cached_input_tokens, output_tokens, cost_usd.",
            show_default=False,
        ),
    ],
    provider: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Whose it is; left out where there is one alone.", show_default=False),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="What it is meant to hold: from then on.", show_default=False),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="And before then; left out: its own span.", show_default=False)
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="THEIRS=OURS", help="A model that it calls otherwise; repeatable.", show_default=False),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Correct our charges; each correction is a row of its own, and audited.")
    ] = False,
    limit: Annotated[int, typer.Option(help="List at most so many differences; files hold all.", min=0)] = 20,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every difference there.", show_default=False)
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every difference there.", show_default=False)
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Hold a provider's usage export against our charges, and list what differs by its cause.

    Lines of single requests are matched by the id of the answer, else by time, model and tokens; others by day and
    model. --since and --until say what the export covers: what we charged within and it does not have is missing there.
    """
    from amaru.accounts.corrections import apply as correct
    from amaru.accounts.exports import Export
    from amaru.accounts.reconcile import compare
    from amaru.accounts.spend_files import write_csv, write_parquet

    now = time.time()
    since_s = None if since is None else moment(since, "--since", now)
    until_s = None if until is None else moment(until, "--until", now)
    renames = _renames(model or [])
    with bank_session(config, as_json) as (directory, open_bank):
        store, export = directory.store, Export(file)
        span = {"since": since_s, "until": until_s}
        with compare(store, export, provider=provider, renames=renames, **span) as found:
            listed = list(itertools.islice(found.findings(), limit))
            for path, write in ((csv, write_csv), (parquet, write_parquet)):
                if path is not None:
                    typer.echo(
                        f"Wrote {write(path, COLUMNS, map(_record, found.findings())):,} rows to {path}", err=True
                    )
            done = correct(found, store, open_bank(), directory.log, file=file, at=now, by=who()) if apply else None
        left = None
        if done is not None:
            with compare(store, export, provider=found.provider, renames=renames, **span) as after:
                left = after.differences
    if as_json:
        print_json(_document(export, found, listed, done, left))
    else:
        _tell(export, found, listed, done, left)


def _renames(options: Sequence[str]) -> dict[str, str]:
    pairs = [option.partition("=") for option in options]
    for theirs, equals, ours in pairs:
        if not (theirs and equals and ours):
            raise typer.BadParameter(f"{(theirs + equals)[:32]!r}: write THEIRS=OURS", param_hint="--model")
    return {theirs: ours for theirs, _, ours in pairs}


def _document(
    export: Export, found: Comparison, listed: Sequence[Finding], done: Applied | None, left: int | None
) -> dict[str, object]:
    return {
        "format": export.shape.name,
        "provider": found.provider,
        "since": found.since,
        "until": found.until,
        "agreed": found.agreed,
        "differences": found.differences,
        "outside": found.outside,
        "ours_usd": usd_text(found.ours_pusd),
        "theirs_usd": usd_text(found.theirs_pusd) if found.priced else None,
        "causes": {
            cause.value: {
                "count": each.count,
                "ours_usd": usd_text(each.ours_pusd),
                "theirs_usd": usd_text(each.theirs_pusd) if found.priced else None,
            }
            for cause, each in sorted(found.causes.items())
        },
        "listed": [as_json_record(COLUMNS, _record(finding)) for finding in listed],
        "applied": done,
        "differences_left": left,
    }


def _tell(export: Export, found: Comparison, listed: Sequence[Finding], done: Applied | None, left: int | None) -> None:
    typer.echo(
        f"{export.shape.name}: {export.path}, beside charges of {found.provider} "
        f"from {_at(found.since)} to {_at(found.until)} UTC\n"
    )
    rows = [
        (
            cause.value,
            f"{each.count:,}",
            usd(each.ours_pusd),
            usd(each.theirs_pusd),
            usd(each.theirs_pusd - each.ours_pusd),
        )
        for cause, each in sorted(found.causes.items())
    ]
    compared = found.agreed + sum(each.count for each in found.causes.values())
    total = (f"{compared:,}", usd(found.ours_pusd), usd(found.theirs_pusd), usd(found.theirs_pusd - found.ours_pusd))
    print_table(("cause", *_FIGURES), [*rows, ("all that was compared", *total)], right=_FIGURES)
    if listed:
        typer.echo()
        print_table(
            ("cause", "at (UTC)", "model", "line", "charge", "tokens, ours", "theirs", "ours $", "theirs $"),
            [_row(finding) for finding in listed],
            right=("line", "ours $", "theirs $"),
        )
    more = sum(each.count for each in found.causes.values()) - len(listed)
    notes = [
        (more, f"{more:,} more: list them with --limit, or write all with --csv FILE"),
        (found.outside, f"{found.outside:,} lines lie outside the span of time, and were not compared"),
        (found.ids_unknown, "None of its ids is known here: if they are not those of answers, leave that column out"),
        (not found.priced, "The export tells tokens and no costs; costs were not compared"),
    ]
    if done is None:
        notes.append(
            (found.differences, f"{found.differences:,} differ; nothing was changed. Correct them with --apply")
        )
        notes.append((not found.differences, "Nothing differs"))
    else:
        said = f"Settled {done.settled:,} that stood, corrected {done.corrected:,}, added {done.added:,}"
        notes.append((True, f"{said}; {left:,} differences are left"))
    typer.echo("\n" + "\n".join(f"{note}." for holds, note in notes if holds))


def _row(finding: Finding) -> tuple[str, ...]:
    return (
        str(finding.cause),
        _at(finding.at),
        finding.model,
        "-" if finding.line is None else str(finding.line),
        finding.charge or "-",
        _tokens(finding.ours),
        _tokens(finding.theirs),
        _usd(finding.ours),
        _usd(finding.theirs),
    )


def _tokens(side: Side | None) -> str:
    if side is None:
        return "-"
    told = (side.input_tokens, side.cached_input_tokens, side.output_tokens)
    return " / ".join("?" if value is None else f"{value:,}" for value in told)


def _usd(side: Side | None) -> str:
    return "-" if side is None or side.pusd is None else usd(side.pusd)


def _at(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _record(finding: Finding) -> dict[str, object]:
    """As COLUMNS has it."""
    record: dict[str, object] = {
        "cause": str(finding.cause), "at": finding.at, "model": finding.model, "line": finding.line,
        "ref": finding.ref, "charge": finding.charge,
    }  # fmt: skip
    for whose, side in (("our", finding.ours), ("their", finding.theirs)):
        for name in ("input_tokens", "cached_input_tokens", "output_tokens"):
            record[f"{whose}_{name}"] = None if side is None else getattr(side, name)
        record[f"{whose}_usd"] = None if side is None else side.pusd
    return record
