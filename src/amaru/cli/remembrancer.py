"""``remembrancer``: the ledger's face. Records, lists, finds, shows and proves what was decided, deployed, trained."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amaru.cli import remembrancer_proof as proof
from amaru.cli.remembrancer_keep import keys_app, prune
from amaru.cli.remembrancer_prompt import prompt
from amaru.cli.remembrancer_record import app as record_app
from amaru.cli.remembrancer_record import print_key_made, print_recorded, refuse_secrets
from amaru.cli.remembrancer_session import (
    EXIT_STATUS,
    AsJson,
    Component,
    ExitCode,
    Ledger,
    Limit,
    Since,
    Trusting,
    at_ledger,
    print_json,
    session,
)

if TYPE_CHECKING:
    from amaru.ledger.remembrancer import Entry, Remembrancer
    from amaru.ledger.search import Search

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="A ledger that anyone can verify: record what was decided, deployed and trained; find it; prove it.\n\n"
    + EXIT_STATUS,
    epilog="Begin with: remembrancer record discovery --component my-service --note 'It works.'",
)
adr_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Architecture decision records.")
app.add_typer(record_app, name="record")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"remembrancer, of amaru {version('amaru')}")
        raise typer.Exit


@app.callback()
def remembrancer(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def init(
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default=False,
            help="The log's name for ever, such as example.org/ledger; by default this host's and a random one.",
        ),
    ] = None,
    ledger: Ledger = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Make the log and its key, and print the public key. The first record does so by itself."""
    with session(ledger, as_json) as it:
        from amaru.ledger.place import found

        signer = found(it.place, name)
        it.open_log().close()
        keys = [one.vkey for one in it.trust.verifiers]
        if as_json:
            print_json({"log": it.view.origin, "ledger": it.place.url, "made": signer is not None, "keys": keys})
        elif signer is None:
            typer.echo(f"The log {it.view.origin} is there already, with {it.view.size:,} receipts.")
        else:
            print_key_made(signer.verifier.vkey)
            typer.echo(f"The log {it.view.origin} lies in {it.place.url}, its key in {it.place.signing_key}.")
            typer.echo("Keep a copy of that key in a safe place: without it, nothing can be recorded in this log.")


@app.command("list")
def list_(
    kind: Annotated[
        str, typer.Argument(metavar="[KIND]", help="deployments, trainings, decisions, incidents, adrs, …, or all.")
    ] = "all",
    component: Component = None,
    since: Since = None,
    limit: Limit = 20,
    ledger: Ledger = None,
    trust: Trusting = None,
    as_json: AsJson = False,
) -> None:
    """List receipts of a kind, the newest first."""
    with session(ledger, as_json, trust) as it:
        from amaru.ledger.receipts import PLURALS, type_of
        from amaru.ledger.search import Search, time_of

        wanted = type_of(kind)
        if kind != "all" and wanted not in PLURALS:
            raise typer.BadParameter(f"{kind[:40]!r} is none of all, {', '.join(PLURALS.values())}", param_hint="KIND")
        _print_found(
            it,
            Search(
                types=() if kind == "all" else (wanted,),
                component=component,
                since=None if since is None else time_of(since, it.now()),
            ),
            limit,
            as_json,
            kinds=kind == "all",
            nothing="nothing of that is recorded" + (" there yet" if since is None and component is None else ""),
        )


@app.command()
def query(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="WORDS...", show_default=False,
            help='All of them; "a phrase", a beginning*, -without; component: type: version: ref: by: digest: '
            "since: until:",
        ),
    ],
    limit: Limit = 20,
    before: Annotated[
        int | None, typer.Option(metavar="PLACE", help="Only what stands before #PLACE: the next page.", min=0)
    ] = None,
    ledger: Ledger = None,
    trust: Trusting = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Find receipts by their words, and by filters: `query "north drain" component:ai-mesh since:7d`.

    Case, accents and plurals make no difference. The newest come first.
    """
    with session(ledger, as_json, trust) as it:
        import msgspec

        from amaru.ledger.receipts import PLURALS
        from amaru.ledger.search import parse_query

        search = msgspec.structs.replace(parse_query(" ".join(words), it.now()), before=before)
        unknown = next((kind for kind in search.types if kind not in PLURALS), None)
        hint = "" if unknown is None else f": {unknown[:40]!r} is no type of receipt, as {', '.join(PLURALS)} are"
        _print_found(it, search, limit, as_json, kinds=True, nothing=f"no receipt says that{hint}")


@app.command()
def receipt(
    id: Annotated[str, typer.Argument(metavar="ID", help="Its id, the first 8 digits of it or more, or #PLACE.")],
    ledger: Ledger = None,
    trust: Trusting = None,
    as_json: AsJson = False,
) -> None:
    """Show a receipt, and prove that it is in the log."""
    with session(ledger, as_json, trust) as it:
        from amaru.cli.remembrancer_view import as_document, as_proof, details, print_details

        shown = it.show(it.get(id))
        if as_json:
            print_json(as_document(shown.entry) | {"proof": as_proof(shown)})
        else:
            print_details(details(shown))
        if shown.entry.data is None:
            raise typer.Exit(int(ExitCode.PRUNED))


@app.command()
def verify(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file, or the sha256:HEX of one.")],
    ledger: Ledger = None,
    trust: Trusting = None,
    as_json: AsJson = False,
) -> None:
    """Tell what the log knows of a file, byte for byte: every receipt that names its SHA-256, each proven.

    Exit status 4 where there is none: the file was never recorded, or was changed since.
    """
    with session(ledger, as_json, trust) as it:
        from amaru.cli.remembrancer_view import as_document, as_proof, console, table
        from amaru.ledger.remembrancer import evidence_of
        from amaru.ledger.search import digest_of

        given = file.startswith("sha256:") and not Path(file).exists()
        digest = f"sha256:{digest_of(file).hex()}" if given else evidence_of(Path(file)).digest
        shown = [it.show(entry) for entry in it.of_file(digest)]
        others = [] if shown or given else it.of_name(Path(file).resolve().name)
        if as_json:
            receipts = [as_document(one.entry) | {"proof": as_proof(one)} for one in shown]
            namesakes = [{"id": entry.id, "digest": one.digest} for entry, one in others]
            print_json({"digest": digest, "known": bool(shown), "receipts": receipts, "namesakes": namesakes})
        elif shown:
            typer.echo(f"{file} is known: {digest}")
            console().print(table([one.entry for one in shown], kinds=True))
            typer.echo(f"Each is proven to be in the log {shown[0].head.origin} of {shown[0].head.size:,} receipts.")
        else:
            typer.echo(f"{file} is not known: no receipt in this log names {digest}")
            for entry, one in others:
                typer.echo(f"A file of this name was recorded with other content: {one.digest} ({entry.id[:12]})")
        if not shown:
            raise typer.Exit(int(ExitCode.NOT_FOUND))


@app.command()
def timeline(
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="30d, 12h, 2026-11-21, or an instant.")] = "7d",
    component: Component = None,
    limit: Limit = 200,
    everything: Annotated[bool, typer.Option("--all", help="Also what the gateway logged of each request.")] = False,
    ledger: Ledger = None,
    trust: Trusting = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened, day by day, the newest last; of requests, decisions and outcomes are only counted."""
    with session(ledger, as_json, trust) as it:
        import msgspec

        from amaru.cli.remembrancer_view import as_document, print_timeline
        from amaru.ledger.receipts import PLURALS
        from amaru.ledger.search import Search, time_of

        search = Search(component=component, since=time_of(since, it.now()), traffic=None if everything else False)
        entries = it.find(search, limit + 1)
        more, entries = len(entries) > limit, entries[:limit]
        counted = {} if everything else it.count(msgspec.structs.replace(search, traffic=True))
        if as_json:
            print_json({"since": since, "receipts": [as_document(one) for one in entries], "more": more,
                        "counted": counted})  # fmt: skip
            return
        if more:
            typer.echo(f"(only the newest {limit:,}; --limit shows more)")
        print_timeline(entries)
        if counted:
            said = ", ".join(f"{count:,} {PLURALS[kind] if count != 1 else kind}" for kind, count in counted.items())
            typer.echo(f"And of requests {said}: --all shows them.")
        elif not entries:
            typer.echo(f"Nothing is recorded since {since}.")


@app.command()
def reindex(ledger: Ledger = None, trust: Trusting = None, as_json: AsJson = False) -> None:
    """Build the search index anew from the log. It is made by itself where it is missing or damaged."""
    with session(ledger, as_json, trust) as it:
        count = it.reindex()
        if as_json:
            print_json({"indexed": count, "index": it.index.place})
        else:
            typer.echo(f"Indexed {count:,} entries in {it.index.place}.")


@adr_app.command("create")
def adr_create(
    title: Annotated[str, typer.Argument(metavar="TITLE", help="What is decided, in a few words.")],
    component: Annotated[str, typer.Option("--component", metavar="NAME", help="What it is about.")] = "architecture",
    folder: Annotated[Path, typer.Option("--dir", metavar="FOLDER", help="Where the records lie.")] = Path("docs/adr"),
    status: Annotated[str, typer.Option(metavar="WORD", help="proposed, accepted, …")] = "proposed",
    note: Annotated[str, typer.Option("--note", "--reason", metavar="TEXT", help="Its context: why now.")] = "",
    by: Annotated[str, typer.Option(metavar="NAME", help="Who records it.", envvar="USER")] = "",
    as_is: Annotated[bool, typer.Option("--as-is", help="Though something in it looks like a secret.")] = False,
    ledger: Ledger = None,
    as_json: AsJson = False,
) -> None:
    """Begin an architecture decision record: a numbered Markdown file to fill in, and a receipt of it.

    Once it is written, log it as it then is: `remembrancer record adr --evidence FILE`.
    """
    with session(ledger, as_json) as it:
        from amaru.ledger.adr import next_number, write_adr
        from amaru.ledger.place import exists
        from amaru.ledger.receipts import Adr, leaf_of, rfc3339
        from amaru.ledger.remembrancer import evidence_of
        from amaru.ledger.search import Search

        title = " ".join(title.split())
        if not title:
            raise typer.BadParameter("say what is decided, in a few words", param_hint="TITLE")
        if not as_is:
            refuse_secrets({"title": title, "note": note})
        now = it.now()
        logged = it.find(Search(types=("adr",)), 10_000) if exists(it.place) else []
        number = next_number(folder, (one.receipt.ref for one in logged if one.receipt is not None))
        adr = Adr(
            at=rfc3339(now), component=component, ref=f"ADR-{number:04d}", title=title, status=status, note=note, by=by
        )
        leaf_of(adr)  # what cannot be recorded leaves no file
        date = datetime.datetime.fromtimestamp(now, datetime.UTC).date().isoformat()
        path = write_adr(folder, number, title, date=date, status=status, context=note)
        evidence = evidence_of(path)
        import msgspec

        done = it.record(msgspec.structs.replace(adr, digest=evidence.digest, evidence=(evidence,)))
        if not as_json:
            typer.echo(f"Wrote {path}: fill in what is between its headings.")
        print_recorded(done, (evidence,), ledger, as_json)
        if not as_json:
            about = "" if component == "architecture" else f" --component {component}"
            command = f"remembrancer record adr{about} --evidence {path}{at_ledger(ledger)}"
            typer.echo(f"Once it is written: {command}")


def _print_found(it: Remembrancer, search: Search, limit: int, as_json: bool, *, kinds: bool, nothing: str) -> None:
    from amaru.cli.remembrancer_view import as_document, console, table

    entries: list[Entry] = it.find(search, limit + 1)
    more, entries = len(entries) > limit, entries[:limit]
    if as_json:
        following = entries[-1].leaf if more else None
        print_json({"receipts": [as_document(entry) for entry in entries], "more": more, "before": following})
    elif not entries:
        typer.echo(nothing[0].upper() + nothing[1:] + ".")
    else:
        console().print(table(entries, kinds=kinds))
        if more:
            typer.echo(f"There are more: --limit {limit * 5}")


app.add_typer(adr_app, name="adr")
app.command()(prompt)
app.command()(proof.sign)
app.command()(proof.timestamp)
app.command("verify-full")(proof.verify_full)
app.command("export-proof")(proof.export_proof)
app.command("verify-proof")(proof.verify_proof)
app.command("verify-audit")(proof.verify_audit)
app.add_typer(keys_app, name="keys")
app.command()(prune)


def main() -> None:
    """Entry point of the ``remembrancer`` command; its exit status is an ``ExitCode``."""
    app(prog_name="remembrancer")
