"""``amaru dataset``: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from logged_samples import logged_store
from typer.testing import CliRunner

from amaru.cli.main import build
from amaru.errors import AmaruError
from amaru.learning.dataset import read_manifest

RUN = CliRunner()
CONFIG = """\
providers:
  p: {base_url: "https://provider.example/v1", key_env: P_KEY}
offers:
  - {provider: p, resource: m, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
server: {auth: none}
storage: {path: data/amaru.db}
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return logged_store(tmp_path_factory.mktemp("gateway") / "amaru.db", 60)


@pytest.fixture
def folder(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMARU_CONFIG", raising=False)
    monkeypatch.setenv("P_KEY", "a-key")
    (tmp_path / "data").mkdir()
    shutil.copy(stored, tmp_path / "data" / "amaru.db")
    (tmp_path / "amaru.yaml").write_text(CONFIG)
    return tmp_path


def run(*words: str) -> Result:
    return RUN.invoke(build(), ["dataset", *words])


def refused(*words: str) -> str:
    result = run(*words)
    assert isinstance(result.exception, AmaruError)  # which `main` prints, with exit status 1
    return str(result.exception)


def test_the_configurations_store_becomes_a_folder(folder: Path) -> None:
    result = run("build", "--out", "set", "--tenant", "t1")
    assert result.exit_code == 0, result.output
    assert "30 decisions, 2027-01-15 08:00 to 2027-01-15 08:00 UTC" in result.stdout
    assert "decided by: rules 30" in result.stdout
    assert "Wrote set/decisions.parquet, set/manifest.json." in result.stdout
    assert sorted(os.listdir(folder / "set")) == ["decisions.parquet", "manifest.json"]
    assert read_manifest(folder / "set").filters.tenant == "t1"


def test_times_are_dates_with_or_without_a_zone_or_unix_seconds(folder: Path) -> None:
    for since, rows in (
        ("2027-01-15T08:00:10", 40),
        ("2027-01-15T09:00:10+01:00", 40),
        ("1800000010", 40),
        ("2027-01-15", 60),
    ):
        assert run("build", "--out", "one.parquet", "--since", since).exit_code == 0
        assert read_manifest(Path("one.parquet")).rows == rows
    assert sorted(path.name for path in folder.glob("one.*")) == ["one.manifest.json", "one.parquet"]
    assert "--until tomorrow: not a time" in refused("build", "--out", "one.parquet", "--until", "tomorrow")


def test_damaged_rows_are_named(folder: Path) -> None:
    with closing(sqlite3.connect("data/amaru.db")) as connection, connection:
        connection.execute("UPDATE decisions SET ranking = x'00' WHERE id = ?", (f"{7:032x}",))
    result = run("build", "--store", "data/amaru.db", "--out", "set")
    assert result.exit_code == 0
    assert "59 decisions" in result.stdout
    assert f"{7:032x}: these bytes are not a packed ranking" in result.stderr


def test_show_holds_the_rows_against_the_manifest(folder: Path) -> None:
    run("build", "--out", "set")
    result = run("show", "set")
    assert "60 decisions" in result.stdout
    with Path("set/decisions.parquet").open("ab") as file:
        file.write(b"more")
    assert "digest" in refused("show", "set")


def test_what_cannot_be_is_refused_before_anything_is_read(folder: Path) -> None:
    assert "Name the gateway's database" in refused("build", "--store", "nowhere.db", "--out", "set")
    (folder / "file").write_text("")
    assert "file is not a directory" in refused("build", "--out", "file/set")
    assert "nothing to learn from" in refused("build", "--out", "set", "--resource", "another")
    assert run("build").exit_code == 2
    assert not (folder / "set").exists() or os.listdir(folder / "set") == []
