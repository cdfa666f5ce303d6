"""The classic game's JSON: every mistake is told as it stands there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amaru.errors import ScenarioError
from amaru.simulation.scenario_files import load_scenario

GIVEN = Path(__file__).parent / "wargame"
Change = Callable[[dict[str, Any]], object]


def written(folder: Path, providers: Change, workloads: Change) -> Path:
    """The classic game with changes; one value stands on each line."""
    for name, change in (("providers.json", providers), ("workloads.json", workloads)):
        data = json.loads((GIVEN / name).read_text(encoding="utf-8"))
        change(data)
        (folder / name).write_text(json.dumps(data, indent=1), encoding="utf-8")
    return folder


def same(data: dict[str, Any]) -> None:
    """No change."""


def refused(source: Path) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(source)
    folder = source if source.is_dir() else source.parent
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def setting(*path: str | int, to: object) -> Change:
    def change(data: Any) -> None:
        for part in path[:-1]:
            data = data[part]
        data[path[-1]] = to

    return change


def removing(*path: str | int) -> Change:
    def change(data: Any) -> None:
        for part in path[:-1]:
            data = data[part]
        del data[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            setting("scenarios", 1, "provider_id", to="akahs"),
            'scenarios[1].provider_id: no such provider: "akahs" — did you mean "akash"?',
        ),
        (setting("scenarios", 0, "multiplier", to=-1), "scenarios[0].multiplier: must be greater than 0, not -1"),
        (setting("scenarios", 0, "event", to="price_spke"), "scenarios[0].event: not one of"),
        (setting("scenarios", 3, "step", to=120), "scenarios[3].step: never happens: the scenario has 120 steps"),
        (removing("scenarios", 2, "delta_ms"), "scenarios[2].delta_ms: missing: a latency_spike needs it"),
        (setting("scenarios", 1, "duratin", to=3), 'scenarios[1].duratin: unknown field — did you mean "duration"?'),
        (setting("tenants", 1, "mix", "llm_inference", to=0.5), "tenants[1].mix: the shares sum to 1.15, not 1"),
        (
            setting("tenants", 0, "mix", to={"llm_train": 1}),
            'tenants[0].mix.llm_train: no such profile: "llm_train" — did you mean "llm_training"?',
        ),
        (setting("tenants", 2, "id", to="tenant-dao"), 'tenants[3].id: "tenant-dao" is written twice'),
        (removing("tenants", 0, "avg_requests_per_step"), "tenants[0].avg_requests_per_step: missing"),
        (setting("tenants", 0, "budget_usd_per_step", to=-5), "tenants[0].budget_usd_per_step: must be at least 0"),
        (
            setting("workload_profiles", "llm_training", "gpu_type", to="H1000"),
            'workload_profiles.llm_training.gpu_type: no provider offers "H1000" — did you mean "H100"?',
        ),
        (
            setting("workload_profiles", "llm_training", "gpu_hours", to=[10, 3]),
            "workload_profiles.llm_training.gpu_hours: an empty range: 10 is more than 3",
        ),
        (setting("simulation", "steps", to=0), "simulation.steps: must be at least 1, not 0"),
        (setting("tenants", 0, "weights", to=dict.fromkeys(("price", "latency", "reputation", "availability"), 0)),
         "tenants[0].weights: every weight is 0"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_workloads(change: Change, says: str, tmp_path: Path) -> None:
    (problem,) = refused(written(tmp_path, same, change))
    assert problem.startswith("workloads.json:")
    assert says in problem


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            setting("providers", 0, "base_price_usd_per_hour", "A100", to=-1.8),
            "providers[0].base_price_usd_per_hour.A100: must be at least 0, not -1.8",
        ),
        (setting("providers", 0, "gpu_types", to=["A100", "H100"]), 'providers[0].gpu_types[1]: "H100" has no price'),
        (
            removing("providers", 3, "base_latency_ms"),
            "providers[3].base_latency_ms: missing — write base_latency_ms: 300",
        ),
        (setting("providers", 3, "reputation", to=101), "providers[3].reputation: must be at most 100, not 101"),
        (setting("providers", 3, "id", to="akash"), 'providers[3].id: "akash" is written twice'),
        (setting("providers", 3, "bridge", to="i b c"), 'providers[3].bridge: not a name: "i b c"'),
        (setting("providers", 3, "capacity", to=3), "providers[3].capacity: unknown field"),
        (setting("providers", 3, "base_price_usd_per_hour", to={}), "providers[3].base_price_usd_per_hour: is empty"),
    ],
)
def test_a_mistake_in_the_providers(change: Change, says: str, tmp_path: Path) -> None:
    (problem,) = refused(written(tmp_path, change, same))
    assert problem.startswith("providers.json:")
    assert says in problem


def test_a_mistake_has_its_line(tmp_path: Path) -> None:
    written(tmp_path, same, setting("scenarios", 1, "provider_id", to="nobody"))
    lines = (tmp_path / "workloads.json").read_text(encoding="utf-8").splitlines()
    line = next(number for number, line in enumerate(lines, 1) if "nobody" in line)
    assert refused(tmp_path)[0].startswith(f"workloads.json:{line}: scenarios[1].provider_id: ")


def test_mistakes_of_both_files_are_named_at_once(tmp_path: Path) -> None:
    providers = setting("providers", 0, "base_price_usd_per_hour", "A100", to="dear")
    problems = refused(written(tmp_path, providers, setting("scenarios", 4, "provider_id", to="sald")))
    assert [problem.partition(":")[0] for problem in problems] == ["providers.json", "workloads.json"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"[]", "must hold an object, not a list"),
        (b'{"tenants": [}', "workloads.json:1:14: not valid JSON: expecting value"),
        (b'{"tenants": [],\n"tenants": []}', 'the field "tenants" is written twice'),
        (b"[" * 100_000, "nested deeper than 32 levels"),
        (b'{"x": ' + b"9" * 10_000 + b"}", "a number that is too long"),
        (b'{"x": "\xff"}', "workloads.json:1: not UTF-8"),
        (b'{"a": NaN}', "a: unknown field"),
        (b"{}", "tenants: nobody asks for anything"),
    ],
)
def test_what_is_no_such_json(content: bytes, says: str, tmp_path: Path) -> None:
    written(tmp_path, same, same)
    (tmp_path / "workloads.json").write_bytes(content)
    assert any(says in problem for problem in refused(tmp_path / "workloads.json"))


def test_tabs_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    written(tmp_path, same, same)
    for name in ("providers.json", "workloads.json"):
        text = json.dumps(json.loads((tmp_path / name).read_text(encoding="utf-8")), indent="\t")
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_scenario(tmp_path).offers == load_scenario("classic").offers


def test_one_file_of_the_two_is_not_enough(tmp_path: Path) -> None:
    written(tmp_path, same, same)
    (tmp_path / "providers.json").unlink()
    assert refused(tmp_path) == [
        "providers.json: no such file or directory — put workloads.json and providers.json into one folder"
    ]
