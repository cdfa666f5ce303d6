"""What the commands about accounts share: where the accounts are, exit codes, times, tables."""

from __future__ import annotations

import datetime
import enum
import getpass
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amaru.errors import AccountConflict, AccountError, AmaruError, ConfigError, StorageError, UnknownAccount

if TYPE_CHECKING:
    from amaru.accounts.bank import Bank
    from amaru.accounts.directory import Directory
    from amaru.accounts.usage import Leases


class ExitCode(enum.IntEnum):
    """What a command's exit status says; ``docs/guides/tenants.md`` holds the same table."""

    OK = 0
    FAILED = 1
    """It cannot be done as asked; the message says why."""
    USAGE = 2
    UNKNOWN = 4
    """There is no such tenant, team, key, budget or process."""
    CONFLICT = 5
    """What is there already is in the way."""
    UNAVAILABLE = 7
    """The store cannot be reached or written."""


ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", help="The configuration, which says where the store is.", envvar="AMARU_CONFIG"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DEFAULT_CONFIG = Path("amaru.yaml")
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(r"([0-9]{1,9})([smhdw])")


@contextmanager
def session(config: Path, as_json: bool) -> Iterator[Directory]:
    """The directory that a configuration leads to; what goes wrong becomes words and an exit code."""
    with _opened(config, as_json) as (directory, _):
        yield directory


@contextmanager
def bank_session(config: Path, as_json: bool) -> Iterator[tuple[Directory, Callable[[], Bank]]]:
    """The same, and what opens the bank that keeps the leases."""
    from amaru.accounts.banks import bank_at

    with _opened(config, as_json) as (directory, redis_url):
        yield directory, partial(bank_at, directory.store, redis_url)


@contextmanager
def leases_session(config: Path, as_json: bool) -> Iterator[tuple[Directory, Leases]]:
    """The same, and where leases are read that the store does not have."""
    from amaru.accounts.banks import leases_at

    with _opened(config, as_json) as (directory, redis_url):
        yield directory, leases_at(redis_url)


@contextmanager
def _opened(config: Path, as_json: bool) -> Iterator[tuple[Directory, str]]:
    from amaru.accounts.directory import Directory
    from amaru.accounts.store import Store
    from amaru.config.accounts_file import load_accounts

    try:
        view = load_accounts(config)
        store = Store(view.accounts.url)
        try:
            store.open()
            directory = Directory(store, view.accounts.pepper, view.from_file)
            yield directory, view.accounts.redis_url or ""
        finally:
            store.close()
    except (AccountError, StorageError, ConfigError) as error:
        _fail(error, as_json)


def _fail(error: AmaruError, as_json: bool) -> None:
    kinds = ((UnknownAccount, ExitCode.UNKNOWN), (AccountConflict, ExitCode.CONFLICT))
    code = next((code for kind, code in kinds if isinstance(error, kind)), ExitCode.FAILED)
    if isinstance(error, StorageError):
        code = ExitCode.UNAVAILABLE
    if as_json:
        print_json({"error": {"exit": int(code), "kind": code.name.lower(), "message": str(error)}})
    else:
        typer.echo(f"amaru: {error}", err=True)
    raise typer.Exit(int(code)) from None


def who() -> str:
    """Who changes something at the command line, as the audit names them."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in many containers
        name = "unknown"
    return f"cli:{''.join(c for c in name if c.isprintable())[:100].strip()}"


def span_s(text: str, option: str) -> float:
    """Seconds of ``30d``, ``12h`` or ``90m``. Raises BadParameter."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text[:32]!r} is no length of time: write 30d, 12h or 90m", param_hint=option)
    return int(found[1]) * UNITS_S[found[2]]


def instant(text: str, option: str) -> float:
    """Unix seconds of ``30d`` from now, of a day or an instant (UTC where it names no offset). Raises BadParameter."""
    if _SPAN.fullmatch(text.strip()):
        return time.time() + span_s(text, option)
    try:
        at = datetime.datetime.fromisoformat(text.strip())
        return (at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text[:32]!r} is no time: write 30d or 12h from now, 2026-12-01, or 2026-12-01T09:00:00Z",
            param_hint=option,
        ) from None


def shown_at(at: float | None) -> str:
    """An instant in UTC, to the minute; empty where there is none."""
    return "" if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")


def print_json(document: Any) -> None:  # Any: whatever msgspec encodes
    """One document on stdout, indented."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Rows under headings; those in ``right`` hold figures. Wide ones are never cut where the output is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000, soft_wrap=True)
    console.print(table)
