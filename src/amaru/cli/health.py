"""``amaru health``: how each provider fares, what is foreseen, what came again, and a person's word on healings."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amaru.errors import HealthError

if TYPE_CHECKING:
    from amaru.health.remote import RemoteHealth
    from amaru.health.report import HealthReport

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", invoke_without_command=True)

EVERY_S = 2.0
"""Between two looks of ``--watch``."""
MOST_SINCE_S = 9_999_999_999.0
"""How far back a gateway takes: further than any history."""
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}

Url = Annotated[str, typer.Option(metavar="URL", help="The gateway's address.", envvar="AMARU_URL")]
KeyEnv = Annotated[str, typer.Option(metavar="NAME", help="Environment variable that holds an operator's key.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, as the endpoint gives it.")]
DEFAULT_URL, DEFAULT_KEY = "http://127.0.0.1:8080", "AMARU_OPERATOR_KEY"


@app.callback()
def health(
    context: typer.Context,
    watch: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Draw it anew every two seconds, or print a line of JSON; until Ctrl-C."),
    ] = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key_env: KeyEnv = DEFAULT_KEY,
) -> None:
    """Show how each provider fares, what to do about it, what is foreseen, and what it means.

    Asks a running gateway, with an operator's key. One that goes away while it is watched is waited for. Exit status: 0
    fine, 1 it cannot be asked.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console

    from amaru.cli.health_view import picture

    looks, console = _looks(_remote(url, key_env)), Console()
    if not watch:
        report, _ = next(looks)
        if json:
            typer.echo(_pretty(report))
        else:
            console.print(picture(report, console.width), highlight=False)
        return
    with contextlib.suppress(KeyboardInterrupt):
        if json:
            for report, trouble in looks:
                typer.echo(trouble or _line(report), err=bool(trouble))
        from rich.live import Live

        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            for report, trouble in looks:
                live.update(picture(report, console.width, trouble=trouble), refresh=True)


def _looks(remote: RemoteHealth) -> Iterator[tuple[HealthReport, str]]:
    """The report of now, and each two seconds another; where the gateway has gone, the last one, and why.

    Raises ``HealthError`` where there is no first one.
    """
    report, trouble = remote.report(), ""
    while True:
        yield report, trouble
        time.sleep(EVERY_S)
        try:
            report, trouble = remote.report(), ""
        except HealthError as error:
            trouble = str(error)


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


Kind = Annotated[
    str | None,
    typer.Option(
        metavar="HEALING", help="drain, weight, timeouts, retry, …; left out: every kind.", show_default=False
    ),
]
Provider = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of this provider; left out: of each.", show_default=False)
]
Pattern = Annotated[
    str | None,
    typer.Option(metavar="PATTERN", help="degradation, api_change or resonance; left out: each.", show_default=False),
]
By = Annotated[str, typer.Option(metavar="NAME", help="Who orders it.", envvar="USER")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why.")]


@app.command()
def veto(
    kind: Kind = None,
    provider: Provider = None,
    pattern: Pattern = None,
    by: By = "operator",
    reason: Reason = "",
    url: Url = DEFAULT_URL,
    key_env: KeyEnv = DEFAULT_KEY,
) -> None:
    """Forbid healings of a kind, for a provider or about a kind of pattern; what amaru does already of that ends."""
    _order(url, key_env, "veto", {**_named(kind, provider, pattern), "by": by, "reason": reason})
    typer.echo(f"Forbidden: {_said(kind, provider, pattern)}. `amaru health lift` allows it again.")


@app.command()
def pin(
    kind: Annotated[str, typer.Argument(metavar="HEALING", help="drain, weight, timeouts, …, or nothing.")],
    offers: Annotated[list[str], typer.Argument(metavar="OFFER...", help="The offers that it is for.")],
    by: By = "operator",
    reason: Reason = "",
    url: Url = DEFAULT_URL,
    key_env: KeyEnv = DEFAULT_KEY,
) -> None:
    """Order a healing, which holds until it is lifted. `nothing` keeps amaru's own away from the offers."""
    done = _order(url, key_env, "pin", {"kind": kind, "offers": offers, "by": by, "reason": reason})
    changed = "; ".join(f"{what}: {how}" for what, how in done["changed"].items())
    typer.echo(f"Pinned {done['id']}{f' ({changed})' if changed else ''}.")
    typer.echo(f"It holds until: amaru health lift {done['id']}")


@app.command()
def lift(
    healing: Annotated[str | None, typer.Argument(metavar="[ID]", help="A pinned healing, by its id.")] = None,
    kind: Kind = None,
    provider: Provider = None,
    pattern: Pattern = None,
    url: Url = DEFAULT_URL,
    key_env: KeyEnv = DEFAULT_KEY,
) -> None:
    """End a pinned healing by its id, or lift the veto that was made with these very options."""
    veto = _named(kind, provider, pattern)
    if (healing is None) is not bool(veto):
        raise typer.BadParameter("name either a pinned healing or the options of a veto")
    _order(url, key_env, "lift", {"veto": veto} if healing is None else {"healing": healing})
    typer.echo("Lifted." if healing is None else f"{healing} has ended.")


def _order(url: str, key_env: str, what: str, document: dict[str, Any]) -> dict[str, Any]:
    return _remote(url, key_env).post(f"/health/healings/{what}", document, dict[str, Any])


def _named(kind: str | None, provider: str | None, pattern: str | None) -> dict[str, str]:
    given = {"kind": kind, "provider": provider, "pattern": pattern}
    return {name: value for name, value in given.items() if value is not None}


def _said(kind: str | None, provider: str | None, pattern: str | None) -> str:
    said = f"{kind or 'every healing'} of {provider or 'any provider'}"
    return said if pattern is None else f"{said} about {pattern}"


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
    return min(float(found[1]) * UNITS_S[found[2]], MOST_SINCE_S)


def _line(document: object) -> str:
    import msgspec

    return msgspec.json.encode(document).decode()


def _pretty(document: object) -> str:
    import msgspec

    return msgspec.json.format(_line(document), indent=2)
