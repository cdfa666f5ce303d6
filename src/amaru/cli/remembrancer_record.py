"""``remembrancer record``: logs what happened, one command a kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amaru.cli.options import spread
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


@dataclass(frozen=True, kw_only=True)
class About:
    """What a receipt is about."""

    component: Annotated[
        str,
        typer.Option("--component", metavar="NAME", help="What it is about: a service, a policy.", show_default=False),
    ]
    digest: Annotated[
        str, typer.Option(metavar="sha256:HEX", help="SHA-256 of the image or file that it is about.")
    ] = ""
    evidence: Annotated[
        list[Path] | None,
        typer.Option(
            "--evidence", metavar="FILE", show_default=False,
            help="A file that speaks for it; its name, size and SHA-256 are logged, its content is not. "
            "May be repeated.",
        ),
    ] = None  # fmt: skip
    ref: Annotated[
        str, typer.Option(metavar="ID", help="Id of what it is about in its own store: a run, a ticket.")
    ] = ""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What goes with a receipt of any kind, and where it is recorded."""

    version: Annotated[str, typer.Option("--version", metavar="VERSION", help="Which version of it.")] = ""
    note: Annotated[str, typer.Option(metavar="TEXT", help="In your words, at most 4,000 characters.")] = ""
    by: Annotated[str, typer.Option(metavar="NAME", help="Who records it; told, not proven.", envvar="USER")] = ""
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Log the texts though something in them looks like a secret.")
    ] = False
    ledger: Ledger = None
    as_json: AsJson = False


@app.command()
@spread
def deploy(
    *,
    about: About,
    environment: Annotated[str, typer.Option(metavar="NAME", help="Where to: production, staging.")] = "",
    told: Told,
) -> None:
    """Something went into service: needs its `--digest`, or the file itself as `--evidence`.

    The receipt holds an in-toto Statement in a DSSE envelope, signed with the log's key.
    """
    record("deploy", about, told, environment=environment)


@app.command()
@spread
def training(
    *,
    about: About,
    policy: Annotated[str, typer.Option(metavar="NAME", help="Kind of policy.")] = "",
    score: Annotated[float | None, typer.Option(metavar="FIGURE", help="What it scored.", show_default=False)] = None,
    metric: Annotated[str, typer.Option(metavar="TEXT", help="What the score is of.")] = "",
    told: Told,
) -> None:
    """A policy was trained."""
    record("training", about, told, policy=policy, score=score, metric=metric)


@app.command()
@spread
def decision(about: About, told: Told) -> None:
    """People decided something. What amaru decides for requests, it logs itself."""
    record("decision", about, told)


@app.command()
@spread
def incident(
    *,
    about: About,
    severity: Annotated[str, typer.Option(metavar="WORD", help="minor, major, critical, or your own.")] = "",
    told: Told,
) -> None:
    """Something went wrong."""
    record("incident", about, told, severity=severity)


@app.command()
@spread
def discovery(about: About, told: Told) -> None:
    """Something was found out that others should know."""
    record("discovery", about, told)


@app.command()
@spread
def memory(about: About, told: Told) -> None:
    """What a component had learned or kept, by its digest: `--evidence psi_field.bin`."""
    record("memory", about, told)


@app.command()
@spread
def adr(
    *,
    evidence: Annotated[
        list[Path], typer.Option("--evidence", metavar="FILE", help="The record's text, with a heading.")
    ],
    component: Annotated[
        str, typer.Option("--component", metavar="NAME", help="What it is about, as with `adr create`.")
    ] = "architecture",
    status: Annotated[
        str, typer.Option(metavar="WORD", help="proposed, accepted, superseded, …; by default what the file says.")
    ] = "",
    told: Told,
) -> None:
    """An architecture decision record as its file has it now; once more after each change. `adr create` begins one."""
    from amaru.cli.remembrancer_session import outcomes
    from amaru.ledger.adr import read_adr

    with outcomes(told.as_json):
        ref, title, said = read_adr(evidence[0])
    about = About(component=component, evidence=evidence, ref=ref)
    record("adr", about, told, title=title, status=status or said or "proposed")


def record(kind: str, about: About, told: Told, **own: Any) -> None:  # Any: what the kind's fields hold
    """Log a receipt of this kind, and say so."""
    with session(told.ledger, told.as_json) as remembrancer:
        from amaru.ledger.receipts import rfc3339
        from amaru.ledger.remembrancer import evidence_of

        fields: dict[str, Any] = {
            "component": about.component,
            "version": told.version,
            "digest": about.digest,
            "ref": about.ref,
        }
        fields |= {"note": told.note, "by": told.by, **own}
        if not told.as_is:
            refuse_secrets({name: value for name, value in fields.items() if isinstance(value, str)})
        evidence = tuple(evidence_of(file) for file in about.evidence or ())
        given = {name: value for name, value in fields.items() if value not in ("", None)}
        receipt = made(kind, at=rfc3339(remembrancer.now()), evidence=evidence, **given)
        print_recorded(remembrancer.record(receipt), evidence, told.ledger, told.as_json)


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
