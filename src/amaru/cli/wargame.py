"""``amaru wargame``: the scenarios of the war-game, those that come with amaru and one's own."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

app = typer.Typer(no_args_is_help=True, help="List, check and show scenarios of the war-game.", add_completion=False)

Source = Annotated[
    str,
    typer.Argument(
        metavar="SCENARIO",
        help="A name that `amaru wargame list` shows, a YAML file, or a classic workloads.json with providers.json "
        "beside it.",
    ),
]


@app.command("list")
def list_() -> None:
    """The scenarios that come with amaru, and what each is for."""
    from amaru.simulation.scenario_files import read_scenario_file, shipped

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "to", "what it is"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    purposes = {"train": "train in", "evaluate": "judge in", "any": "either"}
    for name in shipped():
        file = read_scenario_file(name)
        table.add_row(name, purposes[file.purpose], file.about)
    Console().print(table)


@app.command()
def check(scenario: Source) -> None:
    """Names every mistake of a scenario at once, with line and remedy; or says what was understood.

    Exit status: 0 fine, 1 mistakes, 2 wrong usage.
    """
    from amaru.errors import ScenarioError
    from amaru.simulation.scenario_files import load_scenario

    try:
        loaded = load_scenario(scenario)
    except ScenarioError as error:
        errors = Console(stderr=True, highlight=False)
        for problem in error.problems:
            place, _, rest = problem.partition(": ")
            errors.print(Text.assemble((f"{place}: ", "bold"), rest), soft_wrap=True)
        count = len(error.problems)
        errors.print(f"\n{count} {'mistake' if count == 1 else 'mistakes'}", style="bold red")
        raise typer.Exit(1) from None
    providers = len({offer.provider for offer in loaded.offers})
    tenants = len(loaded.demands) or len(loaded.tenants)
    counts = {"provider": providers, "offer": len(loaded.offers), "tenant": tenants, "event": len(loaded.events)}
    counts["step"] = loaded.steps
    said = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts.items())
    truth = "a hidden truth in every world" if loaded.hidden else "what is posted is the truth"
    line = Text.assemble((f"{scenario}: ", "bold"), ("fine", "bold green"), f": {loaded.name}: {said}; {truth}")
    Console(highlight=False).print(line, soft_wrap=True)


@app.command()
def show(scenario: Source) -> None:
    """Prints a scenario as YAML, with all that it extends: to read, to begin one's own, or to leave JSON behind."""
    from amaru.simulation.scenario_files import dump_scenario, read_scenario_file

    typer.echo(dump_scenario(read_scenario_file(scenario)), nl=False)
