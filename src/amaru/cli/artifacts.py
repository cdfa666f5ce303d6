"""``amaru artifacts``: trained policies in versions, on files or an object store."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amaru.cli.ledger_option import RecordIn, record, said_of, shown_url
from amaru.errors import ArtifactError, CheckpointError

if TYPE_CHECKING:
    from rich.table import Table

    from amaru.learning.artifact_manifest import Manifest, Score
    from amaru.learning.artifacts import ArtifactStore, Listed, Moved
    from amaru.ledger.receipts import Promotion
    from amaru.ledger.remembrancer import Entry

app = typer.Typer(
    no_args_is_help=True,
    help="Keep trained policies in versions: publish, list, promote, roll back.\n\n"
    "A gateway whose policy_artifact is URL@promoted takes up what is promoted there.",
    add_completion=False,
    rich_markup_mode="markdown",  # paragraphs flow, whatever their line breaks
)

_URL = "A folder, s3://bucket/path, gs://bucket/path, or another URL that fsspec knows."
StoreUrl = Annotated[str, typer.Argument(metavar="URL", help=_URL, show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
_VERSION_HELP = "v1, v2, …, promoted or latest."


@app.command()
def publish(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="What amaru train wrote: swarm_final.json. Its best agent is taken.",
            show_default=False,
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="URL", help=_URL, show_default=False)],
    note: Annotated[str, typer.Option(help="A word on it, for whoever reads the list.")] = "",
    promote: Annotated[bool, typer.Option("--promote", help="Promote it at once.")] = False,
    score: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="evaluation.json of amaru evaluate: its figure is kept with the version; else training's own.",
            show_default=False,
        ),
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="The version that training began from.", show_default=False),
    ] = None,
    ledger: RecordIn = None,
    as_json: AsJson = False,
) -> None:
    """Keep the best policy of a training as the next version.

    The version holds the policy, its knobs and all it has learned, with a digest; and says what it was trained on, by
    which code, and how it scored. The same policy published again stays the version that it is.
    """
    # Imported here, so that `amaru artifacts --help` need not wait for them.
    from amaru.learning.artifact_evidence import score_in_evaluation, score_in_training, trained_in_worlds
    from amaru.learning.artifacts import ArtifactStore
    from amaru.learning.swarm_files import load_swarm_file

    store = ArtifactStore(to)
    try:
        swarm = load_swarm_file(source)
        swarm.best_policy()  # what this amaru cannot restore is not published
    except CheckpointError as error:
        raise ArtifactError(f"nothing was published: {error}") from None
    agent = swarm.agents[swarm.best]
    published = store.publish(
        agent.policy,
        agent.state,
        knobs=agent.knobs,
        trained=trained_in_worlds(swarm),
        score=(
            score_in_evaluation(score, policy=agent.policy, agent=agent.id, swarm=source)
            if score
            else score_in_training(agent.score, swarm.worlds)
        ),
        parent=parent,
        note=note,
    )
    moved = store.promote(published.version) if promote else None
    entry = None if moved is None else _record(ledger, store, moved, note)
    if as_json:
        _print_json(
            {
                "url": store.url,
                "version": published.version,
                "new": published.new,
                "promoted": moved is not None,
                "policy": agent.policy,
                "size": len(agent.state),
                "receipt": _id_of(entry),
            }
        )
        return
    if published.new:
        typer.echo(f"{published.version}: {agent.policy}, {_size(len(agent.state))}, published to {store.url}")
    else:
        typer.echo(f"{published.version} at {store.url} holds exactly this {agent.policy}: nothing new was published")
    if moved is not None:
        typer.echo(_told(moved.before, moved.now, "promoted"))
        _tell(entry)
    else:
        typer.echo(f"To have gateways take it up: amaru artifacts promote {store.url} {published.version}")


@app.command("list")
def list_(url: StoreUrl, as_json: AsJson = False) -> None:
    """List the versions of a store, and which is promoted."""
    from amaru.learning.artifacts import ArtifactStore

    store = ArtifactStore(url)
    listed = store.list()
    if as_json:
        _print_json({"url": store.url, "versions": [_as_dict(one) for one in listed]})
        return
    if not listed:
        typer.echo(f"{store.url}: nothing is published there; begin with amaru artifacts publish")
        return
    _print_table(listed)
    for one in listed:
        if one.problem:
            typer.echo(f"{one.version} cannot be used: {one.problem}", err=True)


@app.command()
def promote(
    url: StoreUrl,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="v1, v2, … or latest.", show_default=False)],
    ledger: RecordIn = None,
    as_json: AsJson = False,
) -> None:
    """Promote a version: gateways that follow URL@promoted take it up.

    It is read first, and its digest checked; one that is not whole is refused, and nothing changes.
    """
    from amaru.learning.artifacts import ArtifactStore

    store = ArtifactStore(url)
    moved = store.promote(version)
    _print_moved(store, moved, _record(ledger, store, moved), "promoted", as_json)


@app.command()
def rollback(url: StoreUrl, ledger: RecordIn = None, as_json: AsJson = False) -> None:
    """Promote what was promoted before; once more, and it is the one before that."""
    from amaru.learning.artifacts import ArtifactStore

    store = ArtifactStore(url)
    moved = store.rollback()
    _print_moved(store, moved, _record(ledger, store, moved, "rolled back"), "promoted again", as_json)


@app.command()
def show(
    url: StoreUrl,
    version: Annotated[str, typer.Argument(metavar="[VERSION]", help=_VERSION_HELP)] = "promoted",
    as_json: AsJson = False,
) -> None:
    """Show all about a version, once its digest has been checked."""
    import msgspec
    from rich.table import Table
    from rich.text import Text

    from amaru.learning.artifacts import ArtifactStore

    store = ArtifactStore(url)
    manifest = store.load(version).manifest
    promoted = store.promoted() == manifest.version
    if as_json:
        _print_json({"url": store.url, "promoted": promoted, "manifest": msgspec.to_builtins(manifest)})
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _lines(manifest, promoted):
        table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    _print(table)


def _print_table(listed: tuple[Listed, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("version", "", "created", "policy", "score", "trained on"):
        table.add_column(heading, no_wrap=True)
    table.add_column("note", overflow="fold", min_width=10)
    for one in listed:
        mark = Text("promoted" if one.promoted else "", style="green")
        manifest = one.manifest
        if manifest is None:
            table.add_row(one.version, mark, Text("unreadable", style="red"))
            continue
        table.add_row(
            one.version,
            mark,
            manifest.created[:16].replace("T", " "),
            manifest.policy,
            Text(_figure(manifest.score)),
            Text(manifest.trained.worlds or manifest.trained.dataset),
            Text(manifest.note),
        )
    _print(table)


def _print(table: Table) -> None:
    from rich.console import Console

    # In a file or a pipe nothing needs to be folded, unless somebody said how wide it is.
    wide = not Console().is_terminal and "COLUMNS" not in os.environ
    Console(width=200 if wide else None).print(table)


def _lines(manifest: Manifest, promoted: bool) -> list[tuple[str, str]]:
    trained, score = manifest.trained, manifest.score
    lines = [
        ("version", manifest.version + (" (promoted)" if promoted else "")),
        ("created", manifest.created),
        ("policy", manifest.policy),
        ("knobs", ", ".join(f"{name} {value}" for name, value in manifest.knobs.items()) or "the usual ones"),
        ("state", f"{_size(manifest.size)}, {manifest.digest} (checked)"),
        ("worlds", trained.worlds),
        ("data set", trained.dataset),
        ("their digest", trained.digest),
        ("episodes", "" if trained.episodes is None else f"{trained.episodes:,}"),
        ("seed", "" if trained.seed is None else str(trained.seed)),
        ("score", _figure(score)),
        ("of", score.metric + (f", in {score.worlds}" if score.worlds else "") if score else ""),
        ("measured by", score.command if score else ""),
        ("parent", manifest.parent or ""),
        ("code", f"amaru {manifest.code.amaru}, source {manifest.code.source}"),
        ("note", manifest.note),
    ]
    return [(name, value) for name, value in lines if value]


def _figure(score: Score | None) -> str:
    if score is None:
        return ""
    if score.low is None or score.high is None:
        return f"{score.value:.4f}"
    return f"{score.value:.4f} [{score.low:.4f}, {score.high:.4f}]"


def _size(size: int) -> str:
    return (
        f"{size:,} B" if size < 10_000 else f"{size / 1000:,.0f} kB" if size < 10_000_000 else f"{size / 1e6:,.0f} MB"
    )


def _as_dict(one: Listed) -> dict[str, Any]:  # Any: JSON
    import msgspec

    manifest = None if one.manifest is None else msgspec.to_builtins(one.manifest)
    return {"version": one.version, "promoted": one.promoted, "manifest": manifest, "problem": one.problem or None}


def _record(ledger: str | None, store: ArtifactStore, moved: Moved, note: str = "") -> Entry | None:
    """Have a promotion leave a receipt, where there is a ledger."""
    if moved.before == moved.now:
        return None

    def receipt(at: str, by: str) -> Promotion:
        from amaru.ledger.receipts import MAX_NOTE, Promotion

        promoted = store.load(moved.now)
        return Promotion(
            at=at,
            component=promoted.policy,
            version=moved.now,
            before=moved.before or "",
            store=shown_url(store.url),
            ref=promoted.manifest.digest,
            digest=f"sha256:{sha256(promoted.state).hexdigest()}",
            by=by,
            note=note[:MAX_NOTE],
        )

    return record(ledger, receipt)


def _print_moved(store: ArtifactStore, moved: Moved, entry: Entry | None, word: str, as_json: bool) -> None:
    if as_json:
        _print_json({"url": store.url, "promoted": moved.now, "before": moved.before, "receipt": _id_of(entry)})
    else:
        typer.echo(_told(moved.before, moved.now, word))
        _tell(entry)


def _tell(entry: Entry | None) -> None:
    if entry is not None:
        typer.echo(said_of(entry))


def _id_of(entry: Entry | None) -> str | None:
    return None if entry is None else entry.id


def _told(before: str | None, now: str, word: str) -> str:
    if before == now:
        return f"{now} is promoted already"
    return f"{now} is {word}" + (f"; it was {before}" if before else "")


def _print_json(value: dict[str, Any]) -> None:  # Any: JSON
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
