"""``amaru visualize``: a training's metrics as pictures and one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amaru.cli.reports import obstacle_to
from amaru.errors import ReportError


def visualize(
    metrics: Annotated[
        Path,
        typer.Argument(
            metavar="METRICS",
            help="The training_metrics.csv of `amaru train`, finished or still being written.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Directory for the pictures and training.html; else where the metrics are.", metavar="DIR"),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="The JSON of `amaru evaluate`: shows the policy beside the best rule and the references.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Draw what a training learned: reward, service, exploration, and the stability field where one was asked.

    Writes PNG files, and `training.html`, which holds them all and loads nothing from elsewhere.
    """
    from amaru.learning.visualize import read_metrics
    from amaru.learning.visualize_baseline import read_standings
    from amaru.readiness.training_page import write

    directory = metrics.parent if out is None else out
    if obstacle := obstacle_to(directory):
        raise ReportError(f"no picture can be written to {directory}: {obstacle}; name another directory with --out")
    run = read_metrics(metrics)
    files = write(run, () if baseline is None else read_standings(baseline), directory)
    if run.unfinished:
        typer.echo(f"{metrics} is still being written: its last line is left out.")
    typer.echo(f"Wrote {', '.join(str(path) for path in files)}.")
