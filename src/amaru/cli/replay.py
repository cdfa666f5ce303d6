"""``amaru replay``: a trace of LLM traffic played against an endpoint, and two such replays side by side."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from amaru.cli.reports import obstacle_to
from amaru.errors import AmaruError, ReportError
from amaru.telemetry.redaction import redact_text

if TYPE_CHECKING:
    from rich.console import Console

    from amaru.readiness.replay import Replayed

_WHAT = "Target"
_LOAD = "Load"
_JUDGED = "What counts, and where it goes"


def replay(
    trace: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE",
            help="CSV as Azure publishes it, JSON lines as Mooncake does, or JSON lines of amaru's own.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Base URL of the API; /v1 where it has no path.",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="The model to ask for; needed where the target lists several.", rich_help_panel=_WHAT),
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Environment variable that holds the API key.", rich_help_panel=_WHAT),
    ] = None,
    exact_lengths: Annotated[
        bool | None,
        typer.Option(
            "--exact-lengths/--no-exact-lengths",
            help="Ask for answers as long as the trace's (ignore_eos); by default where the target accepts that.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Ask for answers that are not streamed.", rich_help_panel=_WHAT)
    ] = False,
    speed: Annotated[
        float, typer.Option(help="How many times faster than the trace.", min=0.001, max=10000, rich_help_panel=_LOAD)
    ] = 1.0,
    limit: Annotated[int | None, typer.Option(help="Play only so many requests.", min=1, rich_help_panel=_LOAD)] = None,
    duration_s: Annotated[
        float | None, typer.Option(help="Send for only so many seconds.", min=0.1, rich_help_panel=_LOAD)
    ] = None,
    max_in_flight: Annotated[
        int,
        typer.Option(
            help="Drop, and count, what is due while so many are open.", min=1, max=8000, rich_help_panel=_LOAD
        ),
    ] = 4000,
    retries: Annotated[
        int,
        typer.Option(
            help="Ask again so often, as the openai library does (it: 2).", min=0, max=20, rich_help_panel=_LOAD
        ),
    ] = 0,
    patience_s: Annotated[
        float,
        typer.Option(help="Longest wait for an answer's head, and silence in one.", min=0.1, rich_help_panel=_LOAD),
    ] = 60.0,
    grace_s: Annotated[
        float, typer.Option(help="Longest wait for answers after the last request.", min=0, rich_help_panel=_LOAD)
    ] = 120.0,
    seed: Annotated[
        int,
        typer.Option(help="Of the prompts: another seed makes texts that no cache has seen.", rich_help_panel=_LOAD),
    ] = 0,
    slo_ttft_ms: Annotated[
        float,
        typer.Option(
            help="Answers whose first token came later are not good.", min=0, max=3_600_000, rich_help_panel=_JUDGED
        ),
    ] = 1000.0,
    out: Annotated[
        Path, typer.Option(help="Directory for the report, whose older one it replaces.", rich_help_panel=_JUDGED)
    ] = Path("replay-report"),
) -> None:
    """Play a trace of LLM traffic against an OpenAI-compatible endpoint, and measure what its callers get.

    Each request leaves when the trace says (divided by --speed), whatever became of the ones before it, and latencies
    count from that instant. Prompts are made up, as long as the trace's; where it names blocks, they share what theirs
    shared. Ctrl-C ends it at any moment, with a report of what was measured until then.
    """
    # Imported here, so that `amaru replay --help` need not wait for them.
    from rich.console import Console

    from amaru.readiness.replay import ReplayOptions
    from amaru.readiness.replay import replay as play
    from amaru.readiness.replay_plan import plan
    from amaru.readiness.replay_progress import LiveView, PlainView
    from amaru.readiness.running import run_until_signalled

    console = Console()

    def make_view() -> LiveView | PlainView:
        return LiveView(console) if console.is_terminal else PlainView(console)

    if obstacle := obstacle_to(out):
        raise AmaruError(f"no report can be written to {out}: {obstacle}; name another directory with --out")
    options = ReplayOptions(
        target=target,
        model=model,
        key=_key(key_env),
        speed=speed,
        slo_first_token_s=slo_ttft_ms / 1000,
        duration_s=duration_s,
        max_in_flight=max_in_flight,
        retries=retries,
        patience_s=patience_s,
        grace_s=grace_s,
        exact_lengths=exact_lengths,
        stream=not whole,
        seed=seed,
        command=shlex.join(["amaru", *sys.argv[1:]]),
    )
    planned = plan(trace, speed=speed, limit=limit, duration_s=duration_s)
    say = _sayer(console)
    try:
        done = run_until_signalled(lambda stop: play(planned, options, stop, make_view, say))
    except asyncio.CancelledError:  # a second Ctrl-C
        typer.echo("Stopped at once: nothing was reported.", err=True)
        raise typer.Exit(130) from None
    if done is None:
        typer.echo("Stopped before any traffic: nothing was measured.")
        raise typer.Exit(130)
    _report(done, out, console)
    if done.broken_off is not None:
        raise done.broken_off


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A report's directory, or its replay.json.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The report to hold against it.")],
    out: Annotated[
        Path | None, typer.Option(help="Directory for the comparison's Markdown, JSON and plots.", show_default=False)
    ] = None,
) -> None:
    """Put two replays side by side: what differs, by how much, and whether that could be chance."""
    from amaru.readiness.replay_compare import compare as compared

    typer.echo(compared(a, b, out))


class _ReplayGroup(TyperGroup):
    """``amaru replay TRACE ...`` plays; ``amaru replay compare A B`` compares."""

    # Any: Typer brings its own copy of click's types since 0.26, and takes them from click before.
    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if args and args[0] in self.commands:
            return super().make_context(info_name, args, parent, **extra)
        return _player().make_context(info_name, args, parent, **extra)


app = typer.Typer(cls=_ReplayGroup, add_completion=False, rich_markup_mode="markdown")
app.command("compare")(compare)


@app.callback()
def _root() -> None:
    """Play a trace (`amaru replay TRACE`), or compare two replays (`amaru replay compare A B`)."""


def _player() -> Any:  # Any: see _ReplayGroup
    single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    epilog = "Two reports side by side: `amaru replay compare A B`."
    single.command("replay", no_args_is_help=True, epilog=epilog)(replay)
    return typer.main.get_command(single)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        name = redact_text(variable)  # it may be the key itself, by mistake
        raise AmaruError(f"the environment has no {name}, which --key-env names: export it first")
    return key


def _sayer(console: Console) -> Callable[[str], None]:
    return lambda words: console.print(words, markup=False, highlight=False, soft_wrap=True)


def _report(done: Replayed, out: Path, console: Console) -> None:
    """Write the report and show it: the verdict in a terminal, else all of it."""
    from amaru.readiness.replay_report import build_report, write_report
    from amaru.readiness.replay_verdict import verdict

    if console.is_terminal:
        console.print("")
    try:
        files = write_report(done.run, out)
    except ReportError:
        # What took minutes to measure is shown all the same.
        console.print(verdict(build_report(done.run)), highlight=False)
        raise
    text = next(path for path in files if path.suffix == ".md")
    if console.is_terminal:
        console.print(verdict(build_report(done.run)), highlight=False)
        typer.echo(f"\nThe whole report: {text} (beside it {', '.join(path.name for path in files if path != text)})")
    else:
        typer.echo(text.read_text("utf-8"))
        typer.echo(f"Wrote {', '.join(str(path) for path in files)}.")
