"""``remembrancer keys`` and ``prune``: what the holder of a log does with it, seldom."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from amaru.cli.remembrancer_session import AsJson, ExitCode, Ledger, fail, print_json, session, tell

keys_app = typer.Typer(
    add_completion=False,
    rich_markup_mode="markdown",
    invoke_without_command=True,
    help="Show the log's public keys; rotate them by overlap.",
)


@keys_app.callback()
def keys(context: typer.Context, ledger: Ledger = None, as_json: AsJson = False) -> None:
    """Show the log's public keys, and which of them sign now. `rotate` adds one, `retire` ends another."""
    if context.invoked_subcommand is not None:
        return
    with session(ledger, as_json) as it:
        from amaru.ledger.keys import load_signers

        mine = it.place.signing_key.exists()
        signing = [signer.verifier for signer in load_signers(it.place.signing_key)] if mine else []
        known = it.trust.verifiers
        if as_json:
            found = [{"vkey": one.vkey, "id": one.key_id.hex(), "signs": one in signing} for one in known]
            print_json({"log": it.view.origin, "keys": found})
            return
        typer.echo(f"Public keys of the log {it.view.origin}, for whoever checks it:")
        for one in known:
            state = "signs" if one in signing else "signed until it was retired" if signing else "known"
            typer.echo(f"  {one.vkey}  ({state})")
        if not mine:
            typer.echo(f"Its signing key is not in {it.place.keys}: this user can check the log, not record in it.")


@keys_app.command()
def rotate(ledger: Ledger = None, as_json: AsJson = False) -> None:
    """Add a key: from now on both sign. Once all who check the log know it, retire the old one."""
    with session(ledger, as_json) as it:
        from amaru.errors import LedgerBusy
        from amaru.ledger.place import rotate as add

        added = add(it.place)
        busy = ""
        try:
            it.open_log().close()  # makes the key known beside the log
        except LedgerBusy as error:
            busy = f"{error}. It signs with the new key, too, once it was restarted"
        if as_json:
            print_json({"added": added.verifier.vkey, "id": added.verifier.key_id.hex(), "restart": bool(busy)})
            return
        typer.echo("From the next receipt on, this key signs too; give it to whoever checks the log:")
        typer.echo(f"\n  {added.verifier.vkey}\n")
        if busy:
            tell(busy)
        typer.echo("Once they have it, end the old one: remembrancer keys retire ID (`keys` shows the ids).")


@keys_app.command()
def retire(
    id: Annotated[
        str, typer.Argument(metavar="ID", help="The key's id: eight hexadecimal digits, as `keys` shows it.")
    ],
    ledger: Ledger = None,
    as_json: AsJson = False,
) -> None:
    """Have a key sign no more. What it signed stays verified by it; the last key cannot be retired."""
    with session(ledger, as_json) as it:
        from amaru.ledger.place import retire as end

        try:
            key_id = bytes.fromhex(id)
        except ValueError:
            raise typer.BadParameter(f"{id[:40]!r} is no key's id; `keys` shows them", param_hint="ID") from None
        end(it.place, key_id)
        if as_json:
            print_json({"retired": key_id.hex()})
        else:
            typer.echo(f"Key {key_id.hex()} signs no more. A process that is writing the log knows it once restarted.")


def prune(
    before: Annotated[
        str,
        typer.Option(
            "--before", metavar="TIME|#PLACE", show_default=False,
            help="Erase what was recorded before: 90d ago, a day, an instant, or a place in the log.",
        ),
    ],
    note: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is logged.")] = "",
    by: Annotated[str, typer.Option(metavar="NAME", help="Who orders it.", envvar="USER")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    ledger: Ledger = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Erase the texts of the oldest receipts for good; their hashes stay, so that everything later still verifies.

    The pruning itself is logged. Entries go 256 at a time, so that some of them may stay a while.
    """
    with session(ledger, as_json) as it:
        from amaru.ledger.pruning import prunable_until
        from amaru.ledger.receipts import Pruning, rfc3339
        from amaru.ledger.search import time_of

        if before.startswith("#") and before[1:].isdecimal():
            place = int(before[1:19])
        else:
            first = it.index.first_since(time_of(before, it.now()))
            place = it.view.size if first is None else first
        until, start = prunable_until(it.view, place), it.view.pruned.until
        count = until - start
        if count <= 0:
            older = max(place - start, 0)
            fail(
                f"nothing to erase yet: they go 256 at a time, and of so old ones there are {older:,}",
                ExitCode.FAILED,
                as_json,
            )
        if not yes:
            question = f"Erase the texts of #{start:,} to #{until - 1:,} ({count:,} receipts) for good?"
            if not sys.stdin.isatty():
                fail(f"{question} Nothing was done; --yes does it.", ExitCode.FAILED, as_json)
            typer.confirm(question, abort=True)
        pruned = it.prune(Pruning(at=rfc3339(it.now()), component="ledger", until=until, note=note, by=by))
        if as_json:
            print_json({"first": start, "until": until, "erased": count, "receipt": pruned.leaf})
        else:
            typer.echo(
                f"Erased the texts of {count:,} receipts, #{start:,} to #{until - 1:,}, as #{pruned.leaf:,} says."
            )
            typer.echo("Copies of the log, and backups, have them still.")
