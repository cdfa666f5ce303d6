"""``amaru config``: check, show and describe the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

app = typer.Typer(no_args_is_help=True, help="Check, show and describe the configuration.", add_completion=False)

ConfigPath = Annotated[Path, typer.Argument(metavar="[PATH]", envvar="AMARU_CONFIG", help="The configuration file.")]
_DEFAULT = Path("amaru.yaml")


@app.command()
def check(path: ConfigPath = _DEFAULT) -> None:
    """Names every mistake at once, with line and remedy; or says what was understood.

    Exit status: 0 fine (with or without warnings), 1 mistakes, 2 wrong usage.
    """
    from amaru.config import load, summary, warnings
    from amaru.errors import ConfigError

    # Rich drops colours by itself where the output is no terminal; soft_wrap keeps one mistake on one line.
    try:
        config = load(path)
    except ConfigError as error:
        errors = Console(stderr=True)
        for problem in error.problems:
            errors.print(_coloured(problem), soft_wrap=True)
        count = len(error.problems)
        errors.print(f"\n{count} {'mistake' if count == 1 else 'mistakes'}", style="bold red", highlight=False)
        raise typer.Exit(1) from None
    console = Console()
    for heading, lines in summary(config):
        console.print(Text(heading, style="bold"))
        for line in lines:
            console.print(Text(f"  {line}"), soft_wrap=True)
    for warning in warnings(config):
        console.print(Text.assemble(("warning: ", "yellow"), warning), soft_wrap=True)
    console.print(Text.assemble((f"{path}: ", "bold"), ("ok", "bold green")), soft_wrap=True)


@app.command()
def schema() -> None:
    """Prints the JSON Schema of amaru.yaml, for editors and for reading: every field has its description.

    Save it as amaru.schema.json beside your file: the file's first line tells editors to look there.
    """
    from amaru.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def show(path: ConfigPath = _DEFAULT) -> None:
    """Prints the effective settings: with defaults, and with what the environment overrides. Keys appear as `set`."""
    import yaml

    from amaru.config import effective, load

    config = load(path)
    typer.echo(yaml.safe_dump(effective(config), sort_keys=False, allow_unicode=True), nl=False)


def _coloured(problem: str) -> Text:
    """``place: what — remedy``: the place stands out, the remedy steps back."""
    place, _, rest = problem.partition(": ")
    what, dash, remedy = rest.partition(" — ")
    return Text.assemble((f"{place}: ", "bold"), what, (f"{dash}{remedy}", "green"))
