"""``amaru wargame``: what comes with amaru, and whether a scenario of one's own is fine."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from amaru.cli.main import build
from amaru.simulation.scenario_files import load_scenario, shipped

RUN = CliRunner()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def test_list_names_every_scenario_and_what_it_is_for() -> None:
    result = RUN.invoke(build(), ["wargame", "list"])
    assert result.exit_code == 0
    assert all(name in result.output for name in shipped())
    assert "judge in" in result.output


def test_check_says_what_was_understood() -> None:
    result = RUN.invoke(build(), ["wargame", "check", "classic"])
    assert result.exit_code == 0
    assert result.output == (
        "classic: fine: classic: 7 providers, 11 offers, 4 tenants, 5 events, 120 steps; what is posted is the truth\n"
    )


def test_check_names_every_mistake_on_a_line_of_its_own() -> None:
    Path("mine.yaml").write_text(
        "extends: classic\nname: mine\nproviders:\n  vast: {capacity: -1}\n"
        "events:\n  - {step: 3, kind: outage, provider: vst}\n"
    )
    result = RUN.invoke(build(), ["wargame", "check", "mine.yaml"])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "mine.yaml:4: providers.vast.capacity: must be greater than 0, not -1",
        'mine.yaml:6: events[0].provider: no such provider: "vst" — did you mean "vast"?',
        "",
        "2 mistakes",
    ]


def test_check_of_what_does_not_exist() -> None:
    result = RUN.invoke(build(), ["wargame", "check", "hidden-train-v2"])
    assert result.exit_code == 1
    assert 'did you mean "hidden-train-v1"?' in result.stderr


def test_show_writes_a_whole_scenario_also_of_the_classic_json() -> None:
    source = Path(__file__).parents[1] / "simulation" / "wargame" / "workloads.json"
    result = RUN.invoke(build(), ["wargame", "show", str(source)])
    assert result.exit_code == 0
    Path("mine.yaml").write_text(result.output, encoding="utf-8")
    assert load_scenario("mine.yaml") == load_scenario(source)
