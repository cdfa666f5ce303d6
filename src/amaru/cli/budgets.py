"""``amaru budgets``: what each may spend and ask for, how much of it is used, and which processes hold parts of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from amaru.cli.accounts_alerts import alerts
from amaru.cli.accounts_session import (
    DEFAULT_CONFIG,
    AsJson,
    ConfigOption,
    bank_session,
    leases_session,
    print_json,
    print_table,
    session,
    shown_at,
    who,
)

if TYPE_CHECKING:
    from amaru.accounts.allowances import Allowance, Metric
    from amaru.accounts.usage import Usage

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Keep budgets and limits: set, list, archive. A running gateway notices each change within a second.",
)

_STANDARD_PERIOD = {"usd": "month", "requests": "minute", "tokens": "minute", "concurrency": "none"}
_DEFAULT_ALERTS = (0.8, 1.0)


@app.command("list")
def list_budgets(
    subject: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this tenant, team, key, model or provider alone.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show every budget and limit, of the configuration and the store: what is used, what left, when it renews."""
    from amaru.accounts.allowances import format_amount, shown_amount
    from amaru.accounts.pages import every
    from amaru.accounts.usage import usage

    with leases_session(config, as_json) as (directory, leases):
        allowances = list(every(lambda cursor: directory.allowances.page(subject=subject, cursor=cursor)))
        found = usage(directory.store, allowances, time.time(), leases)
    if as_json:
        print_json([_document(one) for one in found])
        return
    rows = [
        (
            one.allowance.id,
            shown_amount(one.allowance),
            format_amount(one.allowance.metric, one.used),
            *(
                "?" if amount is None else format_amount(one.allowance.metric, amount)
                for amount in (one.held, one.left)
            ),
            f"{shown_at(one.renews_at)} UTC" if one.renews_at is not None else "never",
            "refuses" if one.allowance.hard else "alerts",
            str(config) if one.allowance.from_file else "store",
        )
        for one in found
    ]
    figures = ("amount", "used", "held", "left")
    print_table(("budget", *figures, "renews", "when it is used up", "kept in"), rows, right=figures)


@app.command("set", context_settings={"ignore_unknown_options": True})  # -5 is an amount, if not a good one
def set_budget(
    scope: Annotated[str, typer.Argument(metavar="SCOPE", help="tenant, team, key, model or provider.")],
    subject: Annotated[str, typer.Argument(metavar="NAME", help="Which; a team as TENANT/TEAM, a key by its id.")],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="US dollars, like 100 or 12.50; or how many.")],
    per: Annotated[
        str | None,
        typer.Option(
            metavar="PERIOD", help="day, week, month or total for dollars; left out: month.", show_default=False
        ),
    ] = None,
    of: Annotated[str, typer.Option(metavar="WHAT", help="usd, requests or tokens a minute, or concurrency.")] = "usd",
    soft: Annotated[bool, typer.Option("--soft", help="Only alert when it is used up; refuse nothing.")] = False,
    alert: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SHARE", help="Alert at this share of it, like 0.8; may be given often.", show_default=False
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Set a budget or a limit, in place of what there was. What was used in this period stays used."""
    from amaru.accounts.allowances import Allowance, Metric, Scope
    from amaru.accounts.periods import Period

    metric = Metric(_one_of(of, list(Metric), "--of"))
    wanted = Allowance(
        scope=Scope(_one_of(scope, list(Scope), "SCOPE")),
        subject=subject,
        metric=metric,
        period=Period(_one_of(per or _STANDARD_PERIOD[metric], list(Period), "--per")),
        amount=_read_amount(amount, metric),
        hard=not soft,
        alerts=_DEFAULT_ALERTS if alert is None else tuple(sorted(set(alert))),
    )
    with session(config, as_json) as directory:
        _say(directory.allowances.set(wanted, by=who()), "is set", as_json)


@app.command()
def archive(
    budget: Annotated[str, typer.Argument(metavar="BUDGET", help="Its id, as `amaru budgets list` shows it.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Have a budget or limit bind nobody. What was used of it stays known, and counts if it is set again."""
    with session(config, as_json) as directory:
        _say(directory.allowances.archive(budget, by=who()), "is archived", as_json)


@app.command()
def holders(config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show which processes hold parts of budgets, and when each was last heard of."""
    from amaru.accounts.holders import list_holders

    with session(config, as_json) as directory:
        found = list_holders(directory.store, time.time())
    if as_json:
        print_json(found)
        return
    now = time.time()
    rows = [
        (
            one.name,
            one.host,
            str(one.pid),
            shown_at(one.started_at),
            f"{now - one.heartbeat_at:,.0f} s ago",
            str(one.leases),
        )
        for one in found
    ]
    print_table(("holder", "host", "process", "since", "heard of", "leases"), rows, right=("process", "leases"))


@app.command()
def release(
    holder: Annotated[str, typer.Argument(metavar="HOLDER", help="Its name, as `amaru budgets holders` shows it.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give back what a process held that died with its machine. One that starts again on its machine does so itself."""
    from amaru.accounts.holders import release as release_holder

    with bank_session(config, as_json) as (directory, open_bank):
        done = release_holder(holder, directory.store, open_bank(), directory.log, at=time.time(), by=who())
    if as_json:
        print_json(done)
    else:
        typer.echo(f"what {done.name} held is given back")


app.command()(alerts)


def _say(allowance: Allowance, words: str, as_json: bool) -> None:
    from amaru.accounts.allowances import shown_amount

    if as_json:
        print_json(allowance)
    else:
        typer.echo(f"{allowance.id} ({shown_amount(allowance)}) {words}")


def _document(usage: Usage) -> dict[str, object]:
    import msgspec

    figures = {"used": usage.used, "held": usage.held, "left": usage.left, "renews_at": usage.renews_at}
    return {**msgspec.to_builtins(usage.allowance), **figures}


def _one_of(text: str, known: list[str], option: str) -> str:
    if text not in known:
        raise typer.BadParameter(f"{text[:32]!r} is none of {', '.join(known)}", param_hint=option)
    return text


def _read_amount(text: str, metric: Metric) -> int:
    from amaru.accounts.money import nusd_of_amount

    try:
        if metric == "usd":
            return nusd_of_amount(text.removeprefix("$"))
        return int(text)
    except ValueError as error:
        what = str(error) if metric == "usd" else f"not a whole number: {text[:32]!r}"
        raise typer.BadParameter(what, param_hint="AMOUNT") from None
