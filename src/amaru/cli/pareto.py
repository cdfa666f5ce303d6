"""``amaru pareto``: one learned model asked for cost against latency against success."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from amaru.cli.reports import obstacle_to
from amaru.errors import AmaruError


def pareto(
    scenario: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="A family or scenario that comes with amaru, or a file.")
    ] = "hidden-eval-v1",
    policy: Annotated[str, typer.Option(metavar="NAME", help="A learned policy.")] = "thompson",
    ai_agents: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A swarm's file: begin with its best agent of that kind, instead of untrained.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        int, typer.Option(help="Preferences, evenly over the simplex; rounded up to a lattice.", min=3, max=1000)
    ] = 21,
    worlds: Annotated[int, typer.Option(help="How many.", min=1, max=10_000)] = 20,
    learn_steps: Annotated[int, typer.Option(help="That it learns in each world before it is asked.", min=0)] = 200,
    steps: Annotated[int, typer.Option(help="In which it is asked, at every fifth, while it goes on.", min=1)] = 400,
    seed: Annotated[int, typer.Option(help="The first world's; the others' follow.", min=0)] = 10_000,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="USD,MS,SHARE",
            help="Reference point of the hypervolume, to compare runs: 6,500,0.7.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for the table, the picture and the JSON.")] = Path(
        "pareto-report"
    ),
) -> None:
    """Ask one learned model for the front of cost against latency against success.

    The model learns in each world under the tenants' own weights. Every few steps it is frozen and asked for every
    preference over that step: only the weights change. The rules are asked the same.
    """
    from rich.console import Console

    from amaru.learning.evaluation import Player, players
    from amaru.learning.evaluation_report import encoded, write
    from amaru.learning.pareto_play import ask
    from amaru.readiness.counting import Stopwatch, view_on
    from amaru.readiness.machine import this_machine
    from amaru.readiness.pareto_markdown import DATA, TEXT, markdown, screen
    from amaru.readiness.pareto_plots import PLOT, draw
    from amaru.simulation.scenario_files import load_scenario

    console = Console()
    if obstacle := obstacle_to(out):
        raise AmaruError(f"no report can be written to {out}: {obstacle}; name another directory with --out")
    bound = _reference(reference)
    asked = [player for player in players(ai_agents, [policy]) if player.name == policy]
    who = (*asked, Player(name="rules", role="rule"))
    game = load_scenario(scenario)
    with view_on(console, "amaru pareto") as view:
        watch = Stopwatch(view)
        try:
            found = ask(
                game,
                who,
                weights=weights,
                learn_steps=learn_steps,
                steps=steps,
                seeds=range(seed, seed + worlds),
                seed=seed,
                reference=bound,
                on_progress=lambda done, of: watch.show(done, of, f"{done} of {of} worlds"),
            )
        except KeyboardInterrupt:
            typer.echo("Stopped before any world was played to its end: nothing was measured.")
            raise typer.Exit(130) from None
    machine = this_machine()
    text = markdown(
        found,
        command=shlex.join(["amaru", *sys.argv[1:]]),
        machine=f"{machine.processor}, {machine.cores} cores, {machine.system}, {machine.python}",
    )
    write([(out / DATA, encoded(found)), (out / TEXT, text.encode()), (out / PLOT, draw(found))])
    if console.is_terminal:
        console.print(screen(found))
        typer.echo(f"\nThe picture: {out / PLOT} (beside it {DATA}, {TEXT})")
    else:
        typer.echo(text)
        typer.echo(f"Wrote {out / DATA}, {out / TEXT}, {out / PLOT}.")
    if len(found.worlds) < worlds:
        typer.echo(f"Stopped after {len(found.worlds)} of {worlds} worlds; this is of these.", err=True)
        raise typer.Exit(130)


def _reference(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        cost, latency, success = map(float, text.split(","))
    except ValueError:
        raise AmaruError(f"--reference {text}: give three numbers, USD,MS,SHARE, such as 6,500,0.7") from None
    return cost, latency, success
