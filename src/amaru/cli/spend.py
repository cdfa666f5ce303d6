"""``amaru spend``: what was spent, by whom, on what and when; where each figure comes from; what providers bill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from amaru.accounts.spend_records import CHARGE_COLUMNS, charge_record, json_line, spend_columns, spend_record
from amaru.cli.accounts_session import DEFAULT_CONFIG, AsJson, ConfigOption, print_table, session
from amaru.cli.spend_reconcile import reconcile
from amaru.cli.spend_view import (
    CHARGE_FIGURES,
    CHARGE_HEADINGS,
    Total,
    charge_row,
    groups_of,
    moment,
    status_of,
)

app = typer.Typer(invoke_without_command=True, add_completion=False)

SHOWN_ROWS = 1_000
_WHICH = "Which charges"
_FILES = "Files"


def _option(metavar: str, help: str, panel: str = _WHICH) -> Any:  # Any: Typer's own
    return typer.Option(metavar=metavar, help=help, rich_help_panel=panel, show_default=False)


Since = Annotated[str | None, _option("TIME", "From then on: 2026-11-01 (UTC), an instant, Unix seconds, or 30d ago.")]
Until = Annotated[str | None, _option("TIME", "Before then.")]
Tenant = Annotated[str | None, _option("ID", "Of this tenant.")]
Team = Annotated[str | None, _option("ID", "Of this team.")]
Key = Annotated[str | None, _option("ID", "Of this key.")]
Model = Annotated[str | None, _option("NAME", "For this model, as callers ask for it.")]
Provider = Annotated[str | None, _option("ID", "Of this provider.")]
Offer = Annotated[str | None, _option("ID", "Of this offer.")]
Status = Annotated[str | None, _option("STATUS", "settled, standing (usage unknown) or reconciled.")]
Csv = Annotated[Path | None, _option("FILE", "Write all rows there, with exact amounts.", _FILES)]
Parquet = Annotated[Path | None, _option("FILE", "Write all rows there, amounts as Decimal(38, 12).", _FILES)]


@app.callback()
def spend(
    ctx: typer.Context,
    by: Annotated[
        str, typer.Option(metavar="LIST", help="tenant, team, key, model, provider, offer, day, status; with commas.")
    ] = "tenant,model",
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    team: Team = None,
    key: Key = None,
    model: Model = None,
    provider: Provider = None,
    offer: Offer = None,
    status: Status = None,
    csv: Csv = None,
    parquet: Parquet = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show what was spent, in sums with their total; without --since, of this month. JSON has one row a line.

    Each figure says where it comes from: usage that the provider reported, that amaru counted or estimated, that is
    not known yet (standing), or that was reconciled with the provider's export.
    """
    if ctx.invoked_subcommand is not None:
        return
    from amaru.accounts.periods import Period, span
    from amaru.accounts.spend import Which
    from amaru.accounts.spend import spend as sums

    groups = groups_of(by)
    now = time.time()
    which = Which(
        since=float(span(Period.MONTH, now)[0]) if since is None else moment(since, "--since", now),
        until=None if until is None else moment(until, "--until", now),
        tenant=tenant, team=team, key=key, model=model, provider=provider, offer=offer, status=status_of(status),
    )  # fmt: skip
    with session(config, as_json) as directory:
        store, columns = directory.store, spend_columns(groups)
        if _written(csv, parquet, columns, lambda: map(spend_record, sums(store, groups, which))):
            return
        total = Total(groups)
        shown = []
        for row in sums(store, groups, which):
            if as_json:
                typer.echo(json_line(columns, spend_record(row)))
                continue
            total.add(row)
            if total.rows <= SHOWN_ROWS:
                shown.append(row)
    if not as_json:
        print_table(*total.table(shown), right=total.figures)
        if total.rows > SHOWN_ROWS:
            typer.echo(f"and {total.rows - SHOWN_ROWS:,} rows more, which are in the total: see all with --csv FILE")


@app.command("charges")
def list_charges(
    decision: Annotated[str | None, _option("ID", "Of this decision, as x-amaru-decision names it.")] = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    team: Team = None,
    key: Key = None,
    model: Model = None,
    provider: Provider = None,
    offer: Offer = None,
    status: Status = None,
    limit: Annotated[int, typer.Option(help="At most so many, the oldest first; files hold all.", min=1)] = 100,
    csv: Csv = None,
    parquet: Parquet = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List single charges, each with its decision, its usage, its price, and where its figure comes from.

    GET /decisions/ID tells why the decision was made. Corrections name the charge that they correct.
    """
    from amaru.accounts.price_rows import PriceTerms
    from amaru.accounts.spend import Which, charges_of

    now = time.time()
    which = Which(
        since=None if since is None else moment(since, "--since", now),
        until=None if until is None else moment(until, "--until", now),
        tenant=tenant, team=team, key=key, model=model, provider=provider, offer=offer, status=status_of(status),
        decision=decision,
    )  # fmt: skip
    with session(config, as_json) as directory:
        store, terms = directory.store, PriceTerms(directory.store)

        def records(limit: int | None = None) -> Iterator[dict[str, object]]:
            return (charge_record(charge, terms) for charge in charges_of(store, which, limit=limit))

        if _written(csv, parquet, CHARGE_COLUMNS, records):
            return
        if as_json:
            for record in records(limit):
                typer.echo(json_line(CHARGE_COLUMNS, record))
            return
        found = list(charges_of(store, which, limit=limit + 1))
    print_table(CHARGE_HEADINGS, [charge_row(charge) for charge in found[:limit]], right=CHARGE_FIGURES)
    if len(found) > limit:
        typer.echo(f"There are more than {limit:,}: narrow them down, raise --limit, or write all with --csv FILE")


app.command("reconcile")(reconcile)


def _written(
    csv: Path | None,
    parquet: Path | None,
    columns: Mapping[str, type],
    records: Callable[[], Iterable[Mapping[str, object]]],
) -> bool:
    """Write the files that are asked for; whether any is."""
    from amaru.accounts.spend_files import write_csv, write_parquet

    for path, write in ((csv, write_csv), (parquet, write_parquet)):
        if path is not None:
            typer.echo(f"Wrote {write(path, columns, records()):,} rows to {path}", err=True)
    return csv is not None or parquet is not None
