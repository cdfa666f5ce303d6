"""``amaru keys``: make, list, rotate, expire and revoke the keys of tenants and of administrators."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from amaru.cli.accounts_session import (
    DEFAULT_CONFIG,
    AsJson,
    ConfigOption,
    instant,
    print_json,
    print_table,
    session,
    shown_at,
    span_s,
    who,
)

if TYPE_CHECKING:
    from amaru.accounts.directory_keys import KeyInfo, NewKey

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Keep keys: make, list, rotate, expire, revoke. A running gateway notices each change within a second.",
)

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Its id, k-…, as `amaru keys list` shows it; not the key.")]
Expires = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="When it ends: 90d from now, a day, an instant. Left out: never."),
]


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(metavar="ID", help="Of this tenant alone.")] = None,
    over: Annotated[bool, typer.Option("--all", help="Show those that are expired or revoked, too.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show the keys of the store: never the keys themselves. Those of amaru.yaml stand there."""
    from amaru.accounts.pages import every

    with session(config, as_json) as directory:
        found = list(every(lambda cursor: directory.keys.page(tenant=tenant, over=over, cursor=cursor)))
    if as_json:
        print_json(found)
        return
    now = time.time()
    rows = [
        (
            one.id,
            f"…{one.last4}",
            one.name,
            f"{one.tenant}{f'/{one.team}' if one.team else ''}" if one.tenant else f"admin: {one.role}",
            shown_at(one.created_at),
            shown_at(one.last_used_at) or "never",
            _state(one, now),
        )
        for one in found
    ]
    print_table(("key", "ends in", "title", "of", "created", "last used", "state"), rows)


@app.command()
def create(
    owner: Annotated[
        str | None, typer.Argument(metavar="TENANT[/TEAM]", help="Whose key it is.", show_default=False)
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option(metavar="ROLE", help="A key of the admin API instead: read, operate or own.", show_default=False),
    ] = None,
    title: Annotated[str, typer.Option(help="What people call it.", show_default=False)] = "",
    expires: Expires = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once. It alone is on stdout, so that `KEY=$(amaru keys create acme)` works."""
    from amaru.accounts.directory_keys import Role

    if (owner is None) == (admin is None):
        raise typer.BadParameter("name a tenant, or --admin with a role", param_hint="TENANT")
    if admin is not None and admin not in list(Role):
        raise typer.BadParameter(f"one of {', '.join(Role)}", param_hint="--admin")
    ends = None if expires is None else instant(expires, "--expires")
    with session(config, as_json) as directory:
        if admin is not None:
            made = directory.keys.create_admin(Role(admin), by=who(), name=title, expires_at=ends)
        else:
            tenant, _, team = (owner or "").partition("/")
            made = directory.keys.create(tenant, team=team or None, by=who(), name=title, expires_at=ends)
    _hand_over(made, as_json)


@app.command()
def rotate(
    key: KeyId,
    overlap: Annotated[
        str, typer.Option(metavar="LENGTH", help="How long the old key goes on opening: 30d, 12h, 0s.")
    ] = "24h",
    expires: Expires = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Make another key in a key's place, and print it. Budgets of the key are shared by both."""
    overlap_s = span_s(overlap, "--overlap")
    ends = None if expires is None else instant(expires, "--expires")
    with session(config, as_json) as directory:
        made = directory.keys.rotate(key, by=who(), overlap_s=overlap_s, expires_at=ends)
    _hand_over(made, as_json)
    if not as_json:
        typer.echo(f"{key} opens until {shown_at(time.time() + overlap_s)} UTC at most.", err=True)


@app.command()
def expire(
    key: KeyId,
    at: Annotated[str, typer.Option(metavar="TIME", help="90d from now, a day, an instant; or never.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Have a key end at a time, later or earlier than it would."""
    ends = None if at == "never" else instant(at, "--at")
    with session(config, as_json) as directory:
        changed = directory.keys.expire(key, ends, by=who())
    _say(changed, as_json)


@app.command()
def revoke(key: KeyId, config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Have a key open nothing from now on, for ever."""
    with session(config, as_json) as directory:
        changed = directory.keys.revoke(key, by=who())
    _say(changed, as_json)


def _hand_over(made: NewKey, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    typer.echo(made.key)
    ends = made.info.expires_at
    state = "never expires" if ends is None else f"expires {shown_at(ends)} UTC"
    typer.echo(f"This is key {made.info.id}, which {state}; it is shown this once.", err=True)


def _say(changed: KeyInfo, as_json: bool) -> None:
    if as_json:
        print_json(changed)
    else:
        typer.echo(f"{changed.id}: {_state(changed, time.time())}")


def _state(info: KeyInfo, now: float) -> str:
    if info.revoked_at is not None:
        return f"revoked {shown_at(info.revoked_at)}"
    if info.expires_at is None:
        return "lasts"
    return f"{'expired' if info.is_over(now) else 'expires'} {shown_at(info.expires_at)}"
