"""Receipts in the terminal, and as JSON."""

from __future__ import annotations

import base64
import datetime
import os
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from amaru.ledger.receipts import (
    Adr,
    Decision,
    Gap,
    Healing,
    Incident,
    Intervention,
    Outcome,
    Promotion,
    Pruning,
    Receipt,
    Served,
    Training,
)
from amaru.telemetry.redaction import in_one_line, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from amaru.ledger.remembrancer import Entry, Shown

SHORT = 12
"""Hexadecimal digits of an id in a table."""
STYLES = {
    "deploy": "green", "training": "cyan", "promotion": "cyan", "incident": "bold red", "healing": "magenta",
    "intervention": "magenta", "adr": "blue", "decision": "blue", "discovery": "yellow", "gap": "bold red",
    "pruning": "yellow", "pruned": "dim",
}  # fmt: skip

Json = dict[str, Any]  # Any: a JSON document


def as_document(entry: Entry) -> Json:
    """An entry as JSON: its id, place and receipt, as it stands in the log."""
    import msgspec

    document: Json = {"id": entry.id, "index": entry.leaf, "pruned": entry.data is None}
    if entry.data is None:
        return document
    try:
        return document | {"receipt": msgspec.json.decode(entry.data)}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return document | {"data": base64.b64encode(entry.data).decode()}


def as_proof(shown: Shown) -> Json:
    """The proof of an entry as JSON: all that it takes to check it (RFC 6962, section 2.1.1; hashes in base64)."""
    return {
        "proved": True,
        "log": shown.head.origin,
        "size": shown.proof.size,
        "root": base64.b64encode(shown.head.root).decode(),
        "path": [base64.b64encode(hash).decode() for hash in shown.proof.path],
        "checkpoint": shown.checkpoint.decode(),
        "signed_by": [signer.vkey for signer in shown.signers],
        "trusted": shown.trusted,
    }


def summary(entry: Entry, limit: int = 160) -> str:
    """What a receipt says, in one line that cannot play with a terminal."""
    if entry.data is None:
        return "pruned: its text was erased, its hash and place remain"
    if entry.receipt is None:
        return in_one_line("not known to this amaru: " + entry.data.decode("utf-8", "replace"), limit)
    receipt = entry.receipt
    said = [receipt.component, receipt.version, *_SUMMARIES.get(type(receipt), lambda _: [])(receipt)]
    if receipt.note:
        said.append(f"— {receipt.note}")
    return in_one_line(" ".join(word for word in said if word), limit)


def _served(served: Served | None) -> list[str]:
    if served is None:
        return []
    said = [f"→ {served.offer}" if served.offer else "", "" if served.ok else f"failed: {served.failure or 'unknown'}"]
    return [*said, f"{served.latency_ms:,.0f} ms" if served.latency_ms is not None else ""]


def _healing(receipt: Healing) -> list[str]:
    state = f"ended: {receipt.ended}" if receipt.ended else "" if receipt.applied else "(advice)"
    return [receipt.action, ", ".join(receipt.offers), f"for {receipt.pattern}" if receipt.pattern else "", state]


_SUMMARIES: dict[type[Receipt], Callable[[Any], list[str]]] = {
    Training: lambda r: [r.policy, f"{r.metric or 'score'} {r.score:g}" if r.score is not None else ""],
    Promotion: lambda r: [f"promoted, before it {r.before}" if r.before else "promoted"],
    Decision: lambda r: [r.resource, *_served(r.outcome)],
    Outcome: lambda r: [r.ref, *_served(r.outcome)],
    Incident: lambda r: [r.severity, r.pattern, ", ".join(r.offers)],
    Adr: lambda r: [r.ref, f"“{r.title}”", f"({r.status})"],
    Healing: _healing,
    Intervention: lambda r: [r.action],
    Pruning: lambda r: [f"entries before #{r.until:,} erased"],
    Gap: lambda r: [f"{r.dropped:,} receipts could not be logged"],
}


def kind_of(entry: Entry) -> str:
    """The receipt's type; ``pruned``, or ``?`` where it is none that this amaru knows."""
    if entry.data is None:
        return "pruned"
    return type(entry.receipt).__name__.lower() if entry.receipt is not None else "?"


def table(entries: Sequence[Entry], *, kinds: bool) -> Table:
    """One line each; with their types where there are several."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("receipt", "recorded (UTC)", *(("type",) if kinds else ())):
        made.add_column(name, no_wrap=True)
    made.add_column("what", overflow="fold")
    for entry in entries:
        kind = kind_of(entry)
        shown = [Text(kind, style=STYLES.get(kind, ""))] if kinds else []
        made.add_row(Text(entry.id[:SHORT], style="bold"), _minute(entry), *shown, Text(summary(entry)))
    return made


def details(shown: Shown) -> list[tuple[str, str]]:
    """All that a receipt says, and what proves it, line by line: a name and a value."""
    entry = shown.entry
    lines = [("receipt", entry.id), ("place", f"#{entry.leaf:,} in the log {shown.head.origin}")]
    if entry.data is None:
        lines.append(("text", "pruned: erased for good; that it was logged, and where, stays provable"))
    elif entry.receipt is None:
        lines.append(("text", summary(entry, 2_000)))
    else:
        lines.append(("type", kind_of(entry)))
        lines += [(name, in_one_line(value, 4_000)) for name, value in _fields(as_document(entry)["receipt"])]
    names = ", ".join(f"{signer.name} (key {signer.key_id.hex()})" for signer in shown.signers)
    return [
        *lines,
        ("proof", f"holds: in the tree of {shown.proof.size:,} receipts with the root {shown.head.root.hex()}"),
        ("checkpoint", f"signed by {names}"),
        ("trusting", shown.trusted),
    ]


def _fields(receipt: Json) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in sorted(receipt.items(), key=lambda item: (_ORDER.get(item[0], 50), item[0])):
        if name in ("v", "type"):
            continue
        if name == "evidence":
            lines += [(name, f"{one['digest']}  {one['name']} ({one['size']:,} B)") for one in value]
        elif name == "envelope":
            signed = ", ".join(one.get("keyid") or "?" for one in value.get("signatures", []))
            lines.append(("attestation", f"in-toto Statement in a DSSE envelope, signed by {signed}"))
        elif isinstance(value, dict):
            lines += [(name, f"{key}: {one}") for key, one in value.items() if not isinstance(one, dict | list)]
        elif isinstance(value, list):
            lines.append((name, ", ".join(str(one) for one in value)))
        else:
            lines.append((name, str(value)))
    return lines


_ORDER = {name: place for place, name in enumerate(("at", "component", "version", "ref", "title", "status", "digest"))}
_ORDER |= {"evidence": 90, "by": 95, "note": 96}


def print_details(lines: Sequence[tuple[str, str]]) -> None:
    """Names to the left, values to the right."""
    from rich.table import Table
    from rich.text import Text

    made = Table(show_header=False, box=None, pad_edge=False)
    before = ""
    for name, value in lines:
        made.add_row(Text("" if name == before else name, style="dim"), Text(printable(value), overflow="fold"))
        before = name
    console().print(made)


def print_timeline(entries: Sequence[Entry]) -> None:
    """By days, the newest last, as a log is read."""
    from rich.text import Text

    out = console()
    for day, group in groupby(reversed(entries), key=lambda entry: _at(entry)[:10]):
        out.print(Text(_weekday(day), style="bold"))
        for entry in group:
            kind = kind_of(entry)
            line = Text.assemble(
                (f"  {_at(entry)[11:16] or '     '}  ", "dim"), (f"{kind:<13}", STYLES.get(kind, "")), summary(entry),
                (f"  {entry.id[:SHORT]}", "dim"),
            )  # fmt: skip
            out.print(line, highlight=False)


def console() -> Console:
    """Of the terminal's width; in a file or a pipe nothing is folded, unless somebody said how wide it is."""
    from rich.console import Console

    made = Console()
    return made if made.is_terminal or "COLUMNS" in os.environ else Console(width=240)


def _at(entry: Entry) -> str:
    return entry.receipt.at if entry.receipt is not None else ""


def _minute(entry: Entry) -> str:
    return _at(entry)[:16].replace("T", " ")


def _weekday(day: str) -> str:
    try:
        return f"{day} {datetime.date.fromisoformat(day):%A}"
    except ValueError:
        return "without a date"
