"""Whatever stands in a file: it is a scenario, or it is refused in words."""

from __future__ import annotations

import copy
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amaru.errors import ScenarioError
from amaru.simulation.scenario_files import dump_scenario, load_scenario, read_scenario_file
from amaru.simulation.scenario_models import ScenarioFile

GIVEN = Path(__file__).parent / "wargame"
BASES = {name: yaml.safe_load(dump_scenario(read_scenario_file(name))) for name in ("hidden-train-v1", "chat-azure-v1")}
JSON = {name: json.loads((GIVEN / name).read_text(encoding="utf-8")) for name in ("providers.json", "workloads.json")}
BUSY = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a busy machine is no failure

_odd = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [0, -1, 1, 2, 1e308, -1e-320, 10**400, float("inf"), float("nan"), "", "x", "classic", "1e3", [], {}]
    ),
    st.text(max_size=5),
    st.lists(st.floats() | st.integers() | st.booleans(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.floats() | st.none(), max_size=2),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to everything in plain values."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*at, key)
        yield from places(inner, (*at, key))


def mutated(base: Any, draw: st.DrawFn) -> Any:
    """A few values removed, renamed, repeated elsewhere or made odd."""
    data = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 4))):
        found = list(places(data))
        if not found:
            break
        *way, last = draw(st.sampled_from(found))
        holder = data
        for part in way:
            holder = holder[part]
        match draw(st.sampled_from(["odd", "odd", "remove", "rename", "repeat"])):
            case "odd":
                holder[last] = draw(_odd)
            case "remove":
                del holder[last]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["x", "extends", "name", "price", "trace", "é", "1"]))] = holder.pop(last)
            case _:
                other = data
                for part in draw(st.sampled_from(found)):
                    inside = isinstance(other, dict) and part in other
                    inside = inside or (isinstance(other, list) and isinstance(part, int) and part < len(other))
                    other = other[part] if inside else other
                holder[last] = copy.deepcopy(other)
    return data


@st.composite
def yaml_files(draw: st.DrawFn) -> bytes:
    base = draw(st.sampled_from(sorted(BASES)))
    return yaml.safe_dump(mutated(BASES[base], draw), sort_keys=False, allow_unicode=True).encode("utf-8", "replace")


@st.composite
def json_files(draw: st.DrawFn) -> dict[str, bytes]:
    name = draw(st.sampled_from(sorted(JSON)))
    return {each: json.dumps(mutated(data, draw) if each == name else data).encode() for each, data in JSON.items()}


def read_or_refused(source: Path) -> None:
    problems = ["nothing is wrong"]
    try:
        load_scenario(source)
    except ScenarioError as error:
        problems = error.problems
    assert problems
    assert not any("\n" in problem for problem in problems)
    assert len(set(problems)) == len(problems)


@given(yaml_files())
@BUSY
def test_mutated_yaml_is_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutated.yaml"
        path.write_bytes(content)
        read_or_refused(path)


@given(json_files())
@BUSY
def test_mutated_json_is_read_or_refused(contents: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in contents.items():
            (Path(folder) / name).write_bytes(content)
        read_or_refused(Path(folder))


@pytest.mark.parametrize("seed", range(5))
def test_damaged_bytes_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    original = dump_scenario(read_scenario_file("hidden-train-v1")).encode()
    for _ in range(20):
        content = bytearray(original)
        for _ in range(chance.randint(1, 5)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        (tmp_path / "damaged.yaml").write_bytes(content)
        read_or_refused(tmp_path / "damaged.yaml")


_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
_resources = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)


@st.composite
def scenario_files(draw: st.DrawFn) -> ScenarioFile:
    """Any scenario of jobs that is fine."""
    amounts = st.floats(0.001, 1e6)
    resources = draw(st.lists(_resources, min_size=1, max_size=3, unique=True))
    offer = st.fixed_dictionaries({"price": st.fixed_dictionaries({"usd_per_gpu_hour": amounts})})
    provider = st.fixed_dictionaries(
        {"offers": st.fixed_dictionaries(dict.fromkeys(resources, offer))},
        optional={
            "capacity": amounts,
            "latency_ms": st.floats(1, 1000),
            "bridge": _names,
            "reputation": st.floats(0, 100),
        },
    )
    profiles = draw(st.lists(_resources, min_size=1, max_size=2, unique=True))
    span = st.tuples(amounts, amounts).map(sorted)
    profile = st.fixed_dictionaries({"resource": st.sampled_from(resources), "gpu_hours": span})
    tenant = st.fixed_dictionaries(
        {"budget_usd_per_step": amounts, "requests_per_step": st.floats(0, 1000)}, optional={"region": _names}
    ).map(lambda tenant: {**tenant, "mix": {profiles[0]: 1}})
    providers = draw(st.dictionaries(_names, provider, min_size=1, max_size=3))
    event = st.fixed_dictionaries(
        {"step": st.integers(0, 9), "kind": st.just("outage"), "provider": st.sampled_from(sorted(providers))},
        optional={"steps": st.integers(1, 99)},
    )
    data = {
        "name": draw(_names),
        "about": draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
        "steps": 10,
        "providers": providers,
        "profiles": {name: draw(profile) for name in profiles},
        "tenants": draw(st.dictionaries(_names, tenant, min_size=1, max_size=2)),
        "events": draw(st.lists(event, max_size=2)),
    }
    return ScenarioFile.model_validate(data)


@given(scenario_files())
@BUSY
def test_what_is_written_reads_as_it_was(file: ScenarioFile) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "written.yaml"
        path.write_text(dump_scenario(file), encoding="utf-8")
        assert read_scenario_file(path) == file
