"""Validates raw values against the models: every error in our words, and what is usable in spite of them.

pydantic stops at the first broken model: an offer with a negative price never becomes an ``OfferSettings``, and nobody
would notice that its provider is unknown too. So the broken values are taken out and the rest is validated again,
which leaves a file that the checks across fields can read.
"""

from __future__ import annotations

import copy
import re
import types
import typing
from collections.abc import Collection
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from amaru.files.fields import MISTAKE
from amaru.files.problems import MAX_PROBLEMS, Loc, Problem, shown, suggest

_KEY_LIKE = re.compile(r"(?i)(^|[_-])(key|keys|apikey|token|secret|password|passwd|authorization|bearer|credentials)$")
_NEVER_SHOWN = ("key_env", "env", "sha256", "headers", "base_url")
_Model = TypeVar("_Model", bound=BaseModel)
_MAX_ROUNDS = 8
"""Taking a broken value out can leave a required field missing, whose holder goes next: few rounds end it."""

_PATTERNS = {
    "sha256": ("not a SHA-256 in hex", "64 hex digits; `amaru init` makes a key and its SHA-256"),
    "env": ("not the name of an environment variable", "write its name, e.g. MY_APP_KEY, and never the key itself"),
    "key_env": (
        "not the name of an environment variable",
        "write its name, e.g. OPENAI_API_KEY, and never the key itself",
    ),
}
_NAME_PATTERN = ("not a name", "printable ASCII, 1 to 200 characters, no space at either end")
_IDENTIFIER_PATTERN = ("not a name", "1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first")

_COMPARISONS = {
    "greater_than": ("must be greater than", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be less than", "lt"),
    "less_than_equal": ("must be at most", "le"),
}
_TYPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


def validate(
    model: type[_Model],
    data: dict[str, Any],  # Any: raw YAML
    *,
    elements_of: Collection[str] = (),
) -> tuple[_Model | None, dict[str, tuple[int, ...]], list[Problem]]:
    """Validates raw values.

    Parameters
    ----------
    model
        What the whole file is.
    elements_of
        Its fields that are lists whose broken elements are taken out one by one; other lists go whole.

    Returns
    -------
    file
        The settings, without the values that were refused; ``None`` where nothing could be kept.
    indices
        By field of ``elements_of``: for each element kept, its index in the file.
    problems
        Every mistake; none when ``file`` is all that was written.
    """
    try:
        file = model.model_validate(data)
    except ValidationError as error:
        # The inputs are needed to quote them; `shown` decides which may be.
        errors = error.errors(include_url=False)
        return *_salvage(model, data, errors, elements_of), _problems(model, errors)
    return file, {name: tuple(range(len(getattr(file, name)))) for name in elements_of}, []


def _problems(model: type[BaseModel], errors: list[ErrorDetails]) -> list[Problem]:
    # A list whose every element was refused is reported once more as too short.
    errors = errors[:MAX_PROBLEMS]
    locs = [error["loc"] for error in errors]
    return [
        _problem(model, error)
        for error in errors
        if not (
            error["type"] == "too_short"
            and any(loc != error["loc"] and loc[: len(error["loc"])] == error["loc"] for loc in locs)
        )
    ]


def _problem(model: type[BaseModel], error: ErrorDetails) -> Problem:
    is_key = error["loc"][-1:] == ("[key]",)
    loc: Loc = error["loc"][:-1] if is_key else error["loc"]
    value: object = error["input"]
    kind = error["type"]
    leaf = next((part for part in reversed(loc) if isinstance(part, str)), "")
    hidden = any(part in _NEVER_SHOWN for part in loc[-2:] if isinstance(part, str))
    quoted = f": {shown(value)}" if not hidden else ""
    context = error.get("ctx", {})
    if kind == MISTAKE:
        # A URL may hold a password or a key: what follows an @ or ? is never quoted, nor what stands before it.
        safe = isinstance(value, str) and not re.search(r"[@?#]", value)
        return Problem(loc, context["problem"] + (f": {shown(value)}" if safe else ""), context["remedy"])
    if kind == "missing":
        return Problem(loc, "missing", _how_to_write(model, loc))
    if kind == "extra_forbidden":
        return _unknown_field(model, loc)
    if kind in _COMPARISONS:
        words, bound = _COMPARISONS[kind]
        return Problem(loc, f"{words} {_number(context[bound])}, not {shown(value)}", _range(model, loc))
    if kind in _TYPES:
        return Problem(loc, f"not {_TYPES[kind]}{quoted}", _how_to_write(model, loc))
    if kind in ("enum", "literal_error"):
        return _not_one_of(loc, value, str(context["expected"]))
    if kind == "string_pattern_mismatch":
        identifier = _IDENTIFIER_PATTERN if "{0,63}" in str(context["pattern"]) else _NAME_PATTERN
        what, remedy = _PATTERNS.get(leaf, identifier)
        return Problem(loc, what + quoted, remedy)
    if kind == "string_type":
        remedy = "put it in quotes" if isinstance(value, int | float) else _how_to_write(model, loc)
        return Problem(loc, f"not a text{quoted}", remedy)
    if value is None:
        return Problem(loc, "is empty", _how_to_write(model, loc))
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return Problem(loc, f"must hold `name: value` lines, not {_shape(value, hidden)}", _how_to_write(model, loc))
    if kind in ("tuple_type", "list_type"):
        return Problem(loc, f"must be a list, not {_shape(value, hidden)}", "write [a, b], or one `- a` a line")
    if kind in ("too_short", "string_too_short"):
        return Problem(loc, "is empty", "give a value, or remove the line")
    if kind in ("too_long", "string_too_long"):
        return Problem(loc, "is too long", "shorten it")
    return Problem(loc, error["msg"][:1].lower() + error["msg"][1:], _how_to_write(model, loc))


def _shape(value: object, hidden: bool) -> str:
    return "this value" if hidden and isinstance(value, str) else shown(value)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unknown_field(model: type[BaseModel], loc: Loc) -> Problem:
    name = str(loc[-1])
    holder, _ = _schema_of(model, loc[:-1])
    known = list(_fields(holder)) if isinstance(holder, type) and issubclass(holder, BaseModel) else []
    if _KEY_LIKE.search(name) and name not in known:
        if "key_env" in known:
            remedy = "set it as an environment variable and name that in key_env, or put it in a file named in key_file"
            return Problem(loc, "keys do not stand in this file", remedy)
        if {"sha256", "env", "file"} <= set(known):
            return Problem(loc, "keys do not stand in this file", "use sha256, env or file")
        if "keys" in known:
            return Problem(loc, "keys do not stand in this file", "write keys: [{env: NAME}] or [{sha256: HEX}]")
    return Problem(loc, "unknown field", suggest(name, known, f"known: {', '.join(known)}"))


def _not_one_of(loc: Loc, value: object, expected: str) -> Problem:
    words = re.findall(r"'([^']*)'", expected) or [expected]
    if len(words) == 1:
        what = f"this amaru reads {loc[-1]} {expected}, not {shown(value)}"
        return Problem(loc, what, f"write {loc[-1]}: {expected}")
    choices = f"one of: {', '.join(words)}"
    guess = suggest(value, words, choices) if isinstance(value, str) else choices
    return Problem(loc, f"not one of {', '.join(words)}: {shown(value)}", guess if "did you" in guess else "")


def _range(model: type[BaseModel], loc: Loc) -> str:
    _, info = _schema_of(model, loc)
    return f"e.g. {info.default}" if info and isinstance(info.default, int | float) else ""


def _how_to_write(model: type[BaseModel], loc: Loc) -> str:
    """An example line for a field, from the models."""
    annotation, info = _schema_of(model, loc)
    name = loc[-1] if loc else ""
    if info is not None and isinstance(name, str):
        if info.examples:
            return f"write {name}: {info.examples[0]}"
        if isinstance(info.default, int | float | str):
            return f"e.g. {name}: {str(info.default).lower() if isinstance(info.default, bool) else info.default}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        required = [n for n, f in _fields(annotation).items() if f.is_required()]
        fields = ", ".join(required or list(_fields(annotation))[:3])
        return f"it needs {fields}" if required else f"it may hold {fields}, …"
    return ""


def _schema_of(model: type[BaseModel], loc: Loc) -> tuple[Any, FieldInfo | None]:  # Any: a type annotation
    """The annotation and, where the last step is a model's field, the field at a place in the file."""
    annotation: Any = model
    info: FieldInfo | None = None
    for part in loc:
        info = None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            info = _fields(annotation).get(str(part))
            annotation = _bare(info.annotation) if info else None
        else:
            arguments = [a for a in typing.get_args(annotation) if a is not Ellipsis]
            annotation = _bare(arguments[-1]) if arguments else None
    return annotation, info


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A model's fields, by the names that stand in the file."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _bare(annotation: Any) -> Any:  # Any: a type annotation
    """``X`` of ``Annotated[X, …]`` and of ``X | None``."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _bare(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return _bare(next(a for a in typing.get_args(annotation) if a is not type(None)))
    return annotation


def _salvage(
    model: type[_Model],
    data: dict[str, Any],  # Any: raw YAML
    errors: list[ErrorDetails],
    elements_of: Collection[str],
) -> tuple[_Model | None, dict[str, tuple[int, ...]]]:
    kept = copy.deepcopy(data)
    elements = {name: kept.get(name) for name in elements_of}
    indices = {name: list(range(len(e))) if isinstance(e, list) else [] for name, e in elements.items()}
    for _ in range(_MAX_ROUNDS):
        removable = {_removable(error, elements_of) for error in errors}
        for loc in sorted(removable, key=_last_first):
            if _remove(kept, loc) and len(loc) == 2 and loc[0] in indices and isinstance(loc[1], int):
                del indices[str(loc[0])][loc[1]]
        try:
            return model.model_validate(kept), {name: tuple(left) for name, left in indices.items()}
        except ValidationError as error:
            errors = error.errors(include_url=False)
    return None, dict.fromkeys(elements_of, ())


def _removable(error: ErrorDetails, elements_of: Collection[str]) -> Loc:
    """What to take out for an error: the value, or what cannot do without it. Other lists go whole."""
    loc: Loc = error["loc"]
    if loc[-1:] == ("[key]",) or error["type"] == "missing":
        loc = loc[:-1]
    for position, part in enumerate(loc):
        if isinstance(part, int) and (position != 1 or loc[0] not in elements_of):
            return loc[:position]
    return loc


def _last_first(loc: Loc) -> tuple[int, int]:
    """Order of removal: what is inside of elements before whole ones, and those from the last, so no index shifts."""
    index = loc[1] if len(loc) > 1 and isinstance(loc[1], int) else -1
    return (-len(loc), -index)


def _remove(data: dict[str, Any], loc: Loc) -> bool:
    holder: Any = data  # Any: raw YAML
    for part in loc[:-1]:
        try:
            holder = holder[part]
        except (KeyError, IndexError, TypeError):
            return False
    try:
        del holder[loc[-1]]
    except (KeyError, IndexError, TypeError):
        return False
    return True
