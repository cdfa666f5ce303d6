"""Files that describe a simulation: providers, and the incidents that strike them. Every mistake is named at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from amaru.errors import ConfigError
from amaru.files.document import MAX_BYTES, read_document
from amaru.simulation.faults import Incident, checked
from amaru.simulation.profiles import SEVEN, ProviderProfile

T = TypeVar("T", bound=msgspec.Struct)


def read_profiles(path: Path) -> tuple[ProviderProfile, ...]:
    """Read ``providers:``, a list of profiles; ``like: anvil`` begins from a built-in one.

    Raises
    ------
    ConfigError
        With path, line and remedy of every mistake.
    """
    profiles, problems = [], []
    for line, entry in _entries(path, "providers"):
        try:
            profiles.append(msgspec.convert(_completed(entry), ProviderProfile))
        except ValueError as error:  # msgspec's ValidationError is one
            problems.append(f"{path}:{line}: {error}")
    names = [profile.name for profile in profiles]
    problems += [f"{path}: two providers are called {name}" for name in sorted(set(names)) if names.count(name) > 1]
    if problems:
        raise ConfigError(problems)
    if not profiles:
        raise ConfigError([f"{path}: no providers; write a list of them under `providers:`"])
    return tuple(profiles)


def read_incidents(path: Path, providers: Sequence[str]) -> list[Incident]:
    """Read ``faults:``, a list of incidents, in order of time; raises as `read_profiles` does."""
    incidents, problems = [], []
    for line, entry in _entries(path, "faults"):
        try:
            incident = msgspec.convert(entry, Incident)
            checked([incident], providers)
            incidents.append(incident)
        except ValueError as error:  # msgspec's ValidationError is one
            problems.append(f"{path}:{line}: {error}")
    if problems:
        raise ConfigError(problems)
    return checked(incidents, providers)


def _completed(entry: Any) -> Any:  # Any: raw YAML
    """The entry laid over the built-in profile that its ``like`` names."""
    if not isinstance(entry, dict) or "like" not in entry:
        return entry
    base = next((profile for profile in SEVEN if profile.name == entry["like"]), None)
    if base is None:
        known = ", ".join(profile.name for profile in SEVEN)
        raise ValueError(f"like: no built-in provider {entry['like']!r}; there are {known}")
    return _laid_over(msgspec.to_builtins(base), {name: value for name, value in entry.items() if name != "like"})


def _laid_over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:  # Any: raw YAML
    whole = dict(base)
    for name, value in changes.items():
        below = whole.get(name)
        whole[name] = _laid_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return whole


def _entries(path: Path, name: str) -> list[tuple[int, Any]]:  # Any: raw YAML
    """The entries of the list called ``name``, each with its line."""
    try:
        with path.open("rb") as file:
            document = read_document(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror}); check the path"]) from None
    if document.problems:
        raise ConfigError([problem.render(str(path)) for problem in document.problems])
    entries = document.data.get(name)
    if not isinstance(entries, list):
        raise ConfigError([f"{path}:1: no list `{name}:`; write `{name}:` and below it one `- …` for each"])
    return [(document.line_of((name, index)) or 1, entry) for index, entry in enumerate(entries)]
