"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from amaru.cli.options import spread


@dataclass(frozen=True, kw_only=True)
class Where:
    """Shared."""

    place: Annotated[str, typer.Option(metavar="NAME", help="Where.")]
    depth: Annotated[int, typer.Option("--depth", "-d", help="How deep.", min=0)] = 1


app = typer.Typer(add_completion=False)


@app.command()
@spread
def dig(*, slowly: Annotated[bool, typer.Option("--slowly", help="Take care.")] = False, where: Where) -> None:
    """Dig there."""
    typer.echo(f"{where} {slowly}")


def test_the_fields_are_options_in_the_place_of_the_parameter() -> None:
    said = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert "Dig there." in said
    assert said.index("--slowly") < said.index("--place") < said.index("--depth")
    assert "--where" not in said


def test_they_arrive_as_one_with_their_defaults_and_checks() -> None:
    run = CliRunner().invoke
    assert run(app, ["--place", "garden", "--slowly"]).output == f"{Where(place='garden')} True\n"
    assert run(app, ["-d", "3", "--place", "garden"]).output == f"{Where(place='garden', depth=3)} False\n"
    assert run(app, ["-d", "-1", "--place", "garden"]).exit_code == 2
    assert run(app, []).exit_code == 2  # the place is required
