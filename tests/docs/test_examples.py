"""The YAML that the docs and the README show can be used as it stands."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from amaru.config import parse
from amaru.simulation.scenario_files import load_scenario
from amaru.simulation.script import read_incidents, read_profiles

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"OPENAI_API_KEY": "sk-a", "TOGETHER_API_KEY": "sk-b", "BATCH_KEY": "k" * 20}

_YAML = re.compile(r"^```yaml\n(.*?)^```$", re.M | re.S)


def reader_of(text: str) -> Callable[[str, Path], object] | None:
    """What reads such a file; None for a part of one."""
    content = yaml.safe_load(text)
    if not isinstance(content, dict):
        return None
    if {"providers", "offers"} <= content.keys():
        return lambda text, file: parse(text, file, ENVIRONMENT).offers
    if "name" in content and {"extends", "tenants"} & content.keys():
        return lambda _, file: load_scenario(file).offers
    if "faults" in content:
        return lambda _, file: read_incidents(file, ["anvil", "birch", "cobalt"])
    if isinstance(content.get("providers"), list):
        return lambda _, file: read_profiles(file)
    return None


EXAMPLES = {
    f"{path.relative_to(ROOT)}-{number}": text
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for number, text in enumerate(_YAML.findall(path.read_text()), 1)
    if reader_of(text) is not None
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_can_be_used(name: str, tmp_path: Path) -> None:
    text = EXAMPLES[name]
    file = tmp_path / "example.yaml"
    file.write_text(text)
    reader = reader_of(text)

    assert reader is not None
    assert reader(text, file)


def test_every_sort_of_file_has_an_example() -> None:
    assert all(
        any(word in text for text in EXAMPLES.values()) for word in ("offers:", "faults:", "like: anvil", "extends:")
    )
