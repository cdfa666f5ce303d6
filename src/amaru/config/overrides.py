"""Environment variables that override single values: ``AMARU_SERVER__PORT=9000``, ``AMARU_ROUTING__DEADLINE_MS=30000``.

``AMARU_``, then the path to the value in capitals, with two underscores at each step, as pydantic-settings has it.
They win over the file, and cover the single values of ``server``, ``routing``, ``storage``, ``health``, ``stability``,
``accounts``, ``sharing``, ``ledger`` and ``logging``: what differs between two machines that share a file. Other
variables that begin with ``AMARU_`` are not ours to judge, unless they hold two underscores: Kubernetes sets names like
``AMARU_PORT_8080_TCP`` for a service called amaru.
"""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from amaru.config.models import ConfigFile
from amaru.files.problems import Loc, Problem, suggest

PREFIX = "AMARU_"
SECTIONS = ("server", "routing", "storage", "health", "stability", "accounts", "sharing", "ledger", "logging")


def variables() -> dict[str, Loc]:
    """Every variable that overrides a value, and the value's place."""
    return {PREFIX + "__".join(loc).upper(): loc for section in SECTIONS for loc in _scalars((section,))}


def apply(
    data: dict[str, Any],  # Any: raw YAML
    env: Mapping[str, str],
) -> tuple[dict[str, Any], dict[Loc, str], list[Problem]]:
    """Sets what the environment overrides.

    Returns the changed copy, the variable behind each changed place, and a problem for each unknown variable.
    """
    known = variables()
    changed = copy.deepcopy(data)
    sources: dict[Loc, str] = {}
    problems: list[Problem] = []
    for name in sorted(n for n in env if n.startswith(PREFIX) and "__" in n[len(PREFIX) :]):
        loc = known.get(name)
        if loc is None:
            problems.append(Problem((), "overrides nothing", suggest(name, known, _COVERED), source=name))
        elif _set(changed, loc, env[name]):
            sources[loc] = name
    return changed, sources, problems


_COVERED = f"single values of {', '.join(SECTIONS)} can be overridden, e.g. AMARU_SERVER__PORT"


def _scalars(loc: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    model: Any = ConfigFile  # Any: walked down by name
    for part in loc:
        model = model.model_fields[part].annotation
    if isinstance(model, type) and issubclass(model, BaseModel):
        for name in model.model_fields:
            yield from _scalars((*loc, name))
    elif typing.get_origin(model) is not tuple:
        yield loc


def _set(data: dict[str, Any], loc: Loc, value: str) -> bool:
    """Whether it could be set: a section that is no mapping is a mistake of its own."""
    holder: Any = data
    for part in loc[:-1]:
        if holder.get(part) is None:
            holder[part] = {}
        holder = holder[part]
        if not isinstance(holder, dict):
            return False
    holder[loc[-1]] = value
    return True
