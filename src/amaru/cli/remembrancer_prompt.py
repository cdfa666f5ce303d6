"""``remembrancer prompt``: is this the prompt that a decision was about?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amaru.cli.remembrancer_session import (
    AsJson,
    ExitCode,
    Ledger,
    Trusting,
    at_ledger,
    print_json,
    session,
)

if TYPE_CHECKING:
    from amaru.ledger.receipts import Decision
    from amaru.ledger.remembrancer import Entry

STDIN = "-"
MOST_MIB = 128
"""Of a file; no prompt of more than 64 MiB has a mark (``ledger.prompt_kib``)."""


def prompt(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-", help="A request's body as it was sent, or its prompt's JSON alone; - is standard input."
        ),
    ],
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="Whose request it was.")],
    receipt: Annotated[
        str | None,
        typer.Option(
            "--receipt", metavar="ID", show_default=False,
            help="A decision's receipt, by its id, 8 digits of it or more, or #PLACE: does it hold this prompt's mark?",
        ),
    ] = None,
    ledger: Ledger = None,
    trust: Trusting = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Print the mark that stands for a prompt in a tenant's receipts, or tell whether a receipt is about that prompt.

    It takes the ledger's salt, which only its owner has. Exit status 3 where the receipt is about another prompt.
    """
    with session(ledger, as_json, trust) as it:
        from amaru.cli.remembrancer_view import as_proof
        from amaru.ledger.marks import PromptMarks, prompt_of
        from amaru.ledger.place import read_salt
        from amaru.telemetry.redaction import in_one_line

        text = prompt_of(_read(file), where="standard input" if file == STDIN else file)
        try:
            mark = PromptMarks(read_salt(it.place)).mark(tenant, text)
        except UnicodeEncodeError:
            raise typer.BadParameter("is no text in UTF-8", param_hint="--tenant") from None
        said = {"mark": mark, "tenant": tenant}
        if receipt is None:
            if as_json:
                print_json(said)
            else:
                typer.echo(mark)
                typer.echo(f"Receipts about this prompt: remembrancer query digest:{mark}{at_ledger(ledger)}")
            return
        shown = it.show(it.get(receipt))
        entry, decision = shown.entry, _decision(shown.entry)
        holds, theirs = decision.prompt == mark, in_one_line(decision.tenant, 200)
        if as_json:
            print_json(said | {"id": entry.id, "index": entry.leaf, "decision": decision.ref, "held": decision.prompt,
                               "holds": holds, "proof": as_proof(shown)})  # fmt: skip
        elif holds:
            typer.echo(
                f"Yes: the decision {in_one_line(decision.ref, 200)} of tenant {theirs} was about this prompt, {mark}."
            )
            typer.echo(f"Receipt {entry.id[:12]} is proven to be in the log {shown.head.origin} as #{entry.leaf:,}.")
        elif decision.tenant != tenant:
            typer.echo(f"No: receipt {entry.id[:12]} is about a request of tenant {theirs}, not of {tenant}.")
        else:
            typer.echo(f"No: receipt {entry.id[:12]} holds {decision.prompt}, this prompt's mark is {mark}.")
            typer.echo("A mark is of the bytes that were sent: other white space or other escapes make another.")
        if not holds:
            raise typer.Exit(int(ExitCode.UNPROVEN))


def _read(file: str) -> bytes:
    from amaru.errors import LedgerError

    most = MOST_MIB << 20
    try:
        if file == STDIN:
            content = typer.get_binary_stream("stdin").read(most + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise LedgerError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > most:
        raise LedgerError(f"{file}: has more than {MOST_MIB} MiB; a prompt so long has no mark in any receipt")
    return content


def _decision(entry: Entry) -> Decision:
    """The decision that an entry holds. Raises EntryPruned, and LedgerError where it holds no mark."""
    from amaru.errors import EntryPruned, LedgerError
    from amaru.ledger.receipts import Decision

    if entry.data is None:
        raise EntryPruned(f"#{entry.leaf:,} was pruned: which prompt it was about went with its text")
    receipt = entry.receipt
    if not isinstance(receipt, Decision):
        raise LedgerError(f"receipt {entry.id[:12]} is no decision; only those hold a mark of a prompt")
    if not receipt.prompt:
        raise LedgerError(
            f"receipt {entry.id[:12]} holds no mark: its prompt was longer than ledger.prompt_kib, or it was decided "
            "without one (a recommendation, a person's decision)"
        )
    return receipt
