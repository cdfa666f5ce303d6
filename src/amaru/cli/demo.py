"""``amaru demo``: two minutes of traffic through amaru while its providers break, and a report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amaru.cli.reports import obstacle_to
from amaru.errors import AmaruError

if TYPE_CHECKING:
    from amaru.readiness.demo import DemoOptions


def demo(
    trace: Annotated[
        Path | None,
        typer.Option(help="A trace as `amaru replay` reads it, in place of the bundled one.", dir_okay=False),
    ] = None,
    speed: Annotated[float, typer.Option(help="How many times faster than the trace.", min=0.01, max=1000)] = 5.0,
    duration_s: Annotated[float, typer.Option(help="Seconds of traffic.", min=5, max=86400)] = 120.0,
    seed: Annotated[int, typer.Option(help="Seed of the simulated providers and of the prompts.")] = 7,
    policy: Annotated[
        str | None, typer.Option(help="How amaru ranks: rules (the default), hybrid, thompson, qlearning, …")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Play it on the rules and on --policy (hybrid, if not given) at once.")
    ] = False,
    report: Annotated[Path, typer.Option(help="Directory for report.md and report.json.")] = Path("demo-report"),
    live: Annotated[bool, typer.Option("--live/--no-live", help="Draw a live view, where there is a terminal.")] = True,
) -> None:
    """Watch amaru serve real traffic over seven simulated providers that break on the way.

    A second client, bound to the provider that the rules like best, gets the same traffic at the same time. Everything
    runs on this machine. Ctrl-C ends it at any moment, with a report of what was measured until then.
    """
    # Imported here, so that `amaru demo --help` need not wait for kernels and servers.
    from rich.console import Console

    from amaru.readiness.demo import DemoOptions, run_demo
    from amaru.readiness.demo_report import markdown, write
    from amaru.readiness.demo_verdict import verdict
    from amaru.readiness.demo_view import LiveView, PlainView
    from amaru.readiness.running import run_until_signalled
    from amaru.routing.policies import POLICIES

    chosen = policy or ("hybrid" if compare else "rules")
    if chosen not in POLICIES:
        raise AmaruError(f"--policy {chosen}: there is no such policy; choose one of {', '.join(POLICIES)}")
    console = Console()
    drawn = live and console.is_terminal

    def make_view(favourite: str) -> LiveView | PlainView:
        return LiveView(console, favourite) if drawn else PlainView(console, favourite)

    if obstacle := obstacle_to(report):
        raise AmaruError(f"no report can be written to {report}: {obstacle}; name another directory with --report")
    options = DemoOptions(
        trace=trace,
        speed=speed,
        duration_s=duration_s,
        seed=seed,
        policy=chosen,
        command=shlex.join(["amaru", *sys.argv[1:]]),
    )
    if compare:
        _compare(options, report)
        return
    done = run_until_signalled(lambda stop: run_demo(options, stop, make_view, console.print))
    if done is None:
        typer.echo("Stopped before any traffic: nothing was measured.")
        raise typer.Exit(130)
    try:
        data, text = write(done, report)
    except OSError as error:
        # What took minutes to measure is shown all the same.
        typer.echo(markdown(done))
        raise AmaruError(f"the report could not be written to {report}: {error.strerror}") from None
    if console.is_terminal:
        console.print(verdict(done), highlight=False)
        typer.echo(f"\nThe whole report: {text} (its data: {data.name})")
    else:
        typer.echo(markdown(done))
        typer.echo(f"Wrote {text} and {data}.")
    if done.failed:
        typer.echo(f"amaru demo: {done.stopped_because}", err=True)
        raise typer.Exit(1)


def _compare(options: DemoOptions, report: Path) -> None:
    """The demo on two policies at once."""
    from amaru.readiness.demo_compare import run_comparison
    from amaru.readiness.demo_comparison_report import markdown, write
    from amaru.readiness.running import run_until_signalled

    done = run_until_signalled(lambda stop: run_comparison(options, stop, typer.echo))
    if done is None:
        typer.echo("Stopped before any traffic: nothing was measured.")
        raise typer.Exit(130)
    typer.echo("\n" + markdown(done))
    try:
        data, text = write(done, report)
    except OSError as error:
        raise AmaruError(f"the report could not be written to {report}: {error.strerror}") from None
    typer.echo(f"Wrote {text} and {data}.")
    if done.failed:
        typer.echo(f"amaru demo: {done.stopped_because}", err=True)
        raise typer.Exit(1)
