"""``amaru health``: how each provider fares, what is foreseen, what came again, and a person's word on healings."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amaru.errors import HealthError

if TYPE_CHECKING:
    from amaru.health.remote import RemoteHealth

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", invoke_without_command=True)

EVERY_S = 2.0
"""Between two looks of ``--watch``."""
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}

Url = Annotated[str, typer.Option(metavar="URL", help="The gateway's address.", envvar="AMARU_URL")]
KeyEnv = Annotated[str, typer.Option(metavar="NAME", help="Environment variable that holds an operator's key.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, as the endpoint gives it.")]
DEFAULT_URL, DEFAULT_KEY = "http://127.0.0.1:8080", "AMARU_OPERATOR_KEY"


@app.callback()
def health(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Draw it anew every two seconds, until Ctrl-C.")] = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key_env: KeyEnv = DEFAULT_KEY,
) -> None:
    """Show how each provider fares, what to do about it, what is foreseen, and what it means.

    Asks a running gateway, with an operator's key. Exit status: 0 fine, 1 it cannot be asked.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console

    from amaru.cli.health_view import picture, show

    remote = _remote(url, key_env)
    console = Console()
    if json:
        typer.echo(_pretty(remote.report()))
    elif not watch:
        show(console, remote.report())
    else:
        from rich.live import Live

        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            try:
                while True:
                    live.update(picture(remote.report(), console.width), refresh=True)
                    time.sleep(EVERY_S)
            except KeyboardInterrupt:
                return


@app.command()
def history(
    since: Annotated[str, typer.Option(metavar="TIME", help="How far back: 30d, 12h, 90m.")] = "30d",
    config: Annotated[
        Path,
        typer.Option(
            "--config", "-c", help="The configuration file, whose folder of memory is read.", envvar="AMARU_CONFIG"
        ),
    ] = Path("amaru.yaml"),
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask this gateway instead.", show_default=False)
    ] = None,
    key_env: KeyEnv = DEFAULT_KEY,
    json: Json = False,
) -> None:
    """Find patterns that come again: by provider, cause and hour of the day.

    Reads what was remembered, beside the database; the gateway need not run.
    """
    from rich.console import Console

    from amaru.cli.health_view import history_table
    from amaru.health.history import Recurrence, recurring

    back_s = _seconds(since)
    if url is not None:
        found = _remote(url, key_env).get(f"/health/history?since_s={back_s:.0f}", dict[str, list[Recurrence]])[
            "recurring"
        ]
    else:
        found = recurring(_remembered(config), since=time.time() - back_s)
    if json:
        typer.echo(_pretty({"recurring": found}))
    elif not found:
        typer.echo(f"Nothing came more than once within {since}.")
    else:
        Console().print(history_table(found), highlight=False)


def _remembered(config: Path) -> Any:  # Any: patterns; the type is imported late
    from amaru.config import load
    from amaru.health.memory import read_history

    folder = load(config).health_path
    try:
        return read_history(folder)[0]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise HealthError(f"what was remembered in {folder} cannot be read: {error}") from None


def _remote(url: str, key_env: str) -> RemoteHealth:
    from amaru.health.remote import RemoteHealth

    return RemoteHealth(url, os.environ.get(key_env, "").strip() or None)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smhdw])", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text[:32]!r} is no time: write 30d, 12h or 90m", param_hint="--since")
    return float(found[1]) * UNITS_S[found[2]]


def _pretty(document: object) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
