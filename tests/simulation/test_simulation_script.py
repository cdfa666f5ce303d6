"""Files that describe providers and incidents; the amaru.yaml that is written for them."""

from pathlib import Path

import pytest

from amaru.config import load
from amaru.errors import ConfigError
from amaru.simulation import SEVEN, ProviderProfile
from amaru.simulation.gateway_config import gateway_config
from amaru.simulation.script import read_incidents, read_profiles


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return path


def test_profiles_from_a_file(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
providers:
  - name: mine
    models: [m]
    price: {input_usd_per_mtok: 1.5}
  - like: anvil
    name: twin
    latency: {ttft_ms: 5}
""",
    )
    mine, twin = read_profiles(path)
    assert (mine.name, mine.models, mine.price.input_usd_per_mtok) == ("mine", ("m",), 1.5)
    assert (twin.name, twin.models, twin.price) == ("twin", SEVEN[0].models, SEVEN[0].price)
    assert (twin.latency.ttft_ms, twin.latency.itl_ms) == (5, SEVEN[0].latency.itl_ms)


def test_every_mistake_in_a_file_is_named_at_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """providers:
  - name: a
    capacity: 0
  - name: b
    colour: red
  - like: nobody
  - name: c
  - name: c
""",
    )
    with pytest.raises(ConfigError) as caught:
        read_profiles(path)
    problems = caught.value.problems
    assert len(problems) == 4
    assert f"{path}:2: provider a: capacity must be at least 1" in problems[0]
    assert ":4: " in problems[1]
    assert "colour" in problems[1]
    assert ":6: like: no built-in provider 'nobody'; there are anvil" in problems[2]
    assert "two providers are called c" in problems[3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("providers: {}", "no list `providers:`"),
        ("[", "not valid YAML"),
        ("", "the file is empty"),
        ("providers: []", "no providers"),
    ],
)
def test_files_without_providers(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        read_profiles(written(tmp_path, text))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_profiles(tmp_path / "none.yaml")


def test_incidents_from_a_file(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
faults:
  - {provider: birch, at_s: 9, kind: status, status: 429, duration_s: 5}
  - {provider: anvil, at_s: 3, kind: refuse, duration_s: 5}
""",
    )
    incidents = read_incidents(path, ["anvil", "birch"])
    assert [(incident.at_s, incident.kind) for incident in incidents] == [(3, "refuse"), (9, "status")]
    with pytest.raises(ConfigError) as caught:
        read_incidents(path, ["anvil"])
    assert caught.value.problems == [f"{path}:3: incident at 9 s: no provider 'birch'; there are ['anvil']"]


def test_the_written_configuration_is_one_that_amaru_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCKED_API_KEY", "k")
    locked = ProviderProfile(name="locked", keys=("k",), tokens_per_min=1000)
    profiles = [(profile, f"http://127.0.0.1:{9000 + place}/v1") for place, profile in enumerate((*SEVEN, locked))]
    path = tmp_path / "amaru.yaml"
    path.write_text(gateway_config(profiles, storage_path="here.db", routing={"policy": "cheapest"}))
    settings = load(path)
    offers = {offer.id: offer for offer in settings.offers()}
    assert offers["anvil/llama-70b"].price == SEVEN[0].price
    assert offers["anvil/llama-70b"].capacity == SEVEN[0].capacity
    assert offers["locked/sim-embed"].kinds == ("embedding",)
    assert len(offers) == 9
    assert all(provider.alternates == () for provider in settings.providers().values())
    path.write_text(gateway_config(profiles, alternates=True))
    (other,) = load(path).providers()["anvil"].alternates
    assert other.base_url == "http://127.0.0.1:9000/v2"
