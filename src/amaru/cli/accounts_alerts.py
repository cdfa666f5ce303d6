"""``amaru budgets alerts``: what the webhook was told, or will be; again, or as a test."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amaru.cli.accounts_session import (
    DEFAULT_CONFIG,
    AsJson,
    ConfigOption,
    print_json,
    print_table,
    session,
    shown_at,
    who,
)

if TYPE_CHECKING:
    from amaru.accounts.outbox import Message

MOST_LISTED = 1_000


def alerts(
    limit: Annotated[int, typer.Option(min=1, max=MOST_LISTED, metavar="NUMBER", help="So many, newest first.")] = 50,
    before: Annotated[int | None, typer.Option(metavar="ID", help="Older than this one.", show_default=False)] = None,
    state: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="pending, delivered, given_up or logged alone.", show_default=False),
    ] = None,
    retry: Annotated[
        int | None, typer.Option(metavar="ID", help="Send this one anew, as one that was given up.", show_default=False)
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="Send a test message now, and say what is answered.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show alerts: pending, delivered, given up, or logged where there was no webhook."""
    if test and retry is not None:
        raise typer.BadParameter("give one of the two", param_hint="--retry, --test")
    if test:
        _test(config, as_json)
    elif retry is not None:
        _retry(retry, config, as_json)
    else:
        _list(limit, before, state, config, as_json)


def _list(limit: int, before: int | None, state: str | None, config: Path, as_json: bool) -> None:
    from amaru.accounts.outbox import Outbox, State

    known = [one.value for one in State]
    if state is not None and state not in known:
        raise typer.BadParameter(f"one of {', '.join(known)}", param_hint="--state")
    with session(config, as_json) as directory:
        found = Outbox(directory.store).newest(limit, before=before, state=None if state is None else State(state))
    if as_json:
        print_json([one.info() for one in found])
        return
    headings = ("alert", "at", "event", "budget", "share", "state", "tries", "next", "why not")
    print_table(headings, [_row(one) for one in found], right=("alert", "share", "tries"))


def _retry(id: int, config: Path, as_json: bool) -> None:
    from amaru.accounts.outbox import retry

    with session(config, as_json) as directory, directory.log.changing(who()) as change:
        retry(change, id)
    if as_json:
        print_json({"id": id, "state": "pending"})
    else:
        typer.echo(f"alert {id} is sent by the next gateway that looks, within seconds")


def _test(config: Path, as_json: bool) -> None:
    import uuid

    import msgspec

    from amaru.accounts.alerts import iso
    from amaru.config.accounts_file import load_accounts
    from amaru.errors import AccountError
    from amaru.http1.posting import PostError

    with session(config, as_json):
        webhook = load_accounts(config, with_webhook=True).accounts.webhook
        if webhook is None:
            raise AccountError(f"{config} has no accounts.webhook.url: alerts go to the log alone.")
        at = time.time()
        body = msgspec.json.encode({"type": "webhook.test", "timestamp": iso(at), "data": {}})
        try:
            hook = webhook.hook()
            answer = hook.send(f"msg_{uuid.uuid4().hex}", body, at)
        except PostError as error:
            raise AccountError(f"the test message was not taken: {error}.") from None
    if as_json:
        print_json({"place": hook.place, "answer": answer})
    else:
        typer.echo(f"{hook.place} took the test message{f': {answer}' if answer else ''}")


def _row(message: Message) -> tuple[str, ...]:
    import msgspec

    data = msgspec.json.decode(message.body)["data"]
    share = data["share"]
    return (
        str(message.id),
        shown_at(message.at),
        message.event,
        data["budget"],
        "" if share is None else f"{share:.0%}",
        message.state.value.replace("_", " "),
        str(message.tries),
        shown_at(message.next_at),
        message.error or "",
    )
