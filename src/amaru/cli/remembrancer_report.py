"""What each piece of a bundle proves, in the terminal and as JSON."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from amaru.cli.remembrancer_session import ExitCode, print_json

if TYPE_CHECKING:
    from amaru.ledger.bundle import Report

STYLES = {"holds": "green", "untrusted": "yellow", "unchecked": "yellow", "fails": "bold red"}


def print_reports(reports: list[Report], as_json: bool, *, strict: bool) -> None:
    """Say what each piece proves, and exit by it."""
    from amaru.ledger.bundle import Verdict

    sure = all(one.trusted and all(finding.verdict is Verdict.HOLDS for finding in one.findings) for one in reports)
    holds = all(one.ok for one in reports)
    ok = holds and (sure or not strict)
    if as_json:
        receipts = [_as_document(one) for one in reports]
        print_json({"ok": ok, "trusted": all(one.trusted for one in reports), "receipts": receipts})
    else:
        for one in reports:
            _print_report(one)
        if not holds:
            typer.echo("Something does not hold.")
        elif sure:
            typer.echo("All of it holds, by what you trust.")
        else:
            typer.echo("All that could be checked holds; what rests on somebody else's word is said above.")
    if not ok:
        raise typer.Exit(int(ExitCode.UNPROVEN))


def _as_document(report: Report) -> dict[str, Any]:  # Any: JSON
    return {
        "id": report.leaf.hex(),
        "index": report.index,
        "log": report.checkpoint.origin,
        "size": report.checkpoint.size,
        "root": b64encode(report.checkpoint.root).decode(),
        "entry": report.entry.decode("utf-8", "replace"),
        "ok": report.ok,
        "trusted": report.trusted,
        "findings": msgspec.to_builtins(report.findings),
    }


def _print_report(report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    from amaru.cli.remembrancer_view import console, summary
    from amaru.ledger.receipts import read_leaf
    from amaru.ledger.remembrancer import Entry

    entry = Entry(report.index, report.leaf, report.entry, read_leaf(report.entry))
    out = console()
    out.print(
        Text.assemble((f"#{report.index} ", "bold"), summary(entry), (f"  {entry.id[:12]}", "dim")), highlight=False
    )
    table = Table(show_header=False, box=None, pad_edge=False)
    for finding in report.findings:
        word = finding.verdict.value
        table.add_row("  " + finding.piece, Text(word, style=STYLES[word]), Text(finding.words, overflow="fold"))
    out.print(table)
