"""The ``amaru`` command: a table of commands, each imported when it is called.

The kernels, the HTTP stack and pydantic take most of a second to import; ``amaru --help`` and shell completion need
none of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from amaru.errors import AmaruError, ConfigError

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("amaru.cli.init:init", "Write a commented amaru.yaml from the keys found in the environment."),
    "config": ("amaru.cli.config:app", "Check, show and describe the configuration."),
    "serve": ("amaru.cli.serve:serve", "Serve the configured providers behind one OpenAI-compatible endpoint."),
    "tenants": ("amaru.cli.tenants:app", "Keep tenants and their teams: who may ask."),
    "keys": ("amaru.cli.keys:app", "Keep keys of tenants and administrators: make, list, rotate, expire, revoke."),
    "budgets": ("amaru.cli.budgets:app", "Keep budgets and limits: set them, and see what is used and left."),
    "spend": ("amaru.cli.spend:app", "Show what was spent, and hold it against a provider's own figures."),
    "health": (
        "amaru.cli.health:app",
        "Show how each provider fares, what is foreseen, what came again; forbid or order healings.",
    ),
    "simulate": (
        "amaru.cli.simulate:simulate",
        "Start simulated providers that behave, and misbehave, like real ones.",
    ),
    "replay": (
        "amaru.cli.replay:app",
        "Play a trace of LLM traffic against an endpoint, amaru or not, and measure what its callers get.",
    ),
    "train": (
        "amaru.cli.train:train",
        "Train a swarm of policies in the war-game, or go on from a checkpoint.",
    ),
    "evaluate": (
        "amaru.cli.evaluate:evaluate",
        "Judge policies in held-out worlds: beside the best rule, and the best that was possible.",
    ),
    "pareto": (
        "amaru.cli.pareto:pareto",
        "Ask one learned model for cost against latency against success.",
    ),
    "visualize": (
        "amaru.cli.visualize:visualize",
        "Draw what a training learned: curves, service, exploration, beside the best rule.",
    ),
    "dataset": ("amaru.cli.dataset:app", "Make Parquet of stored decisions and outcomes: to train on, and to look at."),
    "artifacts": (
        "amaru.cli.artifacts:app",
        "Keep trained policies in versions: publish, list, promote, roll back.",
    ),
    "remembrancer": (
        "amaru.cli.remembrancer:app",
        "Record what was decided, deployed and trained, in a ledger that anyone can verify; find it, prove it.",
    ),
    "scheduler": ("amaru.cli.scheduler:scheduler", "Anchor the checkpoints of logs: time-stamped, signed, posted."),
    "psi": ("amaru.cli.psi:app", "The stability field of the whole: serve, feed and show it; anomalies in a series."),
    "wargame": ("amaru.cli.wargame:app", "List, check and show scenarios of the war-game."),
    "demo": ("amaru.cli.demo:demo", "Two minutes of traffic over seven simulated providers that break on the way."),
}
"""Name → where the command lives (a function or a Typer app), and its line in ``amaru --help``."""

_FIRST_STEPS = """Start here:

  amaru demo            see it at work first; needs no key and no network

  amaru init            writes amaru.yaml from the keys in your environment

  amaru config check    names every mistake in it, with line and remedy

  amaru serve           then point any OpenAI client at http://127.0.0.1:8080/v1"""


class _LazyGroup(TyperGroup):
    """Lists commands from the table, and imports the one that is called."""

    # Any: Typer brings its own copy of click's types since 0.26, and takes them from click before.
    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return (name, load_command(name), rest) if name in COMMANDS else (name, command, rest)


def load_command(name: str) -> Any:  # Any: see _LazyGroup
    """Imports a command of the table."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        # Markdown: paragraphs of a docstring flow, whatever its line breaks.
        function, target = target, typer.Typer(add_completion=False, rich_markup_mode="markdown")
        target.command(name)(function)
    command = typer.main.get_command(target)
    command.name = name
    return command


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"amaru {version('amaru')}")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """One endpoint in front of every AI provider: it routes, fails over, and explains every choice."""


def _placeholder(help: str) -> Callable[[], None]:
    def listed() -> None:
        raise AssertionError("resolve_command puts the real command in its place")

    listed.__doc__ = help
    return listed


def build() -> typer.Typer:
    """The command with all its groups."""
    # Typer's own tracebacks show local variables on request; those may hold keys.
    app = typer.Typer(
        name="amaru", cls=_LazyGroup, epilog=_FIRST_STEPS, no_args_is_help=True, pretty_exceptions_enable=False
    )
    app.callback()(_root)
    for name, (_, help) in COMMANDS.items():
        app.command(name, help=help)(_placeholder(help))
    return app


def main() -> None:
    """Entry point of the ``amaru`` command. Exit status: 0 fine, 1 refused or failed, 2 wrong usage."""
    try:
        build()()
    except ConfigError as error:
        typer.echo("\n".join(error.problems), err=True)
        raise SystemExit(1) from None
    except AmaruError as error:
        typer.echo(f"amaru: {error}", err=True)
        raise SystemExit(1) from None
