"""``amaru config`` and the top of ``amaru``: exit status, one mistake a line, no secret."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from amaru.cli import main as main_module
from amaru.cli.main import COMMANDS, build, load_command

RUN = CliRunner()
SECRET = "sk-proj-Zq81LmVt93xKcYb27"
GOOD = """\
providers:
  p: {base_url: "https://a-provider-with-a-rather-long-name.example/some/path/v1", key_env: P_KEY}
offers:
  - {provider: p, resource: m, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
tenants:
  team: {keys: [{env: P_TEAM_KEY}]}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMARU_CONFIG", raising=False)
    monkeypatch.setenv("P_KEY", SECRET)
    monkeypatch.setenv("P_TEAM_KEY", SECRET + "-team")
    Path("amaru.yaml").write_text(GOOD)


def test_check_says_what_was_understood_and_warns() -> None:
    result = RUN.invoke(build(), ["config", "check"])
    assert result.exit_code == 0
    assert "m (chat): p/m" in result.output
    assert "team: 1 key" in result.output
    assert "warning: offers: m comes from p alone" in result.output
    assert "amaru.yaml: ok" in result.output
    assert SECRET not in result.output


def test_check_names_every_mistake_on_a_line_of_its_own() -> None:
    Path("other.yaml").write_text(GOOD.replace("https://a-", "a-").replace("resource: m", "resource: m, windw: 3"))
    result = RUN.invoke(build(), ["config", "check", "other.yaml"])
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0].startswith("other.yaml:2: providers.p.base_url: not a URL")
    assert lines[1].startswith("other.yaml:4: offers[0].windw: unknown field")
    assert lines[-1] == "2 mistakes"


def test_wrong_usage_is_2() -> None:
    assert RUN.invoke(build(), ["config", "check", "a", "b"]).exit_code == 2
    result = RUN.invoke(build(), ["confg"])
    assert result.exit_code == 2
    assert "Did you mean 'config'?" in result.output


def test_show_prints_the_effective_settings_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMARU_SERVER__PORT", "9123")
    result = RUN.invoke(build(), ["config", "show"])
    assert SECRET not in result.output
    shown = yaml.safe_load(result.output)
    assert shown["server"]["port"] == 9123
    assert shown["offers"][0]["id"] == "p/m"
    assert shown["providers"]["p"]["key"] == "key set by P_KEY"
    assert shown["tenants"]["team"]["keys"] == ["set by P_TEAM_KEY"]


def test_schema_is_json() -> None:
    schema = json.loads(RUN.invoke(build(), ["config", "schema"]).output)
    assert schema["title"] == "amaru.yaml"
    assert "base_url" in schema["$defs"]["ProviderSettings"]["properties"]


def test_a_mistake_reaches_main_as_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["amaru", "config", "show", "none.yaml"])
    with pytest.raises(SystemExit) as caught:
        main_module.main()
    assert caught.value.code == 1
    assert "none.yaml: No such file" in capsys.readouterr().err


def test_help_teaches_and_lists_every_command() -> None:
    text = RUN.invoke(build(), ["--help"]).output
    for word in [*COMMANDS, "amaru init", "amaru config check", "amaru serve"]:
        assert word in text


def test_version() -> None:
    assert RUN.invoke(build(), ["--version"]).output.startswith("amaru 0.")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_row_of_the_table_leads_to_a_command(name: str) -> None:
    command = load_command(name)
    assert command.name == name
    assert command.help


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['amaru', '--help']\n"
        "from amaru.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'numba', 'numpy', 'pydantic', 'sqlalchemy', 'starlette', 'httptools'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
