"""Options that several commands share, told once: a dataclass whose fields are options, spread out over a command."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` as Typer wants it: in the place of a parameter that is a dataclass stand that one's fields.

    A field's annotation and default are what they would be of a parameter. All are given by name.
    """
    own = inspect.signature(command, eval_str=True)
    groups: dict[str, type[Any]] = {  # Any: dataclasses, of whatever options
        one.name: one.annotation
        for one in own.parameters.values()
        if isinstance(one.annotation, type) and dataclasses.is_dataclass(one.annotation)
    }
    parameters: list[inspect.Parameter] = []
    for one in own.parameters.values():
        group = groups.get(one.name)
        parameters += [one] if group is None else inspect.signature(group, eval_str=True).parameters.values()

    @functools.wraps(command)
    def called(**given: Any) -> None:  # Any: what the options hold
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
        command(**given)

    by_name = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    called.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]  # what `inspect` looks for first
    return called
