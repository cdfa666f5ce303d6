"""``amaru spend`` as people and programs use it."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import insert, update
from typer.testing import CliRunner, Result

from amaru.accounts.charges import Charge, ChargeStatus, row_of
from amaru.accounts.price_rows import keep_prices
from amaru.accounts.pricing import DatedPrice, PriceBook
from amaru.accounts.schema import charges
from amaru.accounts.store import Store
from amaru.cli.main import build
from amaru.domain import Price

NOV_2 = 1_793_577_600.0
ONE = 1_234_567_890_123
"""Pico-USD: $1.234567890123."""


def charge(number: int, **changes: Any) -> Charge:
    values: dict[str, Any] = {
        "id": f"c{number}", "at": NOV_2 + number, "decision": f"d{number}", "attempt": 0, "tenant": "acme",
        "resource": "chat", "provider": "anvil", "offer": "anvil-large", "model": "large", "kind": "chat",
        "input_tokens": 1000, "output_tokens": 10, "usage_source": "provider", "cost_pusd": ONE,
    }  # fmt: skip
    return Charge(**values | changes)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "amaru.yaml").write_text("accounts: {url: accounts.db}\n")
    made = Store(str(tmp_path / "accounts.db"))
    made.open()
    with made.writing() as connection:
        rows = (
            charge(1),
            charge(2, tenant="bolt", cost_pusd=3 * ONE, status=ChargeStatus.STANDING),
            charge(3, resource="=cmd()", usage='{"reasoning_tokens":5}', note="stream cut"),
        )
        connection.execute(insert(charges), [row_of(one, "h", None) for one in rows])
    made.close()
    return made


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(build(), ["spend", *args])
    assert result.exit_code == code, result.output
    return result


def rows_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.usefixtures("store")
def test_sums_with_their_total_and_where_figures_come_from() -> None:
    lines = run("--by", "tenant", "--since", "2026-11-01").stdout.splitlines()
    assert lines[0].split() == [
        "tenant", "requests", "attempts", "input", "cached", "output", "cost", "$", "provider", "standing",
    ]  # fmt: skip
    assert lines[1].split() == ["acme", "2", "2", "2,000", "0", "20", "2.47", "2.47", "0.00"]
    assert lines[3].split() == ["total", "3", "3", "3,000", "0", "30", "6.17", "2.47", "3.70"]


@pytest.mark.usefixtures("store")
def test_programs_get_exact_amounts() -> None:
    acme, bolt = rows_of(run("--by", "tenant,day", "--since", "2026-11-01", "--json"))
    assert (acme["day"], acme["cost_usd"], acme["reasoning_tokens"]) == ("2026-11-02", "2.469135780246", 5)
    assert (bolt["standing_usd"], bolt["provider_usd"]) == ("3.703703670369", "0.00")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("since", ["2026-11-03", "2026-11-02T01:00:00Z", "1793577604"])
def test_nothing_was_spent_since(since: str) -> None:
    assert rows_of(run("--since", since, "--json")) == []


@pytest.mark.usefixtures("store")
def test_files_hold_exact_amounts_and_no_formula(tmp_path: Path) -> None:
    run("--by", "model", "--since", "2026-11-01", "--csv", "spend.csv", "--parquet", "spend.parquet")
    with (tmp_path / "spend.csv").open() as file:
        formula, chat = csv.DictReader(file)
    assert (formula["model"], formula["cost_usd"]) == ("'=cmd()", "1.234567890123")
    assert chat["cost_usd"] == "4.938271560492"
    table = pl.read_parquet(tmp_path / "spend.parquet")
    assert table.schema["cost_usd"] == pl.Decimal(38, 12)
    assert table["cost_usd"].to_list() == [Decimal("1.234567890123"), Decimal("4.938271560492")]
    assert table["model"].to_list() == ["=cmd()", "chat"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "spend"))) == [
        "spend.csv", "spend.parquet",
    ]  # fmt: skip


@pytest.mark.usefixtures("store")
def test_a_file_of_no_rows_has_its_columns(tmp_path: Path) -> None:
    run("--by", "tenant", "--since", "2030-01-01", "--csv", "spend.csv", "--parquet", "spend.parquet")
    assert (tmp_path / "spend.csv").read_text().startswith("tenant,requests,")
    assert pl.read_parquet(tmp_path / "spend.parquet").shape == (0, 19)


@pytest.mark.usefixtures("store")
def test_a_file_that_cannot_be_written_leaves_what_there_was(tmp_path: Path) -> None:
    assert "make the folder first" in run("--csv", "nowhere/spend.csv", code=1).stderr


@pytest.mark.usefixtures("store")
def test_single_charges_name_their_decision() -> None:
    (one,) = rows_of(run("charges", "--decision", "d3", "--json"))
    assert (one["id"], one["resource"], one["cost_usd"], one["note"]) == (
        "c3",
        "=cmd()",
        "1.234567890123",
        "stream cut",
    )
    assert "There are more than 2" in run("charges", "--limit", "2").stdout
    assert [row["id"] for row in rows_of(run("charges", "--status", "standing", "--json"))] == ["c2"]


def test_a_charge_tells_what_its_price_says(store: Store) -> None:
    (record,) = PriceBook({"anvil-large": [DatedPrice(0, Price(input_usd_per_mtok=2.5))]}).records()
    keep_prices(store, [record], {"anvil-large": "anvil"}, NOV_2)
    with store.writing() as connection:
        connection.execute(update(charges).where(charges.c.id == "c1").values(price=record.id))
    store.close()
    told, _, untold = rows_of(run("charges", "--json"))
    assert (told["price"], told["price_terms"]) == (record.id, '{"input_usd_per_mtok":2.5}')
    assert untold["price_terms"] is None


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--by", "tenant,colour"], "'colour' is none of tenant, team"),
        (["--since", "yesterday"], "'yesterday' is no time"),
        (["--since", "999999999999999"], "is no time"),
        (["--status", "paid"], "'paid' is none of settled, standing, reconciled"),
    ],
)
def test_what_cannot_be_asked(args: list[str], said: str) -> None:
    assert said in " ".join(run(*args, code=2).stderr.replace("│", " ").split())


EXPORT = """\
id,at,model,input_tokens,cached_input_tokens,output_tokens,cost_usd
answer-1,2026-11-02T00:00:01Z,large,1000,0,10,1.234567890123
answer-3,2026-11-02T00:00:03Z,large,1000,0,12,1.5
answer-9,2026-11-02T00:00:04Z,large,5,0,5,0.25
"""


@pytest.fixture
def export(store: Store, tmp_path: Path) -> Path:
    with store.writing() as connection:
        for number in (1, 2, 3):
            named = update(charges).where(charges.c.id == f"c{number}").values(provider_ref=f"answer-{number}")
            connection.execute(named)
    store.close()
    path = tmp_path / "usage.csv"
    path.write_text(EXPORT)
    return path


def document(*args: str) -> dict[str, Any]:
    return json.loads(run("reconcile", *args, "--json").stdout)


def test_differences_are_told_by_cause(export: Path) -> None:
    found = document(str(export))
    assert {cause: each["count"] for cause, each in found["causes"].items()} == {
        "missing here": 1, "tokens differ": 1, "unknown usage": 1,
    }  # fmt: skip
    assert (found["differences"], found["agreed"], found["theirs_usd"]) == (3, 1, "2.984567890123")
    assert found["listed"][0]["line"] == 3
    assert (found["applied"], found["provider"]) == (None, "anvil")


def test_people_see_what_differs_and_what_to_do(export: Path) -> None:
    said = run("reconcile", str(export), "--limit", "1").stdout
    assert "beside charges of anvil from 2026-11-02 00:00:01" in said
    assert "1,000 / 0 / 10  1,000 / 0 / 12" in said
    assert "2 more: list them with --limit" in said
    assert "3 differ; nothing was changed. Correct them with --apply." in said


def test_once_applied_nothing_differs(export: Path) -> None:
    said = run("reconcile", str(export), "--apply").stdout
    assert "Settled 1 that stood, corrected 1, added 1; 0 differences are left." in said
    assert document(str(export))["differences"] == 0
    (total,) = rows_of(run("--by", "", "--since", "2026-11-01", "--json"))
    assert total["cost_usd"] == "2.984567890123"
    assert "correction" in run("charges").stdout


def test_every_difference_goes_into_a_file(export: Path, tmp_path: Path) -> None:
    run("reconcile", str(export), "--csv", "differences.csv", "--parquet", "differences.parquet", "--limit", "0")
    with (tmp_path / "differences.csv").open() as file:
        assert [row["cause"] for row in csv.DictReader(file)] == ["tokens differ", "missing here", "unknown usage"]
    table = pl.read_parquet(tmp_path / "differences.parquet")
    assert table["their_usd"].to_list() == [Decimal("1.5"), Decimal("0.25"), Decimal(0)]


@pytest.mark.usefixtures("store")
def test_what_is_no_export_is_refused_in_words(tmp_path: Path) -> None:
    assert "nowhere.csv cannot be read: No such file" in run("reconcile", "nowhere.csv", code=1).stderr
    (tmp_path / "usage.csv").write_text("colour\nred\n")
    assert "not a known format" in run("reconcile", "usage.csv", code=1).stderr
    assert "write THEIRS=OURS" in run("reconcile", "usage.csv", "--model", "large", code=2).stderr
