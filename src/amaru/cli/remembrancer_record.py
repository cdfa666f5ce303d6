"""``remembrancer record``: logs what happened, one command a kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amaru.cli.remembrancer_session import AsJson, Ledger, at_ledger, print_json, session

if TYPE_CHECKING:
    from amaru.ledger.receipts import Evidence, Receipt
    from amaru.ledger.remembrancer import Recorded

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Log a receipt: it is in the log, durably, when the command ends with 0.\n\n"
    "The log can be read by whoever gets it, and nothing is ever taken out of it again: no secrets, no prompts.",
)

MANUAL = ("deploy", "training", "decision", "incident", "discovery", "memory")
"""The kinds that a person records with this command alone; ``adr`` comes with a file."""

About = Annotated[
    str, typer.Option("--component", metavar="NAME", help="What it is about: a service, a policy.", show_default=False)
]
Version = Annotated[str, typer.Option("--version", metavar="VERSION", help="Which version of it.")]
Digest = Annotated[
    str,
    typer.Option(metavar="sha256:HEX", help="SHA-256 of the image or file that it is about."),
]
Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--evidence", metavar="FILE", show_default=False,
        help="A file that speaks for it; its name, size and SHA-256 are logged, its content is not. May be repeated.",
    ),
]  # fmt: skip
Note = Annotated[str, typer.Option(metavar="TEXT", help="In your words, at most 4,000 characters.")]
By = Annotated[str, typer.Option(metavar="NAME", help="Who records it; told, not proven.", envvar="USER")]
Ref = Annotated[str, typer.Option(metavar="ID", help="Id of what it is about in its own store: a run, a ticket.")]
Public = Annotated[bool, typer.Option("--as-is", help="Log the texts though something in them looks like a secret.")]


def _plain(kind: str, words: str) -> None:
    """A command that records a kind of receipt which has no fields of its own."""

    @app.command(kind, help=words)
    def command(
        component: About,
        version: Version = "",
        digest: Digest = "",
        evidence: Files = None,
        ref: Ref = "",
        note: Note = "",
        by: By = "",
        as_is: Public = False,
        ledger: Ledger = None,
        as_json: AsJson = False,
    ) -> None:
        fields = {"ref": ref, "version": version, "digest": digest, "note": note, "by": by}
        record(kind, component, fields, evidence, as_is, ledger, as_json)


@app.command()
def deploy(
    component: About,
    version: Version = "",
    digest: Digest = "",
    evidence: Files = None,
    environment: Annotated[str, typer.Option(metavar="NAME", help="Where to: production, staging.")] = "",
    ref: Ref = "",
    note: Note = "",
    by: By = "",
    as_is: Public = False,
    ledger: Ledger = None,
    as_json: AsJson = False,
) -> None:
    """Something went into service: needs its `--digest`, or the file itself as `--evidence`.

    The receipt holds an in-toto Statement in a DSSE envelope, signed with the log's key.
    """
    fields = {"environment": environment, "ref": ref, "version": version, "digest": digest, "note": note, "by": by}
    record("deploy", component, fields, evidence, as_is, ledger, as_json)


@app.command()
def training(
    component: About,
    version: Version = "",
    digest: Digest = "",
    evidence: Files = None,
    policy: Annotated[str, typer.Option(metavar="NAME", help="Kind of policy.")] = "",
    score: Annotated[float | None, typer.Option(metavar="FIGURE", help="What it scored.", show_default=False)] = None,
    metric: Annotated[str, typer.Option(metavar="TEXT", help="What the score is of.")] = "",
    ref: Ref = "",
    note: Note = "",
    by: By = "",
    as_is: Public = False,
    ledger: Ledger = None,
    as_json: AsJson = False,
) -> None:
    """A policy was trained."""
    said = {"ref": ref, "version": version, "digest": digest, "note": note, "by": by}
    fields = {**said, "policy": policy, "score": score, "metric": metric}
    record("training", component, fields, evidence, as_is, ledger, as_json)


_plain("decision", "People decided something. What amaru decides for requests, it logs itself.")


@app.command()
def incident(
    component: About,
    version: Version = "",
    digest: Digest = "",
    evidence: Files = None,
    severity: Annotated[str, typer.Option(metavar="WORD", help="minor, major, critical, or your own.")] = "",
    ref: Ref = "",
    note: Note = "",
    by: By = "",
    as_is: Public = False,
    ledger: Ledger = None,
    as_json: AsJson = False,
) -> None:
    """Something went wrong."""
    fields = {"severity": severity, "ref": ref, "version": version, "digest": digest, "note": note, "by": by}
    record("incident", component, fields, evidence, as_is, ledger, as_json)


_plain("discovery", "Something was found out that others should know.")
_plain("memory", "What a component had learned or kept, by its digest: `--evidence psi_field.bin`.")


@app.command()
def adr(
    evidence: Annotated[
        list[Path], typer.Option("--evidence", metavar="FILE", help="The record's text, with a heading.")
    ],
    component: Annotated[
        str, typer.Option("--component", metavar="NAME", help="What it is about, as with `adr create`.")
    ] = "architecture",
    status: Annotated[
        str, typer.Option(metavar="WORD", help="proposed, accepted, superseded, …; by default what the file says.")
    ] = "",
    version: Version = "",
    note: Note = "",
    by: By = "",
    as_is: Public = False,
    ledger: Ledger = None,
    as_json: AsJson = False,
) -> None:
    """An architecture decision record as its file has it now; once more after each change. `adr create` begins one."""
    from amaru.cli.remembrancer_session import outcomes
    from amaru.ledger.adr import read_adr

    with outcomes(as_json):
        ref, title, said = read_adr(evidence[0])
    fields = {"title": title, "ref": ref, "version": version, "note": note, "by": by}
    fields["status"] = status or said or "proposed"
    record("adr", component, fields, evidence, as_is, ledger, as_json)


def record(
    kind: str,
    component: str,
    fields: dict[str, Any],  # Any: what the kind's fields hold
    files: list[Path] | None,
    as_is: bool,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Log a receipt of this kind, and say so."""
    with session(ledger, as_json) as remembrancer:
        from amaru.ledger.receipts import rfc3339
        from amaru.ledger.remembrancer import evidence_of

        texts = {"component": component} | {name: value for name, value in fields.items() if isinstance(value, str)}
        if not as_is:
            refuse_secrets(texts)
        evidence = tuple(evidence_of(file) for file in files or ())
        given = {name: value for name, value in fields.items() if value not in ("", None)}
        receipt = made(kind, at=rfc3339(remembrancer.now()), component=component, evidence=evidence, **given)
        print_recorded(remembrancer.record(receipt), evidence, ledger, as_json)


def made(kind: str, **fields: Any) -> Receipt:  # Any: what the kind's fields hold
    """A receipt of this kind."""
    from amaru.ledger import receipts

    receipt: Receipt = getattr(receipts, kind.capitalize())(**fields)
    return receipt


def refuse_secrets(texts: dict[str, str]) -> None:
    """Stop where a text looks as if it held a key: it could not be taken back."""
    from amaru.telemetry.redaction import LONGEST, redact_text

    for name, text in texts.items():
        if redact_text(text[:LONGEST]) != text[:LONGEST]:
            raise typer.BadParameter(
                "something in it looks like a key or a password, and what is logged can be read by others and never be "
                "taken back; leave it out, or log it all the same with --as-is",
                param_hint=f"--{name}",
            )


def print_recorded(done: Recorded, evidence: tuple[Evidence, ...], ledger: str | None, as_json: bool) -> None:
    """Say what was logged, and how to look at it."""
    from amaru.cli.remembrancer_view import as_document, summary
    from amaru.ledger.checkpoint import read_checkpoint

    head = read_checkpoint(done.checkpoint) if done.checkpoint is not None else None
    if as_json:
        document = as_document(done.entry) | {
            "checkpoint": None if done.checkpoint is None else done.checkpoint.decode(),
            "key_made": None if done.made is None else done.made.verifier.vkey,
        }
        print_json(document)
        return
    if done.made is not None:
        print_key_made(done.made.verifier.vkey)
    assert done.entry.receipt is not None
    kind = type(done.entry.receipt).__name__.lower()
    typer.echo(f"Recorded {kind} {summary(done.entry)}".rstrip())
    typer.echo(f"  receipt     {done.entry.id}")
    typer.echo(f"  place       #{done.entry.leaf}" + ("" if head is None else f" of a log of {head.size:,}"))
    digest = done.entry.receipt.digest
    if digest and digest not in [one.digest for one in evidence]:
        typer.echo(f"  digest      {digest}")
    for one in evidence:
        typer.echo(f"  evidence    {one.digest}  {one.name} ({one.size:,} B)")
    if head is None:
        typer.echo("  It is durable; a checkpoint over it could not be published yet (is the disk full?).")
    typer.echo(f"See it, with the proof of it: remembrancer receipt {done.entry.id[:16]}{at_ledger(ledger)}")


def print_key_made(vkey: str) -> None:
    """What a person must know about a new log's key."""
    typer.echo("There was no log yet: it was made, with a signing key that only this user can read.")
    typer.echo("Give its public key to whoever is to check receipts, by another way than the log itself:")
    typer.echo(f"\n  {vkey}\n")
