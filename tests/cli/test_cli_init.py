"""``amaru init`` writes a file that passes its own check, and shows the key once."""

from __future__ import annotations

import inspect
import re
import stat
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from amaru.accounts.keys import hash_key
from amaru.cli.main import build
from amaru.cli.starter import KNOWN, SIMULATED_PORT, SIMULATED_PROVIDERS
from amaru.config import load
from amaru.simulation.profiles import builtin

RUN = CliRunner()
VARIABLES = [variable for known in KNOWN for variable in known.variables]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [*VARIABLES, "AMARU_CONFIG"]:
        monkeypatch.delenv(name, raising=False)


def test_without_keys_it_names_simulated_providers() -> None:
    result = RUN.invoke(build(), ["init"])
    assert result.exit_code == 0, result.output
    assert "amaru simulate" in result.output
    config = load("amaru.yaml", {})
    assert len(config.providers()) == 3
    assert all(provider.key is None for provider in config.providers().values())


def test_the_simulated_providers_are_those_that_simulate_starts() -> None:
    from amaru.cli.simulate import simulate

    defaults = {name: parameter.default for name, parameter in inspect.signature(simulate).parameters.items()}
    assert (defaults["port_base"], defaults["providers"]) == (SIMULATED_PORT, SIMULATED_PROVIDERS)
    RUN.invoke(build(), ["init"])
    profiles = builtin(SIMULATED_PROVIDERS)
    config = load("amaru.yaml", {})
    assert [provider.base_url for provider in config.providers().values()] == [
        f"http://127.0.0.1:{SIMULATED_PORT + place}/v1" for place in range(len(profiles))
    ]
    assert [offer.model for offer in config.offers()] == [profile.models[0] for profile in profiles]


def test_the_keys_are_printed_and_only_their_hashes_are_written() -> None:
    result = RUN.invoke(build(), ["init"])
    shown = dict(re.findall(r"(AMARU_\w+)=(sk-amaru-[\w-]{43})", result.output))
    key, operator_key = shown["AMARU_KEY"], shown["AMARU_OPERATOR_KEY"]
    text = Path("amaru.yaml").read_text()
    assert key not in text
    assert operator_key not in text
    assert hash_key(key) in text
    ring = load("amaru.yaml", {}).key_ring()
    assert ring.tenant_of(f"Bearer {key}".encode()).id == "my-app"
    assert ring.is_operator(f"Bearer {operator_key}".encode())
    assert not ring.is_operator(f"Bearer {key}".encode())
    assert stat.S_IMODE(Path("amaru.yaml").stat().st_mode) == 0o600


def test_the_keys_may_stand_in_the_environment_of_the_gateway() -> None:
    shown = re.findall(r"(AMARU_\w+)=(sk-amaru-[\w-]{43})", RUN.invoke(build(), ["init"]).output)
    assert load("amaru.yaml", dict(shown)).tenants()


def test_every_known_provider_becomes_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {known.variables[-1]: f"secret-of-{known.id}" for known in KNOWN}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    result = RUN.invoke(build(), ["init", "--path", "b.yaml"])
    assert result.exit_code == 0, result.output
    text = Path("b.yaml").read_text()
    assert "secret-of" not in text + result.output
    assert "check against your contract" in text
    config = load("b.yaml", env)
    assert set(config.providers()) == {known.id for known in KNOWN}
    assert len([offer for offer in config.offers() if offer.resource == "gpt-oss-120b"]) == 5
    check = RUN.invoke(build(), ["config", "check", "b.yaml"])
    assert (check.exit_code, "mistake" in check.output) == (0, False)


def test_it_overwrites_only_when_forced() -> None:
    Path("amaru.yaml").write_text("mine\n")
    refused = RUN.invoke(build(), ["init"])
    assert refused.exit_code == 1
    assert "--force" in refused.output
    assert Path("amaru.yaml").read_text() == "mine\n"
    assert RUN.invoke(build(), ["init", "--force"]).exit_code == 0
    assert load("amaru.yaml", {}).tenants()
    assert [path.name for path in Path().iterdir()] == ["amaru.yaml"]
    assert stat.S_IMODE(Path("amaru.yaml").stat().st_mode) == 0o600


def test_a_folder_that_is_not_there_is_named() -> None:
    result = RUN.invoke(build(), ["init", "--path", "no/such/amaru.yaml"])
    assert result.exit_code == 1
    assert "cannot be written" in result.output


def test_commented_examples_are_valid_too() -> None:
    RUN.invoke(build(), ["init"])
    text = Path("amaru.yaml").read_text()
    uncommented = re.sub(
        r"^(  )# (local:| +base_url| +regions|- provider| +resource| +model| +price)", r"\1\2", text, flags=re.M
    )
    assert "local" in yaml.safe_load(uncommented)["providers"]
    Path("amaru.yaml").write_text(uncommented)
    assert "local/gpt-oss-120b" in {offer.id for offer in load("amaru.yaml", {}).offers()}
