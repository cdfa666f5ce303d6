"""``amaru dataset``: stored decisions and their outcomes as a data set, to train on and to look at."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amaru.cli.reports import obstacle_to
from amaru.errors import AmaruError

if TYPE_CHECKING:
    from amaru.learning.dataset_schema import Manifest

app = typer.Typer(
    no_args_is_help=True,
    help="Make Parquet of stored decisions and outcomes: to train on, and to look at.",
    add_completion=False,
)

_WHICH = "Which decisions"
_INSTANT = "2026-05-01, 2026-05-01T12:00+02:00 (UTC where it does not say), or Unix seconds."


@app.command()
def build(
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR|FILE.parquet",
            help="Where to; what is there is replaced when all went well.",
            show_default=False,
        ),
    ],
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The gateway's database; by default the configuration's.", show_default=False
        ),
    ] = None,
    config: Annotated[
        Path, typer.Option(metavar="PATH", envvar="AMARU_CONFIG", help="The configuration, for its storage.path.")
    ] = Path("amaru.yaml"),
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help=f"From then on. {_INSTANT}", rich_help_panel=_WHICH, show_default=False),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Before then.", rich_help_panel=_WHICH, show_default=False)
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(metavar="ID", help="Of this tenant.", rich_help_panel=_WHICH, show_default=False)
    ] = None,
    resource: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="For this resource.", rich_help_panel=_WHICH, show_default=False),
    ] = None,
) -> None:
    """Turn the gateway's stored decisions, attempts, outcomes and feedback into a Parquet file and a manifest.

    The gateway may be running: its database is only read. Decisions without an outcome are left out, and damaged rows
    are named and skipped. No prompt, no completion and no session is in it.
    """
    from importlib.metadata import version

    from amaru.learning.dataset import build as build_dataset
    from amaru.learning.dataset import files_of
    from amaru.learning.dataset_schema import Filters

    filters = Filters(
        since=_instant(since, "--since"), until=_instant(until, "--until"), tenant=tenant, resource=resource
    )
    file, beside = files_of(out)
    if (obstacle := obstacle_to(file.parent)) != "":
        raise AmaruError(f"no data set can be written to {out}: {obstacle}; name another place with --out")
    if store is None:
        from amaru.config import load

        store = load(config).storage_path
    manifest = build_dataset(store, out, filters=filters, code=version("amaru"), progress=_progress)
    _tell(manifest)
    typer.echo(f"Wrote {file}, {beside}.")


@app.command()
def show(
    dataset: Annotated[Path, typer.Argument(metavar="DIR|FILE.parquet", help="A data set.", show_default=False)],
) -> None:
    """Say what a data set holds, and hold its rows against the digest in its manifest."""
    from amaru.learning.dataset import read_manifest

    _tell(read_manifest(dataset))


def _progress(rows: int) -> None:
    typer.echo(f"{rows:,} rows", err=True)


def _tell(manifest: Manifest) -> None:
    span = ""
    if manifest.first_at is not None and manifest.last_at is not None:
        span = f", {_written(manifest.first_at)} to {_written(manifest.last_at)} UTC"
    typer.echo(f"{manifest.rows:,} decisions{span}; {manifest.bytes:,} bytes, sha256 {manifest.sha256}")
    typer.echo(f"decided by: {', '.join(f'{name} {count:,}' for name, count in manifest.policies.items())}")
    if manifest.reported:
        typer.echo(f"outcomes reported by callers: {manifest.reported:,}")
    if manifest.without_outcome:
        typer.echo(f"left out, without an outcome: {manifest.without_outcome:,}")
    if manifest.corrupt:
        typer.echo(f"left out, damaged: {manifest.corrupt:,}; the first of them:", err=True)
        for row in manifest.corrupt_rows:
            typer.echo(f"  {row.id}: {row.why}", err=True)


def _instant(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise AmaruError(f"{option} {text}: not a time. Write {_INSTANT}") from None
    return (found if found.tzinfo is not None else found.replace(tzinfo=datetime.UTC)).timestamp()


def _written(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")
