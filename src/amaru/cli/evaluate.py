"""``amaru evaluate``: policies in the same held-out worlds, beside the best rule and the best that was possible."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amaru.cli.reports import obstacle_to
from amaru.errors import AmaruError

if TYPE_CHECKING:
    from rich.console import Console

    from amaru.learning.evaluation import Player
    from amaru.learning.evaluation_report import EvaluationReport

FAMILY = "hidden-eval-v1"

_WHO = "Who plays"
_WHERE = "In which worlds"
_RUN = "How, and where it goes"


def evaluate(
    ai_agents: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A swarm's file, out/swarm_final.json: its best agent of each kind plays; else all begin untrained.",
            rich_help_panel=_WHO,
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only this learned policy (again for more). The rules and the references always play.",
            rich_help_panel=_WHO,
            show_default=False,
        ),
    ] = None,
    baseline_config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A scenario file, or a classic workloads.json with its providers.json beside it.",
            rich_help_panel=_WHERE,
            show_default=False,
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"A family of worlds, or a scenario, that comes with amaru. By default {FAMILY}.",
            rich_help_panel=_WHERE,
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Of each world; a shorter scenario begins anew.", min=1, rich_help_panel=_WHERE)
    ] = 1000,
    worlds: Annotated[
        int, typer.Option(help="How many; 20 or more make a claim.", min=1, max=100_000, rich_help_panel=_WHERE)
    ] = 20,
    seed: Annotated[
        int, typer.Option(help="The first world's; the others' follow.", min=0, rich_help_panel=_WHERE)
    ] = 10_000,
    logged: Annotated[
        Path | None,
        typer.Option(
            metavar="STORE",
            help="Instead of in worlds: judge policies by a gateway's stored decisions, or a data set (off-policy).",
            rich_help_panel=_WHERE,
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Worker processes; by default one per core. The result is the same.",
            min=1,
            max=1024,
            rich_help_panel=_RUN,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Directory for the report, whose older one it replaces.", rich_help_panel=_RUN)
    ] = Path("evaluation-report"),
) -> None:
    """Play every policy in the same held-out worlds, and measure how much of what can be learned it learned.

    The rules, the learned policies, and two references that no user can have (`informed` and `oracle`) play the same
    requests with the same luck. Every figure comes with a 95 % interval over the worlds. Ctrl-C ends it with a report
    of the worlds that were played to the end.
    """
    # Imported here, so that `amaru evaluate --help` need not wait for them.
    from rich.console import Console

    from amaru.learning.evaluation import evaluate as play_all
    from amaru.learning.evaluation import players
    from amaru.readiness.counting import Stopwatch, view_on
    from amaru.readiness.machine import this_machine
    from amaru.simulation.scenario_files import load_scenario

    console = Console()
    if obstacle := obstacle_to(out):
        raise AmaruError(f"no report can be written to {out}: {obstacle}; name another directory with --out")
    if logged is not None:
        _judge_logged(logged, players(ai_agents, policy or ()), out, seed)
        return
    if baseline_config is not None and family is not None:
        raise AmaruError("--baseline-config and --family both name the worlds: give one of them")
    scenario = load_scenario(baseline_config or family or FAMILY)
    who = players(ai_agents, policy or ())
    machine = this_machine()
    workers = processes or machine.cores
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with view_on(console, "amaru evaluate") as view:
        watch = Stopwatch(view)
        games = play_all(
            scenario,
            who,
            steps=steps,
            seeds=range(seed, seed + worlds),
            processes=workers,
            on_progress=lambda now: watch.show(
                now.games,
                now.of,
                f"{now.worlds} of {worlds} worlds; {now.requests:,} requests routed, "
                f"{now.requests / max(watch.elapsed_s, 1e-9):,.0f}/s",
            ),
        )
    from amaru.learning.evaluation_report import report

    if not games.seeds:
        typer.echo("Stopped before any world was played to its end: nothing was measured.")
        raise typer.Exit(130)
    found = report(
        games,
        version=_version(),
        seed=seed,
        started_at=started_at,
        seconds=round(watch.elapsed_s, 1),
        command=shlex.join(["amaru", *sys.argv[1:]]),
        machine=f"{machine.processor}, {machine.cores} cores, {machine.system}, {machine.python}",
    )
    _tell(found, out, console)
    if not games.complete:
        raise typer.Exit(130)


def _tell(found: EvaluationReport, out: Path, console: Console) -> None:
    """Write the report and show it: the verdict and the standings in a terminal, else all of it."""
    from amaru.learning.evaluation_report import DATA, TEXT, encoded, write
    from amaru.readiness.evaluation_markdown import markdown, verdict
    from amaru.readiness.evaluation_screen import screen

    text = markdown(found)
    try:
        write([(out / DATA, encoded(found)), (out / TEXT, text.encode())])
    except AmaruError:
        typer.echo(verdict(found))  # what took minutes to measure is shown all the same
        raise
    if console.is_terminal:
        console.print(screen(found))
        typer.echo(f"\nThe whole report: {out / TEXT} (beside it {DATA})")
    else:
        typer.echo(text)
        typer.echo(f"Wrote {out / DATA}, {out / TEXT}.")


def _judge_logged(store: Path, who: Sequence[Player], out: Path, seed: int) -> None:
    """Judge by what a gateway stored, and show all of the report: it is short."""
    from amaru.learning.evaluation_report import write
    from amaru.learning.logged import evaluate_logged
    from amaru.learning.logged_scoring import Target
    from amaru.routing.policies import make_policy

    targets: list[str | Target] = []
    for player in who:
        if player.role == "reference":
            continue
        if player.state is None:
            targets.append(player.name)
        else:
            trained = make_policy(player.name, **player.knobs)
            trained.restore(player.state)
            targets.append(Target(f"{player.name} ({player.origin})", trained))
    found = evaluate_logged(
        store, targets, seed=seed, progress=lambda read: typer.echo(f"{read:,} decisions read", err=True)
    )
    text = found.markdown()
    write([(out / "logged.json", found.json()), (out / "logged.md", text.encode())])
    typer.echo(text)
    typer.echo(f"Wrote {out / 'logged.json'}, {out / 'logged.md'}.")


def _version() -> str:
    from importlib.metadata import version

    return version("amaru")
