"""``amaru tenants``: who may ask, and their teams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

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

_HELP = "Keep tenants and their teams: who may ask. A running gateway notices each change within a second."
app = typer.Typer(no_args_is_help=True, add_completion=False, help=_HELP)
teams = typer.Typer(no_args_is_help=True, add_completion=False, help="Keep the teams of tenants.")
app.add_typer(teams, name="teams")

TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="Its name.", show_default=False)]
TeamId = Annotated[str, typer.Argument(metavar="TENANT/TEAM", help="Its tenant's name, and its own.")]
Title = Annotated[str | None, typer.Option(help="What people call it.", show_default=False)]
Settings = Annotated[
    str | None,
    typer.Option(
        metavar="JSON|@FILE",
        help='What it prefers and may use, as in amaru.yaml: {"weights": …, "limits": …, "resources": …, "rescue": …}.',
        show_default=False,
    ),
]
Archived = Annotated[bool, typer.Option("--archived", help="Show those that are archived, too.")]


@app.command("list")
def list_tenants(archived: Archived = False, config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show every tenant, of the configuration and of the store."""
    from amaru.accounts.pages import every

    with session(config, as_json) as directory:
        found = list(every(lambda cursor: directory.tenants.page(archived=archived, cursor=cursor)))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            one.id,
            one.name,
            str(config) if one.from_file else "store",
            shown_at(one.created_at),
            f"archived {shown_at(one.archived_at)}" if one.archived_at is not None else "",
        )
        for one in found
    ]
    print_table(("tenant", "title", "kept in", "created", "state"), rows)


@app.command()
def create(
    tenant: TenantId,
    title: Title = None,
    settings: Settings = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Make a tenant. `amaru keys create TENANT` then makes it a key."""
    given = _settings(settings)
    with session(config, as_json) as directory:
        made = directory.tenants.create(tenant, by=who(), name=title or "", settings=given)
    _say(made, f"tenant {made.id} is there", as_json)


@app.command()
def show(tenant: TenantId, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Print a tenant with its settings, as JSON."""
    with session(config, as_json=False) as directory:
        print_json(directory.tenants.get(tenant))


@app.command()
def change(
    tenant: TenantId,
    title: Title = None,
    settings: Settings = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give a tenant another title, or other settings in place of all that it had."""
    given = _settings(settings)
    with session(config, as_json) as directory:
        made = directory.tenants.change(tenant, by=who(), name=title, settings=given)
    _say(made, f"tenant {made.id} is changed", as_json)


@app.command()
def archive(tenant: TenantId, config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Let a tenant ask for nothing, with all its keys, until it is restored. What it spent stays known."""
    with session(config, as_json) as directory:
        made = directory.tenants.archive(tenant, by=who())
    _say(made, f"tenant {made.id} is archived", as_json)


@app.command()
def restore(tenant: TenantId, config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Let an archived tenant ask again."""
    with session(config, as_json) as directory:
        made = directory.tenants.restore(tenant, by=who())
    _say(made, f"tenant {made.id} is restored", as_json)


@teams.command("list")
def list_teams(
    tenant: Annotated[str | None, typer.Argument(metavar="TENANT", help="Of this tenant alone.")] = None,
    archived: Archived = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show the teams of a tenant, or of all."""
    from amaru.accounts.pages import every

    with session(config, as_json) as directory:
        found = list(every(lambda cursor: directory.teams.page(tenant, archived=archived, cursor=cursor)))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            f"{one.tenant}/{one.id}",
            one.name,
            shown_at(one.created_at),
            f"archived {shown_at(one.archived_at)}" if one.archived_at is not None else "",
        )
        for one in found
    ]
    print_table(("team", "title", "created", "state"), rows)


@teams.command("create")
def create_team(
    team: TeamId, title: Title = None, config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Make a team of a tenant, be it the configuration's or the store's."""
    tenant, id = _parts(team)
    with session(config, as_json) as directory:
        made = directory.teams.create(tenant, id, by=who(), name=title or "")
    _say(made, f"team {team} is there", as_json)


@teams.command("archive")
def archive_team(team: TeamId, config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Let the keys of a team open nothing until it is restored."""
    tenant, id = _parts(team)
    with session(config, as_json) as directory:
        made = directory.teams.archive(tenant, id, by=who())
    _say(made, f"team {team} is archived", as_json)


@teams.command("restore")
def restore_team(team: TeamId, config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Let the keys of an archived team open again what they did."""
    tenant, id = _parts(team)
    with session(config, as_json) as directory:
        made = directory.teams.restore(tenant, id, by=who())
    _say(made, f"team {team} is restored", as_json)


def _say(made: object, words: str, as_json: bool) -> None:
    if as_json:
        print_json(made)
    else:
        typer.echo(words)


def _parts(team: str) -> tuple[str, str]:
    tenant, slash, id = team.partition("/")
    if not slash:
        raise typer.BadParameter("write TENANT/TEAM", param_hint="TENANT/TEAM")
    return tenant, id


def _settings(text: str | None) -> dict[str, Any] | None:  # Any: JSON
    if text is None:
        return None
    try:
        found = json.loads(Path(text[1:]).read_text("utf-8") if text.startswith("@") else text)
    except OSError as error:
        raise typer.BadParameter(f"{text[1:]}: {error.strerror}", param_hint="--settings") from None
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--settings") from None
    if not isinstance(found, dict):
        raise typer.BadParameter("must be an object, {…}", param_hint="--settings")
    return found
