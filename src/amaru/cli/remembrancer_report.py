"""What each piece of a bundle proves, and what an audit found, in the terminal and as JSON."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from amaru.cli.remembrancer_session import ExitCode, print_json

if TYPE_CHECKING:
    from amaru.ledger.audit_report import AuditReport
    from amaru.ledger.bundle import Report

STYLES = {"holds": "green", "untrusted": "yellow", "unchecked": "yellow", "fails": "bold red"}


def print_reports(reports: list[Report], as_json: bool, *, strict: bool) -> None:
    """Say what each piece proves, and exit by it."""
    sure = all(one.sure for one in reports)
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
        if holds and not any(_is_of_others(one.piece) for report in reports for one in report.findings):
            typer.echo("No signature and no time-stamp is there: it rests on the log's own key alone.")
    if not ok:
        raise typer.Exit(int(ExitCode.UNPROVEN))


def print_audit(report: AuditReport, as_json: bool) -> None:
    """Say what was found, and exit by it."""
    if as_json:
        print_json({"ok": report.ok, "first_leaf": report.first_leaf, **msgspec.to_builtins(report)})
    else:
        _print_audit(report)
    if not report.ok:
        raise typer.Exit(int(ExitCode.NO_HISTORY if report.sound else ExitCode.UNPROVEN))


def _print_audit(report: AuditReport) -> None:
    from amaru.ledger.audit_report import History
    from amaru.telemetry.redaction import printable

    pruned = f"; {report.pruned:,} are pruned" if report.pruned else ""
    typer.echo(
        f"Audited {report.size:,} receipts: {report.entries:,} entries, {report.tiles:,} tiles, "
        f"{report.checkpoints:,} checkpoints{pruned}."
    )
    for one in report.findings:
        typer.echo(printable(f"  {one.fault.value}: {one.where}: {one.message}"))
    if report.more:
        typer.echo(f"  and {report.more:,} more")
    if report.walked < report.size:
        typer.echo(f"  too much is at fault to go on: nothing from #{report.walked:,} on was looked at")
    if report.history is not History.COMPLETE:
        typer.echo(f"  history {report.history.value}: {_history(report)}")
    if report.ok:
        typer.echo("Everything holds: each entry is what was logged, in its place, under every checkpoint.")
    elif report.sound:
        typer.echo("What is here holds. Whether it is what was published before cannot be told from this alone:")
        typer.echo("hold it to a checkpoint that was kept elsewhere (--witness FILE).")
    else:
        leaf = report.first_leaf
        typer.echo(
            "Something does not hold" + (f"; the first leaf at fault is #{leaf:,}." if leaf is not None else ".")
        )


def _history(report: AuditReport) -> str:
    """Which of the earlier checkpoints are not there, and what that may come from."""
    if not report.missing:
        return (
            "no earlier checkpoint is here. A copy made without the folder checkpoints/ has none; from the log's own "
            "folder they were removed"
        )
    return (
        f"of the earlier checkpoints, {'; '.join(report.missing)} are not here. They were removed, or cannot be listed "
        "there; of a writer that was killed the last one may be missing until it is back"
    )


def _is_of_others(piece: str) -> bool:
    return piece.startswith(("signatures/", "timestamps/"))


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
    from amaru.telemetry.redaction import printable

    entry = Entry(report.index, report.leaf, report.entry, read_leaf(report.entry))
    out = console()
    out.print(
        Text.assemble((f"#{report.index} ", "bold"), summary(entry), (f"  {entry.id[:12]}", "dim")), highlight=False
    )
    table = Table(show_header=False, box=None, pad_edge=False)
    for finding in report.findings:
        word = finding.verdict.value
        table.add_row(
            "  " + finding.piece, Text(word, style=STYLES[word]), Text(printable(finding.words), overflow="fold")
        )
    out.print(table)
